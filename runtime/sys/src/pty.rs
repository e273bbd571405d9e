//! Pseudo terminals, opened without path games (CVE-2025-52565): the peer comes from `TIOCGPTPEER`.

use std::{
    os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
    path::Path,
};

use nix::fcntl::OFlag;

use crate::error::{Context, Errno, Result, SysError};

/// Both ends of a terminal.
#[derive(Debug)]
pub struct Pty {
    /// The engine's end.
    pub master: OwnedFd,
    /// The program's end.
    pub slave: OwnedFd,
}

const DEVPTS_MAGIC: u64 = 0x1cd1;

/// A new terminal from the host's `/dev/ptmx`.
pub fn open() -> Result<Pty> {
    from_ptmx(crate::fs::open(Path::new("/dev/ptmx"), OFlag::O_RDWR | OFlag::O_NOCTTY, 0)?)
}

/// A new terminal from a devpts instance, by a descriptor of its root directory.
pub fn open_in(devpts: BorrowedFd<'_>) -> Result<Pty> {
    if crate::fs::filesystem_magic(devpts)? != DEVPTS_MAGIC {
        return Err(SysError::new("open", "ptmx: the directory is no devpts", Errno::ENODEV));
    }
    let flags = OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_NOFOLLOW;
    from_ptmx(crate::fs::open_at(devpts, Path::new("ptmx"), flags, 0)?)
}

fn from_ptmx(master: OwnedFd) -> Result<Pty> {
    let unlocked: libc::c_int = 0;
    // SAFETY: TIOCSPTLCK reads one int.
    let answer = unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCSPTLCK, &raw const unlocked) };
    Errno::result(answer).of("ioctl", || "TIOCSPTLCK")?;
    let slave = peer(master.as_fd())?;
    Ok(Pty { master, slave })
}

/// The other end of a terminal's master.
pub fn peer(master: BorrowedFd<'_>) -> Result<OwnedFd> {
    // SAFETY: TIOCGPTPEER takes open flags by value and answers a fresh descriptor.
    let fd =
        unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCGPTPEER, libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC) };
    let fd = Errno::result(fd).of("ioctl", || "TIOCGPTPEER")?;
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Sets a terminal's size in characters.
pub fn set_size(terminal: BorrowedFd<'_>, columns: u16, rows: u16) -> Result<()> {
    let size = libc::winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: TIOCSWINSZ reads one winsize.
    let answer = unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCSWINSZ, &raw const size) };
    Errno::result(answer).map(drop).of("ioctl", || format!("TIOCSWINSZ, {columns}x{rows}"))
}

/// A terminal's size: columns, rows.
pub fn size(terminal: BorrowedFd<'_>) -> Result<(u16, u16)> {
    rustix::termios::tcgetwinsize(terminal).map(|s| (s.ws_col, s.ws_row)).of("ioctl", || "TIOCGWINSZ")
}

/// Makes a terminal the controlling one of our session, whose leader we must be.
pub fn make_controlling(terminal: BorrowedFd<'_>) -> Result<()> {
    rustix::process::ioctl_tiocsctty(terminal).of("ioctl", || "TIOCSCTTY")
}

/// Whether it is a terminal.
pub fn is_terminal(fd: BorrowedFd<'_>) -> bool {
    rustix::termios::isatty(fd)
}

/// A terminal in raw mode; dropped, the mode from before returns.
#[derive(Debug)]
pub struct RawMode {
    terminal: OwnedFd,
    before: rustix::termios::Termios,
}

impl RawMode {
    /// Sets a terminal raw.
    pub fn set(terminal: BorrowedFd<'_>) -> Result<RawMode> {
        let terminal = crate::fs::duplicate(terminal)?;
        let before = rustix::termios::tcgetattr(&terminal).of("ioctl", || "TCGETS")?;
        let mut raw = before.clone();
        raw.make_raw();
        rustix::termios::tcsetattr(&terminal, rustix::termios::OptionalActions::Now, &raw).of("ioctl", || "TCSETS")?;
        Ok(RawMode { terminal, before })
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        // Nothing can be done if the terminal is gone.
        let _ = rustix::termios::tcsetattr(&self.terminal, rustix::termios::OptionalActions::Drain, &self.before);
    }
}
