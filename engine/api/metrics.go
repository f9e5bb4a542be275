package api

import (
	"log/slog"
	"net/http"
	"runtime"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// metrics are the numbers for Prometheus, in a registry of their own. No label
// has an id of a run, commit or person: their number would have no end.
type metrics struct {
	registry *prometheus.Registry
	requests *prometheus.HistogramVec
	streams  prometheus.Gauge
	log      *slog.Logger
}

// longRequests are routes that wait on purpose, so that their times say nothing.
var longRequests = map[string]bool{"GET /v1/events": true, "GET /v1/runs/{run}/output": true}

func newMetrics(o Options) *metrics {
	m := &metrics{
		registry: prometheus.NewRegistry(),
		requests: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "penstock_http_request_duration_seconds", Help: "Time to answer HTTP requests, by route and status. Requests that wait on purpose count as 0.",
			Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30},
		}, []string{"route", "code"}),
		streams: prometheus.NewGauge(prometheus.GaugeOpts{Name: "penstock_event_streams", Help: "Clients that follow events over HTTP."}),
		log:     o.Log,
	}
	build := prometheus.NewGauge(prometheus.GaugeOpts{Name: "penstock_build_info", Help: "Always 1; the labels say what runs.",
		ConstLabels: prometheus.Labels{"version": o.Version, "goversion": runtime.Version()}})
	build.Set(1)
	m.registry.MustRegister(m.requests, m.streams, build, engineNumbers{o.Stats},
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

func (m *metrics) observe(route string, status int, took time.Duration) {
	if longRequests[route] {
		took = 0
	}
	m.requests.WithLabelValues(route, strconv.Itoa(status)).Observe(took.Seconds())
}

func (m *metrics) handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{Registry: m.registry, EnableOpenMetrics: true, MaxRequestsInFlight: 4,
		ErrorLog: slog.NewLogLogger(m.log.Handler(), slog.LevelError)})
}

// engineNumbers reads the engine's numbers when they are asked for.
type engineNumbers struct{ stats func() Stats }

var (
	descReady     = prometheus.NewDesc("penstock_ready", "1 when the engine does its work.", nil, nil)
	descRecords   = prometheus.NewDesc("penstock_records_total", "Records that this process has stored.", nil, nil)
	descRuns      = prometheus.NewDesc("penstock_runs", "Runs that the engine knows, ended ones included.", nil, nil)
	descWaiting   = prometheus.NewDesc("penstock_runs_waiting", "Runs that wait for people.", nil, nil)
	descSourceOK  = prometheus.NewDesc("penstock_definition_source_reachable", "1 when the source of definitions can be read.", []string{"source"}, nil)
	descSourceBad = prometheus.NewDesc("penstock_definition_source_problems", "Problems that keep something of the source of definitions out of force.", []string{"source"}, nil)
	descFrozen    = prometheus.NewDesc("penstock_stream_frozen", "1 for a stream of the store that takes no writes.", []string{"stream"}, nil)
	descEngines   = prometheus.NewDesc("penstock_engines", "Engines that are alive, as this one sees it.", nil, nil)
	descHeld      = prometheus.NewDesc("penstock_partitions", "Partitions that this engine holds.", nil, nil)
	descStopped   = prometheus.NewDesc("penstock_partitions_stopped", "Partitions of this engine that are stopped.", nil, nil)
	descClock     = prometheus.NewDesc("penstock_clock_held", "1 while the timers of this engine are held.", nil, nil)
	descWorkers   = prometheus.NewDesc("penstock_workers", "Live workers, by kind of task that they serve.", []string{"kind"}, nil)
)

// Describe is of prometheus.Collector.
func (engineNumbers) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{descReady, descRecords, descRuns, descWaiting, descWorkers, descFrozen, descEngines, descHeld, descStopped, descClock, descSourceOK, descSourceBad} {
		ch <- d
	}
}

// Collect is of prometheus.Collector.
func (n engineNumbers) Collect(ch chan<- prometheus.Metric) {
	st := n.stats()
	gauge := func(d *prometheus.Desc, v int, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, float64(v), labels...)
	}
	ready := 1
	if st.Ready != nil {
		ready = 0
	}
	gauge(descReady, ready)
	gauge(descRuns, st.Runs)
	gauge(descWaiting, st.Waiting)
	ch <- prometheus.MustNewConstMetric(descRecords, prometheus.CounterValue, float64(st.Applied))
	gauge(descEngines, len(st.Engines))
	if len(st.Engines) > 0 {
		me, held := st.Engines[0], 0
		if me.Clock != "" {
			held = 1
		}
		gauge(descHeld, me.Partitions)
		gauge(descStopped, len(me.Stopped))
		gauge(descClock, held)
	}
	for stream := range st.Frozen {
		gauge(descFrozen, 1, stream)
	}
	for _, src := range st.Sources {
		reachable := 1
		if src.Error != "" {
			reachable = 0
		}
		gauge(descSourceOK, reachable, src.Source)
		gauge(descSourceBad, src.Problems, src.Source)
	}
	workers := map[string]int{}
	for _, w := range st.Workers {
		kinds := map[string]bool{} // one that says a kind twice is still one
		for _, k := range w.Kinds {
			kinds[k] = true
		}
		for k := range kinds {
			workers[k]++
		}
	}
	for kind, count := range workers {
		gauge(descWorkers, count, kind)
	}
}
