//! What the kernel tells of its rules, without the program `nft`: whether a table is there, and whether any
//! rule has changed.
//!
//! Kernel object: a socket of `NETLINK_NETFILTER`. A request is a netlink message of the subsystem nf_tables,
//! with a fixed part of four bytes (`nfgenmsg`), and attributes. See netlink(7); linux/netfilter/nf_tables.h.

use netlink_packet_core::NLM_F_REQUEST;
use netlink_sys::protocols::NETLINK_NETFILTER;
use netlink_sys::{Socket, SocketAddr};
use nix::errno::Errno;

use crate::net::netlink::uninterrupted;
use crate::sys::error::errno;

/// `NFNL_SUBSYS_NFTABLES`, and the requests: `NFT_MSG_GETTABLE`, `NFT_MSG_GETGEN`.
const SUBSYSTEM: u16 = 10 << 8;
const GET_TABLE: u16 = SUBSYSTEM | 1;
const GET_GENERATION: u16 = SUBSYSTEM | 16;

/// `NLMSG_ERROR`.
const ERROR: u16 = 2;

/// Both `NFTA_TABLE_NAME` and `NFTA_GEN_ID`.
const FIRST_ATTRIBUTE: u16 = 1;

/// `NFPROTO_UNSPEC`, and `NFPROTO_INET`: the family of tables for IPv4 and IPv6.
const ANY: u8 = 0;
const INET: u8 = 1;

/// The header of a message, the fixed part, and the header of an attribute.
const HEADER: usize = 16;
const FIXED: usize = 4;
const ATTRIBUTE: usize = 4;

/// Whether the table of the family `inet` with this name is there.
pub(super) fn has_table(name: &str) -> nix::Result<bool> {
    match ask(GET_TABLE, INET, &[name.as_bytes(), &[0]].concat()) {
        Ok(_) => Ok(true),
        Err(Errno::ENOENT) => Ok(false),
        Err(errno) => Err(errno),
    }
}

/// How many transactions have changed rules of this network namespace, whoever made them.
pub(super) fn generation() -> nix::Result<u32> {
    let answer = ask(GET_GENERATION, ANY, &[])?;
    let number = answer.get(HEADER + FIXED + ATTRIBUTE..).and_then(|rest| rest.first_chunk());
    number.map(|number| u32::from_be_bytes(*number)).ok_or(Errno::EBADMSG)
}

/// Sends one request, with one attribute or none, and returns the answer.
fn ask(kind: u16, family: u8, attribute: &[u8]) -> nix::Result<Vec<u8>> {
    let length = |bytes: usize| u16::try_from(bytes).unwrap_or(u16::MAX);
    let mut request = Vec::new();
    request.extend(kind.to_ne_bytes());
    request.extend(NLM_F_REQUEST.to_ne_bytes());
    // A sequence of one request, from port 0: the kernel fills it in.
    request.extend([[0; 4]; 2].concat());
    request.extend([family, 0, 0, 0]);
    if !attribute.is_empty() {
        request.extend(length(ATTRIBUTE + attribute.len()).to_ne_bytes());
        request.extend(FIRST_ATTRIBUTE.to_ne_bytes());
        request.extend(attribute);
        // Messages end at multiples of four.
        request.resize(request.len().next_multiple_of(4), 0);
    }
    let whole = u32::from(length(4 + request.len())).to_ne_bytes();
    let request = [&whole, &request[..]].concat();

    let socket = Socket::new(NETLINK_NETFILTER).map_err(|error| errno(&error))?;
    // To the kernel, and from nobody else.
    socket.connect(&SocketAddr::new(0, 0)).map_err(|error| errno(&error))?;
    uninterrupted(|| socket.send(&request, 0))?;
    let mut answer = Vec::with_capacity(4096);
    uninterrupted(|| socket.recv(&mut answer, 0))?;
    let kind = answer.get(4..6).and_then(|kind| kind.try_into().ok()).map(u16::from_ne_bytes);
    match (kind, answer.get(HEADER..).and_then(|rest| rest.first_chunk())) {
        (Some(ERROR), Some(code)) => Err(Errno::from_raw(-i32::from_ne_bytes(*code))),
        (Some(_), Some(_)) => Ok(answer),
        _ => Err(Errno::EBADMSG),
    }
}
