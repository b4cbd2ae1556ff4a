package reconciler

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/flotilla-fleet/flotilla/api"
)

// Metrics are what a Reconciler measures.
type Metrics struct {
	detect  *prometheus.HistogramVec
	fix     prometheus.Histogram
	unknown prometheus.Counter
	dryRun  *prometheus.HistogramVec
}

// NewMetrics makes the metrics and registers them; with a nil registerer they are only counted.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	buckets := []float64{.005, .01, .025, .05, .1, .25, .5, 1, 2, 5, 10, 30}
	m := &Metrics{
		detect: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "flotilla_drift_detect_seconds", Buckets: buckets,
			Help: "Time from the watch event of a drift to its episode being stored.",
		}, []string{"class"}),
		fix: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "flotilla_drift_correct_seconds", Buckets: buckets,
			Help: "Time from the watch event of a drift to the desired value being written back.",
		}),
		unknown: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "flotilla_compare_failures_total",
			Help: "Comparisons of an object that failed, so that its state is unknown.",
		}),
		dryRun: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "flotilla_dry_run_seconds", Buckets: buckets,
			Help: "Dry runs that the API server was asked for, by result (ok, error), and how long they took.",
		}, []string{"result"}),
	}
	if reg != nil {
		reg.MustRegister(m.detect, m.fix, m.unknown, m.dryRun)
	}
	return m
}

// Detected takes the time from an event to the episode of a drift; zero is not known.
func (m *Metrics) Detected(class api.Class, since, now time.Time) {
	if !since.IsZero() {
		m.detect.WithLabelValues(string(class)).Observe(now.Sub(since).Seconds())
	}
}

// Corrected takes the time from an event to the correction of a drift; zero is not known.
func (m *Metrics) Corrected(since, now time.Time) {
	if !since.IsZero() {
		m.fix.Observe(now.Sub(since).Seconds())
	}
}

// Uncompared takes a comparison that failed.
func (m *Metrics) Uncompared() { m.unknown.Inc() }

// DryRan takes one dry run.
func (m *Metrics) DryRan(took time.Duration, err error) {
	result := "ok"
	if err != nil {
		result = "error"
	}
	m.dryRun.WithLabelValues(result).Observe(took.Seconds())
}

var (
	openDesc = prometheus.NewDesc("flotilla_drift_open", "Open episodes, by class.", []string{"class"}, nil)
	// Both count among the open ones.
	contestedDesc = prometheus.NewDesc("flotilla_drift_contested", "Open episodes of objects that somebody keeps taking back.", nil, nil)
	failedDesc    = prometheus.NewDesc("flotilla_drift_failed", "Open episodes whose correction was refused.", nil, nil)
	unknownDesc   = prometheus.NewDesc("flotilla_objects_unknown", "Objects that could not be compared: neither in sync nor drifted.", nil, nil)
	exemptDesc    = prometheus.NewDesc("flotilla_objects_exempt", "Objects that an annotation on the cluster, and not in Git, keeps from being looked at or corrected.", nil, nil)
)

// classes are all classes, so that a class without an episode is 0 and not absent.
var classes = []api.Class{api.ClassChanged, api.ClassRemoved, api.ClassAdded, api.ClassMissing, api.ClassExtra}

// Describe is half of prometheus.Collector.
func (r *Reconciler) Describe(c chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{openDesc, contestedDesc, failedDesc, unknownDesc, exemptDesc} {
		c <- d
	}
}

// Collect counts what is open now.
func (r *Reconciler) Collect(c chan<- prometheus.Metric) {
	open, outcomes := map[api.Class]int{}, map[api.Outcome]int{}
	unknown, exempt := 0, 0
	for _, t := range r.objects.Tallies() {
		unknown += t.Unknown
		exempt += len(t.Exempt) + t.ExemptOmitted
	}
	for _, e := range r.objects.AllOpen() {
		open[e.Class]++
		outcomes[e.Outcome]++
	}
	gauge := func(d *prometheus.Desc, n int, labels ...string) {
		c <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, float64(n), labels...)
	}
	for _, class := range classes {
		gauge(openDesc, open[class], string(class))
	}
	gauge(contestedDesc, outcomes[api.OutcomeContested])
	gauge(failedDesc, outcomes[api.OutcomeFailed])
	gauge(unknownDesc, unknown)
	gauge(exemptDesc, exempt)
}
