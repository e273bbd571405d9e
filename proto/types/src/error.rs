//! The error of every port: what failed, on which object, in which step, why, and what to do about it.
//!
//! [`Fault`] is the stable part, a closed list; [`Fault::code`] is the one table from fault to gRPC code, and
//! `docs/errors.md` is made from [`Fault::ALL`]. The text of an error ends with the class that containerd's clients
//! cut off and read (`: not found`), see `google.rpc.Code` and containerd's errdefs.

use std::borrow::Cow;
use std::error::Error as StdError;
use std::fmt;

/// Shorthand for a result of a port.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Status codes of gRPC and ttrpc (`google.rpc.Code`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(i32)]
pub enum Code {
    /// The caller went away.
    Cancelled = 1,
    /// No better class exists.
    Unknown = 2,
    /// The request can never succeed as it is.
    InvalidArgument = 3,
    /// Time ran out.
    DeadlineExceeded = 4,
    /// The object does not exist.
    NotFound = 5,
    /// The name is taken.
    AlreadyExists = 6,
    /// The caller may not.
    PermissionDenied = 7,
    /// Disk, memory, descriptors or a quota are used up.
    ResourceExhausted = 8,
    /// The object is in a state in which this cannot be done.
    FailedPrecondition = 9,
    /// Someone else changed it first; try again.
    Aborted = 10,
    /// Past the end.
    OutOfRange = 11,
    /// Not offered here.
    Unimplemented = 12,
    /// An invariant of ours broke.
    Internal = 13,
    /// The peer is away; try again later.
    Unavailable = 14,
    /// Bytes are damaged or missing.
    DataLoss = 15,
    /// The peer wants credentials.
    Unauthenticated = 16,
}

/// What kind of object an error speaks of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
#[allow(missing_docs)]
pub enum Kind {
    Namespace,
    Content,
    Ingest,
    Image,
    Container,
    Snapshot,
    Snapshotter,
    Lease,
    Task,
    Exec,
    Event,
    Plugin,
    Network,
    Mount,
    Sandbox,
    Registry,
    Layer,
    File,
    Operation,
    Stream,
}

impl Kind {
    /// Every kind.
    pub const ALL: &'static [Self] = &[
        Self::Namespace,
        Self::Content,
        Self::Ingest,
        Self::Image,
        Self::Container,
        Self::Snapshot,
        Self::Snapshotter,
        Self::Lease,
        Self::Task,
        Self::Exec,
        Self::Event,
        Self::Plugin,
        Self::Network,
        Self::Mount,
        Self::Sandbox,
        Self::Registry,
        Self::Layer,
        Self::File,
        Self::Operation,
        Self::Stream,
    ];
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Namespace => "namespace",
            Self::Content => "content",
            Self::Ingest => "ingest",
            Self::Image => "image",
            Self::Container => "container",
            Self::Snapshot => "snapshot",
            Self::Snapshotter => "snapshotter",
            Self::Lease => "lease",
            Self::Task => "task",
            Self::Exec => "exec",
            Self::Event => "event",
            Self::Plugin => "plugin",
            Self::Network => "network",
            Self::Mount => "mount",
            Self::Sandbox => "sandbox",
            Self::Registry => "registry",
            Self::Layer => "layer",
            Self::File => "file",
            Self::Operation => "operation",
            Self::Stream => "stream",
        })
    }
}

macro_rules! faults {
    ($($(#[doc = $doc:literal])+ $name:ident = $id:literal, $code:ident;)+) => {
        /// What went wrong, as a stable name: scripts may match on it, it never changes its meaning.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Fault { $($(#[doc = $doc])+ $name,)+ }

        impl Fault {
            /// Every fault, in the order of the table.
            pub const ALL: &'static [Self] = &[$(Self::$name,)+];

            /// The stable identifier, e.g. `name-in-use`.
            #[must_use]
            pub const fn id(self) -> &'static str { match self { $(Self::$name => $id,)+ } }

            /// The status code that goes over the wire.
            #[must_use]
            pub const fn code(self) -> Code { match self { $(Self::$name => Code::$code,)+ } }

            /// What it means, in a sentence or two.
            #[must_use]
            pub const fn meaning(self) -> &'static str { match self { $(Self::$name => concat!($($doc, "\n"),+),)+ } }
        }
    };
}

faults! {
    /// A field of the request is missing or malformed; sent again it fails again.
    Invalid = "invalid-argument", InvalidArgument;
    /// The object does not exist (in this namespace).
    NotFound = "not-found", NotFound;
    /// An object of that name exists.
    AlreadyExists = "already-exists", AlreadyExists;
    /// The human-readable name belongs to another container.
    NameInUse = "name-in-use", AlreadyExists;
    /// The object is in a state in which the request cannot be carried out.
    Precondition = "failed-precondition", FailedPrecondition;
    /// Something else refers to the object or uses it.
    InUse = "in-use", FailedPrecondition;
    /// The record changed between reading and writing.
    Conflict = "conflict", Aborted;
    /// Another writer holds the reference; try again when it is done.
    Locked = "locked", Unavailable;
    /// The offset or cursor is outside of what exists.
    OutOfRange = "out-of-range", OutOfRange;
    /// Bytes do not hash to the digest that was promised.
    DigestMismatch = "digest-mismatch", FailedPrecondition;
    /// Fewer or more bytes came than were promised.
    SizeMismatch = "size-mismatch", FailedPrecondition;
    /// Stored bytes are damaged.
    Corrupt = "corrupt", DataLoss;
    /// A layer, manifest, archive or configuration is malformed or tries to escape its root.
    Malformed = "malformed", InvalidArgument;
    /// This build or host does not offer it.
    Unsupported = "unsupported", Unimplemented;
    /// The operation is not permitted to this caller.
    Denied = "permission-denied", PermissionDenied;
    /// The disk is full; nothing of the change was kept.
    DiskFull = "disk-full", ResourceExhausted;
    /// A limit of the daemon or the kernel is reached (memory, descriptors, processes, requests).
    Exhausted = "resource-exhausted", ResourceExhausted;
    /// Metadata can only be read until the daemon is started again.
    ReadOnly = "read-only", Unavailable;
    /// The daemon is starting or stopping.
    NotReady = "not-ready", Unavailable;
    /// A peer (shim, registry, plugin) did not answer in time.
    TimedOut = "timed-out", DeadlineExceeded;
    /// A peer (shim, registry, plugin) cannot be reached or hung up.
    Unreachable = "unreachable", Unavailable;
    /// The registry wants credentials, or refuses those it was given.
    Unauthenticated = "unauthenticated", Unauthenticated;
    /// The registry answered against the distribution specification.
    BadRegistry = "bad-registry", Unknown;
    /// The registry asks for patience (429) and patience has run out.
    RateLimited = "rate-limited", ResourceExhausted;
    /// The image has no variant for this platform.
    NoPlatform = "no-matching-platform", NotFound;
    /// The command could not be executed in the container.
    CommandNotExecutable = "command-not-executable", FailedPrecondition;
    /// The command does not exist in the container.
    CommandNotFound = "command-not-found", NotFound;
    /// The container runtime failed in one of its steps.
    Runtime = "runtime", Unknown;
    /// The kernel refused a system call.
    Os = "os", Internal;
    /// The caller cancelled the request.
    Cancelled = "cancelled", Cancelled;
    /// An invariant of crated is broken: a bug.
    Internal = "internal", Internal;
    /// A status of a peer that is passed on as it came.
    Peer = "peer", Unknown;
}

impl Code {
    /// The words that end an error's text, by which containerd's clients tell classes apart.
    #[must_use]
    pub const fn class(self) -> &'static str {
        match self {
            Self::Cancelled => "context canceled",
            Self::Unknown => "unknown",
            Self::InvalidArgument => "invalid argument",
            Self::DeadlineExceeded => "context deadline exceeded",
            Self::NotFound => "not found",
            Self::AlreadyExists => "already exists",
            Self::PermissionDenied => "permission denied",
            Self::ResourceExhausted => "resource exhausted",
            Self::FailedPrecondition => "failed precondition",
            Self::Aborted => "aborted",
            Self::OutOfRange => "out of range",
            Self::Unimplemented => "not implemented",
            Self::Internal => "internal",
            Self::Unavailable => "unavailable",
            Self::DataLoss => "data loss",
            Self::Unauthenticated => "unauthenticated",
        }
    }

    /// The code of a number of the wire; anything outside of 1..=16 is [`Code::Unknown`].
    #[must_use]
    pub const fn from_i32(number: i32) -> Self {
        match number {
            1 => Self::Cancelled,
            3 => Self::InvalidArgument,
            4 => Self::DeadlineExceeded,
            5 => Self::NotFound,
            6 => Self::AlreadyExists,
            7 => Self::PermissionDenied,
            8 => Self::ResourceExhausted,
            9 => Self::FailedPrecondition,
            10 => Self::Aborted,
            11 => Self::OutOfRange,
            12 => Self::Unimplemented,
            13 => Self::Internal,
            14 => Self::Unavailable,
            15 => Self::DataLoss,
            16 => Self::Unauthenticated,
            _ => Self::Unknown,
        }
    }
}

/// An error with everything a person needs: fault, object, step, cause, remedy.
///
/// `Display` gives one line, `object: what: cause: class`; [`Error::remedy`] and [`Error::step`] are shown beside it.
pub struct Error(Box<Inner>);

struct Inner {
    fault: Fault,
    code: Option<Code>,
    object: Option<(Kind, String)>,
    namespace: Option<String>,
    step: Option<Cow<'static, str>>,
    what: Cow<'static, str>,
    remedy: Option<Cow<'static, str>>,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

impl Error {
    /// An error of `fault`; `what` is a lower-case phrase without a full stop, and may be empty where fault and object say all.
    pub fn new(fault: Fault, what: impl Into<Cow<'static, str>>) -> Self {
        Self(Box::new(Inner {
            fault,
            code: None,
            object: None,
            namespace: None,
            step: None,
            what: what.into(),
            remedy: None,
            source: None,
        }))
    }

    /// `kind "id": not found`.
    pub fn not_found(kind: Kind, id: impl fmt::Display) -> Self {
        Self::new(Fault::NotFound, "").on(kind, id)
    }

    /// `kind "id": already exists`.
    pub fn already_exists(kind: Kind, id: impl fmt::Display) -> Self {
        Self::new(Fault::AlreadyExists, "").on(kind, id)
    }

    /// A request's `field` (in proto notation) is unusable for `reason`.
    pub fn invalid(field: &str, reason: impl fmt::Display) -> Self {
        Self::new(Fault::Invalid, format!("{field}: {reason}"))
    }

    /// `kind "id"` is in a state that forbids the request.
    pub fn precondition(kind: Kind, id: impl fmt::Display, reason: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Fault::Precondition, reason).on(kind, id)
    }

    /// A broken invariant of ours.
    pub fn internal(what: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Fault::Internal, what)
    }

    /// The operating system refused `operation` (with its operands, e.g. `open /a/b`). A full disk, exhausted limits, missing
    /// files and missing permissions get their own faults.
    pub fn os(operation: impl Into<Cow<'static, str>>, source: std::io::Error) -> Self {
        use std::io::ErrorKind as E;
        let fault = match source.kind() {
            E::StorageFull | E::QuotaExceeded | E::FileTooLarge => Fault::DiskFull,
            E::NotFound => Fault::NotFound,
            E::AlreadyExists => Fault::AlreadyExists,
            E::PermissionDenied => Fault::Denied,
            E::OutOfMemory => Fault::Exhausted,
            E::TimedOut => Fault::TimedOut,
            E::ConnectionRefused | E::ConnectionReset | E::BrokenPipe | E::NotConnected => Fault::Unreachable,
            E::Unsupported => Fault::Unsupported,
            _ if matches!(source.raw_os_error(), Some(23 | 24)) => Fault::Exhausted, // ENFILE, EMFILE
            _ => Fault::Os,
        };
        Self::new(fault, operation).caused_by(source)
    }

    /// A status that a peer answered, passed on with its code and its text.
    pub fn peer(code: Code, text: impl Into<Cow<'static, str>>) -> Self {
        let fault = match code {
            Code::NotFound => Fault::NotFound,
            Code::AlreadyExists => Fault::AlreadyExists,
            Code::InvalidArgument => Fault::Invalid,
            Code::FailedPrecondition => Fault::Precondition,
            Code::Unimplemented => Fault::Unsupported,
            Code::DeadlineExceeded => Fault::TimedOut,
            Code::Unavailable => Fault::Unreachable,
            _ => Fault::Peer,
        };
        let mut error = Self::new(fault, text);
        error.0.code = Some(code);
        error
    }

    /// Names the object.
    #[must_use]
    pub fn on(mut self, kind: Kind, id: impl fmt::Display) -> Self {
        self.0.object = Some((kind, id.to_string()));
        self
    }

    /// Names the namespace that the object was looked for in.
    #[must_use]
    pub fn in_namespace(mut self, namespace: impl fmt::Display) -> Self {
        self.0.namespace = Some(namespace.to_string());
        self
    }

    /// Names the step of the operation that failed; the innermost step wins.
    #[must_use]
    pub fn at(mut self, step: impl Into<Cow<'static, str>>) -> Self {
        self.0.step.get_or_insert(step.into());
        self
    }

    /// Says what a person can do about it.
    #[must_use]
    pub fn remedy_is(mut self, remedy: impl Into<Cow<'static, str>>) -> Self {
        self.0.remedy = Some(remedy.into());
        self
    }

    /// Keeps the cause.
    #[must_use]
    pub fn caused_by(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.0.source = Some(source.into());
        self
    }

    /// The same error for another waiter; its causes are kept as text.
    #[must_use]
    pub fn duplicate(&self) -> Self {
        let inner = &*self.0;
        let mut causes = Vec::new();
        let mut cause: Option<&dyn StdError> = inner.source.as_deref().map(|source| source as &dyn StdError);
        while let Some(error) = cause {
            causes.push(error.to_string());
            cause = error.source();
        }
        Self(Box::new(Inner {
            fault: inner.fault,
            code: inner.code,
            object: inner.object.clone(),
            namespace: inner.namespace.clone(),
            step: inner.step.clone(),
            what: inner.what.clone(),
            remedy: inner.remedy.clone(),
            source: (!causes.is_empty()).then(|| causes.join(": ").into()),
        }))
    }

    /// The stable part.
    #[must_use]
    pub fn fault(&self) -> Fault {
        self.0.fault
    }

    /// The code for the wire: the fault's, or the peer's where the error was passed on.
    #[must_use]
    pub fn code(&self) -> Code {
        self.0.code.unwrap_or(self.0.fault.code())
    }

    /// The step of the operation that failed.
    #[must_use]
    pub fn step(&self) -> Option<&str> {
        self.0.step.as_deref()
    }

    /// What to do about it.
    #[must_use]
    pub fn remedy(&self) -> Option<&str> {
        self.0.remedy.as_deref()
    }

    /// The object that it is about.
    #[must_use]
    pub fn object(&self) -> Option<(Kind, &str)> {
        self.0.object.as_ref().map(|(kind, id)| (*kind, id.as_str()))
    }

    /// Whether it says that the object does not exist.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        self.code() == Code::NotFound
    }

    /// Whether it says that the object exists already.
    #[must_use]
    pub fn is_already_exists(&self) -> bool {
        self.code() == Code::AlreadyExists
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let inner = &*self.0;
        let mut text = String::new();
        let part = |text: &mut String, piece: &str| {
            if !piece.is_empty() {
                if !text.is_empty() {
                    text.push_str(": ");
                }
                text.push_str(piece);
            }
        };
        if let Some((kind, id)) = &inner.object {
            match &inner.namespace {
                Some(namespace) => part(&mut text, &format!("{kind} {id:?} in namespace {namespace:?}")),
                None => part(&mut text, &format!("{kind} {id:?}")),
            }
        }
        part(&mut text, &inner.what);
        let mut cause: Option<&dyn StdError> = inner.source.as_deref().map(|source| source as &dyn StdError);
        while let Some(error) = cause {
            part(&mut text, &error.to_string());
            cause = error.source();
        }
        let class = self.code().class();
        if self.code() != Code::Unknown && !text.ends_with(class) {
            part(&mut text, class);
        }
        f.write_str(&text)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{}] {self}", self.0.fault.id())?;
        if let Some(step) = &self.0.step {
            write!(f, " (step {step})")?;
        }
        Ok(())
    }
}

// No `source()`: the text holds the causes already, and printers that walk the chain would say them twice.
impl StdError for Error {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_names_object_cause_and_class() {
        let error = Error::not_found(Kind::Container, "x").in_namespace("default");
        assert_eq!(error.to_string(), "container \"x\" in namespace \"default\": not found");
        assert_eq!(error.code(), Code::NotFound);
        let error = Error::os("open /a", std::io::Error::from_raw_os_error(28));
        assert_eq!(error.fault(), Fault::DiskFull);
        assert!(error.to_string().ends_with(": resource exhausted"), "{error}");
    }

    #[test]
    fn a_peers_code_is_kept() {
        let error = Error::peer(Code::PermissionDenied, "no");
        assert_eq!(error.code(), Code::PermissionDenied);
        assert_eq!(error.to_string(), "no: permission denied");
    }

    #[test]
    fn identifiers_are_unique() {
        let mut ids: Vec<_> = Fault::ALL.iter().map(|fault| fault.id()).collect();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), Fault::ALL.len());
    }
}
