package workers

import (
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"os"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/penstock-cd/penstock/events"
)

// Options says what a Worker does and where.
type Options struct {
	Conn  Bus                // required
	Kinds map[string]Handler // the kinds it serves; required

	Pool        string // whose tasks it takes; events.DefaultPool when empty
	Concurrency int    // tasks at a time, over all kinds; the number of CPUs when 0
	Dir         string // where the tasks' directories are made; the system's temporary directory when empty
	Name        string // names the process to people; "<host>-<pid>-<random>" when empty
	Version     string // told to the engine
	// MaxOutput is how many bytes of an attempt's output are kept; 4 MiB when 0.
	MaxOutput int64
	// DrainTimeout is how long running tasks may go on after Run was told to
	// end; 5 minutes when 0, not at all when negative.
	DrainTimeout time.Duration
	Log          *slog.Logger // slog.Default() when nil
}

// Worker does tasks. It is made by New.
type Worker struct {
	Options
	times  timing
	host   string
	dir    string        // of this process; holds the tasks' directories
	slots  chan struct{} // one token for each task at work
	served []string      // the kinds, sorted

	handlers sync.WaitGroup // tasks at work
	reports  sync.WaitGroup // tasks that have not been reported yet
	crew     crew           // does them

	mu     sync.Mutex
	active map[string]*attempt // by task: what this process has in hand
	past   map[string]bool     // by task: what it had in hand not long ago
	latest [1024]string        // the tasks of past, from the place next on
	next   int
}

// timing holds the intervals that the protocol and tests fix. All of them are
// measured by the monotonic clock.
type timing struct {
	fetch    time.Duration // longest wait of a fetch
	patience time.Duration // how long a fetched task waits for a free slot
	try      time.Duration // how long one request waits for its answer
	start    time.Duration // how long a start is asked for; well below the 30 s in which a message must be acknowledged
	finish   time.Duration // how long a result is reported
	hello    time.Duration // between two hellos
	stuck    time.Duration // how long handlers may take to end once their contexts have
	last     time.Duration // how long results are reported after the last handler has ended
}

var standard = timing{fetch: time.Second, patience: time.Second, try: 5 * time.Second, start: 20 * time.Second,
	finish: 24 * time.Hour, hello: 10 * time.Second, stuck: time.Minute, last: time.Minute}

// New checks the options and makes a Worker; Run starts it.
func New(o Options) (*Worker, error) {
	if o.Conn == nil {
		return nil, errors.New("worker: no connection to the bus was given")
	}
	if len(o.Kinds) == 0 {
		return nil, errors.New("worker: no kinds were given, so there is nothing to do")
	}
	for kind, h := range o.Kinds {
		if kind == "" || h == nil {
			return nil, fmt.Errorf("worker: kind %q has no name or no handler", kind)
		}
	}
	if o.Concurrency < 0 {
		return nil, fmt.Errorf("worker: concurrency %d: it must be at least 1", o.Concurrency)
	}
	host, err := os.Hostname()
	if err != nil {
		host = "unknown-host"
	}
	if o.Pool == "" {
		o.Pool = events.DefaultPool
	}
	if o.Concurrency == 0 {
		o.Concurrency = runtime.NumCPU()
	}
	if o.Name == "" {
		o.Name = fmt.Sprintf("%s-%d-%06x", host, os.Getpid(), rand.Uint32()&0xffffff)
	}
	if o.MaxOutput == 0 {
		o.MaxOutput = 4 << 20
	}
	if o.DrainTimeout == 0 {
		o.DrainTimeout = 5 * time.Minute
	}
	if o.Log == nil {
		o.Log = slog.Default()
	}
	o.Log = o.Log.With("worker", o.Name)
	return &Worker{Options: o, times: standard, host: host, slots: make(chan struct{}, o.Concurrency),
		served: slices.Sorted(maps.Keys(o.Kinds)), active: map[string]*attempt{}, past: map[string]bool{}}, nil
}
