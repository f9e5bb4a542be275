//go:build unix

package local_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/penstock-cd/penstock/events"
	"github.com/penstock-cd/penstock/workers"
	"github.com/penstock-cd/penstock/workers/deploy"
	"github.com/penstock-cd/penstock/workers/deploy/local"
)

// TestMain makes the test binary stand for the other programs, by its first argument.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case "supervise":
			os.Exit(local.Main(os.Args[2:]))
		case "service":
			service(os.Args[2], os.Args[3])
		case "client":
			client(os.Args[2])
		}
	}
	os.Exit(m.Run())
}

// service is the program that is deployed.
//
//	GET /         its version
//	GET /env      its environment, JSON
//	GET /hold     answers when the file that the query names exists
//	GET /healthz  by mode: "ok"; "sick" answers 500; "gated" is healthy when the file $GATE exists
//
// Mode "crash" prints a line and exits with 7. Mode "stubborn" ignores SIGTERM
// and has a child that does.
func service(version, mode string) {
	if mode == "crash" {
		fmt.Println("panic: no database")
		os.Exit(7)
	}
	if mode == "stubborn" {
		signal.Ignore(syscall.SIGTERM)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, version) })
	mux.HandleFunc("/env", func(w http.ResponseWriter, _ *http.Request) { json.NewEncoder(w).Encode(os.Environ()) })
	mux.HandleFunc("/args", func(w http.ResponseWriter, _ *http.Request) { json.NewEncoder(w).Encode(os.Args[4:]) })
	mux.HandleFunc("/hold", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintln(w, version)
		http.NewResponseController(w).Flush()
		for !exists(r.FormValue("file")) && r.Context().Err() == nil {
			time.Sleep(5 * time.Millisecond)
		}
		fmt.Fprint(w, "end")
	})
	mux.HandleFunc("/exit", func(http.ResponseWriter, *http.Request) { os.Exit(3) })
	mux.HandleFunc("/healthz", func(w http.ResponseWriter, _ *http.Request) {
		if mode == "sick" || mode == "gated" && !exists(os.Getenv("GATE")) {
			http.Error(w, "database is away", http.StatusInternalServerError)
		}
	})
	fmt.Println("version", version, "on", os.Getenv("PORT"))
	err := http.ListenAndServe("127.0.0.1:"+os.Getenv("PORT"), mux)
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// order is what the "client" process is to deploy.
type order struct {
	Dir     string
	Content []byte
	Request deploy.Request
}

// client is a worker that deploys what the file says.
func client(path string) {
	var o order
	text, err := os.ReadFile(path)
	if err = errors.Join(err, json.Unmarshal(text, &o)); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	r := local.New(local.Options{Dir: o.Dir}).Deploy(context.Background(), o.Request, oneArtifact(o.Content), deafReporter{})
	fmt.Println(r.Outcome)
	os.Exit(0)
}

// alive reports whether a process exists and is not just waiting to be reaped.
func alive(pid int) bool {
	if syscall.Kill(pid, 0) != nil {
		return false
	}
	text, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return !exists("/proc/self") // where there is no /proc the signal has told
	}
	for i := len(text) - 1; i > 0; i-- {
		if text[i] == ')' {
			return text[i+2] != 'Z'
		}
	}
	return true
}

// eventually waits until ok holds.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("did not come true: %s", what)
		}
	}
}

var _ workers.Artifacts = oneArtifact(nil)

func failure(r events.Result) string {
	if r.Error == nil {
		return r.Outcome
	}
	return fmt.Sprintf("%s %s: %s %v", r.Outcome, r.Error.Code, r.Error.Message, r.Facts)
}
