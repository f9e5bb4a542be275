package main

import "github.com/spf13/cobra"

// adminCommand holds what is done with an installation as a whole: rarely,
// and by whoever is responsible for it. Each command is in a file admin_*.go
// and has its line here.
func (a *app) adminCommand() *cobra.Command {
	c := group("admin", "Look after an installation as a whole",
		a.adminBackupCommand(),
		a.adminBootstrapCommand(),
		a.adminClockCommand(),
		a.adminEpochCommand(),
		a.adminRestoreCommand(),
	)
	c.Long = `What is done with an installation as a whole, rarely, and by whoever is
responsible for it.`
	return c
}
