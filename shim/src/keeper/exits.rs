//! Ends of processes: reaped once, told in order, and on disk before anyone hears of init's.

use super::{Keeper, OVERDUE, Op};
use crate::container::Container;
use crate::exit::Exit;
use crate::io::watched;
use crate::log;
use crate::serve::Owner;
use crate::time::timestamp;
use crated_api::containerd::events as event;
use std::os::fd::{AsFd, OwnedFd};
use std::time::SystemTime;
use tokio::io::Interest;
use tokio::task::spawn_local;

impl Keeper {
    /// A child has ended: those that are known are seen to, orphans that became ours are just reaped.
    pub(crate) fn reap(&mut self) {
        loop {
            let pid = match crated_sys::pidfd::peek_any() {
                Ok(Some(pid)) => pid,
                Ok(None) => return,
                Err(error) => return log::warn(format_args!("{error}")),
            };
            let known = self.containers.iter().find_map(|(id, container)| {
                container.find(pid.cast_unsigned()).map(|exec| (id.clone(), exec.to_owned()))
            });
            match (known, crated_sys::pidfd::reap(pid)) {
                (Some((id, exec)), Ok(status)) => self.ended(&id, &exec, status.code().cast_unsigned()),
                (None, Ok(status)) => log::debug(format_args!("orphan {pid} reaped: {}", status.code())),
                (_, Err(error)) => return log::warn(format_args!("{error}")),
            }
        }
    }

    pub(super) fn ended(&mut self, id: &str, exec: &str, status: u32) {
        let at = SystemTime::now();
        self.oom(id);
        let Some(container) = self.containers.get_mut(id) else { return };
        if exec.is_empty() {
            log::info(format_args!("{id}: init ended with {status}"));
            let oom_killed = container.oom_kills > 0 && status == 137;
            container.pending = Some(Exit { status, at, oom_killed });
            container.end_others();
            if !container.has_running_execs() {
                return self.finish_init(id);
            }
            let (mailbox, id) = (self.mailbox.clone(), id.to_owned());
            spawn_local(async move {
                tokio::time::sleep(OVERDUE).await;
                let _ = mailbox.send(Op::Overdue { id }).await;
            });
            return;
        }
        let exit = Exit { status, at, oom_killed: false };
        let Ok(process) = container.process(exec) else { return };
        let pid = process.pid;
        process.ended(exit);
        let last = container.pending.is_some() && !container.has_running_execs();
        self.publish_exit(id, exec, pid, exit);
        if last {
            self.finish_init(id);
        }
    }

    /// Tells the world of init's exit: first the disk, then the waiters, then the daemon.
    pub(super) fn finish_init(&mut self, id: &str) {
        let Some(container) = self.containers.get_mut(id) else { return };
        let Some(exit) = container.pending.take() else { return };
        let pid = container.init.pid;
        crate::fail::moment("shim.exit.save");
        if self.owner == Owner::Crated
            && let Err(error) = exit.save(&container.bundle, pid)
        {
            log::error(format_args!("{id}: the record of the exit is not on disk: {error}"));
        }
        container.init.ended(exit);
        crate::fail::moment("shim.exit.publish");
        self.publish_exit(id, id, pid, exit);
    }

    pub(super) fn publish_exit(&self, container: &str, process: &str, pid: u32, exit: Exit) {
        let message = event::TaskExit {
            container_id: container.into(),
            id: process.into(),
            pid,
            exit_status: exit.status,
            exited_at: Some(timestamp(exit.at)),
        };
        self.events.publish("/tasks/exit", "containerd.events.TaskExit", &message);
    }

    pub(super) fn watch_memory(&self, container: &Container) {
        let Some(oom) = &container.oom else { return };
        let Ok(fd) = oom.as_fd().try_clone_to_owned() else { return };
        let Ok(watch) = watched::<OwnedFd>(fd, Interest::READABLE) else { return };
        let (mailbox, id) = (self.mailbox.clone(), container.id.clone());
        spawn_local(async move {
            // The keeper reads the counter; it forgets the container when it is deleted, which the kernel tells, too.
            while let Ok(mut guard) = watch.readable().await {
                guard.clear_ready();
                drop(guard);
                if mailbox.send(Op::Oom { id: id.clone() }).await.is_err() {
                    return;
                }
            }
        });
    }

    pub(super) fn oom(&mut self, id: &str) {
        let Some(container) = self.containers.get_mut(id) else { return };
        if container.new_oom_kills() {
            let message = event::TaskOom { container_id: id.into() };
            self.events.publish("/tasks/oom", "containerd.events.TaskOOM", &message);
        }
    }
}
