//! Elements of nftables' sets and maps, and what tells that a table went: nfnetlink's part of what the program `nft` does.
//!
//! Tables, chains and rules are made by `nft -f -`; elements change with every container, and a program would cost more than
//! the change. Source: include/uapi/linux/netfilter/nf_tables.h. A key of several fields has each padded to 4 bytes.

use super::{Attributes, Family, Message, Socket};
use crate::error::{Errno, Result};

const SUBSYSTEM: u16 = 10;
const GET_TABLE: u16 = 1;
const DEL_TABLE: u16 = 2;
const NEW_ELEMENT: u16 = 12;
const GET_ELEMENT: u16 = 13;
const DEL_ELEMENT: u16 = 14;
/// Since Linux 6.3: as DEL_ELEMENT, and what is not there is no error.
const DESTROY_ELEMENT: u16 = 30;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
const INET: u8 = 1;
const NLM_F_DUMP: u16 = 0x300;
const NLM_F_CREATE: u16 = 0x400;
const NLM_F_ACK: u16 = 4;
/// Elements of one message: its list's length has 16 bits.
const CHUNK: usize = 500;
/// The multicast group that tells of tables (NFNLGRP_NFTABLES is 7).
const GROUP: u32 = 1 << 6;

/// A key, and what a map has for it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Element {
    /// Name of the set or map.
    pub set: &'static str,
    /// Its key, fields padded to 4 bytes.
    pub key: Vec<u8>,
    /// A map's value, fields padded to 4 bytes; empty for a set.
    pub value: Vec<u8>,
}

/// A socket for elements of one table of family inet.
#[derive(Debug)]
pub struct Nft {
    socket: Socket,
    table: String,
    /// The kernel has DESTROY_ELEMENT. To be refused costs: an aborted transaction waits for all readers of the rules.
    destroys: bool,
}

impl Nft {
    /// Opens a socket in the namespace of the calling thread.
    pub fn open(table: &str) -> Result<Self> {
        Ok(Self { socket: Socket::open(Family::Netfilter, 0)?, table: table.into(), destroys: true })
    }

    /// Whether the table is there.
    pub fn exists(&mut self) -> Result<bool> {
        let message = Message::new(kind(GET_TABLE), 0, format!("get table {}", self.table))
            .fixed(&[INET, 0, 0, 0])
            .text(1, &self.table);
        match self.socket.get(message, |_| Some(())) {
            Ok(found) => Ok(found.is_some()),
            Err(error) if error.errno == Errno::ENOENT => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Adds elements in one transaction; what is there already with the same value stays.
    ///
    /// # Errors
    /// ENOENT: the table or set is not there; EEXIST or EBUSY: the key has another value. Nothing was added then.
    pub fn add(&mut self, elements: &[Element]) -> Result<()> {
        self.change(NEW_ELEMENT, elements)
    }

    /// Removes elements in one transaction; what is not there is no error.
    pub fn remove(&mut self, elements: &[Element]) -> Result<()> {
        if self.destroys {
            match self.change(DESTROY_ELEMENT, elements) {
                Err(error) if matches!(error.errno, Errno::EINVAL | Errno::EOPNOTSUPP) => self.destroys = false,
                Err(error) if error.errno == Errno::ENOENT => return Ok(()), // the table is gone, and with it all elements
                done => return done,
            }
        }
        match self.change(DEL_ELEMENT, elements) {
            Err(error) if error.errno == Errno::ENOENT => self.remove_each(elements),
            done => done,
        }
    }

    /// As kernels before 6.3 need it: an element that is not there ends a transaction, so each has its own.
    fn remove_each(&mut self, elements: &[Element]) -> Result<()> {
        for element in elements {
            match self.change(DEL_ELEMENT, std::slice::from_ref(element)) {
                Err(error) if error.errno != Errno::ENOENT => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    /// The keys of a set. ENOENT: it is not there.
    pub fn keys(&mut self, set: &str) -> Result<Vec<Vec<u8>>> {
        let make = || {
            Message::new(kind(GET_ELEMENT), NLM_F_DUMP, format!("list {} of table {}", set, self.table))
                .fixed(&[INET, 0, 0, 0])
                .text(1, &self.table)
                .text(2, set)
        };
        let pages = self.socket.dump(make, |_, body| Some(keys_of(body)))?;
        Ok(pages.into_iter().flatten().collect())
    }

    fn change(&mut self, operation: u16, elements: &[Element]) -> Result<()> {
        if elements.is_empty() {
            return Ok(());
        }
        let mut chunks: Vec<Vec<&Element>> = Vec::new();
        for element in elements {
            match chunks.last_mut() {
                Some(chunk) if chunk.len() < CHUNK && chunk[0].set == element.set => chunk.push(element),
                _ => chunks.push(vec![element]),
            }
        }
        let border = |kind, name| Message::new(kind, 0, name).fixed(&[0, 0, 0, SUBSYSTEM as u8]);
        let mut bytes = border(BATCH_BEGIN, "begin").finish(self.socket.next_sequence(), 0)?;
        let first = self.socket.next_sequence();
        let mut names = Vec::new();
        for (index, chunk) in chunks.iter().enumerate() {
            let sequence = if index == 0 { first } else { self.socket.next_sequence() };
            let message = self.elements(operation, chunk);
            names.push(message.name());
            bytes.extend(message.finish(sequence, NLM_F_ACK)?);
        }
        bytes.extend(border(BATCH_END, "end").finish(self.socket.next_sequence(), 0)?);
        self.socket.transaction(&bytes, first, &names)
    }

    fn elements(&self, operation: u16, chunk: &[&Element]) -> Message {
        let set = chunk[0].set;
        let (word, flags) = if operation == NEW_ELEMENT { ("add to", NLM_F_CREATE) } else { ("remove from", 0) };
        Message::new(kind(operation), flags, format!("{word} {set} of table {}", self.table))
            .fixed(&[INET, 0, 0, 0])
            .text(1, &self.table)
            .text(2, set)
            .nest(3, |mut list| {
                for element in chunk {
                    list = list.nest(1, |item| {
                        let item = item.nest(1, |key| key.attribute(1, &element.key));
                        if element.value.is_empty() || operation != NEW_ELEMENT {
                            item
                        } else {
                            item.nest(2, |value| value.attribute(1, &element.value))
                        }
                    });
                }
                list
            })
    }
}

/// Tells when tables go.
#[derive(Debug)]
pub struct Watch {
    socket: Socket,
}

impl Watch {
    /// Opens a socket in the namespace of the calling thread; it does not block.
    pub fn open() -> Result<Self> {
        let socket = Socket::open(Family::Netfilter, GROUP)?;
        socket.nonblocking()?;
        Ok(Self { socket })
    }

    /// Reads what has come: whether the table (of family inet) was removed, or something was missed.
    pub fn removed(&mut self, table: &str) -> Result<bool> {
        let mut removed = false;
        loop {
            let heard = self.socket.hear(|found, body| {
                removed |= found == kind(DEL_TABLE)
                    && body.first() == Some(&INET)
                    && Attributes(body.get(4..).unwrap_or_default()).text(1).as_deref() == Some(table);
            });
            match heard {
                Ok(()) => {}
                Err(error) if error.errno == Errno::ETIMEDOUT => return Ok(removed),
                Err(error) if error.errno == Errno::ENOBUFS => removed = true,
                Err(error) => return Err(error),
            }
        }
    }
}

impl std::os::fd::AsFd for Watch {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

const fn kind(message: u16) -> u16 {
    SUBSYSTEM << 8 | message
}

fn keys_of(body: &[u8]) -> Vec<Vec<u8>> {
    let list = Attributes(body.get(4..).unwrap_or_default()).inner(3);
    let items = list.into_iter().flat_map(|list| list.iter()).map(|(_, item)| Attributes(item));
    items.filter_map(|item| item.inner(1)?.find(1).map(<[u8]>::to_vec)).collect()
}
