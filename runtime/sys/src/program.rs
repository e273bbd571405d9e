//! The program's own image, sealed, so that nothing inside a container can write to what we execute (CVE-2019-5736).

use std::{
    fs::File,
    os::fd::{AsFd, AsRawFd, OwnedFd},
    path::Path,
};

use nix::fcntl::OFlag;

use crate::{
    error::{Context, Result},
    memfd,
};

/// A sealed image of the running program. If `/proc/self/exe` is one already, it is used as it is.
pub fn sealed_self() -> Result<OwnedFd> {
    let exe = crate::fs::open(Path::new("/proc/self/exe"), OFlag::O_RDONLY, 0)?;
    if memfd::is_sealed(exe.as_fd()) {
        return Ok(exe);
    }
    seal(exe, "/proc/self/exe")
}

/// Whether we run from a sealed image, so that a copy of us can go on inside of a container as it is.
pub fn is_sealed() -> bool {
    crate::fs::open(Path::new("/proc/self/exe"), OFlag::O_RDONLY, 0).is_ok_and(|exe| memfd::is_sealed(exe.as_fd()))
}

/// A sealed image of any program on the host.
pub fn sealed(path: &Path) -> Result<OwnedFd> {
    seal(crate::fs::open(path, OFlag::O_RDONLY, 0)?, &path.display().to_string())
}

fn seal(source: OwnedFd, name: &str) -> Result<OwnedFd> {
    let copy = memfd::create("crated", memfd::Use::Execute)?;
    let mut to = File::from(copy);
    std::io::copy(&mut File::from(source), &mut to).of("sendfile", || name)?;
    memfd::seal(to.as_fd())?;
    // Opened again for reading only: a writable descriptor would make execveat answer ETXTBSY.
    crate::fs::reopen(to.as_fd(), OFlag::O_RDONLY)
        .map_err(|e| crate::SysError { operands: format!("{name} (fd {})", to.as_raw_fd()), ..e })
}
