package hub

import (
	"errors"
	"net/http"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/flotilla-fleet/flotilla/api"
	"github.com/flotilla-fleet/flotilla/hub/store"
	"github.com/flotilla-fleet/flotilla/hub/view"
)

// metrics is what the hub tells Prometheus of itself and of the fleet.
type metrics struct {
	registry  *prometheus.Registry
	reports   *prometheus.CounterVec
	snapshots prometheus.Counter
	stored    prometheus.Histogram
	requests  *prometheus.CounterVec
	clusters  *prometheus.GaugeVec
	drift     prometheus.Gauge
	exempt    prometheus.Gauge
	lag       prometheus.Histogram
	refusals  *prometheus.CounterVec
	wrong     prometheus.Counter
	broken    *prometheus.GaugeVec
}

func newMetrics(connected, browsers func() float64, kept func() store.Counters) *metrics {
	m := &metrics{
		registry: prometheus.NewRegistry(),
		reports: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "flotilla_hub_reports_total", Help: "Reports received from agents, by kind.",
		}, []string{"kind"}),
		snapshots: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "flotilla_hub_snapshots_total", Help: "Snapshots of a cluster's state received.",
		}),
		stored: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "flotilla_hub_store_seconds", Help: "Time to store one batch of reports.",
			Buckets: prometheus.ExponentialBuckets(0.0005, 2, 14),
		}),
		lag: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "flotilla_hub_report_age_seconds", Help: "Age of reports when they were stored.",
			Buckets: prometheus.ExponentialBuckets(0.005, 3, 14),
		}),
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "flotilla_hub_http_requests_total", Help: "Requests of people and scripts, by status.",
		}, []string{"code"}),
		refusals: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "flotilla_hub_refusals_total", Help: "Agents that were refused, by reason.",
		}, []string{"reason"}),
		wrong: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "flotilla_hub_wrong_tokens_total", Help: "Wrong tokens that people and scripts sent.",
		}),
		broken: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "flotilla_hub_file_broken", Help: "1 while a changed file cannot be used, and what it said before holds.",
		}, []string{"file"}),
		clusters: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "flotilla_hub_clusters", Help: "Clusters by state.",
		}, []string{"state"}),
		drift: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "flotilla_hub_drift_open", Help: "Open episodes of drift in the fleet.",
		}),
		exempt: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "flotilla_hub_objects_exempt", Help: "Objects in the fleet that an annotation on their cluster, and not in Git, keeps from being looked at or corrected.",
		}),
	}
	m.registry.MustRegister(m.reports, m.snapshots, m.stored, m.lag, m.refusals, m.wrong, m.broken, m.requests, m.clusters, m.drift, m.exempt,
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "flotilla_hub_agents_connected", Help: "Agents whose stream is open.",
		}, connected),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "flotilla_hub_event_streams", Help: "Browsers that listen for events.",
		}, browsers),
		prometheus.NewCounterFunc(prometheus.CounterOpts{
			Name: "flotilla_hub_episodes_dropped_total", Help: "Closed episodes that were dropped for their number or age.",
		}, func() float64 { return float64(kept().DroppedEpisodes) }),
		prometheus.NewCounterFunc(prometheus.CounterOpts{
			Name: "flotilla_hub_episodes_lost_total", Help: "Closed episodes that agents dropped before the hub heard of them.",
		}, func() float64 { return float64(kept().LostEpisodes) }))
	return m
}

func (m *metrics) handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{})
}

func (m *metrics) received(reports []api.Report, took time.Duration) {
	m.stored.Observe(took.Seconds())
	for _, r := range reports {
		m.reports.WithLabelValues(r.Kind()).Inc()
		if !r.At.IsZero() {
			m.lag.Observe(max(0, time.Since(r.At).Seconds()))
		}
	}
}

// refused counts a refusal, and reports whether the error is one.
func (m *metrics) refused(err error) bool {
	e, ok := errors.AsType[*api.Error](err)
	if !ok || e.Kind != api.Forbidden {
		return false
	}
	m.refusals.WithLabelValues(e.Reason).Inc()
	return true
}

func (m *metrics) fleet(cs []view.Cluster) {
	sum := view.Sum(cs)
	for _, s := range view.States() {
		m.clusters.WithLabelValues(string(s)).Set(float64(sum.States[s]))
	}
	m.drift.Set(float64(sum.Drift))
	m.exempt.Set(float64(sum.Exempt))
}

// count counts answers by status.
func (m *metrics) count(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		rec := &statusRecorder{ResponseWriter: w, status: http.StatusOK}
		next.ServeHTTP(rec, r)
		m.requests.WithLabelValues(strconv.Itoa(rec.status)).Inc()
	})
}

type statusRecorder struct {
	http.ResponseWriter
	status int
}

// WriteHeader notes the status.
func (s *statusRecorder) WriteHeader(status int) {
	s.status = status
	s.ResponseWriter.WriteHeader(status)
}

// Unwrap lets http.ResponseController reach the connection.
func (s *statusRecorder) Unwrap() http.ResponseWriter { return s.ResponseWriter }
