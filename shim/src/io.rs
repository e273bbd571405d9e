//! Standard streams of a process.
//!
//! What needs no copy has none: without a terminal, FIFOs, files and the pipes of logging programs are handed to the process
//! itself, and output flows on while neither shim nor daemon lives. Copied are terminals, and pipes in crated's own mode
//! ([`hub`]).

pub(crate) mod attach;
pub(crate) mod binary;
mod copy;
mod fifo;
pub(crate) mod hub;
mod jsonlog;
mod uri;

use attach::Switchboard;
pub(crate) use copy::watched;
use copy::{Polled, Sink, polled};
use crated_oci::Stdio;
use crated_sys::OFlag;
use crated_types::{Error, Fault, Result};
use fifo::Kept;
use hub::Hub;
use jsonlog::{JsonLog, Stream};
use std::cell::Cell;
use std::io::PipeReader;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::rc::Rc;
use tokio::io::Interest;
use tokio::sync::{Notify, watch};
use tokio::task::{AbortHandle, spawn_local};
use uri::{Own, Stdin, Target};

/// Addresses of a process' streams, as the client gave them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Addresses {
    pub(crate) terminal: bool,
    pub(crate) stdin: String,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// Whose streams they are.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Subject<'a> {
    pub(crate) namespace: &'a str,
    pub(crate) container: &'a str,
    /// Empty for init.
    pub(crate) exec: &'a str,
}

/// What the shim holds of a process' streams.
#[derive(Debug)]
pub(crate) struct Io {
    terminal: bool,
    hub: Option<Rc<Hub>>,
    master: Option<Rc<Polled>>,
    /// Where the terminal's output goes, until it runs.
    sink: Option<Sink>,
    /// Where the terminal's input comes from, until it runs.
    source: Option<OwnedFd>,
    /// Pipes of crated's own mode, until they run.
    pipes: Vec<(PipeReader, Stream)>,
    /// A writing end that keeps the input FIFO open.
    input: Option<OwnedFd>,
    outputs: Vec<Kept>,
    loggers: Vec<binary::Logger>,
    exited: watch::Sender<bool>,
    left: Rc<Left>,
    copies: Vec<AbortHandle>,
}

/// Copies whose output is not all taken yet.
#[derive(Debug, Default)]
struct Left {
    count: Cell<usize>,
    none: Notify,
}

impl Left {
    fn one_less(&self) {
        self.count.set(self.count.get().saturating_sub(1));
        if self.count.get() == 0 {
            self.none.notify_waiters();
        }
    }

    async fn none(&self) {
        loop {
            let none = self.none.notified();
            if self.count.get() == 0 {
                return;
            }
            none.await;
        }
    }
}

pub(crate) fn null() -> Result<OwnedFd> {
    crated_sys::fs::open(Path::new("/dev/null"), OFlag::O_RDWR, 0)
        .map_err(|error| Error::os("open /dev/null", error.into()))
}

fn os(error: std::io::Error) -> Error {
    Error::os("standard streams", error)
}

fn append(path: &str) -> Result<OwnedFd> {
    let flags = OFlag::O_WRONLY | OFlag::O_APPEND | OFlag::O_CREAT;
    crated_sys::fs::open(Path::new(path), flags, 0o640).map_err(|error| Error::os(format!("open {path}"), error.into()))
}

impl Io {
    /// Opens the streams; answers what the process gets.
    ///
    /// # Errors
    /// The address that cannot be opened or understood.
    pub(crate) fn prepare(
        addresses: &Addresses,
        subject: Subject<'_>,
        switchboard: &Rc<Switchboard>,
    ) -> Result<(Self, Stdio)> {
        let mut io = Self {
            terminal: addresses.terminal,
            hub: None,
            master: None,
            sink: None,
            source: None,
            pipes: Vec::new(),
            input: None,
            outputs: Vec::new(),
            loggers: Vec::new(),
            exited: watch::Sender::new(false),
            left: Rc::default(),
            copies: Vec::new(),
        };
        let stdout = Target::parse(&addresses.stdout)?;
        if let Target::Own(own) = &stdout {
            let hub = Rc::new(Hub::new(addresses.terminal, open_log(own)?, own.stdin, own.hold));
            switchboard.add(subject.container, subject.exec, &hub)?;
            io.hub = Some(hub);
        }
        let stdio = if addresses.terminal {
            io.prepare_terminal(addresses, subject, stdout)?;
            Stdio::Terminal { size: None }
        } else {
            let stdin = io.prepare_stdin(addresses, &stdout)?;
            let (stdout, stderr) = io.prepare_output(addresses, subject, stdout)?;
            Stdio::Fds { stdin, stdout, stderr }
        };
        Ok((io, stdio))
    }

    fn prepare_stdin(&mut self, addresses: &Addresses, stdout: &Target) -> Result<OwnedFd> {
        match (Target::parse(&addresses.stdin)?, stdout, &self.hub) {
            (Target::Path(path), ..) => {
                let (end, held) = fifo::input(&path)?;
                self.input = held;
                Ok(end)
            }
            (_, Target::Own(own), Some(hub)) if own.stdin != Stdin::None => {
                let (read, write) = std::io::pipe().map_err(os)?;
                hub.set_input(Rc::new(polled(write.into(), Interest::WRITABLE).map_err(os)?));
                Ok(read.into())
            }
            (Target::Null | Target::Own(_), ..) => null(),
            (Target::File(_) | Target::Binary(_), ..) => {
                Err(Error::invalid("stdin", format_args!("{:?} cannot be read from", addresses.stdin)))
            }
        }
    }

    fn prepare_output(
        &mut self,
        addresses: &Addresses,
        subject: Subject<'_>,
        stdout: Target,
    ) -> Result<(OwnedFd, OwnedFd)> {
        let twice = |fd: OwnedFd| {
            let copy = fd.try_clone().map_err(os)?;
            Ok((fd, copy))
        };
        match stdout {
            // These two take both streams.
            Target::File(path) => twice(append(&path)?),
            Target::Binary(program) => {
                let (logger, ends) = binary::start(&program, subject.container, subject.namespace)?;
                self.loggers.push(logger);
                Ok((ends.stdout.into(), ends.stderr.into()))
            }
            Target::Own(_) => {
                let ((out, stdout), (err, stderr)) = (std::io::pipe().map_err(os)?, std::io::pipe().map_err(os)?);
                self.pipes = vec![(out, Stream::Stdout), (err, Stream::Stderr)];
                Ok((stdout.into(), stderr.into()))
            }
            Target::Null | Target::Path(_) => {
                let first = self.plain_output(stdout, &addresses.stdout)?;
                let second = self.plain_output(Target::parse(&addresses.stderr)?, &addresses.stderr)?;
                Ok((first, second))
            }
        }
    }

    fn plain_output(&mut self, target: Target, address: &str) -> Result<OwnedFd> {
        match target {
            Target::Null => null(),
            Target::File(path) => append(&path),
            Target::Path(path) => {
                let (end, kept) = fifo::output(&path)?;
                self.outputs.extend(kept);
                Ok(end)
            }
            Target::Binary(_) | Target::Own(_) => {
                Err(Error::new(Fault::Unsupported, format!("stderr: {address:?} must be the address of stdout, too")))
            }
        }
    }

    fn prepare_terminal(&mut self, addresses: &Addresses, subject: Subject<'_>, stdout: Target) -> Result<()> {
        if let Target::Path(path) = Target::parse(&addresses.stdin)? {
            let (end, held) = fifo::input(&path)?;
            self.source = Some(end);
            self.input = held;
        }
        self.sink = Some(match stdout {
            Target::Null => Sink::Null,
            Target::File(path) => Sink::File(append(&path)?.into()),
            Target::Path(path) => {
                let (end, kept) = fifo::output(&path)?;
                let is_fifo = kept.is_some();
                self.outputs.extend(kept);
                if is_fifo {
                    Sink::Pipe(Rc::new(polled(end, Interest::WRITABLE).map_err(os)?))
                } else {
                    Sink::File(end.into())
                }
            }
            Target::Binary(program) => {
                let (logger, ends) = binary::start(&program, subject.container, subject.namespace)?;
                self.loggers.push(logger);
                Sink::Pipe(Rc::new(polled(ends.stdout.into(), Interest::WRITABLE).map_err(os)?))
            }
            Target::Own(_) => {
                let hub = self.hub.as_ref().ok_or_else(|| Error::internal("own mode without a hub"))?;
                Sink::Hub(Rc::clone(hub), Stream::Stdout)
            }
        });
        Ok(())
    }

    /// Starts the copies, once the process is made.
    ///
    /// # Errors
    /// Where a descriptor cannot be watched.
    pub(crate) fn run(&mut self, console: Option<OwnedFd>) -> Result<()> {
        for (pipe, stream) in std::mem::take(&mut self.pipes) {
            let from = Rc::new(polled(pipe.into(), Interest::READABLE).map_err(os)?);
            let Some(hub) = self.hub.clone() else { continue };
            self.copy(from, Sink::Hub(hub, stream), Some(stream));
        }
        let Some(console) = console else { return Ok(()) };
        let both = Interest::READABLE | Interest::WRITABLE;
        let master = Rc::new(polled(console, both).map_err(os)?);
        if let Some(hub) = &self.hub {
            hub.set_master(Rc::clone(&master));
        }
        self.master = Some(Rc::clone(&master));
        if let Some(source) = self.source.take() {
            let from = polled(source, Interest::READABLE).map_err(os)?;
            self.copies.push(spawn_local(copy::input(from, Rc::clone(&master))).abort_handle());
        }
        if let Some(sink) = self.sink.take() {
            let stream = self.hub.is_some().then_some(Stream::Stdout);
            self.copy(master, sink, stream);
        }
        Ok(())
    }

    fn copy(&mut self, from: Rc<Polled>, to: Sink, stream: Option<Stream>) {
        self.left.count.set(self.left.count.get() + 1);
        let (left, hub) = (Rc::clone(&self.left), self.hub.clone());
        let drained = move || {
            if let (Some(hub), Some(stream)) = (hub, stream) {
                hub.finish(stream);
            }
            left.one_less();
        };
        let (held, exited) = (self.hub.clone(), self.exited.subscribe());
        let copy = async move {
            if let Some(hub) = held {
                hub.held().await;
            }
            copy::output(from, to, exited, drained).await;
        };
        self.copies.push(spawn_local(copy).abort_handle());
    }

    /// The process has ended: input is let go, and once its output is taken, clients are told.
    pub(crate) fn exited(&mut self, status: u32) {
        self.exited.send_replace(true);
        self.input = None;
        self.master = None;
        let outputs = std::mem::take(&mut self.outputs);
        self.outputs = outputs.into_iter().filter_map(Kept::release).collect();
        if let Some(hub) = self.hub.clone() {
            let left = Rc::clone(&self.left);
            spawn_local(async move {
                left.none().await;
                hub.exited(status).await;
            });
        }
    }

    /// Ends when all output of a process that has ended is taken.
    pub(crate) fn drained(&self) -> impl Future<Output = ()> + use<> {
        let left = Rc::clone(&self.left);
        async move { left.none().await }
    }

    /// `CloseIO`: the process' input ends once its other writers are gone.
    pub(crate) fn close_stdin(&mut self) {
        self.input = None;
        if let Some(hub) = &self.hub {
            hub.end_input();
        }
    }

    /// Sets the terminal's size; without a terminal nothing happens.
    pub(crate) fn resize(&self, columns: u16, rows: u16) -> Result<()> {
        use std::os::fd::AsFd;
        match (&self.hub, &self.master) {
            (Some(hub), _) if self.terminal => hub.resize(columns, rows),
            (None, Some(master)) => crated_sys::pty::set_size(master.get_ref().as_fd(), columns, rows)
                .map_err(|error| Error::os("resize", error.into()))?,
            _ => {}
        }
        Ok(())
    }
}

impl Drop for Io {
    fn drop(&mut self) {
        for copy in &self.copies {
            copy.abort();
        }
        // Nothing more will be taken: whoever waits for that goes on.
        self.left.count.set(0);
        self.left.none.notify_waiters();
        for logger in self.loggers.drain(..) {
            spawn_local(logger.end());
        }
    }
}

fn open_log(own: &Own) -> Result<Option<JsonLog>> {
    if own.log.is_empty() {
        return Ok(None);
    }
    JsonLog::open(own.log.clone().into(), own.max_size, own.max_files).map(Some)
}
