//! Stats: what running containers use, from the metrics of their cgroups.

use crated_api::crated::engine::v1::stats_response::Sample;
use crated_api::crated::engine::v1::{StatsRequest, StatsResponse};
use crated_api::io::containerd::cgroups::{v1, v2};
use crated_types::filter::Filters;
use crated_types::{ContainerId, Error, Fault, Result, Scope};
use prost::Message;
use prost_types::Any;
use std::collections::HashMap;
use std::fs;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::engine::{Engine, Stream};
use crate::lookup::Found;

/// Time between two samples where a request names none.
const INTERVAL: Duration = Duration::from_secs(1);
/// Shortest time between two samples.
const INTERVAL_MIN: Duration = Duration::from_millis(100);
/// How long a shim may take for its figures.
const ASK: Duration = Duration::from_secs(5);

impl Engine {
    /// Samples of running containers: one after a first interval (so that CPU use is known), or with `stream` one each interval.
    ///
    /// # Cancel safety
    /// Dropped, it ends.
    pub async fn stats(self: &Arc<Self>, scope: &Scope, request: StatsRequest) -> Result<Stream<StatsResponse>> {
        // Names are looked up once, so that a wrong one is an error and not silence.
        let mut named = Vec::new();
        for name in &request.containers {
            let found = self.find(scope, name).await?;
            self.running(scope, &found).await?;
            named.push(found);
        }
        let interval = match request.interval_ms {
            0 => INTERVAL,
            millis => Duration::from_millis(millis.into()).max(INTERVAL_MIN),
        };
        let all = request.containers.is_empty();
        Ok(self.answering(scope, move |engine, scope, answers| async move {
            let mut before = HashMap::new();
            engine.sample(&scope, &named, all, &mut before).await?;
            loop {
                tokio::select! {
                    () = engine.closing.cancelled() => return Ok(()),
                    () = answers.closed() => return Ok(()),
                    () = tokio::time::sleep(interval) => {}
                }
                let samples = engine.sample(&scope, &named, all, &mut before).await?;
                let over = !request.stream || (samples.is_empty() && !all);
                if answers.send(Ok(StatsResponse { samples })).await.is_err() || over {
                    return Ok(());
                }
            }
        }))
    }

    async fn sample(
        &self,
        scope: &Scope,
        named: &[Found],
        all: bool,
        before: &mut HashMap<String, (u64, Instant)>,
    ) -> Result<Vec<Sample>> {
        let founds = if all { self.running_ones(scope).await? } else { named.to_vec() };
        let mut samples = Vec::new();
        for found in founds {
            let Some(raw) = self.figures(scope, &found).await? else { continue };
            let mut sample = decode(&raw)?;
            let now = Instant::now();
            sample.id = found.id.to_string();
            sample.name = found.name();
            sample.time = Some(crated_core::time::now());
            if sample.memory_limit == 0 || sample.memory_limit > host_memory() {
                sample.memory_limit = host_memory();
            }
            if let Some((used, then)) = before.insert(sample.id.clone(), (sample.cpu_usage_ns, now)) {
                sample.cpu_percent = percent(sample.cpu_usage_ns.saturating_sub(used), now - then);
            }
            if let Ok((_, pid)) = self.running(scope, &found).await
                && !shares_host_network(pid)
            {
                let text = fs::read_to_string(format!("/proc/{pid}/net/dev")).unwrap_or_default();
                (sample.network_received, sample.network_sent) = network(&text);
            }
            sample.raw = Some(raw);
            samples.push(sample);
        }
        Ok(samples)
    }

    async fn running_ones(&self, scope: &Scope) -> Result<Vec<Found>> {
        let mut founds = Vec::new();
        for container in self.deps.containers.list(scope, &Filters::default()).await? {
            let found = self.found(scope, &ContainerId::new(&container.id)?).await;
            if let Ok(found) = found
                && found.life.as_ref().is_none_or(|life| life.running)
            {
                founds.push(found);
            }
        }
        Ok(founds)
    }

    /// The figures of a container; none where it has ended.
    async fn figures(&self, scope: &Scope, found: &Found) -> Result<Option<Any>> {
        let task = match self.running(scope, found).await {
            Ok((task, _)) => task,
            Err(error) if error.fault() == Fault::Precondition || error.is_not_found() => return Ok(None),
            Err(error) => return Err(error),
        };
        match tokio::time::timeout(ASK, task.stats()).await {
            Ok(Ok(raw)) => Ok(Some(raw)),
            Ok(Err(error)) if error.is_not_found() => Ok(None),
            Ok(Err(error)) => Err(error),
            Err(_) => {
                Err(Error::new(Fault::TimedOut, "the shim does not answer").on(crated_types::Kind::Task, &found.id))
            }
        }
    }
}

/// Hundredths of one CPU.
#[allow(clippy::cast_precision_loss)] // a figure for people
fn percent(used_ns: u64, time: Duration) -> f64 {
    if time.is_zero() { 0.0 } else { used_ns as f64 * 100.0 / time.as_nanos() as f64 }
}

/// The figures that people read, of either cgroup version.
fn decode(raw: &Any) -> Result<Sample> {
    let damaged = |error| Error::new(Fault::Malformed, format!("metrics of type {}", raw.type_url)).caused_by(error);
    let name = raw.type_url.rsplit('/').next().unwrap_or_default();
    match name {
        "io.containerd.cgroups.v1.Metrics" => {
            v1::Metrics::decode(raw.value.as_slice()).map(|metrics| first(&metrics)).map_err(damaged)
        }
        "io.containerd.cgroups.v2.Metrics" => {
            v2::Metrics::decode(raw.value.as_slice()).map(|metrics| second(&metrics)).map_err(damaged)
        }
        other => Err(Error::new(Fault::Unsupported, format!("metrics of type {other}"))),
    }
}

fn first(metrics: &v1::Metrics) -> Sample {
    let mut sample = Sample::default();
    if let Some(usage) = metrics.cpu.as_ref().and_then(|cpu| cpu.usage.as_ref()) {
        sample.cpu_usage_ns = usage.total;
    }
    if let Some(memory) = &metrics.memory
        && let Some(usage) = &memory.usage
    {
        // As docker: what can be given back at once does not count.
        sample.memory_usage = usage.usage.saturating_sub(memory.total_inactive_file);
        sample.memory_limit = usage.limit;
    }
    sample.pids = metrics.pids.as_ref().map_or(0, |pids| pids.current);
    for entry in metrics.blkio.iter().flat_map(|blkio| &blkio.io_service_bytes_recursive) {
        match entry.op.to_ascii_lowercase().as_str() {
            "read" => sample.block_read += entry.value,
            "write" => sample.block_write += entry.value,
            _ => {}
        }
    }
    sample
}

fn second(metrics: &v2::Metrics) -> Sample {
    let mut sample = Sample {
        cpu_usage_ns: metrics.cpu.as_ref().map_or(0, |cpu| cpu.usage_usec.saturating_mul(1000)),
        ..Sample::default()
    };
    if let Some(memory) = &metrics.memory {
        sample.memory_usage = memory.usage.saturating_sub(memory.inactive_file);
        sample.memory_limit = memory.usage_limit;
    }
    sample.pids = metrics.pids.as_ref().map_or(0, |pids| pids.current);
    for entry in metrics.io.iter().flat_map(|io| &io.usage) {
        sample.block_read += entry.rbytes;
        sample.block_write += entry.wbytes;
    }
    sample
}

fn host_memory() -> u64 {
    static MEMORY: std::sync::OnceLock<u64> = std::sync::OnceLock::new();
    *MEMORY.get_or_init(|| {
        let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
        u64::try_from(crate::info::memory(&text)).unwrap_or(0)
    })
}

fn shares_host_network(pid: u32) -> bool {
    let of = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/net")).ok();
    of(&pid.to_string()) == of("self")
}

/// Bytes received and sent of all interfaces but the loopback, from the text of `/proc/PID/net/dev`.
fn network(text: &str) -> (u64, u64) {
    let (mut received, mut sent) = (0, 0);
    for line in text.lines().skip(2) {
        let Some((name, figures)) = line.split_once(':') else { continue };
        let figures: Vec<u64> = figures.split_whitespace().filter_map(|figure| figure.parse().ok()).collect();
        if name.trim() != "lo" && figures.len() >= 9 {
            received += figures[0];
            sent += figures[8];
        }
    }
    (received, sent)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_cgroup_versions_are_read() {
        let one = v1::Metrics {
            cpu: Some(v1::CpuStat {
                usage: Some(v1::CpuUsage { total: 5_000, ..Default::default() }),
                ..Default::default()
            }),
            memory: Some(v1::MemoryStat {
                usage: Some(v1::MemoryEntry { usage: 100, limit: 1000, ..Default::default() }),
                total_inactive_file: 30,
                ..Default::default()
            }),
            ..Default::default()
        };
        let raw = Any { type_url: "io.containerd.cgroups.v1.Metrics".into(), value: one.encode_to_vec() };
        let sample = decode(&raw).unwrap();
        assert_eq!((sample.cpu_usage_ns, sample.memory_usage, sample.memory_limit), (5_000, 70, 1000));
        let two = v2::Metrics { cpu: Some(v2::CpuStat { usage_usec: 7, ..Default::default() }), ..Default::default() };
        let raw = Any { type_url: "x/io.containerd.cgroups.v2.Metrics".into(), value: two.encode_to_vec() };
        assert_eq!(decode(&raw).unwrap().cpu_usage_ns, 7_000);
        assert_eq!(decode(&Any::default()).unwrap_err().fault(), Fault::Unsupported);
    }

    #[test]
    fn figures_of_interfaces_add_up_without_the_loopback() {
        let text = "Inter-|   Receive\n face |bytes\n    lo: 9 1 0 0 0 0 0 0 9 1 0 0 0 0 0 0\n  eth0: 100 1 0 0 0 0 0 0 7 1 0 0 0 0 0 0\n  eth1:1 1 0 0 0 0 0 0 2 1 0 0 0 0 0 0\n";
        assert_eq!(network(text), (101, 9));
    }

    #[test]
    fn a_second_of_one_cpu_in_a_second_is_a_hundred() {
        assert!((percent(1_000_000_000, Duration::from_secs(1)) - 100.0).abs() < 1e-9);
        assert!(percent(5, Duration::ZERO).abs() < 1e-9);
    }
}
