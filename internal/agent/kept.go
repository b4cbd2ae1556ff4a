package agent

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/flotilla-fleet/flotilla/drift/store"
)

// kept tells Prometheus what the store keeps, and what it had to let go.
type kept struct{ store *store.Store }

var (
	closedDesc  = prometheus.NewDesc("flotilla_episodes_closed", "Closed episodes that are kept.", nil, nil)
	droppedDesc = prometheus.NewDesc("flotilla_episodes_dropped_total", "Closed episodes that were dropped for their number or age.", nil, nil)
	outboxDesc  = prometheus.NewDesc("flotilla_outbox_reports", "Reports that wait for the hub.", nil, nil)
	mergedDesc  = prometheus.NewDesc("flotilla_outbox_merged_total", "Reports that newer ones replaced before the hub had them.", nil, nil)
	lostDesc    = prometheus.NewDesc("flotilla_outbox_lost_episodes_total", "Closed episodes that the hub will never hear of.", nil, nil)
)

// Describe is half of prometheus.Collector.
func (k kept) Describe(c chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{closedDesc, droppedDesc, outboxDesc, mergedDesc, lostDesc} {
		c <- d
	}
}

// Collect reads the counters.
func (k kept) Collect(c chan<- prometheus.Metric) {
	n, err := k.store.Counters()
	if err != nil {
		c <- prometheus.NewInvalidMetric(closedDesc, err)
		return
	}
	c <- prometheus.MustNewConstMetric(closedDesc, prometheus.GaugeValue, float64(n.ClosedEpisodes))
	c <- prometheus.MustNewConstMetric(droppedDesc, prometheus.CounterValue, float64(n.DroppedEpisodes))
	c <- prometheus.MustNewConstMetric(outboxDesc, prometheus.GaugeValue, float64(n.OutboxReports))
	c <- prometheus.MustNewConstMetric(mergedDesc, prometheus.CounterValue, float64(n.MergedReports))
	c <- prometheus.MustNewConstMetric(lostDesc, prometheus.CounterValue, float64(n.LostEpisodes))
}
