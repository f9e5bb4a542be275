//go:build race

package main

// slower is by how much the race detector stretches time and memory.
const slower = 10
