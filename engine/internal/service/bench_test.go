package service

import (
	"testing"

	"github.com/go-playground/validator/v10"

	"github.com/penstock-cd/penstock/events"
)

// BenchmarkReadFinish reads the request that comes once for each task.
func BenchmarkReadFinish(b *testing.B) {
	s := &Service{validate: validator.New(validator.WithRequiredStructEnabled())}
	sent := events.FinishRequest{Task: "ksjf2jd74jf8djs73jf8", Run: "rkf83jdm48fjsk29fk3d", Worker: "build-7", Took: 12,
		Result: events.Result{Outcome: events.Succeeded, Outputs: map[string]any{"image": "registry.example/app@sha256:1f2e"}}}
	body, err := sent.AppendJSON(nil)
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		var req events.FinishRequest
		if err := s.read(body, &req); err != nil || req.Worker != "build-7" {
			b.Fatal(req, err)
		}
	}
}

// BenchmarkEncodeAnswer encodes the answer to it.
func BenchmarkEncodeAnswer(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		if p := encode(events.Answer{Status: events.StatusApplied, Record: 12}, 1<<20); len(p) == 0 {
			b.Fatal("no answer")
		}
	}
}
