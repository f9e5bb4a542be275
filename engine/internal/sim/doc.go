// Package sim simulates whole installations: several engines, made of the
// real parts (lease, owner, relay, router, janitor, audit writer, the journal
// with its committer and fences), workers, people and other services, on a
// fake JetStream (package fakejs) and in virtual time. It holds tests only.
//
// A seed makes a plan: what people want, and which faults strike when. Every
// message and every request between the parts and the server is held back and
// let through one by one, in an order that the seed decides; between two of
// them every goroutine waits. Faults are lost, late and unanswered messages,
// refusals, gaps, frozen and full streams, restarts of the server with
// forgotten acknowledgements, crashes, hand-overs, engines that stand still for
// longer than their lease, interrupted connections, stepping clocks, and
// workers that die, forget to report or report too late.
//
// After each step the invariants are checked that the checks list names. Then
// the faults stop, and every run must end or wait for people. A failure is
// told with its seed and the shortest script that still fails.
//
// How far a seed decides: the plan, and the order of all that passes between
// the parts. Not decided is the order in which goroutines of one engine run
// that are woken by the same event, and timers of the same instant, which Go's
// runtime shuffles. So the same seed mostly, and not always, gives the same
// run; what is passed on at one instant is put in order before it is chosen
// from, which keeps most of that from being seen.
//
// What is not simulated: the client library and the server's protocol, the
// requests between engines (package peer), the API, and a process that stands
// still as a whole: what stands still here is all that comes in and goes out.
package sim
