//! The process part of a spec, for create and for exec.

use crated_sys::caps;
use oci_spec::runtime::{
    Capabilities as Names, ExecCPUAffinity, IOPriorityClass, LinuxSchedulerFlag, LinuxSchedulerPolicy, PosixRlimitType,
    Process, Scheduler,
};

use super::{Capabilities, Facts, ProcessPlan, SchedulerPlan};
use crate::error::{OciError, Result};

/// Compiles a process.
///
/// # Errors
/// [`OciError::Spec`] and [`OciError::Unsupported`], naming the field.
pub fn process(process: &Process, facts: &Facts) -> Result<ProcessPlan> {
    let args = process.args().clone().unwrap_or_default();
    if args.first().is_none_or(String::is_empty) {
        return Err(OciError::spec("process.args", "empty"));
    }
    let env = environment(process.env().as_deref().unwrap_or_default());
    for (name, texts) in [("process.args", &args), ("process.env", &env)] {
        if texts.iter().any(|t| t.contains('\0')) {
            return Err(OciError::spec(name, "holds a NUL byte"));
        }
    }
    if !process.cwd().is_absolute() {
        return Err(OciError::spec("process.cwd", format!("{:?} is no absolute path", process.cwd())));
    }
    let user = process.user();
    Ok(ProcessPlan {
        args,
        env,
        cwd: process.cwd().to_string_lossy().into_owned(),
        uid: user.uid(),
        gid: user.gid(),
        groups: user.additional_gids().clone().unwrap_or_default(),
        umask: user.umask(),
        capabilities: capabilities(process)?,
        no_new_privileges: process.no_new_privileges().unwrap_or(false),
        limits: limits(process)?,
        oom_score_adj: score(process.oom_score_adj())?,
        apparmor: apparmor(process, facts)?,
        selinux: selinux(process, facts)?,
        seccomp: None,
        terminal: process.terminal().unwrap_or(false),
        scheduler: process.scheduler().as_ref().map(scheduler),
        io_priority: process.io_priority().as_ref().map(|p| io_priority(p.class(), p.priority())).transpose()?,
        affinity: process.exec_cpu_affinity().as_ref().map(affinity).transpose()?.unwrap_or_default(),
        personality: None,
        start_hooks: Vec::new(),
        preserve_fds: 0,
    })
}

/// Of a name that stands there twice the last counts, in the place of the first.
fn environment(entries: &[String]) -> Vec<String> {
    let mut out: Vec<String> = Vec::with_capacity(entries.len());
    let mut places = std::collections::HashMap::new();
    for entry in entries {
        let name = entry.split('=').next().unwrap_or(entry);
        match places.get(name) {
            Some(place) => out[*place] = entry.clone(),
            None => {
                places.insert(name, out.len());
                out.push(entry.clone());
            }
        }
    }
    out
}

fn capabilities(process: &Process) -> Result<Capabilities> {
    let Some(sets) = process.capabilities() else { return Ok(Capabilities::default()) };
    let bits = |names: &Option<Names>, field: &str| -> Result<u64> {
        let names: Vec<String> = names.iter().flatten().map(ToString::to_string).collect();
        let set = caps::parse(names.iter().map(String::as_str));
        set.map(|s| s.0).map_err(|e| OciError::spec(format!("process.capabilities.{field}"), e.operands))
    };
    let mut sets = Capabilities {
        bounding: bits(sets.bounding(), "bounding")?,
        effective: bits(sets.effective(), "effective")?,
        permitted: bits(sets.permitted(), "permitted")?,
        inheritable: bits(sets.inheritable(), "inheritable")?,
        ambient: bits(sets.ambient(), "ambient")?,
    };
    if sets.effective & !sets.permitted != 0 {
        return Err(OciError::spec("process.capabilities.effective", "holds what is not permitted"));
    }
    // What the kernel would not grant is no failure (runtime-spec config.md §Process); `runc spec` itself writes such a set.
    sets.ambient &= sets.permitted & sets.inheritable;
    Ok(sets)
}

fn limits(process: &Process) -> Result<Vec<(u32, u64, u64)>> {
    let mut out: Vec<(u32, u64, u64)> = Vec::new();
    for limit in process.rlimits().iter().flatten() {
        let number = resource(limit.typ());
        if limit.soft() > limit.hard() {
            return Err(OciError::spec("process.rlimits", format!("{}: soft is above hard", limit.typ())));
        }
        if out.iter().any(|(n, ..)| *n == number) {
            return Err(OciError::spec("process.rlimits", format!("{} stands there twice", limit.typ())));
        }
        out.push((number, limit.soft(), limit.hard()));
    }
    Ok(out)
}

/// Numbers of asm-generic/resource.h.
fn resource(kind: PosixRlimitType) -> u32 {
    use PosixRlimitType as T;
    match kind {
        T::RlimitCpu => 0,
        T::RlimitFsize => 1,
        T::RlimitData => 2,
        T::RlimitStack => 3,
        T::RlimitCore => 4,
        T::RlimitRss => 5,
        T::RlimitNproc => 6,
        T::RlimitNofile => 7,
        T::RlimitMemlock => 8,
        T::RlimitAs => 9,
        T::RlimitLocks => 10,
        T::RlimitSigpending => 11,
        T::RlimitMsgqueue => 12,
        T::RlimitNice => 13,
        T::RlimitRtprio => 14,
        T::RlimitRttime => 15,
    }
}

fn score(score: Option<i32>) -> Result<Option<i32>> {
    match score {
        Some(n) if !(-1000..=1000).contains(&n) => {
            Err(OciError::spec("process.oomScoreAdj", format!("{n} is outside of -1000..=1000")))
        }
        other => Ok(other),
    }
}

fn apparmor(process: &Process, facts: &Facts) -> Result<Option<String>> {
    match process.apparmor_profile().as_deref() {
        None | Some("") => Ok(None),
        Some("unconfined") if !facts.apparmor => Ok(None),
        Some(profile) if !facts.apparmor => {
            Err(OciError::unsupported("process.apparmorProfile", format!("{profile:?}: the host has AppArmor off")))
        }
        Some(profile) => Ok(Some(profile.to_owned())),
    }
}

fn selinux(process: &Process, facts: &Facts) -> Result<Option<String>> {
    match process.selinux_label().as_deref() {
        None | Some("") => Ok(None),
        Some(label) if !facts.selinux => {
            Err(OciError::unsupported("process.selinuxLabel", format!("{label:?}: the host has SELinux off")))
        }
        Some(label) => Ok(Some(label.to_owned())),
    }
}

fn scheduler(s: &Scheduler) -> SchedulerPlan {
    use LinuxSchedulerPolicy as P;
    let policy = match s.policy() {
        P::SchedOther => 0,
        P::SchedFifo => 1,
        P::SchedRr => 2,
        P::SchedBatch => 3,
        P::SchedIso => 4,
        P::SchedIdle => 5,
        P::SchedDeadline => 6,
    };
    let flag = |f: &LinuxSchedulerFlag| match f {
        LinuxSchedulerFlag::SchedResetOnFork => 0x01,
        LinuxSchedulerFlag::SchedFlagReclaim => 0x02,
        LinuxSchedulerFlag::SchedFlagDLOverrun => 0x04,
        LinuxSchedulerFlag::SchedFlagKeepPolicy => 0x08,
        LinuxSchedulerFlag::SchedFlagKeepParams => 0x10,
        LinuxSchedulerFlag::SchedFlagUtilClampMin => 0x20,
        LinuxSchedulerFlag::SchedFlagUtilClampMax => 0x40,
    };
    SchedulerPlan {
        policy,
        flags: s.flags().iter().flatten().map(flag).fold(0, |a, b| a | b),
        nice: s.nice().unwrap_or(0),
        priority: s.priority().and_then(|p| u32::try_from(p).ok()).unwrap_or(0),
        runtime: s.runtime().unwrap_or(0),
        deadline: s.deadline().unwrap_or(0),
        period: s.period().unwrap_or(0),
    }
}

fn io_priority(class: IOPriorityClass, level: i64) -> Result<(u32, u32)> {
    let class = match class {
        IOPriorityClass::IoprioClassRt => 1,
        IOPriorityClass::IoprioClassBe => 2,
        IOPriorityClass::IoprioClassIdle => 3,
    };
    match u32::try_from(level) {
        Ok(level) if level <= 7 => Ok((class, level)),
        _ => Err(OciError::spec("process.ioPriority.priority", format!("{level} is outside of 0..=7"))),
    }
}

fn affinity(a: &ExecCPUAffinity) -> Result<(Vec<u32>, Vec<u32>)> {
    let list = |text: &Option<String>| {
        cpus(text.as_deref().unwrap_or(""))
            .ok_or_else(|| OciError::spec("process.execCPUAffinity", format!("{text:?} is no list of CPUs")))
    };
    Ok((list(a.initial())?, list(a.cpu_affinity_final())?))
}

/// `0-3,8` as numbers.
fn cpus(text: &str) -> Option<Vec<u32>> {
    let mut out = Vec::new();
    for part in text.split(',').map(str::trim).filter(|p| !p.is_empty()) {
        let (from, to) = part.split_once('-').unwrap_or((part, part));
        let (from, to): (u32, u32) = (from.parse().ok()?, to.parse().ok()?);
        if from > to || to > 8191 {
            return None;
        }
        out.extend(from..=to);
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_cpus() {
        assert_eq!(cpus("0-2, 5"), Some(vec![0, 1, 2, 5]));
        assert_eq!(cpus(""), Some(vec![]));
        assert_eq!(cpus("3-1"), None);
        assert_eq!(cpus("0-99999999"), None);
    }

    #[test]
    fn of_doubled_variables_the_last_counts() {
        let env = ["A=1", "B=2", "A=3"].map(str::to_owned);
        assert_eq!(environment(&env), ["A=3", "B=2"]);
    }
}
