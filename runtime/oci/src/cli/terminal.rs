//! The caller's side of a process in the foreground: its terminal, its signals, its end.

use std::{
    fs::File,
    io::{Read, Write},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use crated_sys::{pidfd, poll, pty, signal};

use crate::error::{OciError, Result, Step};

/// Signals are taken by descriptor and passed on; a terminal is raw while this lives.
pub(super) struct Session {
    signals: signal::Queue,
    master: Option<File>,
    _raw: Option<pty::RawMode>,
}

impl Session {
    pub(super) fn open(master: Option<OwnedFd>) -> Result<Session> {
        let step = || "terminal".to_owned();
        let signals = signal::Queue::all().step(step)?;
        let stdin = std::io::stdin();
        let mut raw = None;
        if let Some(master) = &master
            && pty::is_terminal(stdin.as_fd())
        {
            raw = Some(pty::RawMode::set(stdin.as_fd()).step(step)?);
            resize(master.as_fd());
        }
        Ok(Session { signals, master: master.map(File::from), _raw: raw })
    }

    /// Passes bytes and signals until the process has ended; answers its status.
    pub(super) fn follow(mut self, process: BorrowedFd<'_>) -> Result<u8> {
        let step = || "follow the process".to_owned();
        let stdin = std::io::stdin();
        let mut input = true;
        loop {
            let ready = {
                let mut fds = vec![process, self.signals.as_fd()];
                fds.extend(self.master.as_ref().map(AsFd::as_fd));
                if self.master.is_some() && input {
                    fds.push(stdin.as_fd());
                }
                // The master first: what the process said before its end is not lost.
                let order =
                    if fds.len() > 2 { fds[2..].iter().chain(&fds[..2]).copied().collect() } else { fds.clone() };
                let at = poll::any(&order, None).step(step)?.unwrap_or(0);
                if fds.len() > 2 { (at + 2) % fds.len() } else { at }
            };
            match ready {
                0 => return super::create::status(process),
                1 => self.signal(process)?,
                2 => self.output()?,
                _ => input = self.input()?,
            }
        }
    }

    fn signal(&mut self, process: BorrowedFd<'_>) -> Result<()> {
        let Some(number) = self.signals.take().step(|| "read signals".into())? else { return Ok(()) };
        match number {
            signal::SIGWINCH => self.master.iter().for_each(|m| resize(m.as_fd())),
            signal::SIGCHLD | signal::SIGPIPE | signal::SIGURG => {}
            // It may have ended just now; then its status comes next.
            other => drop(pidfd::send_signal(process, other)),
        }
        Ok(())
    }

    fn output(&mut self) -> Result<()> {
        let Some(master) = &mut self.master else { return Ok(()) };
        let mut buffer = [0u8; 16384];
        match master.read(&mut buffer) {
            Ok(n) if n > 0 => {
                let mut out = std::io::stdout().lock();
                out.write_all(&buffer[..n])
                    .and_then(|()| out.flush())
                    .map_err(|e| OciError::File { path: "/dev/stdout".into(), reason: e.to_string() })
            }
            // EIO: nobody has the other end open any more.
            _ => {
                self.master = None;
                Ok(())
            }
        }
    }

    fn input(&mut self) -> Result<bool> {
        let mut buffer = [0u8; 4096];
        let n = std::io::stdin().lock().read(&mut buffer).unwrap_or(0);
        let wrote = self.master.as_mut().map(|m| m.write_all(&buffer[..n]));
        Ok(n > 0 && wrote.is_some_and(|w| w.is_ok()))
    }
}

fn resize(master: BorrowedFd<'_>) {
    let stdin = std::io::stdin();
    if let Ok((columns, rows)) = pty::size(stdin.as_fd()) {
        // A terminal that has just gone has no size.
        let _ = pty::set_size(master, columns, rows);
    }
}
