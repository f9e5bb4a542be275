package demo

import (
	"context"
	"fmt"
	"io"
	"maps"
	"net/http"
	"strings"
	"sync"
	"time"
)

// customer is a client of the service in production that asks all the time
// and remembers every answer.
type customer struct {
	stop  context.CancelFunc
	ended sync.WaitGroup

	mu     sync.Mutex
	counts counts
}

// counts are requests and what came of them.
type counts struct {
	sent, failed int
	versions     map[string]int // answers by the version that gave them
	trouble      string         // of the last failed one
}

const (
	customerPace    = 8 * time.Millisecond // between two requests of one connection
	customerThreads = 2
)

// newCustomer begins to send requests to url.
func newCustomer(url string) *customer {
	ctx, stop := context.WithCancel(context.Background())
	c := &customer{stop: stop, counts: counts{versions: map[string]int{}}}
	for range customerThreads {
		c.ended.Go(func() { c.ask(ctx, url) })
	}
	return c
}

func (c *customer) ask(ctx context.Context, url string) {
	client := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{}}
	defer client.CloseIdleConnections()
	for tick := time.NewTicker(customerPace); ; {
		select {
		case <-ctx.Done():
			tick.Stop()
			return
		case <-tick.C:
		}
		// Not bound to ctx: a request that was sent is waited for.
		version, err := get(client, url)
		c.mu.Lock()
		c.counts.sent++
		if err != nil {
			c.counts.failed++
			c.counts.trouble = err.Error()
		} else {
			c.counts.versions[version]++
		}
		c.mu.Unlock()
	}
}

// get asks for the page and gives the version that answered.
func get(client *http.Client, url string) (string, error) {
	resp, err := client.Get(url)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return "", err
	}
	version, _, ok := strings.Cut(string(body), ":")
	if resp.StatusCode != http.StatusOK || !ok {
		return "", fmt.Errorf("%s: %.100s", resp.Status, body)
	}
	return version, nil
}

// seen gives the counts until now.
func (c *customer) seen() counts {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := c.counts
	out.versions = maps.Clone(c.counts.versions)
	return out
}

// close stops asking, and gives the counts at the end.
func (c *customer) close() counts {
	c.stop()
	c.ended.Wait()
	return c.seen()
}
