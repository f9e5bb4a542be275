package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/penstock-cd/penstock/engine/internal/scale"
)

const (
	coldStarts = 5
	settling   = 2 * time.Second // after which a process that has started is idle
)

// benchStart measures how long penstock server takes until it answers, with
// everything still to be made, and what memory it has when nothing is done;
// and the same of a NATS server alone.
func benchStart(ctx context.Context, o BenchOptions, dir string) ([]BenchResult, error) {
	var resident, bare int64
	n := 0
	ready, err := medianOf(coldStarts, func() (time.Duration, error) {
		n++
		o.Progress(fmt.Sprintf("B7: cold start %d of %d", n, coldStarts))
		return coldStart(n == coldStarts, &resident, func() (*scale.Process, error) {
			return scale.Start(o.Process(ctx, "server", "--data", filepath.Join(dir, fmt.Sprint("server", n)), "--listen", "127.0.0.1:0", "--http", "127.0.0.1:0", "--no-remember", "-o", "json"))
		})
	})
	if err != nil {
		return nil, err
	}
	n = 0
	floor, err := medianOf(coldStarts, func() (time.Duration, error) {
		n++
		return coldStart(n == coldStarts, &bare, func() (*scale.Process, error) {
			store := filepath.Join(dir, fmt.Sprint("nats", n))
			if err := os.Mkdir(store, 0o700); err != nil {
				return nil, err
			}
			return o.apart(ctx, processNATS, scale.NewServer(store, false))
		})
	})
	if err != nil {
		return nil, err
	}
	const mb = 1 << 20
	results := []BenchResult{atMost("B7", "server ready from a cold start, all to be made", "s", ready, 0.5, "0.5 s").beside(floor, "nats-server alone, with nothing to make")}
	if resident == 0 {
		return results, nil // the system does not tell
	}
	return append(results, atMost("B7", "resident memory of the idle server", "MB", float64(resident)/mb, 80, "80 MB").
		beside(float64(bare)/mb, "nats-server alone")), nil
}

// coldStart starts a process and waits for what it says first.
func coldStart(settle bool, resident *int64, start func() (*scale.Process, error)) (took time.Duration, err error) {
	began := time.Now()
	p, err := start()
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, p.Stop()) }()
	var ready json.RawMessage
	if err := p.Hear(readyIn, &ready); err != nil {
		return 0, err
	}
	took = time.Since(began)
	if settle {
		time.Sleep(settling)
		*resident = p.Resident()
	}
	return took, nil
}
