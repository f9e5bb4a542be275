// Command penstock is the one binary of Penstock: the server, the workers,
// and the commands with which people and programs speak to a server.
//
// The commands of people (one file each) look up a credential, ask the engine
// over the bus and print the answer. They hold these rules:
//
//   - Data goes to stdout, everything else to stderr, so that a pipe gets data only.
//   - With -o json the output is the type of package events that the engine
//     answered with; an error is a JSON object on stderr.
//   - Nothing asks a question unless stdin and stderr are a terminal.
//   - Colour is for terminals, and never with NO_COLOR set to anything.
//   - Text that others wrote is printed without control characters.
//   - The exit code says what kind of failure it was; see docs/cli.md.
package main

import (
	"context"
	"os"
)

func main() {
	ctx, stop := withSignals(context.Background())
	code := newApp(os.Stdin, os.Stdout, os.Stderr).execute(ctx, os.Args[1:])
	stop()
	os.Exit(code)
}
