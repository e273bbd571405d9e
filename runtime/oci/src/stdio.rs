//! Where a process reads and writes.

use std::{
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
};

use crated_sys::{OFlag, fs};

use crate::error::{Result, Step};

/// Standard input, output and error of a process.
#[derive(Debug)]
pub enum Stdio {
    /// These; the process's user becomes their owner where they are pipes, sockets or files.
    Fds {
        /// Standard input.
        stdin: OwnedFd,
        /// Standard output.
        stdout: OwnedFd,
        /// Standard error.
        stderr: OwnedFd,
    },
    /// A terminal from the container's own devpts; its master is handed out.
    Terminal {
        /// Columns and rows.
        size: Option<(u16, u16)>,
    },
    /// Those of the caller, as they are.
    Inherit,
}

impl Stdio {
    /// Size asked for, if this is a terminal.
    pub(crate) fn terminal(&self) -> Option<Option<(u16, u16)>> {
        match self {
            Self::Terminal { size } => Some(*size),
            Self::Fds { .. } | Self::Inherit => None,
        }
    }

    /// Descriptors for the child; a terminal comes later, until then there is nothing.
    pub(crate) fn open(self) -> Result<[Option<OwnedFd>; 3]> {
        let step = || "standard streams".to_owned();
        match self {
            Self::Fds { stdin, stdout, stderr } => Ok([Some(stdin), Some(stdout), Some(stderr)]),
            Self::Terminal { .. } => {
                let null = || fs::open(Path::new("/dev/null"), OFlag::O_RDWR, 0).step(step).map(Some);
                Ok([null()?, null()?, null()?])
            }
            Self::Inherit => {
                let own = |fd: BorrowedFd<'_>| fs::duplicate(fd).step(step).map(Some);
                let (i, o, e) = (std::io::stdin(), std::io::stdout(), std::io::stderr());
                Ok([own(i.as_fd())?, own(o.as_fd())?, own(e.as_fd())?])
            }
        }
    }
}

/// Makes `owner` the owner, so that the process can open `/dev/stdout` again. What cannot be owned is left.
pub(crate) fn own(fds: &[Option<OwnedFd>; 3], owner: u32) {
    for fd in fds.iter().flatten() {
        let ordinary =
            fs::stat(fd.as_fd()).is_ok_and(|s| s.uid != owner && matches!(s.kind(), 0o010_000 | 0o100_000 | 0o140_000));
        if ordinary {
            // Refused on read-only or foreign file systems; the process can still use the descriptor itself.
            let _ = fs::chown_at(fd.as_fd(), Path::new(""), Some(owner), None);
        }
    }
}
