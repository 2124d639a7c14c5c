//! When a bridge is made and unmade: for the first container on it and after the last one, also where
//! runtimes were killed.
//!
//! How it is made is a step's lesson, its [`Wiring`]. Here is the order that survives a death at any moment.
//! A [`Lease`] says which runtime lives. Before anything is made, the lease is there; and it ends only when
//! all of its container's things are gone. So [`Leases::bridges`] can always tell what must be there, and
//! `settle` makes it so: it removes the links of the dead and the bridges that nobody uses, makes what is
//! missing, loads the rules, and switches forwarding.
//! Man pages: flock(2), rtnetlink(7), nft(8).

use std::fs;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

use super::lease::{Bridge, Lease, Leases};
use super::netlink::Netlink;
use super::nft;
use super::port::{self, Reserved};
use crate::fs::sysctl;
use crate::sys::error::{Context, Error, Result};
use crate::values::PortRequest;

/// Whether this kernel passes on packets that are not for itself.
pub const FORWARDING: &str = "net.ipv4.ip_forward";

/// How a step makes what containers on bridges need on the host. A runtime may be killed within each of these
/// functions: the next one calls them again.
#[derive(Debug)]
pub struct Wiring {
    /// The runtime's name, with which its errors begin.
    pub program: &'static str,
    /// The table of all rules, as nft(8) names it: `inet congo`.
    pub table: &'static str,
    /// Makes what is missing of a bridge.
    pub make: fn(&mut Netlink, &Bridge) -> Result<()>,
    /// Loads the rules that these bridges need; none, and no table, where there is no bridge. The second
    /// argument says whether the host forwards for others than containers, too.
    pub load: fn(&[Bridge], bool) -> Result<()>,
    /// Switches forwarding on or off.
    pub forward: fn(bool) -> Result<()>,
}

/// A container's place on a bridge. Dropped, it is given back: the container's cable goes, and all that no
/// other needs.
#[derive(Debug)]
pub struct Place {
    wiring: &'static Wiring,
    bridge: String,
    lease: Lease,
    /// The host's ports that lead to this container: no other process gets them as long as these sockets are
    /// there.
    ports: Reserved,
}

impl Place {
    /// Takes an address on a bridge, the wanted one or the lowest free one, and makes on the host what the
    /// container will need there.
    ///
    /// # Errors
    /// A port is taken; nft is not installed; the table of rules or a link of the bridge's name is there and
    /// not from this state folder; those of [`Leases::take`], and of the wiring.
    pub fn take(
        wiring: &'static Wiring,
        bridge: &str,
        subnet: Ipv4Net,
        wanted: Option<Ipv4Addr>,
        ports: &[PortRequest],
    ) -> Result<Place> {
        nft::require()?;
        let leases = Leases::lock()?;
        // First: a bridge that nobody uses any more would still have its subnet.
        settle_what_is_left(wiring, &leases)?;
        let reserved = port::reserve(ports)?;
        let recorded = leases.bridges()?;
        if recorded.is_empty() && nft::has_table(wiring.table)? {
            // The rules are all of Congo's in this network namespace, and only one state folder can tell
            // which.
            let what = format!("the table {} is there, and not from this state folder", wiring.table);
            let remedy = format!("if none does: nft delete table {}", wiring.table);
            return Err(Error::new(what)
                .hint(format!("use the CONGO_HOME of the containers that run here; or, {remedy}")));
        }
        let is_ours = recorded.iter().any(|recorded| recorded.name == bridge);
        if !is_ours && Netlink::open()?.index_of(bridge)?.is_some() {
            let what = format!("--bridge {bridge}: there is such a link already, and it is not Congo's");
            return Err(Error::new(what).hint("choose another name with --bridge"));
        }
        let lease = leases.take(bridge, subnet, wanted, &reserved.ports)?;
        // From here on the drop gives back.
        let mut place = Place { wiring, bridge: bridge.to_owned(), lease, ports: reserved };
        if let Err(error) = settle(wiring, &leases) {
            // Here and not by the drop, which would wait for the lock, and could only tell the same once
            // more.
            let _ = place.give_back(&leases);
            return Err(error);
        }
        place.ports.tell();
        Ok(place)
    }

    /// The bridge's name.
    pub fn bridge(&self) -> &str {
        &self.bridge
    }

    /// The container's address.
    pub fn address(&self) -> Ipv4Addr {
        self.lease.address()
    }

    /// The network of the bridge.
    pub fn subnet(&self) -> Ipv4Net {
        self.lease.subnet()
    }

    /// The name of the host's end of the container's cable.
    pub fn host_end(&self) -> String {
        host_end(self.address())
    }

    /// Takes the cable away, and all that no other container needs. Only then the lease is over: should
    /// something fail, the next run finds one that is dead, and tries again.
    fn give_back(&mut self, leases: &Leases) -> Result<()> {
        let removed = Netlink::open().and_then(|mut netlink| netlink.delete_link(&self.host_end()));
        self.lease.end();
        settle(self.wiring, leases).and(removed)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if self.lease.is_held() {
            // The command has run, and its status is what counts.
            let left = Leases::lock().and_then(|leases| self.give_back(&leases));
            left.unwrap_or_else(|error| error.report(self.wiring.program));
        }
    }
}

/// Cleans up after runtimes that were killed. An error is told, as it must not keep a container from running
/// that needs no bridge.
pub fn sweep(wiring: &Wiring) {
    let swept = Leases::lock_if_any()
        .and_then(|leases| leases.map_or(Ok(()), |leases| settle_what_is_left(wiring, &leases)));
    swept.unwrap_or_else(|error| error.report(wiring.program));
}

fn settle_what_is_left(wiring: &Wiring, leases: &Leases) -> Result<()> {
    let is_left = |bridge: &Bridge| bridge.members.is_empty() || !bridge.dead.is_empty();
    if leases.bridges()?.iter().any(is_left) { settle(wiring, leases) } else { Ok(()) }
}

/// Makes bridges, rules and forwarding what the living leases need. Where it fails, the files of the dead
/// stay, for the next run to try again.
fn settle(wiring: &Wiring, leases: &Leases) -> Result<()> {
    let settled = try_to_settle(wiring, leases);
    if settled.is_err() {
        leases.keep_dead();
    }
    settled
}

fn try_to_settle(wiring: &Wiring, leases: &Leases) -> Result<()> {
    let mut netlink = Netlink::open()?;
    let (used, empty): (Vec<_>, Vec<_>) =
        leases.bridges()?.into_iter().partition(|bridge| !bridge.members.is_empty());
    // A link goes with its network namespace, which another process may still use.
    for address in used.iter().chain(&empty).flat_map(|bridge| &bridge.dead) {
        netlink.delete_link(&host_end(*address))?;
    }
    // Before the rules: without those, a bridge would lead to the host's loopback.
    for bridge in &empty {
        netlink.delete_link(&bridge.name)?;
    }
    for bridge in &used {
        (wiring.make)(&mut netlink, bridge)?;
    }
    let needed = !used.is_empty();
    let is_off = || Ok(sysctl::read(FORWARDING)? != "1");
    if needed && is_off()? && leases.forwarding_was_off()?.is_none() {
        // First, as this process may be killed at any moment.
        leases.set_forwarding_was_off(&forwarding_links()?)?;
    }
    // The rules are there whenever forwarding is on, or the host would be everybody's router in between.
    if let (false, Some(links)) = (needed, leases.forwarding_was_off()?) {
        (wiring.forward)(false)?;
        // That has switched off each single link, too.
        for link in links.iter().filter(|link| forwards(link).is_ok()) {
            sysctl::write(&format!("net/ipv4/conf/{link}/forwarding"), "1")?;
        }
        leases.forget_forwarding()?;
    }
    let host_routes = leases.forwarding_was_off()?.is_none_or(|links| !links.is_empty());
    (wiring.load)(&used, host_routes)?;
    if needed && is_off()? {
        (wiring.forward)(true)?;
    }
    empty.iter().try_for_each(|bridge| leases.forget(&bridge.name))
}

/// The links between which the host passes packets on although forwarding as a whole is off.
fn forwarding_links() -> Result<Vec<String>> {
    let folder = "/proc/sys/net/ipv4/conf";
    let mut links = Vec::new();
    for entry in fs::read_dir(folder).at("read", folder)? {
        let name = entry.at("read", folder)?.file_name().to_string_lossy().into_owned();
        // A link may go at any moment.
        if !["all", "default"].contains(&name.as_str()) && forwards(&name).unwrap_or(false) {
            links.push(name);
        }
    }
    Ok(links)
}

fn forwards(link: &str) -> Result<bool> {
    Ok(sysctl::read(&format!("net/ipv4/conf/{link}/forwarding"))? != "0")
}

/// The container's address in hexadecimal, as the name of a link has at most 15 bytes.
fn host_end(address: Ipv4Addr) -> String {
    format!("veth{:08x}", address.to_bits())
}
