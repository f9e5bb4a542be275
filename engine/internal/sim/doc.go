// Package sim simulates whole installations: several engines, made of the
// real parts (lease, owner, relay, router, janitor, audit writer, the journal
// with its committer and fences), workers, people and other services, on a
// fake JetStream (package fakejs) and in virtual time. It holds tests only.
//
// A seed makes a plan: what people want, and which faults strike when. Every
// message and every request between the parts and the server is held back and
// let through one by one, in an order that the seed decides; between two of
// them every goroutine waits. Faults are lost, late and unanswered messages,
// refusals, also by servers that lead no longer, leaders that are cut off, gaps, frozen and full streams, restarts of the server with
// forgotten acknowledgements, servers that die in the midst of a batch, power
// cuts, crashes, hand-overs, engines that stand still for longer than their
// lease, interrupted connections, wall clocks that step while the monotonic one
// goes on, and workers that die, forget to report or report too late.
//
// After each step the invariants are checked that the checks list names. Then
// the faults stop, and every run must end or wait for people. A failure is
// told with its seed and the shortest script that still fails.
//
// A power cut takes the end of every stream, and its sequences are used again.
// Of the partitions that have lost something that was acknowledged it is only
// demanded that they stop, where somebody still knows of it; the others have to
// keep every promise. It befalls only those plans in which the server syncs now
// and then.
//
// A seed decides everything: the plan, the order of all that passes between the
// parts, and so the whole history (TestASeedGivesTheSameRunAgain). Go's runtime
// shuffles timers of the same instant, the cases of a select and the elements
// of a map, and may take a goroutine off the processor at any time; three things
// keep that from being seen. One goroutine runs at a time. No two things happen
// at the same instant: every message, answer and end of a waiting on the network
// has a moment of its own. And what is sent at one instant all the same is put
// in order before it is chosen from. Only under the race detector, which
// shuffles goroutines as well, histories of a seed may differ.
//
// What is not simulated: the client library and the server's protocol, the
// requests between engines (package peer), the API, and a process that stands
// still as a whole: what stands still here is all that comes in and goes out.
// Records of what has ended are removed after seconds, where it takes days
// otherwise.
package sim
