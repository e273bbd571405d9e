//! The little of the DNS wire that a resolver of container names needs (RFC 1035 §4, RFC 6891 §6): every read is bounded.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Longest message over TCP, in bytes.
pub(super) const MESSAGE_MAX: usize = 65_535;
/// Longest answer over UDP to who does not say more (RFC 1035 §2.3.4).
const UDP_PLAIN: usize = 512;
/// Longest answer over UDP that we give or announce: no link of a container is to fragment it.
const UDP_MAX: u16 = 1232;
const HEADER: usize = 12;
const NAME_MAX: usize = 255;
const LABEL_MAX: usize = 63;
/// Records of a query that are looked through for EDNS.
const ADDITIONAL_MAX: u16 = 8;

pub(super) const A: u16 = 1;
pub(super) const PTR: u16 = 12;
pub(super) const AAAA: u16 = 28;
pub(super) const ANY: u16 = 255;
const OPT: u16 = 41;
const INTERNET: u16 = 1;

const QR: u16 = 0x8000;
const AA: u16 = 0x0400;
const TC: u16 = 0x0200;
const RD: u16 = 0x0100;
const RA: u16 = 0x0080;
const OPCODE: u16 = 0x7800;

/// How a query was answered (RFC 1035 §4.1.1, RFC 6891 §6.1.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Code {
    NoError = 0,
    FormErr = 1,
    ServFail = 2,
    NxDomain = 3,
    NotImp = 4,
    Refused = 5,
    BadVers = 16,
}

/// What a query's sender can take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Edns {
    pub(super) size: u16,
    pub(super) version: u8,
}

/// A question, and what an answer to it needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Query {
    pub(super) id: u16,
    flags: u16,
    /// Lower case, without the last dot; a dot or backslash within a label is escaped, so it equals no name of ours.
    pub(super) name: String,
    pub(super) kind: u16,
    class: u16,
    /// The question as it came: an answer repeats it byte for byte, capitals included.
    question: Vec<u8>,
    pub(super) edns: Option<Edns>,
}

/// Why a message is no query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Bad {
    /// Not even an answer is due.
    Silent,
    /// This answer is due.
    Answer(Vec<u8>),
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

/// A name at `at`: its text and where it ends. Pointers are not followed: a question has nothing before it to point to.
fn name_at(bytes: &[u8], at: usize) -> Option<(String, usize)> {
    let (mut text, mut place) = (String::new(), at);
    loop {
        let length = usize::from(*bytes.get(place)?);
        place += 1;
        if length == 0 {
            return Some((text, place));
        }
        if length > LABEL_MAX || place + length - at > NAME_MAX {
            return None;
        }
        if !text.is_empty() {
            text.push('.');
        }
        for byte in bytes.get(place..place + length)? {
            match byte {
                b'.' | b'\\' => text.extend(['\\', char::from(*byte)]),
                0x21..=0x7e => text.push(char::from(byte.to_ascii_lowercase())),
                _ => text.push_str(&format!("\\{byte:03}")),
            }
        }
        place += length;
    }
}

/// Where a name ends that may end in a pointer.
fn skip_name(bytes: &[u8], at: usize) -> Option<usize> {
    let mut place = at;
    loop {
        let length = usize::from(*bytes.get(place)?);
        match length {
            0 => return Some(place + 1),
            1..=LABEL_MAX => place += 1 + length,
            0xc0.. => return bytes.get(place + 1).map(|_| place + 2),
            _ => return None,
        }
        if place - at > NAME_MAX {
            return None;
        }
    }
}

impl Query {
    /// Reads a message of a client.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, Bad> {
        let (Some(id), Some(flags)) = (u16_at(bytes, 0), u16_at(bytes, 2)) else { return Err(Bad::Silent) };
        if bytes.len() < HEADER || flags & QR != 0 {
            return Err(Bad::Silent);
        }
        let bad = |code: Code| Bad::Answer(header(id, QR | (flags & (OPCODE | RD)) | code as u16, 0, 0, 0));
        if flags & OPCODE != 0 {
            return Err(bad(Code::NotImp));
        }
        let read = || -> Option<Self> {
            let counts = [u16_at(bytes, 4)?, u16_at(bytes, 6)?, u16_at(bytes, 8)?];
            if counts != [1, 0, 0] {
                return None;
            }
            let (name, end) = name_at(bytes, HEADER)?;
            let (kind, class) = (u16_at(bytes, end)?, u16_at(bytes, end + 2)?);
            let edns = additional(bytes, end + 4, u16_at(bytes, 10)?)?;
            Some(Self { id, flags, name, kind, class, question: bytes.get(HEADER..end + 4)?.to_vec(), edns })
        };
        read().ok_or_else(|| bad(Code::FormErr))
    }

    /// Whether it asks for the internet's records, the only ones there are.
    pub(super) fn is_internet(&self) -> bool {
        self.class == INTERNET || self.class == ANY
    }

    /// The most bytes of an answer over UDP.
    pub(super) fn udp_limit(&self) -> usize {
        self.edns.map_or(UDP_PLAIN, |edns| usize::from(edns.size.min(UDP_MAX)).max(UDP_PLAIN))
    }

    /// Whether `reply` is an answer to this question, asked as `id`.
    pub(super) fn is_answered_by(&self, id: u16, reply: &[u8]) -> bool {
        let same = || {
            let flags = u16_at(reply, 2)?;
            let (name, end) = name_at(reply, HEADER)?;
            let question = (name, u16_at(reply, end)?, u16_at(reply, end + 2)?);
            let as_asked = question == (self.name.clone(), self.kind, self.class);
            Some(u16_at(reply, 0)? == id && flags & QR != 0 && u16_at(reply, 4)? == 1 && as_asked)
        };
        same().unwrap_or(false)
    }
}

/// Looks for EDNS among the additional records; none where a record is malformed.
fn additional(bytes: &[u8], at: usize, count: u16) -> Option<Option<Edns>> {
    let (mut place, mut edns) = (at, None);
    for _ in 0..count.min(ADDITIONAL_MAX) {
        let end = skip_name(bytes, place)?;
        let (kind, class) = (u16_at(bytes, end)?, u16_at(bytes, end + 2)?);
        let version = *bytes.get(end + 5)?;
        let length = usize::from(u16_at(bytes, end + 8)?);
        bytes.get(end + 10..end + 10 + length)?;
        if kind == OPT {
            if edns.is_some() || end != place + 1 {
                return None; // RFC 6891 §6.1.1: one, of the root
            }
            edns = Some(Edns { size: class, version });
        }
        place = end + 10 + length;
    }
    Some(edns)
}

fn header(id: u16, flags: u16, questions: u16, answers: u16, additional: u16) -> Vec<u8> {
    [id, flags, questions, answers, 0, additional].into_iter().flat_map(u16::to_be_bytes).collect()
}

/// An answer under construction.
#[derive(Debug)]
pub(super) struct Reply<'q> {
    query: &'q Query,
    code: Code,
    answers: u16,
    records: Vec<u8>,
}

impl<'q> Reply<'q> {
    pub(super) fn new(query: &'q Query, code: Code) -> Self {
        Self { query, code, answers: 0, records: Vec::new() }
    }

    /// An address of the name that was asked for.
    pub(super) fn address(&mut self, address: IpAddr, ttl: u32) {
        match address {
            IpAddr::V4(address) => self.record(A, ttl, &address.octets()),
            IpAddr::V6(address) => self.record(AAAA, ttl, &address.octets()),
        }
    }

    /// The name of the address that was asked for; one that does not fit the wire is left out.
    pub(super) fn pointer(&mut self, name: &str, ttl: u32) {
        let mut wire = Vec::new();
        for label in name.split('.') {
            let Some(length) = u8::try_from(label.len()).ok().filter(|length| (1..=63).contains(length)) else {
                return;
            };
            wire.push(length);
            wire.extend(label.as_bytes());
        }
        wire.push(0);
        if wire.len() <= NAME_MAX {
            self.record(PTR, ttl, &wire);
        }
    }

    fn record(&mut self, kind: u16, ttl: u32, data: &[u8]) {
        let Ok(length) = u16::try_from(data.len()) else { return };
        // The owner is the question's name, 12 bytes into the message.
        self.records.extend([0xc0, 12]);
        self.records.extend(kind.to_be_bytes());
        self.records.extend(INTERNET.to_be_bytes());
        self.records.extend(ttl.to_be_bytes());
        self.records.extend(length.to_be_bytes());
        self.records.extend(data);
        self.answers = self.answers.saturating_add(1);
    }

    /// The message; without its records and marked as truncated where it would be longer than `limit`.
    pub(super) fn finish(self, limit: usize) -> Vec<u8> {
        let query = self.query;
        let extended = query.edns.is_some();
        let size = HEADER + query.question.len() + self.records.len() + if extended { 11 } else { 0 };
        let fits = size <= limit;
        let low = self.code as u16 & 0xf;
        let flags = QR | AA | RA | (query.flags & RD) | low | if fits { 0 } else { TC };
        let answers = if fits { self.answers } else { 0 };
        let mut bytes = header(query.id, flags, 1, answers, u16::from(extended));
        bytes.extend(&query.question);
        if fits {
            bytes.extend(self.records);
        }
        if extended {
            let high = u8::try_from(self.code as u16 >> 4).unwrap_or(0);
            bytes.push(0);
            bytes.extend(OPT.to_be_bytes());
            bytes.extend(UDP_MAX.to_be_bytes());
            bytes.extend([high, 0, 0, 0, 0, 0]);
        }
        bytes
    }
}

/// Whether a reply says that it was cut.
pub(super) fn is_truncated(reply: &[u8]) -> bool {
    u16_at(reply, 2).is_some_and(|flags| flags & TC != 0)
}

/// Whether a server could not or would not answer, so that another may be asked.
pub(super) fn is_refusal(reply: &[u8]) -> bool {
    u16_at(reply, 2).is_none_or(|flags| matches!(flags & 0xf, 1 | 2 | 4 | 5))
}

/// Cuts a reply that is too long for its client down to header and question, marked as truncated.
pub(super) fn truncated(query: &Query, reply: &[u8]) -> Vec<u8> {
    let flags = u16_at(reply, 2).unwrap_or(QR) | TC;
    let mut bytes = header(query.id, flags, 1, 0, 0);
    bytes.extend(&query.question);
    bytes
}

/// Puts another id into a message.
pub(super) fn renumber(message: &mut [u8], id: u16) {
    if let Some(place) = message.get_mut(..2) {
        place.copy_from_slice(&id.to_be_bytes());
    }
}

/// The address that a name of a reverse zone stands for (RFC 1035 §3.5, RFC 3596 §2.5).
pub(super) fn reverse(name: &str) -> Option<IpAddr> {
    if let Some(digits) = name.strip_suffix(".in-addr.arpa") {
        let mut octets = [0; 4];
        let mut parts = digits.split('.');
        for octet in octets.iter_mut().rev() {
            let part = parts.next()?;
            if part.len() > 1 && part.starts_with('0') {
                return None;
            }
            *octet = part.parse().ok()?;
        }
        return parts.next().is_none().then(|| Ipv4Addr::from(octets).into());
    }
    let digits = name.strip_suffix(".ip6.arpa")?;
    let mut value = 0u128;
    let mut parts = digits.split('.');
    for place in 0..32 {
        let part = parts.next()?;
        let digit = u8::from_str_radix(part, 16).ok().filter(|_| part.len() == 1)?;
        value |= u128::from(digit) << (4 * place);
    }
    parts.next().is_none().then(|| Ipv6Addr::from(value).into())
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A query as a client's library writes it.
    pub(crate) fn ask(id: u16, name: &str, kind: u16, edns: Option<u16>) -> Vec<u8> {
        let mut bytes = header(id, RD, 1, 0, u16::from(edns.is_some()));
        for label in name.split('.').filter(|label| !label.is_empty()) {
            bytes.push(u8::try_from(label.len()).unwrap());
            bytes.extend(label.as_bytes());
        }
        bytes.push(0);
        bytes.extend(kind.to_be_bytes());
        bytes.extend(INTERNET.to_be_bytes());
        if let Some(size) = edns {
            bytes.push(0);
            bytes.extend(OPT.to_be_bytes());
            bytes.extend(size.to_be_bytes());
            bytes.extend([0; 6]);
        }
        bytes
    }

    /// Code, and addresses or names, of a reply without compression but for the owner.
    pub(crate) fn read(reply: &[u8]) -> (u16, Vec<String>) {
        let count = u16_at(reply, 6).unwrap();
        let (_, end) = name_at(reply, HEADER).unwrap();
        let (mut at, mut found) = (end + 4, Vec::new());
        for _ in 0..count {
            let end = skip_name(reply, at).unwrap();
            let (kind, length) = (u16_at(reply, end).unwrap(), usize::from(u16_at(reply, end + 8).unwrap()));
            let data = &reply[end + 10..end + 10 + length];
            found.push(match kind {
                A => Ipv4Addr::from(<[u8; 4]>::try_from(data).unwrap()).to_string(),
                AAAA => Ipv6Addr::from(<[u8; 16]>::try_from(data).unwrap()).to_string(),
                PTR => name_at(data, 0).unwrap().0,
                _ => format!("type {kind}"),
            });
            at = end + 10 + length;
        }
        (u16_at(reply, 2).unwrap() & 0xf, found)
    }

    #[test]
    fn a_query_is_read_and_answered_with_its_own_capitals() {
        let bytes = ask(7, "WeB.Net", A, Some(4096));
        let query = Query::parse(&bytes).unwrap();
        assert_eq!((query.id, query.name.as_str(), query.kind), (7, "web.net", A));
        assert_eq!(query.udp_limit(), 1232);
        let mut reply = Reply::new(&query, Code::NoError);
        reply.address("10.0.0.1".parse().unwrap(), 5);
        let reply = reply.finish(query.udp_limit());
        assert!(reply.windows(8).any(|window| window == b"\x03WeB\x03Net"));
        assert_eq!(read(&reply), (0, vec!["10.0.0.1".into()]));
        assert!(query.is_answered_by(7, &reply) && !query.is_answered_by(8, &reply));
        assert!(!is_truncated(&reply) && !is_refusal(&reply));
    }

    #[test]
    fn what_does_not_fit_is_said_to_be_truncated() {
        let bytes = ask(7, "web", A, None);
        let query = Query::parse(&bytes).unwrap();
        let mut reply = Reply::new(&query, Code::NoError);
        for last in 0..40 {
            reply.address(Ipv4Addr::new(10, 0, 0, last).into(), 5);
        }
        let cut = reply.finish(query.udp_limit());
        assert!(is_truncated(&cut) && cut.len() < 40);
    }

    #[test]
    fn malformed_queries_get_the_answer_that_is_due() {
        assert_eq!(Query::parse(&[]), Err(Bad::Silent));
        assert_eq!(Query::parse(&[0; 11]), Err(Bad::Silent));
        let mut response = ask(1, "a", A, None);
        response[2] |= 0x80;
        assert_eq!(Query::parse(&response), Err(Bad::Silent));
        let mut update = ask(1, "a", A, None);
        update[2] |= 5 << 3;
        let Err(Bad::Answer(answer)) = Query::parse(&update) else { panic!() };
        assert_eq!(u16_at(&answer, 2).unwrap() & 0xf, Code::NotImp as u16);
        for cut in [14, 16] {
            let Err(Bad::Answer(answer)) = Query::parse(&ask(1, "abc", A, None)[..cut]) else { panic!() };
            assert_eq!(u16_at(&answer, 2).unwrap() & 0xf, Code::FormErr as u16);
        }
        let mut pointing = header(1, RD, 1, 0, 0);
        pointing.extend([0xc0, 12, 0, 1, 0, 1]);
        assert!(matches!(Query::parse(&pointing), Err(Bad::Answer(_))));
    }

    #[test]
    fn dots_within_a_label_are_no_borders() {
        let mut bytes = header(1, RD, 1, 0, 0);
        bytes.extend(b"\x05web.x\x00\x00\x01\x00\x01");
        assert_eq!(Query::parse(&bytes).unwrap().name, "web\\.x");
    }

    #[test]
    fn reverse_names_are_addresses() {
        assert_eq!(reverse("4.3.2.1.in-addr.arpa"), Some("1.2.3.4".parse().unwrap()));
        let six = format!("1.{}d.f.ip6.arpa", "0.".repeat(29));
        assert_eq!(reverse(&six), Some("fd00::1".parse().unwrap()));
        for bad in [
            "4.3.2.in-addr.arpa",
            "5.4.3.2.1.in-addr.arpa",
            "04.3.2.1.in-addr.arpa",
            "256.1.1.1.in-addr.arpa",
            "1.ip6.arpa",
            "x",
        ] {
            assert_eq!(reverse(bad), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn no_message_makes_it_fall(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            if let Ok(query) = Query::parse(&bytes) {
                let _ = query.is_answered_by(query.id, &bytes);
                let reply = Reply::new(&query, Code::NxDomain).finish(query.udp_limit());
                prop_assert!(query.is_answered_by(query.id, &reply));
            }
            let _ = (is_truncated(&bytes), is_refusal(&bytes), skip_name(&bytes, 0));
        }

        #[test]
        fn a_damaged_query_does_not_either(at in 0usize..40, byte: u8, cut in 0usize..60) {
            let mut bytes = ask(9, "a-name.of-a.network", AAAA, Some(1400));
            let length = bytes.len();
            bytes[at.min(length - 1)] = byte;
            bytes.truncate(length - cut.min(length));
            if let Ok(query) = Query::parse(&bytes) {
                let mut reply = Reply::new(&query, Code::NoError);
                reply.address("fd00::1".parse().unwrap(), 1);
                let reply = reply.finish(MESSAGE_MAX);
                prop_assert_eq!(read(&reply).1, vec!["fd00::1".to_owned()]);
            }
        }

        #[test]
        fn names_come_back_as_they_went(labels in proptest::collection::vec("[a-z0-9_-]{1,20}", 1..6)) {
            let name = labels.join(".");
            prop_assert_eq!(Query::parse(&ask(3, &name.to_uppercase(), A, None)).unwrap().name, name);
        }
    }
}
