// Package integration holds the tests that look at Penstock from outside: the
// road of a change, servers and workers that are killed, the containers that
// are shipped, and the repository itself.
//
//	container_test.go  an event becomes a finished run across containers
//	compose_test.go    docker-compose.yml works as it is shipped
//	gitssh_test.go     definitions come from a Git repository over ssh
//	arrows_test.go     who may import whom, and what the core is kept from
//	hygiene_test.go    what may lie in the repository, and what its pages say
//
// Images are built from this module alone, without a registry. What a machine
// lacks is skipped with a word, unless $PENSTOCK_REQUIRE names it (a list with
// commas: docker, compose, browser, sshd): then it is a failure. There is no code
// here but tests.
package integration
