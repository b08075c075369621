//! What is counted and measured, for Prometheus. Parts get the handles they need from [`Metrics`];
//! what only is as it is (gauges) is read when somebody asks.

mod dataplane;
mod gauges;
pub mod serve;
mod store;
mod text;

pub use dataplane::Metered;
pub use store::MeteredStore;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

/// Names and values; every value is from a set that does not grow with time.
pub type Labels = Vec<(&'static str, String)>;

pub type Counters = Family<Labels, Counter>;
type Histograms = Family<Labels, Histogram, fn() -> Histogram>;

/// From half a millisecond to half a minute: Docker's calls, passes and requests of etcd.
const BUCKETS: [f64; 15] =
    [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 30.0];

/// Everything that is counted and measured. Cheap to clone.
#[derive(Clone)]
pub struct Metrics {
    calls: Counters,
    call_time: Histograms,
    passes: Counters,
    pass_time: Histogram,
    steps: Counters,
    followed: Histogram,
    requests: Counters,
    request_time: Histograms,
    registry: Arc<Registry>,
}

impl Default for Metrics {
    fn default() -> Self {
        let histograms = || Histograms::new_with_constructor(histogram as fn() -> Histogram);
        let mut metrics = Self {
            calls: Counters::default(),
            call_time: histograms(),
            passes: Counters::default(),
            pass_time: histogram(),
            steps: Counters::default(),
            followed: histogram(),
            requests: Counters::default(),
            request_time: histograms(),
            registry: Arc::default(),
        };
        metrics.registry = Arc::new(metrics.register());
        metrics
    }
}

impl Metrics {
    fn register(&self) -> Registry {
        let mut registry = Registry::with_prefix("wgnet");
        let m = self.clone();
        registry.register("docker_calls", "Calls of Docker's, answered", m.calls);
        registry.register(
            "docker_call_duration_seconds",
            "From the arrival of a call to its answer",
            m.call_time,
        );
        registry.register("reconcile_passes", "Looks at a network and what followed", m.passes);
        registry.register("reconcile_duration_seconds", "Time of such a pass", m.pass_time);
        registry.register("reconcile_steps", "Changes of the kernel, by kind", m.steps);
        registry.register(
            "record_follow_duration_seconds",
            "From when this driver was told of a network's record to when the kernel follows it",
            m.followed,
        );
        registry.register("etcd_requests", "Requests to etcd, watches apart", m.requests);
        registry.register(
            "etcd_request_duration_seconds",
            "Time of such a request",
            m.request_time,
        );
        registry
    }

    /// A call of Docker's was answered. `method` is one that the driver knows.
    pub fn called(&self, method: &str, ok: bool, took: Duration) {
        self.calls.get_or_create(&vec![method_label(method), result(ok)]).inc();
        self.call_time.get_or_create(&vec![method_label(method)]).observe(took.as_secs_f64());
    }

    /// A network was looked at, and what followed done.
    pub fn passed(&self, ok: bool, took: Duration) {
        self.passes.get_or_create(&vec![result(ok)]).inc();
        self.pass_time.observe(took.as_secs_f64());
    }

    /// The kernel follows a record that was told so long ago.
    pub fn followed(&self, took: Duration) {
        self.followed.observe(took.as_secs_f64());
    }

    fn stepped(&self, step: &'static str, ok: bool) {
        self.steps.get_or_create(&vec![("step", step.to_owned()), result(ok)]).inc();
    }

    fn requested(&self, operation: &'static str, outcome: &'static str, took: Duration) {
        let operation = ("operation", operation.to_owned());
        let result = ("result", outcome.to_owned());
        self.requests.get_or_create(&vec![operation.clone(), result]).inc();
        self.request_time.get_or_create(&vec![operation]).observe(took.as_secs_f64());
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Metrics(..)")
    }
}

fn histogram() -> Histogram {
    Histogram::new(BUCKETS)
}

fn method_label(method: &str) -> (&'static str, String) {
    ("method", method.to_owned())
}

fn result(ok: bool) -> (&'static str, String) {
    ("result", if ok { "ok" } else { "error" }.to_owned())
}
