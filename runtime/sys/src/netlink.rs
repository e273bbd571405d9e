//! Netlink: a small encoder and decoder of our own, and sockets that wait for the kernel's answer.
//!
//! [`route`] speaks of links, addresses and routes, [`nft`] of elements of nftables' sets, [`conntrack`] of connections.
//! Layout: netlink(7), include/uapi/linux/netlink.h. A socket belongs to the network namespace that its thread was in.

pub mod conntrack;
pub mod message;
pub mod nft;
pub mod route;

use std::{
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    time::Duration,
};

use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink::SocketAddrNetlink};

use crate::{
    error::{Context, Errno, Result, SysError},
    fs::retry,
};
pub use message::{Attributes, Message};

/// The kernel's answer comes at once; what takes longer never comes.
const ANSWER_DEADLINE: Duration = Duration::from_secs(20);
/// Largest datagram that the kernel sends (a dump's page is at most 32 KiB, an error carries back what we sent).
const BUFFER: usize = 128 << 10;
/// Most requests of one [`Socket::batch`]: their answers must fit the socket's buffer.
const BATCH_MAX: usize = 256;
/// Times that a dump which was interrupted by changes is begun again.
const DUMP_TRIES: usize = 10;

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_ACK: u16 = 4;
const NLM_F_DUMP_INTR: u16 = 0x10;
const NLM_F_CAPPED: u16 = 0x100;
const NLM_F_ACK_TLVS: u16 = 0x200;
const NLMSGERR_ATTR_MSG: u16 = 1;
const SOL_NETLINK: i32 = 270;
const NETLINK_CAP_ACK: i32 = 10;
const NETLINK_EXT_ACK: i32 = 11;

/// Which part of the kernel a socket speaks with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// Links, addresses, routes.
    Route,
    /// nftables, connection tracking.
    Netfilter,
}

/// A netlink socket.
#[derive(Debug)]
pub struct Socket {
    fd: OwnedFd,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Socket {
    /// Opens a socket in the namespace of the calling thread; `groups` is a mask of multicast groups.
    pub fn open(family: Family, groups: u32) -> Result<Self> {
        let protocol = match family {
            Family::Route => None, // NETLINK_ROUTE is 0
            Family::Netfilter => Some(rustix::net::netlink::NETFILTER),
        };
        let name = || format!("AF_NETLINK, {family:?}");
        let fd = rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, protocol)
            .of("socket", name)?;
        rustix::net::bind(&fd, &SocketAddrNetlink::new(0, groups)).of("bind", name)?;
        rustix::net::sockopt::set_socket_timeout(&fd, rustix::net::sockopt::Timeout::Recv, Some(ANSWER_DEADLINE))
            .of("setsockopt", || "SO_RCVTIMEO")?;
        for option in [NETLINK_CAP_ACK, NETLINK_EXT_ACK] {
            set_option(fd.as_fd(), option)?;
        }
        Ok(Self { fd, sequence: 0, buffer: vec![0; BUFFER] })
    }

    /// Sends a request and waits until the kernel has done it.
    ///
    /// # Errors
    /// The kernel's, with its own words where it has some; ETIMEDOUT where it does not answer.
    pub fn request(&mut self, message: Message) -> Result<()> {
        self.batch(vec![message])
    }

    /// Sends requests that the kernel carries out one after another, at most 256; none is left out where one before it failed.
    ///
    /// # Errors
    /// The first that failed.
    pub fn batch(&mut self, messages: Vec<Message>) -> Result<()> {
        if messages.len() > BATCH_MAX {
            return Err(SysError::new("sendmsg", format!("{} requests", messages.len()), Errno::EMSGSIZE));
        }
        let first = self.sequence.wrapping_add(1);
        let mut names = Vec::with_capacity(messages.len());
        let mut bytes = Vec::new();
        for message in messages {
            self.sequence = self.sequence.wrapping_add(1);
            names.push(message.name());
            bytes.extend(message.finish(self.sequence, NLM_F_ACK)?);
        }
        self.send(&bytes)?;
        let mut failed = None;
        let mut open = names.len();
        while open > 0 {
            self.receive(|header, body| {
                let index = header.sequence.wrapping_sub(first) as usize;
                if header.kind != NLMSG_ERROR || index >= names.len() {
                    return Ok(()); // an echo, or an answer to something older
                }
                open = open.saturating_sub(1);
                if let Err(error) = verdict(&names[index], header.flags, body)
                    && failed.as_ref().is_none_or(|(before, _)| index < *before)
                {
                    failed = Some((index, error));
                }
                Ok(())
            })?;
        }
        failed.map_or(Ok(()), |(_, error)| Err(error))
    }

    /// Sends a nfnetlink batch as it stands: the transaction is carried out whole or not at all.
    pub(crate) fn transaction(&mut self, bytes: &[u8], first: u32, names: &[String]) -> Result<()> {
        self.send(bytes)?;
        let mut open = names.len();
        let mut failed = None;
        while open > 0 {
            self.receive(|header, body| {
                let index = header.sequence.wrapping_sub(first) as usize;
                if header.kind != NLMSG_ERROR {
                    return Ok(());
                }
                // An error of the batch itself carries the number of its begin or end: then nothing was carried out.
                let name = names.get(index).map_or("nfnetlink batch", String::as_str);
                let answer = verdict(name, header.flags, body);
                if answer.is_err() && index >= names.len() {
                    open = 0;
                } else {
                    open = open.saturating_sub(1);
                }
                if let (Err(error), None) = (answer, &failed) {
                    failed = Some(error);
                }
                Ok(())
            })?;
        }
        failed.map_or(Ok(()), Err)
    }

    /// The next number of a request.
    pub(crate) fn next_sequence(&mut self) -> u32 {
        self.sequence = self.sequence.wrapping_add(1);
        self.sequence
    }

    /// Asks for one object: `take` sees the body of the answer.
    ///
    /// # Errors
    /// The kernel's; ENOENT or ENODEV where there is none.
    pub fn get<T>(&mut self, message: Message, mut take: impl FnMut(&[u8]) -> Option<T>) -> Result<Option<T>> {
        let (name, sequence) = (message.name(), self.next_sequence());
        let bytes = message.finish(sequence, NLM_F_ACK)?;
        self.send(&bytes)?;
        let (mut found, mut done) = (None, false);
        while !done {
            self.receive(|header, body| {
                if header.sequence != sequence {
                    return Ok(());
                }
                if header.kind == NLMSG_ERROR {
                    done = true;
                    return verdict(&name, header.flags, body);
                }
                found = take(body);
                Ok(())
            })?;
        }
        Ok(found)
    }

    /// Asks for all objects: `take` sees kind and body of each. Begun again where they changed meanwhile.
    pub fn dump<T>(&mut self, make: impl Fn() -> Message, take: impl Fn(u16, &[u8]) -> Option<T>) -> Result<Vec<T>> {
        let mut found = Vec::new();
        for _ in 0..DUMP_TRIES {
            found.clear();
            let (mut torn, mut done) = (false, false);
            let message = make();
            let (name, sequence) = (message.name(), self.next_sequence());
            let bytes = message.finish(sequence, NLM_F_ACK)?;
            self.send(&bytes)?;
            while !done {
                self.receive(|header, body| {
                    if header.sequence != sequence {
                        return Ok(());
                    }
                    torn |= header.flags & NLM_F_DUMP_INTR != 0;
                    match header.kind {
                        NLMSG_DONE => done = true,
                        NLMSG_ERROR => {
                            done = true;
                            return verdict(&name, header.flags, body);
                        }
                        kind => found.extend(take(kind, body)),
                    }
                    Ok(())
                })?;
            }
            if !torn {
                break;
            }
        }
        Ok(found)
    }

    /// Takes what a multicast group has sent: `take` sees kind and body. ETIMEDOUT: nothing came within the deadline, or
    /// nothing is there and the socket does not block; ENOBUFS: some was lost.
    pub fn hear(&mut self, mut take: impl FnMut(u16, &[u8])) -> Result<()> {
        self.receive(|header, body| {
            take(header.kind, body);
            Ok(())
        })
    }

    /// From now on [`Socket::hear`] does not wait: for sockets that an event loop watches.
    pub fn nonblocking(&self) -> Result<()> {
        rustix::io::ioctl_fionbio(&self.fd, true).of("ioctl", || "FIONBIO, netlink")
    }

    fn send(&self, bytes: &[u8]) -> Result<()> {
        retry(|| rustix::net::send(&self.fd, bytes, SendFlags::empty()))
            .map(drop)
            .of("sendmsg", || format!("netlink, {} bytes", bytes.len()))
    }

    fn receive(&mut self, mut take: impl FnMut(message::Header, &[u8]) -> Result<()>) -> Result<()> {
        let (got, whole) = retry(|| rustix::net::recv(&self.fd, &mut self.buffer[..], RecvFlags::TRUNC))
            .of("recvmsg", || "netlink")
            .map_err(|error| match error.errno {
                Errno::EAGAIN => SysError { errno: Errno::ETIMEDOUT, ..error },
                _ => error,
            })?;
        if whole > self.buffer.len() {
            return Err(SysError::new("recvmsg", format!("netlink, {whole} bytes"), Errno::EMSGSIZE));
        }
        let mut first_error = None;
        for (header, body) in message::messages(&self.buffer[..got]) {
            if let Err(error) = take(header, body) {
                first_error.get_or_insert(error);
            }
        }
        first_error.map_or(Ok(()), Err)
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// The meaning of an NLMSG_ERROR: 0 is success, else the errno, with the kernel's own words behind it.
fn verdict(name: &str, flags: u16, body: &[u8]) -> Result<()> {
    let errno = body.first_chunk::<4>().map_or(-(Errno::EBADMSG as i32), |bytes| i32::from_ne_bytes(*bytes));
    if errno == 0 {
        return Ok(());
    }
    let mut operands = name.to_owned();
    if flags & NLM_F_ACK_TLVS != 0 {
        // Behind the errno: the header of the request, its body unless capped, then attributes.
        let request =
            body.get(4..8).and_then(|bytes| bytes.first_chunk::<4>()).map_or(0, |len| u32::from_ne_bytes(*len));
        let skip = 4 + if flags & NLM_F_CAPPED == 0 { message::align(request as usize) } else { message::HEADER };
        let words = Attributes(body.get(skip..).unwrap_or_default()).text(NLMSGERR_ATTR_MSG);
        if let Some(words) = words {
            operands = format!("{name}: {words}");
        }
    }
    Err(SysError::new("netlink", operands, Errno::from_raw(-errno)))
}

fn set_option(fd: BorrowedFd<'_>, option: i32) -> Result<()> {
    let on: libc::c_int = 1;
    let size = std::mem::size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: the value points to a live c_int of the size that is given.
    let answer = unsafe { libc::setsockopt(fd.as_raw_fd(), SOL_NETLINK, option, (&raw const on).cast(), size) };
    Errno::result(answer).map(drop).of("setsockopt", || format!("SOL_NETLINK, {option}"))
}
