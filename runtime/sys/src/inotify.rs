//! Watching files: one instance, its events as they come.

use std::{
    ffi::OsString,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::ffi::OsStringExt,
    },
    path::Path,
    time::Duration,
};

use rustix::fs::inotify as ri;
pub use rustix::fs::inotify::WatchFlags;

use crate::error::{Context, Result};

/// An inotify instance; its descriptor is non-blocking and readable when events wait.
#[derive(Debug)]
pub struct Inotify(OwnedFd);

/// One event.
#[derive(Clone, Debug)]
pub struct Event {
    /// The watch, as [`Inotify::watch`] answered.
    pub watch: i32,
    /// What happened (`IN_*`).
    pub mask: u32,
    /// The name within a watched directory.
    pub name: Option<OsString>,
}

impl Inotify {
    /// A new instance.
    pub fn new() -> Result<Inotify> {
        ri::init(ri::CreateFlags::CLOEXEC | ri::CreateFlags::NONBLOCK).map(Inotify).of("inotify_init1", || "")
    }

    /// Watches a path.
    pub fn watch(&self, path: &Path, flags: WatchFlags) -> Result<i32> {
        ri::add_watch(&self.0, path, flags).of("inotify_add_watch", || path.display().to_string())
    }

    /// Stops watching.
    pub fn unwatch(&self, watch: i32) -> Result<()> {
        ri::remove_watch(&self.0, watch).of("inotify_rm_watch", || watch)
    }

    /// The events that wait; waits for one until the time is over (`None`: for ever).
    pub fn events(&self, timeout: Option<Duration>) -> Result<Vec<Event>> {
        let mut events = Vec::new();
        if !crate::poll::readable(self.0.as_fd(), timeout)? {
            return Ok(events);
        }
        let mut buffer = [std::mem::MaybeUninit::uninit(); 4096];
        let mut reader = ri::Reader::new(&self.0, &mut buffer);
        loop {
            match reader.next() {
                Ok(event) => events.push(Event {
                    watch: event.wd(),
                    mask: event.events().bits(),
                    name: event.file_name().map(|n| OsString::from_vec(n.to_bytes().to_vec())),
                }),
                Err(rustix::io::Errno::AGAIN) => return Ok(events),
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error).of("read", || "inotify"),
            }
        }
    }
}

impl AsFd for Inotify {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
