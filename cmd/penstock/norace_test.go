//go:build !race

package main

// slower is by how much the race detector stretches time and memory; without it, not at all.
const slower = 1
