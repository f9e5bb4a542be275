package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/spf13/cobra"

	"github.com/penstock-cd/penstock/engine"
)

// healthTimeout is how long a health check waits where --timeout is not given.
const healthTimeout = 5 * time.Second

// healthcheckCommand is for containers and supervisors that have no shell and
// no HTTP client. It needs no credential.
func (a *app) healthcheckCommand() *cobra.Command {
	url := "http://" + engine.DefaultHTTP + "/readyz"
	cmd := &cobra.Command{
		Use:   "healthcheck",
		Short: "Ask a server whether it is ready, for containers",
		Long: `Asks a URL once and exits with 0 when it answers 200. It needs neither a
credential nor a shell, so it is the health check of images made FROM scratch.`,
		Example: `  penstock healthcheck
  penstock healthcheck --url http://127.0.0.1:8222/healthz    a NATS server beside it`,
		Args: args(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			limit := a.timeout
			if limit <= 0 {
				limit = healthTimeout
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), limit)
			defer cancel()
			said, err := askHealth(ctx, url)
			if err != nil {
				return &failure{exit: exitFailed, code: "not_ready", message: clean(err.Error())}
			}
			if a.output == "json" {
				return a.printJSON(map[string]string{"url": url, "answer": said})
			}
			fmt.Fprintln(a.stdout, said)
			return nil
		},
	}
	cmd.Flags().StringVar(&url, "url", url, "what to ask: /readyz, or /livez for whether the process answers at all")
	return cmd
}

// askHealth gives what url says when it answers 200.
func askHealth(ctx context.Context, url string) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return "", fmt.Errorf("healthcheck: %w", err)
	}
	answer, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", fmt.Errorf("healthcheck: no answer: %w", err)
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(io.LimitReader(answer.Body, 4<<10))
	if err != nil {
		return "", fmt.Errorf("healthcheck: %s: %w", url, err)
	}
	said := clean(string(bytes.TrimSpace(body)))
	if answer.StatusCode != http.StatusOK {
		return "", fmt.Errorf("healthcheck: %s answers %s: %s", url, answer.Status, said)
	}
	return said, nil
}
