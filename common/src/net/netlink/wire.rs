//! How a request goes to the kernel and its answer comes back: messages with a header, a fixed part, and
//! attributes.
//!
//! This code parses by hand, and only the parts of an answer that are needed. To parse all of it would fail
//! on anything that a newer kernel adds or an older one lacks. An answer that says "error 0" means "done".
//! See netlink(7), rtnetlink(7).

use std::io;

use ipnet::Ipv4Net;
use netlink_packet_core::{
    NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkDeserializable, NetlinkHeader, NetlinkMessage, NetlinkPayload,
    NlasIterator,
};
use netlink_packet_route::RouteNetlinkMessage;
use nix::errno::Errno;

use super::Netlink;
use crate::sys::error::{Error, Result, errno};

/// Of the answers, in linux/if_addr.h and linux/netlink.h.
const IFA_LOCAL: u16 = 2;
const NLMSGERR_ATTR_MSG: u16 = 1;

/// The fixed parts of the answers, before the attributes: `ifaddrmsg`, `nlmsghdr`.
const ADDRESS_HEADER: usize = 8;
const MESSAGE_HEADER: usize = 16;

/// The kernel fills at most 32 KiB for one read of a dump, and a link's answer stays far below.
const BUFFER: usize = 64 << 10;

/// Why the kernel refused a request: the errno, and the kernel's own words where it has some.
pub(super) struct Refusal {
    pub(super) errno: Errno,
    pub(super) words: Option<String>,
}

/// An answer that is neither an error nor the end of a dump, not taken apart.
#[derive(Debug)]
pub(super) struct Answer(Vec<u8>);

impl Netlink {
    /// Sends a request and reads all that the kernel answers to it.
    pub(super) fn exchange(
        &mut self,
        request: RouteNetlinkMessage,
        flags: u16,
    ) -> Result<Vec<Answer>, Refusal> {
        self.sequence += 1;
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | flags;
        header.sequence_number = self.sequence;
        let mut message = NetlinkMessage::new(header, NetlinkPayload::from(request));
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        uninterrupted(|| self.socket.send(&bytes, 0))?;

        let (mut answers, mut complete) = (Vec::new(), true);
        loop {
            let mut buffer = Vec::with_capacity(BUFFER);
            uninterrupted(|| self.socket.recv(&mut buffer, 0))?;
            let mut rest = &buffer[..];
            while !rest.is_empty() {
                let message = NetlinkMessage::<Answer>::deserialize(rest).map_err(|_| Errno::EBADMSG)?;
                // Messages begin at multiples of four.
                let length = (message.header.length as usize).next_multiple_of(4);
                rest = rest.get(length..).unwrap_or_default();
                if message.header.sequence_number != self.sequence {
                    continue;
                }
                complete &= message.header.flags & NLM_F_DUMP_INTR == 0;
                match message.payload {
                    NetlinkPayload::InnerMessage(answer) => answers.push(answer),
                    NetlinkPayload::Error(error) => match error.code {
                        // Error 0 is "done".
                        None => return Ok(answers),
                        Some(code) => return Err(Refusal::new(code.get(), &error.header)),
                    },
                    NetlinkPayload::Done(_) if complete => return Ok(answers),
                    NetlinkPayload::Done(_) => return Err(Errno::EINTR.into()),
                    _ => {}
                }
            }
        }
    }
}

impl Answer {
    /// The number of the link to which the address belongs.
    pub(super) fn index(&self) -> Option<u32> {
        Some(u32::from_ne_bytes(self.0.get(4..8)?.try_into().ok()?))
    }

    /// The address, with the prefix of its subnet.
    pub(super) fn address(&self) -> Option<Ipv4Net> {
        let prefix = *self.0.get(1)?;
        let local: [u8; 4] = attribute(self.0.get(ADDRESS_HEADER..)?, IFA_LOCAL)?.try_into().ok()?;
        Ipv4Net::new(local.into(), prefix).ok()
    }
}

impl NetlinkDeserializable for Answer {
    type Error = io::Error;

    fn deserialize(_: &NetlinkHeader, payload: &[u8]) -> io::Result<Answer> {
        Ok(Answer(payload.to_vec()))
    }
}

impl Refusal {
    /// Behind the header of our own request the kernel may have attached a text.
    fn new(code: i32, details: &[u8]) -> Refusal {
        let text = details.get(MESSAGE_HEADER..).and_then(|details| attribute(details, NLMSGERR_ATTR_MSG));
        let words = text.map(|text| String::from_utf8_lossy(text).trim_end_matches(['\0', '.']).to_owned());
        Refusal { errno: Errno::from_raw(-code), words }
    }

    pub(super) fn error(self, what: String) -> Error {
        Error::from_errno(what, self.errno)
    }
}

impl From<Errno> for Refusal {
    fn from(errno: Errno) -> Refusal {
        Refusal { errno, words: None }
    }
}

/// The value of the first attribute of this kind.
fn attribute(attributes: &[u8], kind: u16) -> Option<&[u8]> {
    let found =
        NlasIterator::new(attributes).map_while(|attribute| attribute.ok()).find(|it| it.kind() == kind)?;
    let value = found.into_inner();
    // The length of an attribute counts its own four bytes, and what follows is padding.
    let length = u16::from_ne_bytes(value.get(..2)?.try_into().ok()?);
    value.get(4..length.into())
}

/// Makes a call, and makes it again when a signal came in between.
pub(in crate::net) fn uninterrupted(mut call: impl FnMut() -> io::Result<usize>) -> nix::Result<usize> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result.map_err(|error| errno(&error)),
        }
    }
}
