//! Unix sockets: pairs, passing descriptors, who is at the other end.

use std::{
    io::{IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::fd::{AsRawFd, BorrowedFd, OwnedFd},
};

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, SocketFlags, SocketType,
};

use crate::{
    error::{Context, Errno, Result, SysError},
    fs::retry,
};

/// The most descriptors of one message that are taken.
pub const MAX_FDS: usize = 16;

/// A connected pair that keeps message borders (`SOCK_SEQPACKET`).
pub fn packet_pair() -> Result<(OwnedFd, OwnedFd)> {
    rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
        .of("socketpair", || "AF_UNIX, SOCK_SEQPACKET")
}

/// Sends bytes with descriptors (at most [`MAX_FDS`]). EPIPE instead of a signal if the other end is gone.
pub fn send(socket: BorrowedFd<'_>, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(SysError::new("sendmsg", format!("{} fds", fds.len()), Errno::EINVAL));
    }
    retry(|| rustix::net::sendmsg(socket, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL))
        .of("sendmsg", || format!("fd {}, {} bytes, {} fds", socket.as_raw_fd(), bytes.len(), fds.len()))
}

/// Receives into `buffer`; 0 bytes means that the other end is gone. Descriptors come CLOEXEC.
pub fn receive(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> Result<(usize, Vec<OwnedFd>)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let got =
        retry(|| rustix::net::recvmsg(socket, &mut [IoSliceMut::new(buffer)], &mut control, RecvFlags::CMSG_CLOEXEC))
            .of("recvmsg", || format!("fd {}", socket.as_raw_fd()))?;
    let mut fds = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            fds.extend(rights);
        }
    }
    if got.flags.contains(rustix::net::ReturnFlags::TRUNC) {
        return Err(SysError::new("recvmsg", format!("fd {}, message cut", socket.as_raw_fd()), Errno::EMSGSIZE));
    }
    Ok((got.bytes, fds))
}

/// Who connected to a unix socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerCredentials {
    /// Process, in our pid namespace; 0 if it has no number there.
    pub pid: i32,
    /// Effective user at the time of connecting.
    pub uid: u32,
    /// Effective group.
    pub gid: u32,
}

/// `SO_PEERCRED`.
pub fn peer_credentials(socket: BorrowedFd<'_>) -> Result<PeerCredentials> {
    nix::sys::socket::getsockopt(&socket, nix::sys::socket::sockopt::PeerCredentials)
        .map(|c| PeerCredentials { pid: c.pid(), uid: c.uid(), gid: c.gid() })
        .of("getsockopt", || "SO_PEERCRED")
}

/// A listening packet socket at a path, mode 0600.
pub fn listen(path: &std::path::Path) -> Result<OwnedFd> {
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
        .of("socket", || "AF_UNIX, SOCK_SEQPACKET")?;
    let address = rustix::net::SocketAddrUnix::new(path).of("bind", || path.display().to_string())?;
    rustix::net::bind(&socket, &address).of("bind", || path.display().to_string())?;
    crate::fs::chmod_at(crate::fs::cwd(), path, 0o600)?;
    rustix::net::listen(&socket, 8).of("listen", || path.display().to_string())?;
    Ok(socket)
}

/// Connects to a packet socket at a path.
pub fn connect(path: &std::path::Path) -> Result<OwnedFd> {
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
        .of("socket", || "AF_UNIX, SOCK_SEQPACKET")?;
    let address = rustix::net::SocketAddrUnix::new(path).of("connect", || path.display().to_string())?;
    retry(|| rustix::net::connect(&socket, &address)).of("connect", || path.display().to_string())?;
    Ok(socket)
}

/// Waits for someone to connect.
pub fn accept(listener: BorrowedFd<'_>) -> Result<OwnedFd> {
    retry(|| rustix::net::accept_with(listener, SocketFlags::CLOEXEC))
        .of("accept4", || format!("fd {}", listener.as_raw_fd()))
}
