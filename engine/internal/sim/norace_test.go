//go:build !race

package sim

// shuffled says that the runtime puts goroutines that are ready into an order
// of its own.
const shuffled = false
