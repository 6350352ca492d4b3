//! `stats`: what a container uses, once or every second.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::engine::Usage;

use super::answer::{Answer, found, streamed};
use super::call::Call;
use super::container::Container;
use super::server::Server;

/// How often it is measured.
const PERIOD: Duration = Duration::from_secs(1);

/// A measurement.
#[derive(Clone)]
struct Sample {
    time: Timestamp,
    usage: Usage,
    /// The processor time of the whole machine, in nanoseconds.
    machine: u64,
}

/// Measures a container.
struct Measuring {
    container: Arc<Container>,
    cpus: usize,
    memory: u64,
    last: Option<Sample>,
}

impl Measuring {
    /// Measures now; a container that does not run uses nothing.
    async fn sample(&self) -> Option<Sample> {
        if !self.container.state.now().status.is_alive() {
            return None;
        }
        let usage = self.container.session.usage().await.ok()?;
        Some(Sample { time: Timestamp::now(), usage, machine: machine_time() })
    }

    fn described(&self, now: Option<&Sample>) -> Value {
        let limit = self.container.updates().get("Memory").and_then(Value::as_u64);
        let host = self.container.host_config();
        let asked = limit.or(host.memory.and_then(|memory| u64::try_from(memory).ok()));
        let limit = asked.filter(|memory| *memory > 0).unwrap_or(self.memory);
        let usage = now.map(|sample| sample.usage.clone()).unwrap_or_default();
        let time = |sample: Option<&Sample>| {
            sample.map_or("0001-01-01T00:00:00Z".to_owned(), |sample| sample.time.to_string())
        };
        let mut memory = json!({});
        if now.is_some() {
            memory = json!({
                "usage": usage.memory,
                "max_usage": usage.most_memory.unwrap_or(usage.memory),
                "limit": limit,
                "stats": {},
            });
        }
        json!({
            "id": self.container.id,
            "name": format!("/{}", self.container.name()),
            "read": time(now),
            "preread": time(self.last.as_ref()),
            "num_procs": 0,
            "pids_stats": { "current": usage.processes },
            "cpu_stats": self.cpu(now),
            "precpu_stats": self.cpu(self.last.as_ref()),
            "memory_stats": memory,
            "blkio_stats": { "io_service_bytes_recursive": Value::Null },
            "storage_stats": {},
            "networks": {},
        })
    }

    fn cpu(&self, sample: Option<&Sample>) -> Value {
        let usage = sample.map(|sample| sample.usage.clone()).unwrap_or_default();
        let throttling = json!({ "periods": 0, "throttled_periods": 0, "throttled_time": 0 });
        let mut value = json!({
            "cpu_usage": {
                "total_usage": usage.cpu_nanos,
                "usage_in_kernelmode": usage.system_nanos,
                "usage_in_usermode": usage.cpu_nanos.saturating_sub(usage.system_nanos),
            },
            "throttling_data": throttling,
        });
        if let Some(sample) = sample {
            value["system_cpu_usage"] = json!(sample.machine);
            value["online_cpus"] = json!(self.cpus);
        }
        value
    }

    /// Measures, and describes it beside the measurement before.
    async fn next(&mut self) -> Value {
        let now = self.sample().await;
        let described = self.described(now.as_ref());
        self.last = now;
        described
    }
}

/// Says what a container uses.
pub(super) async fn stats(server: &Server, call: &Call, container: Arc<Container>) -> Answer {
    let (cpus, memory) = (server.info.cpus, server.info.memory);
    let mut measuring = Measuring { container, cpus, memory, last: None };
    if call.parameter("stream").is_some() && !call.is_set("stream") {
        if !call.is_set("one-shot") {
            measuring.last = measuring.sample().await;
            if measuring.last.is_some() {
                tokio::time::sleep(PERIOD).await;
            }
        }
        return found(&measuring.next().await);
    }
    let lines = stream::unfold((measuring, false), |(mut measuring, waits)| async move {
        if waits {
            let gone = measuring.container.state.until(|state| state.is_removed);
            if tokio::time::timeout(PERIOD, gone).await.is_ok() {
                return None;
            }
        }
        let line = format!("{}\n", measuring.next().await);
        Some((Ok::<_, io::Error>(Bytes::from(line)), (measuring, true)))
    });
    Ok(streamed("application/json", lines))
}

/// Returns the processor time of the machine since its start, in nanoseconds.
fn machine_time() -> u64 {
    let text = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    let numbers = text.lines().next().into_iter().flat_map(|line| line.split_whitespace().skip(1));
    // Guests are in the time of users already.
    let ticks: u64 = numbers.take(8).filter_map(|number| number.parse::<u64>().ok()).sum();
    ticks * (1_000_000_000 / rustix::param::clock_ticks_per_second().max(1))
}
