package daemon

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"plumb.internal/plumb/internal/api"
	"plumb.internal/plumb/internal/health"
	"plumb.internal/plumb/reconciler/resource"
)

// metrics are the daemon's numbers for Prometheus.
type metrics struct {
	registry   *prometheus.Registry
	cycles     *prometheus.CounterVec
	seconds    prometheus.Histogram
	compiles   *prometheus.CounterVec
	compiling  prometheus.Histogram
	changes    *prometheus.CounterVec
	drifts     *prometheus.CounterVec
	errors     *prometheus.CounterVec
	states     *prometheus.GaugeVec
	revision   prometheus.Gauge
	objects    prometheus.Gauge
	failing    prometheus.Gauge
	conflicts  prometheus.Gauge
	sourceGood prometheus.Gauge
}

func newMetrics() *metrics {
	buckets := prometheus.ExponentialBuckets(0.001, 2, 14) // 1 ms to 8 s
	m := &metrics{
		registry:   prometheus.NewRegistry(),
		cycles:     prometheus.NewCounterVec(prometheus.CounterOpts{Name: "plumb_reconcile_total", Help: "Cycles by result."}, []string{"result"}),
		seconds:    prometheus.NewHistogram(prometheus.HistogramOpts{Name: "plumb_reconcile_duration_seconds", Help: "How long cycles took.", Buckets: buckets}),
		compiles:   prometheus.NewCounterVec(prometheus.CounterOpts{Name: "plumb_compile_total", Help: "Evaluations of the files by result."}, []string{"result"}),
		compiling:  prometheus.NewHistogram(prometheus.HistogramOpts{Name: "plumb_compile_duration_seconds", Help: "How long evaluating and compiling the files took.", Buckets: buckets}),
		changes:    prometheus.NewCounterVec(prometheus.CounterOpts{Name: "plumb_changes_total", Help: "Objects changed, by kind and action."}, []string{"kind", "action"}),
		drifts:     prometheus.NewCounterVec(prometheus.CounterOpts{Name: "plumb_drift_total", Help: "Changes by others that were undone, by kind."}, []string{"kind"}),
		errors:     prometheus.NewCounterVec(prometheus.CounterOpts{Name: "plumb_errors_total", Help: "Changes that failed, by kind."}, []string{"kind"}),
		states:     prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "plumb_state", Help: "1 for the state that the node is in."}, []string{"state"}),
		revision:   prometheus.NewGauge(prometheus.GaugeOpts{Name: "plumb_revision", Help: "Number of the revision in force; 0 while it isn't verified."}),
		objects:    prometheus.NewGauge(prometheus.GaugeOpts{Name: "plumb_objects", Help: "Kernel objects that the configuration in force asks for."}),
		failing:    prometheus.NewGauge(prometheus.GaugeOpts{Name: "plumb_failing_objects", Help: "Objects that can't be made what they should be."}),
		conflicts:  prometheus.NewGauge(prometheus.GaugeOpts{Name: "plumb_conflicts", Help: "Objects that somebody else's are in the way of."}),
		sourceGood: prometheus.NewGauge(prometheus.GaugeOpts{Name: "plumb_source_usable", Help: "1 if the files compile."}),
	}
	m.registry.MustRegister(m.cycles, m.seconds, m.compiles, m.compiling, m.changes, m.drifts, m.errors, m.states, m.revision, m.objects,
		m.failing, m.conflicts, m.sourceGood, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	for _, r := range []string{"ok", "error"} {
		m.cycles.WithLabelValues(r)
		m.compiles.WithLabelValues(r)
	}
	return m
}

func result(err error) string {
	if err != nil {
		return "error"
	}
	return "ok"
}

func (m *metrics) cycle(took time.Duration, err error) {
	m.cycles.WithLabelValues(result(err)).Inc()
	m.seconds.Observe(took.Seconds())
}

func (m *metrics) compiled(took time.Duration, err error) {
	m.compiles.WithLabelValues(result(err)).Inc()
	m.compiling.Observe(took.Seconds())
}

func (m *metrics) changed(c resource.Change) {
	m.changes.WithLabelValues(string(c.ID.Kind), string(c.Action)).Inc()
}
func (m *metrics) drifted(c resource.Change) { m.drifts.WithLabelValues(string(c.ID.Kind)).Inc() }
func (m *metrics) failed(id resource.ID)     { m.errors.WithLabelValues(string(id.Kind)).Inc() }

func (m *metrics) state(s api.Status) {
	for _, name := range []string{api.Converged, api.Starting, api.Waiting, api.Suspended, api.Degraded} {
		v := 0.0
		if name == s.State {
			v = 1
		}
		m.states.WithLabelValues(name).Set(v)
	}
	m.revision.Set(0)
	m.objects.Set(0)
	if s.InForce != nil {
		m.revision.Set(float64(s.InForce.Revision))
		m.objects.Set(float64(s.InForce.Objects))
	}
	m.failing.Set(float64(len(s.Failing)))
	m.conflicts.Set(float64(len(s.Conflicts)))
	m.sourceGood.Set(1)
	if s.Source != nil {
		m.sourceGood.Set(0)
	}
}

// Registry is what Prometheus asks. Register more collectors before Run.
func (d *Daemon) Registry() *prometheus.Registry { return d.metrics.registry }

// backends tells the health of backends when asked.
type backends struct{ *health.Prober }

var backendUp = prometheus.NewDesc("plumb_backend_up", "1 if a probed backend answers.", []string{"frontend", "backend"}, nil)

// Describe implements prometheus.Collector.
func (b backends) Describe(c chan<- *prometheus.Desc) { c <- backendUp }

// Collect implements prometheus.Collector.
func (b backends) Collect(c chan<- prometheus.Metric) {
	for key, v := range b.Verdicts() {
		up := 1.0
		if v.Down {
			up = 0
		}
		c <- prometheus.MustNewConstMetric(backendUp, prometheus.GaugeValue, up, key.Frontend, key.Backend.String())
	}
}
