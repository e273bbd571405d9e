//! Ends that nobody asked for: a create that failed is undone, a task whose shim is gone is buried. Each step can be repeated.

use crate::bundle::{self, Bundle};
use crate::exits;
use crate::foreign;
use crate::manager::{Inner, readiness};
use crate::task::Running;
use crated_api::containerd::events::{TaskDelete, TaskExit};
use crated_api::containerd::task::v2 as api;
use crated_core::metadata::Op;
use crated_core::record::{ExitRecord, TASKS, TaskRecord};
use crated_core::task::{Exit, Task};
use crated_types::{ContainerId, Error, Fault, Kind, Namespace, Result};
use prost::Message;
use std::os::fd::AsFd;
use std::path::Path;
use std::process::Stdio;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Duration;

/// Exit status of a task whose shim went away (containerd's convention for a kill) …
const LOST: u32 = 137;
/// … and of one whose host did (docker's: nobody knows).
const REBOOTED: u32 = 255;
/// How long a shim's `delete` may take.
const SWEEP: Duration = Duration::from_secs(30);
/// How often one that failed is repeated.
const SWEEPS: u32 = 2;
/// Longest wait between two tries of a burial.
const LONGEST: Duration = Duration::from_secs(10);

/// Buries a task whose shim has died, as often as it takes: a full disk is emptied some time.
pub(crate) async fn bury_on(task: Arc<Running>, manager: Weak<Inner>) {
    let mut wait = Duration::from_millis(100);
    loop {
        let Some(manager) = manager.upgrade() else { return };
        // While another of this name is being made, and once there is one, what is left of this one is no longer ours to sweep.
        let Some(making) = manager.making.begin((task.namespace.clone(), task.id.clone())) else {
            tokio::time::sleep(wait).await;
            continue;
        };
        if manager.has_successor(&task).await {
            manager.remove_sockets(&task.record()); // the only names that were this one's alone
            return;
        }
        let Err(error) = manager.bury(&task.namespace, &task.id, task.record(), "the shim died").await else { return };
        tracing::error!(container = %task.id, %error, "cleaning up behind a dead shim");
        task.deleting.store(false, Ordering::SeqCst); // whoever deletes it meanwhile does the same
        drop(making);
        drop(manager);
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(LONGEST);
        if task.deleting.swap(true, Ordering::SeqCst) {
            return;
        }
    }
}

impl Inner {
    /// Whether another task has taken this one's name.
    async fn has_successor(&self, task: &Arc<Running>) -> bool {
        if let Ok(known) = self.find(&task.namespace, &task.id) {
            return !Arc::ptr_eq(&known, task);
        }
        let key = TASKS.key(task.namespace.as_str(), task.id.as_str());
        let recorded = TASKS.get(&*self.store, &key).await;
        recorded.is_ok_and(|found| found.is_some_and(|(_, record)| record.address != task.record().address))
    }

    /// Takes a failed create back: nothing of it stays.
    pub(crate) async fn undo(&self, namespace: &Namespace, id: &ContainerId, record: &TaskRecord) -> Result<()> {
        crated_core::fail::moment("task.undo.kill");
        self.kill_shim(namespace, id, record).await;
        crated_core::fail::moment("task.undo.sweep");
        self.sweep(namespace, id, record).await.map_err(|error| error.at("sweep"))?;
        let bundle = self.bundle(namespace, id);
        crated_core::fail::point("task.undo.bundle")?;
        bundle.remove()?;
        self.remove_sockets(record);
        crated_core::fail::point("task.undo.record")?;
        self.store.commit_soon(vec![Op::Delete(TASKS.key(namespace.as_str(), id.as_str()))]).await.map(drop)
    }

    /// Buries what an earlier failure left recorded without a task, e.g. a burial that a full disk refused. Nobody else may
    /// be making this task.
    pub(crate) async fn clear(&self, namespace: &Namespace, id: &ContainerId) -> Result<()> {
        if self.find(namespace, id).is_ok() {
            return Ok(());
        }
        let key = TASKS.key(namespace.as_str(), id.as_str());
        let Some((_, record)) = TASKS.get(&*self.store, &key).await? else { return Ok(()) };
        self.kill_shim(namespace, id, &record).await;
        self.bury(namespace, id, record, "left behind").await.map(drop)
    }

    /// The last commit of a task: its record goes, and with it the events come that were never told, where they are `owed`.
    /// Answers the exit that the record had, else `ended`.
    pub(crate) async fn close(
        &self,
        namespace: &Namespace,
        id: &ContainerId,
        known: &TaskRecord,
        ended: ExitRecord,
        owed: impl Fn(&TaskRecord) -> bool + Send,
    ) -> Result<Exit> {
        let key = TASKS.key(namespace.as_str(), id.as_str());
        let cause = if ended.reason.is_empty() { "delete" } else { ended.reason.as_str() };
        loop {
            let Some((revision, mut record)) = TASKS.get(&*self.store, &key).await? else {
                let closed = TaskRecord { exit: Some(known.exit.clone().unwrap_or(ended)), ..known.clone() };
                return exits::of(&closed).ok_or_else(|| Error::internal("an exit that is none"));
            };
            record.pid = record.pid.max(known.pid);
            record.started_at = record.started_at.or(known.started_at);
            let owed = owed(&record);
            let mut batch = vec![Op::Expect(key.clone(), revision), Op::Delete(key.clone())];
            let told = record.exit.is_some();
            if !told {
                record.exit = Some(ended.clone());
                if owed {
                    batch.push(exit_event(namespace, &record, cause));
                }
            }
            if owed && !record.deleted {
                batch.push(delete_event(namespace, &record, cause));
            }
            // A task without its record is gone after another boot, too; how it ended must be known for ever.
            let closed = if told { self.store.commit_soon(batch).await } else { self.store.commit(batch).await };
            match closed {
                Ok(_) => return exits::of(&record).ok_or_else(|| Error::internal("an exit that is none")),
                Err(error) if error.fault() == Fault::Conflict => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// A task whose shim is gone: ends its processes, says how it ended (once), and removes every trace.
    pub(crate) async fn bury(
        &self,
        namespace: &Namespace,
        id: &ContainerId,
        known: TaskRecord,
        reason: &str,
    ) -> Result<Exit> {
        crated_core::fail::moment("task.bury.sweep");
        let verdict = self.sweep(namespace, id, &known).await.map_err(|error| error.at("sweep"))?;
        crated_core::fail::point("task.bury.record")?;
        let (status, at) = match verdict {
            Some(verdict) if verdict.exited_at.is_some() => (verdict.exit_status, verdict.exited_at),
            _ if known.boot_id != self.boot_id => (REBOOTED, Some(crated_core::time::now())),
            _ => (LOST, Some(crated_core::time::now())),
        };
        let ended = ExitRecord { status, at, oom_killed: false, reason: reason.into() };
        let owed = |record: &TaskRecord| record.last_event.is_some() || record.pid != 0;
        let exit = self.close(namespace, id, &known, ended, owed).await?;
        if let Some(task) = self.forget(namespace, id) {
            task.ended.send_replace(Some(exit.clone()));
        }
        crated_core::fail::point("task.bury.bundle")?;
        self.bundle(namespace, id).remove()?;
        self.remove_sockets(&known);
        Ok(exit)
    }

    /// Ends whatever is left of a container, by its shim's `delete`: repeated where that fails, since what it leaves lives on
    /// unknown. Answers what it knows of the exit.
    async fn sweep(
        &self,
        namespace: &Namespace,
        id: &ContainerId,
        record: &TaskRecord,
    ) -> Result<Option<api::DeleteResponse>> {
        let mut tries = 0;
        loop {
            match self.sweep_once(namespace, id, record).await {
                Err(error) if tries < SWEEPS => {
                    tracing::warn!(container = %id, %error, "shim delete failed, and is tried again");
                    tries += 1;
                    tokio::time::sleep(Duration::from_millis(100) * tries).await;
                }
                // A shim that is not ours may have its reasons; the container is not kept for ever.
                Err(error) if !record.own => {
                    tracing::error!(container = %id, program = %record.runtime, %error, "shim delete failed");
                    return Ok(None);
                }
                answer => return answer,
            }
        }
    }

    async fn sweep_once(
        &self,
        namespace: &Namespace,
        id: &ContainerId,
        record: &TaskRecord,
    ) -> Result<Option<api::DeleteResponse>> {
        let bundle = Bundle::at(&self.config.root, Path::new(&record.bundle));
        if !bundle.path.join("config.json").exists() {
            return Ok(None);
        }
        let child = foreign::command(&self.config, Path::new(&record.runtime), &bundle, namespace, id)
            .arg("-bundle")
            .arg(&bundle.path)
            .arg("delete")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn();
        let output = match child {
            Ok(child) => tokio::time::timeout(SWEEP, child.wait_with_output()).await,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                tracing::error!(container = %id, program = %record.runtime, %error, "shim delete");
                return Ok(None); // nobody could ever do it
            }
            Err(error) => return Err(Error::os(format!("start {} delete", record.runtime), error)),
        };
        let output = output
            .map_err(|_| Error::new(Fault::TimedOut, format!("{} delete", record.runtime)).on(Kind::Task, id))?
            .map_err(|error| Error::os(format!("wait for {} delete", record.runtime), error))?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            let what = format!("{} delete: {}: {said}", record.runtime, output.status);
            return Err(Error::new(Fault::Runtime, what).on(Kind::Task, id));
        }
        Ok(api::DeleteResponse::decode(output.stdout.as_slice()).ok())
    }

    /// Kills a shim by its pid file, after making sure that it is the one.
    pub(crate) async fn kill_shim(&self, namespace: &Namespace, id: &ContainerId, record: &TaskRecord) {
        let file = Path::new(&record.bundle).join("shim.pid");
        let noted = std::fs::read_to_string(file).ok().and_then(|text| text.trim().parse().ok());
        let known = noted.or(i32::try_from(record.shim_pid).ok().filter(|pid| *pid > 0));
        // A daemon that was killed between the start and the note has left a shim that only its command line tells of.
        let Some(pid) = known.or_else(|| find_shim(&record.bundle, id)) else { return };
        let Ok(pidfd) = crated_sys::pidfd::open(pid) else { return };
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let words: Vec<&[u8]> = line.split(|byte| *byte == 0).collect();
        if !words.contains(&id.as_str().as_bytes()) || !words.contains(&namespace.as_str().as_bytes()) {
            return; // the pid belongs to somebody else by now
        }
        if crated_sys::pidfd::send_signal(pidfd.as_fd(), 9).is_ok()
            && let Ok(pidfd) = readiness(pidfd)
        {
            let _ = tokio::time::timeout(Duration::from_secs(5), pidfd.readable()).await;
        }
    }

    pub(crate) fn remove_sockets(&self, record: &TaskRecord) {
        let Ok(socket) = crate::shim::socket_path(&record.address) else { return };
        if !socket.starts_with(bundle::sockets(&self.config.state)) {
            return;
        }
        let attach = format!("{}{}", socket.display(), crated_types::attach::SOCKET_SUFFIX);
        for path in [socket.as_path(), Path::new(&attach)] {
            let _ = std::fs::remove_file(path); // usually the shim did it
        }
    }
}

/// The process that serves a bundle.
fn find_shim(bundle: &str, id: &ContainerId) -> Option<i32> {
    std::fs::read_dir("/proc").ok()?.flatten().find_map(|entry| {
        let pid = entry.file_name().to_str()?.parse().ok()?;
        let line = std::fs::read(entry.path().join("cmdline")).ok()?;
        let words: Vec<&[u8]> = line.split(|byte| *byte == 0).collect();
        let named = |word: &str| words.contains(&word.as_bytes());
        // A container's init that waits at its gate is a copy of the shim, by another name.
        let copy = || std::fs::read(entry.path().join("comm")).is_ok_and(|name| name == b"crated-init\n");
        (named(bundle) && named(id.as_str()) && named("serve") && !copy()).then_some(pid)
    })
}

pub(crate) fn exit_event(namespace: &Namespace, record: &TaskRecord, cause: &str) -> Op {
    let exit = record.exit.clone().unwrap_or_default();
    let message = TaskExit {
        container_id: record.id.clone(),
        id: record.id.clone(),
        pid: record.pid,
        exit_status: exit.status,
        exited_at: exit.at,
    };
    exits::instead(namespace.as_str(), exits::EXIT, "containerd.events.TaskExit", &message, cause)
}

fn delete_event(namespace: &Namespace, record: &TaskRecord, cause: &str) -> Op {
    let exit = record.exit.clone().unwrap_or_default();
    let message = TaskDelete {
        container_id: record.id.clone(),
        pid: record.pid,
        exit_status: exit.status,
        exited_at: exit.at,
        id: String::new(),
    };
    exits::instead(namespace.as_str(), exits::DELETE, "containerd.events.TaskDelete", &message, cause)
}
