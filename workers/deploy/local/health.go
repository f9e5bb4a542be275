package local

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/penstock-cd/penstock/workers/deploy"
)

const (
	healthPasses   = 3 // in a row
	healthInterval = 100 * time.Millisecond
	healthPatience = 2 * time.Second // for one answer
)

// awaitHealth returns when p has passed its checks healthPasses times in a
// row, with an error when it has ended, when the health timeout is over, or
// when ctx has ended. The error tells what was seen.
func awaitHealth(ctx context.Context, p *process, set deploy.Settings) error {
	limit := time.Duration(set.HealthTimeout)
	inTime, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	seen := errors.New("no answer yet")
	for passes := 0; passes < healthPasses; {
		err := checkHealth(inTime, p.port, set.Health)
		if err == nil {
			passes++
		} else {
			passes = 0
			if inTime.Err() == nil { // an error that only says that the time is over hides what was seen before
				seen = err
			}
		}
		if passes == healthPasses {
			break
		}
		select {
		case <-p.done:
			return fmt.Errorf("it ended: %s; the last check: %w", p.exit, seen)
		case <-inTime.Done():
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			if passes > 0 {
				return fmt.Errorf("not within %s: it passed %d checks in a row, %d are needed", limit, passes, healthPasses)
			}
			return fmt.Errorf("not within %s; the last check: %w", limit, seen)
		case <-time.After(healthInterval):
		}
	}
	if p.ended() { // somebody else has answered on its port
		return fmt.Errorf("it ended: %s", p.exit)
	}
	return nil
}

// checkHealth asks once.
func checkHealth(ctx context.Context, port int, health string) error {
	ctx, cancel := context.WithTimeout(ctx, healthPatience)
	defer cancel()
	if health == deploy.HealthTCP {
		c, err := new(net.Dialer).DialContext(ctx, "tcp", loopback(port))
		if err != nil {
			return err
		}
		return c.Close()
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+loopback(port)+health, nil)
	if err != nil {
		return err
	}
	resp, err := plainClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode < 400 {
		return nil
	}
	body, _ := io.ReadAll(io.LimitReader(resp.Body, 200))
	return fmt.Errorf("GET %s answered %s %s", health, resp.Status, strings.TrimSpace(string(body)))
}
