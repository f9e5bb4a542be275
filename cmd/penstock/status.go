package main

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/penstock-cd/penstock/events"
	"github.com/spf13/cobra"
)

func (a *app) statusCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "status",
		Short: "Show the server and its workers",
		Example: `  penstock status
  penstock status -o json | jq '.workers[].kinds'`,
		Args: args(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.with(cmd.Context(), func(s *session) error {
				var info events.ServerInfo
				if _, err := s.ask(cmd.Context(), events.VerbServer, nil, &info); err != nil {
					return err
				}
				if a.output == "json" {
					return a.printJSON(info)
				}
				a.printStatus(info)
				return nil
			})
		},
	}
}

func (a *app) printStatus(info events.ServerInfo) {
	fields(a.stdout, "", "Server", join(info.Instance, info.Version), "Started", a.moment(&info.StartedAt, "ago"),
		"NATS", info.NATS, "HTTP", info.HTTP, "Data", info.Data,
		"Runs", fmt.Sprintf("%d, of which %d wait for people", info.Runs, info.Waiting))
	a.printEngines(info.Engines)
	a.printSources(info.Sources)
	if len(info.Workers) == 0 {
		a.note("no workers are connected, so no task starts\nhint: penstock worker")
		return
	}
	t := table{head: []string{"WORKER", "POOL", "KINDS", "BUSY", "HOST", "VERSION", "SEEN"}}
	for _, w := range info.Workers {
		t.add(w.Worker, w.Pool, strings.Join(w.Kinds, ","), strconv.Itoa(w.Busy)+"/"+strconv.Itoa(w.Slots), w.Host, w.Version,
			short(a.now().Sub(w.SeenAt))+" ago")
	}
	fmt.Fprintln(a.stdout)
	t.print(a.stdout, "")
}

// printEngines says which engines there are, when there are several or
// something is wrong with one.
func (a *app) printEngines(engines []events.EngineInfo) {
	t := table{head: []string{"ENGINE", "VERSION", "PARTITIONS", "DOES", "STATE"}}
	wrong := false
	for _, e := range engines {
		state := []string{}
		if e.Leaving {
			state = append(state, "leaving")
		}
		for _, p := range e.Stopped {
			state = append(state, fmt.Sprintf("partition %d is stopped: %s", p.Partition, p.Reason))
		}
		if e.Clock != "" {
			state = append(state, "timers are held: "+e.Clock)
		}
		wrong = wrong || len(state) > 0
		if len(state) == 0 {
			state = []string{"good"}
		}
		t.add(e.Instance, e.Version, strconv.Itoa(e.Partitions), strings.Join(e.Singletons, ","), strings.Join(state, "; "))
	}
	if len(engines) < 2 && !wrong {
		return
	}
	fmt.Fprintln(a.stdout)
	t.print(a.stdout, "")
}

// printSources says how the sources of definitions are.
func (a *app) printSources(sources []events.DefinitionSource) {
	if len(sources) == 0 {
		return
	}
	t := table{head: []string{"DEFINITIONS FROM", "COMMIT", "AUTHOR", "READ", "STATE"}}
	for _, src := range sources {
		state := "good"
		switch {
		case src.Error != "":
			state = join("not read since", a.moment(src.Since, "ago")) + ": " + src.Error
		case src.Problems > 0:
			state = count(src.Problems, "problem")
		}
		t.add(src.Source, commit(src.Commit), src.Author, a.moment(src.ReadAt, "ago"), state)
	}
	fmt.Fprintln(a.stdout)
	t.print(a.stdout, "")
}
