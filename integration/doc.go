// Package integration holds the tests that look at Penstock from outside: the
// road of a change, servers and workers that are killed, disks that fail, the
// containers that are shipped, and the repository itself.
//
//	road_test.go        one of everything that a run can go through
//	ledger_test.go      what was promised and what was done, kept outside
//	crash_test.go       engine, worker and NATS killed: at every step, at random
//	share_test.go       engines that go on for each other on one server
//	disk_linux_test.go  a disk that does not sync, is slow, or loses power
//	damage_test.go      files of the store whose bits or ends are not what they were
//	diskfull_test.go    a disk or store that is full
//	container_test.go   an event becomes a finished run across containers
//	cluster_test.go     three NATS servers, engines and workers, whose parts fail
//	compose_test.go     docker-compose.yml works as it is shipped
//	gitssh_test.go      definitions come from a Git repository over ssh
//	arrows_test.go      who may import whom, and what the core is kept from
//	hygiene_test.go     what may lie in the repository, and what its pages say
//
// What is drawn at random is printed and can be repeated: $PENSTOCK_SEED and
// $PENSTOCK_ROUNDS. docs/reliability.md says which test holds which promise.
//
// Images are built from this module alone, without a registry. What a machine
// lacks is skipped with a word, unless $PENSTOCK_REQUIRE names it (a list with
// commas: docker, compose, browser, sshd, strace): then it is a failure. There
// is no code here but tests.
package integration
