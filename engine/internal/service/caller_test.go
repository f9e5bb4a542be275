package service

import (
	"context"
	"log/slog"
	"slices"
	"strings"
	"testing"

	"github.com/penstock-cd/penstock/events"
	"github.com/penstock-cd/penstock/events/bus"
)

func TestWorkerOfAPersonsNameIsNotThatPerson(t *testing.T) {
	var reached []string
	s := &Service{o: Options{Log: slog.New(slog.DiscardHandler)}, handlers: map[string]handler{}}
	people := []string{events.VerbStart, events.VerbList, events.VerbGet, events.VerbDecide, events.VerbCancel, events.VerbApply,
		events.VerbPublish, events.VerbOutput, events.VerbRecords, events.VerbAuthAdd, events.VerbServer}
	for _, verb := range slices.Concat(people, workerVerbs) {
		s.handlers[verb] = func(context.Context, Principal, []byte) (any, error) {
			reached = append(reached, verb)
			return nil, nil
		}
	}
	for kind, want := range map[string][]string{bus.KindUser: people, bus.KindAdmin: people, bus.KindWorker: workerVerbs, bus.KindPublisher: nil} {
		reached = nil
		for _, verb := range slices.Concat(people, workerVerbs) {
			a := s.Handle(t.Context(), Principal{Kind: kind, Name: "marta"}, verb, nil)
			if allowed := slices.Contains(want, verb); !allowed && (a.Code != events.CodeDenied || !strings.Contains(a.Reason, "marta is a "+kind)) {
				t.Errorf("%s asks %s: %+v", kind, verb, a)
			}
		}
		if !slices.Equal(reached, want) {
			t.Errorf("%s: reached %v, want %v", kind, reached, want)
		}
	}
}
