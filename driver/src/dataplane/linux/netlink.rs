//! Requests over a blocking netlink socket, for what rtnetlink does not speak: generic netlink's
//! WireGuard family and nftables.

use std::io;
use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt};
use nix::sys::time::{TimeVal, TimeValLike};
use rtnetlink::packet_core::{NLM_F_ACK, NLM_F_REQUEST, NLMSG_ALIGNTO};
use rtnetlink::sys::{Socket, SocketAddr};
use zeroize::{Zeroize, Zeroizing};

const HEADER: usize = 16;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const DEADLINE: Duration = Duration::from_secs(10);

/// Bytes that are sent at once, unless one message alone is longer: well below what a socket buffers,
/// with room for an answer to each should all be refused.
const TOGETHER: usize = 16 << 10;

/// One of many requests that need nothing of each other.
pub(crate) struct Request {
    pub(crate) kind: u16,
    /// Beside `NLM_F_REQUEST`.
    pub(crate) flags: u16,
    /// May hold keys.
    pub(crate) payload: Zeroizing<Vec<u8>>,
}

/// A socket that stays in the namespace of the thread that opened it.
pub(crate) struct Requests {
    socket: Socket,
    sequence: u32,
}

impl Requests {
    pub(crate) fn open(protocol: isize) -> io::Result<Self> {
        let mut socket = Socket::new(protocol)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        // An error then comes without the request it is about, which may hold keys.
        socket.set_cap_ack(true)?;
        setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::seconds(DEADLINE.as_secs() as i64))?;
        Ok(Self { socket, sequence: 0 })
    }

    /// By which the kernel says that a change was this socket's.
    pub(crate) fn port(&self) -> io::Result<u32> {
        let mut address = SocketAddr::new(0, 0);
        self.socket.get_address(&mut address)?;
        Ok(address.port_number())
    }

    /// Sends many requests, many at a time: the kernel answers what it refuses, and the last of each
    /// time. One result for each, in order.
    pub(crate) fn requests(&mut self, requests: &[Request]) -> io::Result<Vec<io::Result<()>>> {
        let mut results = Vec::with_capacity(requests.len());
        let mut rest = requests;
        while !rest.is_empty() {
            let mut bytes = 0;
            let fitting = rest.iter().take_while(|request| {
                bytes += aligned(HEADER + request.payload.len());
                bytes <= TOGETHER
            });
            let (now, later) = rest.split_at(fitting.count().max(1));
            results.extend(self.at_once(now)?);
            rest = later;
        }
        Ok(results)
    }

    fn at_once(&mut self, requests: &[Request]) -> io::Result<Vec<io::Result<()>>> {
        let before = self.sequence;
        let mut datagram = Zeroizing::new(Vec::new());
        for (index, request) in requests.iter().enumerate() {
            self.sequence = self.sequence.wrapping_add(1);
            let is_last = index + 1 == requests.len();
            let flags = NLM_F_REQUEST | request.flags | if is_last { NLM_F_ACK } else { 0 };
            append(&mut datagram, request.kind, flags, self.sequence, &request.payload)?;
        }
        self.socket.send(&datagram, 0)?;
        let mut results: Vec<io::Result<()>> = requests.iter().map(|_| Ok(())).collect();
        loop {
            let (answers, _) = self.socket.recv_from_full()?;
            for answer in messages(&answers).filter(|answer| answer.kind == NLMSG_ERROR) {
                let index = answer.sequence.wrapping_sub(before).wrapping_sub(1) as usize;
                // What is not among them is the answer to requests that had timed out.
                let Some(result) = results.get_mut(index) else { continue };
                *result = outcome(answer.payload);
                if index + 1 == requests.len() {
                    return Ok(results);
                }
            }
        }
    }

    /// Sends one request and returns the payloads of the replies that came before its end.
    pub(crate) fn request(&mut self, kind: u16, payload: &[u8]) -> io::Result<Vec<Vec<u8>>> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut message = Zeroizing::new(Vec::new());
        append(&mut message, kind, NLM_F_REQUEST | NLM_F_ACK, self.sequence, payload)?;
        self.socket.send(&message, 0)?;
        self.replies()
    }

    fn replies(&mut self) -> io::Result<Vec<Vec<u8>>> {
        let mut replies = Vec::new();
        loop {
            let (datagram, _) = self.socket.recv_from_full()?;
            for message in messages(&datagram) {
                // The answer to a request that had timed out.
                if message.sequence != self.sequence {
                    continue;
                }
                match message.kind {
                    NLMSG_DONE => return Ok(replies),
                    NLMSG_ERROR => {
                        return outcome(message.payload).map(|()| replies);
                    }
                    _ => replies.push(message.payload.to_vec()),
                }
            }
        }
    }
}

/// Adds a message to a datagram that takes all its memory at once: what grows leaves copies of keys.
pub(super) fn append(
    datagram: &mut Vec<u8>,
    kind: u16,
    flags: u16,
    sequence: u32,
    payload: &[u8],
) -> io::Result<()> {
    let length = u32::try_from(HEADER + payload.len()).map_err(io::Error::other)?;
    let end = datagram.len() + aligned(HEADER + payload.len());
    if datagram.capacity() < end {
        let mut larger = Vec::with_capacity(end.max(TOGETHER));
        larger.extend_from_slice(datagram);
        datagram.zeroize();
        *datagram = larger;
    }
    datagram.extend(length.to_ne_bytes());
    datagram.extend(kind.to_ne_bytes());
    datagram.extend(flags.to_ne_bytes());
    datagram.extend(sequence.to_ne_bytes());
    datagram.extend([0; 4]);
    datagram.extend(payload);
    datagram.resize(end, 0);
    Ok(())
}

/// What the kernel says of a request.
fn outcome(payload: &[u8]) -> io::Result<()> {
    match payload.first_chunk().map(|code| i32::from_ne_bytes(*code)) {
        Some(0) => Ok(()),
        Some(code) => Err(io::Error::from_raw_os_error(code.saturating_neg())),
        None => Err(io::ErrorKind::InvalidData.into()),
    }
}

pub(crate) struct Message<'a> {
    pub(crate) kind: u16,
    sequence: u32,
    /// The port of the socket that asked for what the message tells; 0 if none did.
    pub(crate) port: u32,
    pub(crate) payload: &'a [u8],
}

/// The messages of a datagram: the kernel puts many into one.
pub(crate) fn messages(datagram: &[u8]) -> Messages<'_> {
    Messages { rest: datagram }
}

pub(crate) struct Messages<'a> {
    rest: &'a [u8],
}

impl Messages<'_> {
    /// Whether what was not read is more than the datagram's end: no message, or a cut one.
    pub(crate) fn are_cut(&self) -> bool {
        !self.rest.is_empty()
    }
}

impl<'a> Iterator for Messages<'a> {
    type Item = Message<'a>;

    fn next(&mut self) -> Option<Message<'a>> {
        let length = number(self.rest, 0)? as usize;
        let message = Message {
            kind: u16::from_ne_bytes(self.rest.get(4..6)?.try_into().ok()?),
            sequence: number(self.rest, 8)?,
            port: number(self.rest, 12)?,
            payload: self.rest.get(HEADER..length)?,
        };
        self.rest = self.rest.get(aligned(length)..).unwrap_or_default();
        Some(message)
    }
}

fn number(bytes: &[u8], at: usize) -> Option<u32> {
    let bytes = bytes.get(at..at + 4)?.try_into().ok()?;
    Some(u32::from_ne_bytes(bytes))
}

/// The value of the first attribute of this type.
pub(crate) fn attribute(mut attributes: &[u8], wanted: u16) -> Option<&[u8]> {
    loop {
        let length = u16::from_ne_bytes(*attributes.first_chunk()?) as usize;
        let kind = u16::from_ne_bytes(attributes.get(2..4)?.try_into().ok()?);
        let value = attributes.get(4..length)?;
        if kind == wanted {
            return Some(value);
        }
        attributes = attributes.get(aligned(length)..)?;
    }
}

/// An attribute whose value is text, as the kernel reads it.
pub(crate) fn text_attribute(kind: u16, text: &str) -> Vec<u8> {
    let length = 4 + text.len() + 1;
    let mut attribute = Vec::with_capacity(aligned(length));
    attribute.extend((length as u16).to_ne_bytes());
    attribute.extend(kind.to_ne_bytes());
    attribute.extend(text.as_bytes());
    attribute.resize(aligned(length), 0);
    attribute
}

fn aligned(length: usize) -> usize {
    length.next_multiple_of(NLMSG_ALIGNTO as usize)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_attribute_is_found_behind_others() {
        let mut attributes = text_attribute(1, "wgnet");
        attributes.extend(text_attribute(2, "guard"));
        assert_eq!(attribute(&attributes, 2), Some(&b"guard\0"[..]));
        assert_eq!(attribute(&attributes, 3), None);
    }

    #[test]
    fn messages_of_a_datagram_begin_where_the_kernel_looks_for_them() {
        let mut datagram = Vec::new();
        append(&mut datagram, 24, NLM_F_REQUEST, 7, b"wgnet").unwrap();
        append(&mut datagram, 25, NLM_F_REQUEST | NLM_F_ACK, 8, b"").unwrap();
        let read: Vec<_> =
            messages(&datagram).map(|m| (m.kind, m.sequence, m.payload.to_vec())).collect();
        assert_eq!(read, [(24, 7, b"wgnet".to_vec()), (25, 8, Vec::new())]);
        let mut messages = messages(&datagram);
        messages.by_ref().for_each(drop);
        assert!(!messages.are_cut());
    }

    #[test]
    fn cut_messages_are_nothing() {
        for cut in [&[1, 2, 3][..], &[200, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]] {
            let mut messages = messages(cut);
            assert!(messages.next().is_none() && messages.are_cut());
        }
        assert!(attribute(&[0, 0, 1, 0], 1).is_none());
    }

    /// Lengths near the true ones, so that most of what is tried is nearly right.
    fn nearly_messages() -> impl Strategy<Value = Vec<u8>> {
        let message = (0..40_u32, any::<[u8; 12]>(), 0..24_u16, any::<(u8, Vec<u8>)>());
        let bytes = message.prop_map(|(length, header, inner, (kind, value))| {
            let attribute = [&inner.to_ne_bytes()[..], &[kind % 4, 0], &value].concat();
            [&length.to_ne_bytes()[..], &header, &attribute].concat()
        });
        proptest::collection::vec(bytes, 0..5).prop_map(|messages| messages.concat())
    }

    proptest! {
        #[test]
        fn whatever_comes_is_parsed_within_its_bounds(bytes in nearly_messages(), kind in 0..4_u16) {
            for message in messages(&bytes) {
                prop_assert!(message.payload.len() + HEADER <= bytes.len());
                if let Some(value) = attribute(message.payload, kind) {
                    prop_assert!(value.len() + 4 <= message.payload.len());
                }
            }
            prop_assert!(messages(&bytes).count() * HEADER <= bytes.len());
        }
    }
}
