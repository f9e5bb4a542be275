package local

import (
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/penstock-cd/penstock/workers/deploy"
)

// backendOf is an instance that answers with its name.
func backendOf(t *testing.T, name string) (address string) {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if body, _ := io.ReadAll(r.Body); r.Method == http.MethodPost && string(body) != "effects" {
			http.Error(w, "the body is not whole", http.StatusBadRequest)
			return
		}
		io.WriteString(w, name)
	}))
	t.Cleanup(s.Close)
	return s.Listener.Addr().String()
}

// deadAddress is one where nobody listens.
func deadAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func openRouter(t *testing.T) (*router, string) {
	t.Helper()
	r := newRouter(slog.New(slog.DiscardHandler))
	port, err := r.open(0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.shut(context.Background(), port) })
	return r, "http://" + loopback(port)
}

func ask(t *testing.T, method, url string) (int, string) {
	t.Helper()
	var body io.Reader
	if method == http.MethodPost {
		body = strings.NewReader("effects")
	}
	req, _ := http.NewRequestWithContext(t.Context(), method, url, body)
	resp, err := plainClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, _ := io.ReadAll(resp.Body)
	return resp.StatusCode, string(text)
}

func TestTrafficFollowsTheWeights(t *testing.T) {
	r, url := openRouter(t)
	r.add("blue", backendOf(t, "blue"), "")
	r.add("green", backendOf(t, "green1"), "")
	r.add("green", backendOf(t, "green2"), "")
	r.add("idle", backendOf(t, "idle"), "")
	r.setWeights(map[deploy.Group]int{"blue": 90, "green": 10})
	got := map[string]int{}
	for range 100 {
		_, name := ask(t, http.MethodGet, url)
		got[strings.TrimRight(name, "12")]++
	}
	if diff := cmp.Diff(got, map[string]int{"blue": 90, "green": 10}); diff != "" {
		t.Errorf("(-got +want):\n%s", diff)
	}
}

func TestInstancesOfAGroupShareItsTraffic(t *testing.T) {
	r, url := openRouter(t)
	r.add("g", backendOf(t, "one"), "")
	r.add("other", backendOf(t, "other"), "")
	r.add("g", backendOf(t, "two"), "")
	r.setWeights(map[deploy.Group]int{"g": 1})
	got := map[string]int{}
	for range 30 {
		_, name := ask(t, http.MethodGet, url)
		got[name]++
		atRestFor(t, r, "g") // an answered request may still count as in flight
	}
	if diff := cmp.Diff(got, map[string]int{"one": 15, "two": 15}); diff != "" {
		t.Errorf("(-got +want):\n%s", diff)
	}
}

// atRestFor waits until the router works on no request of the group.
func atRestFor(t *testing.T, r *router, g deploy.Group) {
	t.Helper()
	for {
		n, changed := r.inFlight(g)
		if n == 0 {
			return
		}
		select {
		case <-changed:
		case <-time.After(10 * time.Second):
			t.Fatalf("%d requests of %s are in flight for ever", n, g)
		}
	}
}

func TestConnectionErrorIsTriedElsewhereWhenThatIsHarmless(t *testing.T) {
	var reached atomic.Int64
	breaks := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		reached.Add(1)
		panic(http.ErrAbortHandler)
	}))
	defer breaks.Close()
	for _, c := range []struct {
		what, address, method string
		repeated              bool
	}{
		{"GET, refused", deadAddress(t), http.MethodGet, true},
		{"POST, refused", deadAddress(t), http.MethodPost, true},
		{"GET, broken off", breaks.Listener.Addr().String(), http.MethodGet, true},
		{"POST, broken off", breaks.Listener.Addr().String(), http.MethodPost, false},
	} {
		t.Run(c.what, func(t *testing.T) {
			r, url := openRouter(t)
			r.add("g", c.address, "")
			r.add("g", backendOf(t, "alive"), "")
			r.setWeights(map[deploy.Group]int{"g": 1})
			reached.Store(0)
			lost := int64(0)
			for range 10 {
				switch code, body := ask(t, c.method, url); {
				case code == http.StatusBadGateway:
					lost++
				case code != http.StatusOK || body != "alive":
					t.Errorf("got %d %s", code, body)
				}
			}
			if c.repeated && lost != 0 || !c.repeated && (lost == 0 || lost != reached.Load()) {
				t.Errorf("%d of 10 lost, %d reached the instance that breaks off", lost, reached.Load())
			}
			if n := r.counts(); n.Total != 10 || n.Failed != lost {
				t.Errorf("counted %+v, lost %d", n, lost)
			}
			if err := r.drain(t.Context(), "g", time.Minute); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestNothingLiveIsAnsweredAndCounted(t *testing.T) {
	r, url := openRouter(t)
	if code, _ := ask(t, http.MethodGet, url); code != http.StatusServiceUnavailable {
		t.Errorf("got %d", code)
	}
	if n := r.counts(); n.Failed != 1 || n.Total != 1 {
		t.Errorf("counts %+v", n)
	}
}

func TestAnswerThatBreaksOffIsCountedAsFailed(t *testing.T) {
	r, url := openRouter(t)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "100")
		io.WriteString(w, "half")
		http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	}))
	defer s.Close()
	r.add("g", s.Listener.Addr().String(), "")
	r.setWeights(map[deploy.Group]int{"g": 1})
	resp, err := plainClient.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadAll(resp.Body); err == nil {
		t.Error("the client was told that the answer is whole")
	}
	resp.Body.Close()
	deadline := time.Now().Add(10 * time.Second)
	for r.counts().Failed != 1 {
		if time.Now().After(deadline) {
			t.Fatalf("counts %+v", r.counts())
		}
		time.Sleep(time.Millisecond)
	}
}

func TestDrainWaitsForWhatIsInFlightAndNoLonger(t *testing.T) {
	r, url := openRouter(t)
	begun, letGo := make(chan bool), make(chan bool)
	s := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { begun <- true; <-letGo }))
	defer s.Close()
	r.add("old", s.Listener.Addr().String(), "")
	r.add("new", backendOf(t, "new"), "")
	r.setWeights(map[deploy.Group]int{"old": 1})
	answered := make(chan bool)
	go func() {
		if resp, err := plainClient.Get(url); err == nil {
			resp.Body.Close()
		}
		close(answered)
	}()
	<-begun
	r.setWeights(map[deploy.Group]int{"new": 1})
	if err := r.drain(t.Context(), "old", 10*time.Millisecond); err == nil || !strings.Contains(err.Error(), "1 requests") {
		t.Errorf("with a request in flight: %v", err)
	}
	drained := make(chan error)
	go func() { drained <- r.drain(t.Context(), "old", time.Minute) }()
	close(letGo)
	if err := <-drained; err != nil {
		t.Error(err)
	}
	<-answered
	if _, body := ask(t, http.MethodGet, url); body != "new" {
		t.Errorf("after the switch: %s", body)
	}
}
