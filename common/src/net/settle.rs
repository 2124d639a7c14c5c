//! When a bridge is made and unmade: for the first container on it and after the last one, also where
//! runtimes were killed.
//!
//! How it is made is a step's lesson, its [`Wiring`]. Here is the order that survives a death at any moment.
//! A [`Lease`] says which runtime lives. Its file is there before anything is made. The file goes only when
//! all of its container's things are gone. So [`Leases::bridges`] can tell what must be there; of many
//! containers, each call looks at some. `settle` then makes it so. It switches off the bridges that nobody
//! uses, and then forwarding, if nobody needs it. It loads the rules. Meanwhile it removes the links of the
//! dead and those bridges, and makes what is missing. Last it switches forwarding on, where it is needed.
//! Man pages: flock(2), rtnetlink(7), nft(8).

use std::net::Ipv4Addr;
use std::{fs, mem};

use ipnet::Ipv4Net;
use nix::unistd::Pid;

use super::lease::{Bridge, Lease, Leases};
use super::netlink::Netlink;
use super::nft;
use super::port::{self, Reserved};
use super::proxy::Proxy;
use crate::fs::sysctl;
use crate::sys::error::{Context, Error, Result};
use crate::values::PortRequest;

/// Whether this kernel passes on packets that are not for itself.
pub const FORWARDING: &str = "net.ipv4.ip_forward";

/// How a step makes the things that containers on bridges need on the host. A runtime may be killed within
/// each of these functions: the next runtime calls them again.
#[derive(Debug)]
pub struct Wiring {
    /// The runtime's name, with which its errors begin.
    pub program: &'static str,
    /// The name of the table of all rules. Its family is `inet`.
    pub table: &'static str,
    /// Makes what is missing of a bridge.
    pub make: fn(&mut Netlink, &Bridge) -> Result<()>,
    /// The rules that these bridges need, as nft(8) reads them within the table. The second argument says
    /// whether the host forwards for others than containers, too.
    pub rules: fn(&[Bridge], bool) -> String,
    /// Switches forwarding on or off.
    pub forward: fn(bool) -> Result<()>,
}

/// A container's place on a bridge. The drop gives it back: it removes the container's cable, and everything
/// that no other container needs.
#[derive(Debug)]
pub struct Place {
    wiring: &'static Wiring,
    bridge: String,
    lease: Lease,
    /// The host's ports that lead to this container: no other process gets them as long as these sockets are
    /// there.
    ports: Box<Reserved>,
    /// Those on IPv6 addresses lead to it through this.
    proxy: Box<Proxy>,
}

impl Place {
    /// Takes an address on a bridge, the wanted one or the lowest free one, and makes on the host what the
    /// container will need there.
    ///
    /// # Errors
    /// - A port is taken, or nft is not installed.
    /// - The table of rules, or a link of the bridge's name, is there and not from this state folder.
    /// - Those of [`Leases::take`], and of the wiring.
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
        let mut reserved = port::reserve(ports)?;
        let proxy = Box::new(Proxy::of(mem::take(&mut reserved.doors)));
        let recorded = leases.bridges()?;
        if recorded.is_empty() && nft::has_table(wiring.table)? {
            // The rules are all of Congo's in this network namespace, and only one state folder can tell
            // which.
            let what = format!("the table inet {} is there, and not from this state folder", wiring.table);
            let remedy = format!("if none does: nft delete table inet {}", wiring.table);
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
        let mut place = Place { wiring, bridge: bridge.to_owned(), lease, ports: Box::new(reserved), proxy };
        if let Err(error) = settle(wiring, &leases, None) {
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

    /// Once the cable leads to the network namespace of this process: starts the [`proxy`](super::proxy) for
    /// that namespace, if a port of an IPv6 address leads there.
    ///
    /// # Errors
    /// Those of [`Proxy::start`].
    pub fn leads_to(&self, process: Pid) -> Result<()> {
        self.proxy.start(process, self.address())
    }

    /// Takes the cable away, and everything that no other container needs. The lease's file goes only after
    /// that. If a step fails, the file stays, and the next run tries again.
    ///
    /// The kernel removes the cable of a namespace that has ended. Another process may keep the namespace:
    /// then this one removes the cable.
    fn give_back(&mut self, leases: &Leases) -> Result<()> {
        leases.end(&mut self.lease);
        settle(self.wiring, leases, Some(self.address()))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // First: it is in the container's network, which would not end.
        self.proxy.end();
        if self.lease.is_held() {
            // The command has run, so its status counts. An error of the cleanup is only reported.
            let left = match Leases::lock() {
                Ok(leases) => self.give_back(&leases),
                Err(error) => {
                    // Its things are still there. So the next run has to find the lease of a dead runtime.
                    self.lease.leave();
                    Err(error)
                }
            };
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
    if leases.bridges()?.iter().any(is_left) { settle(wiring, leases, None) } else { Ok(()) }
}

/// Makes the bridges, rules and forwarding that the living leases need. If this fails, the files of the dead
/// stay, and the next run tries again. The kernel may be about to remove the cable of `going`.
fn settle(wiring: &Wiring, leases: &Leases, going: Option<Ipv4Addr>) -> Result<()> {
    let settled = try_to_settle(wiring, leases, going);
    if settled.is_err() {
        leases.keep_dead();
    }
    settled
}

fn try_to_settle(wiring: &Wiring, leases: &Leases, going: Option<Ipv4Addr>) -> Result<()> {
    let mut netlink = Netlink::open()?;
    let (used, empty): (Vec<_>, Vec<_>) =
        leases.bridges()?.into_iter().partition(|bridge| !bridge.members.is_empty());
    // A link goes with its network namespace, which another process may still use.
    let dead = used.iter().chain(&empty).flat_map(|bridge| &bridge.dead);
    let cables: Vec<_> = dead.map(|&address| (address, host_end(address))).collect();
    // Before the rules go: without those, a bridge would lead to the host's loopback. The kernel takes long
    // to remove a link, but a link that is down carries no packet.
    for bridge in &empty {
        let on_it = cables.iter().filter(|(address, _)| bridge.dead.contains(address));
        on_it.map(|(_, cable)| cable).chain([&bridge.name]).try_for_each(|link| netlink.set_down(link))?;
    }
    let needed = !used.is_empty();
    let is_off = || Ok(sysctl::read(FORWARDING)? != "1");
    if needed && is_off()? && leases.forwarding_was_off()?.is_none() {
        // First, as this process may be killed at any moment.
        leases.set_forwarding_was_off(&forwarding_links()?)?;
    }
    // The rules are there whenever forwarding is on, or the host would be everybody's router in between.
    if let (false, Some(links)) = (needed, leases.forwarding_was_off()?) {
        netlink.wait_for_others()?;
        (wiring.forward)(false)?;
        // That has switched off each single link, too.
        for link in links.iter().filter(|link| forwards(link).is_ok()) {
            sysctl::write(&format!("net/ipv4/conf/{link}/forwarding"), "1")?;
        }
        leases.forget_forwarding()?;
    }
    let host_routes = leases.forwarding_was_off()?.is_none_or(|links| !links.is_empty());
    let change_links = || {
        empty.iter().try_for_each(|bridge| netlink.remove_link(&bridge.name))?;
        // After the bridges: meanwhile the kernel may have removed the cable that is going.
        for (address, cable) in &cables {
            if going == Some(*address) { netlink.delete_link(cable) } else { netlink.remove_link(cable) }?;
        }
        used.iter().try_for_each(|bridge| (wiring.make)(&mut netlink, bridge))
    };
    load_while(wiring, leases, &used, host_routes, change_links)?;
    if needed && is_off()? {
        netlink.wait_for_others()?;
        (wiring.forward)(true)?;
    }
    empty.iter().try_for_each(|bridge| leases.forget(&bridge.name))
}

/// Loads the rules, all of them in one transaction, while the links change. Where they are in force already,
/// `nft` need not run: a container without published ports, on a bridge that is used, changes none. That
/// nobody has changed a rule since, the kernel tells.
fn load_while(
    wiring: &Wiring,
    leases: &Leases,
    bridges: &[Bridge],
    host_routes: bool,
    change_links: impl FnOnce() -> Result<()>,
) -> Result<()> {
    let table = wiring.table;
    let is_there = nft::has_table(table)?;
    // The first line makes the table, should somebody have removed it meanwhile. If somebody has made it
    // meanwhile, it is not ours: then `create` fails, where `table` would add our rules to it.
    let without = match is_there {
        true => format!("table inet {table}\ndelete table inet {table}\n"),
        false => format!("create table inet {table}\n"),
    };
    if bridges.is_empty() {
        leases.forget_loaded()?;
        return if is_there { both(nft::load_while(&without, leases, change_links)) } else { change_links() };
    }
    let rules = (wiring.rules)(bridges, host_routes);
    let before = nft::generation()?;
    if is_there && leases.has_loaded(&rules, before)? {
        return change_links();
    }
    both(nft::load_while(&format!("{without}table inet {table} {{\n{rules}}}\n"), leases, change_links))?;
    // If somebody else has changed rules meanwhile, that may have been ours: the next run loads them again.
    let after = nft::generation()?;
    if after == nft::next(before) { leases.set_loaded(&rules, after) } else { leases.forget_loaded() }
}

/// The rules must have been loaded, and the links changed. If both have failed, both errors are told.
fn both(done: (Result<()>, Result<()>)) -> Result<()> {
    match done {
        (Err(rules), Err(links)) => {
            Err(Error::new(format!("{}; {}", links.in_one_line(), rules.in_one_line())))
        }
        (loaded, changed) => loaded.and(changed),
    }
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

#[cfg(test)]
mod tests;
