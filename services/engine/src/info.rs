//! Info: the daemon and its host in figures.

use crated_api::crated::engine::v1::InfoResponse;
use crated_types::filter::Filters;
use crated_types::{ContainerId, Result, Scope};
use std::fs;
use std::path::Path;
use std::sync::Arc;

use crate::engine::Engine;
use crate::life::State;

impl Engine {
    /// Describes the daemon, its host, and what the namespace holds.
    pub async fn info(self: &Arc<Self>, scope: &Scope) -> Result<InfoResponse> {
        let mut info = InfoResponse {
            version: self.deps.config.version.clone(),
            id: self.deps.config.id.clone(),
            root: self.deps.root.display().to_string(),
            state: self.deps.state.display().to_string(),
            snapshotter: self.deps.config.default_snapshotter.clone(),
            runtime: self.deps.config.default_runtime.clone(),
            kernel: crated_sys::kernel::release(),
            operating_system: operating_system(),
            architecture: std::env::consts::ARCH.into(),
            cpus: std::thread::available_parallelism().map_or(0, |cpus| i64::try_from(cpus.get()).unwrap_or(i64::MAX)),
            memory: memory(&fs::read_to_string("/proc/meminfo").unwrap_or_default()),
            cgroup_version: if Path::new("/sys/fs/cgroup/cgroup.controllers").exists() { "2" } else { "1" }.into(),
            cgroup_driver: "cgroupfs".into(),
            images: count(self.deps.images.list(scope, &Filters::default()).await?.len()),
            snapshotters: self.deps.snapshotters.keys().cloned().collect(),
            name: fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().into(),
            started_at: Some(self.started_at.into()),
            ..InfoResponse::default()
        };
        for record in self.deps.containers.list(scope, &Filters::default()).await? {
            info.containers += 1;
            let state = match self.life(&scope.namespace, &record.id).await? {
                Some(life) => life.state(),
                None => self.foreign_state(scope, &ContainerId::new(&record.id)?).await?.0,
            };
            match state {
                State::Running | State::Restarting => info.running += 1,
                State::Paused => info.paused += 1,
                State::Created | State::Exited | State::Removing => info.stopped += 1,
            }
        }
        info.warnings = warnings();
        Ok(info)
    }
}

fn count(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn operating_system() -> String {
    let text = fs::read_to_string("/etc/os-release").or_else(|_| fs::read_to_string("/usr/lib/os-release"));
    pretty_name(&text.unwrap_or_default()).unwrap_or_else(|| "Linux".into())
}

fn pretty_name(text: &str) -> Option<String> {
    let line = text.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="))?;
    Some(line.trim_matches('"').to_owned())
}

/// Bytes of `MemTotal`.
pub(crate) fn memory(text: &str) -> i64 {
    let kib = text
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:")?.trim().strip_suffix("kB")?.trim().parse::<i64>().ok());
    kib.unwrap_or(0).saturating_mul(1024)
}

fn warnings() -> Vec<String> {
    let mut warnings = Vec::new();
    if !crated_sys::kernel::has_seccomp() {
        warnings.push("the kernel has no seccomp filters: system calls of containers are not restricted".into());
    }
    if !crated_sys::kernel::has_namespace("user") {
        warnings.push("the kernel has no user namespaces".into());
    }
    warnings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_files_are_read() {
        assert_eq!(
            pretty_name("ID=debian\nPRETTY_NAME=\"Debian GNU/Linux 12\"\n").as_deref(),
            Some("Debian GNU/Linux 12")
        );
        assert!(pretty_name("ID=x").is_none());
        assert_eq!(memory("MemTotal:        2048 kB\nMemFree: 1 kB\n"), 2 << 20);
        assert_eq!(memory("rubbish"), 0);
    }
}
