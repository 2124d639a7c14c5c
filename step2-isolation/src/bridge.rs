//! A network of containers: a bridge on the host, and from each container a cable to it.
//!
//! Kernel objects: a bridge, which is a switch with an address for the host; a veth pair, which is a cable, one end in
//! the container as `eth0`; a route; forwarding (the sysctl); and what `firewall.rs` adds. Who has which address stands in a
//! lease, a file that the container's runtime has locked: the kernel unlocks it when the runtime dies, however it
//! dies. So [`settle`] can always tell what must be there, and makes it so.
//! Man pages: rtnetlink(7), veth(4), bridge(8), ip(7), flock(2).

use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;

use common::fs::sysctl;
use common::net::lease::{self, Lease, Leases};
use common::net::netlink::Netlink;
use common::net::nft;
use common::values::gateway;
use common::{Error, Result};
use nix::unistd::Pid;

use crate::{cli, firewall};

/// The container's end of the cable.
const CONTAINER_END: &str = "eth0";

/// Whether this kernel passes on packets that are not for itself.
const FORWARDING: &str = "net.ipv4.ip_forward";

/// A container's place on a bridge, until it is dropped.
pub struct Bridge {
    name: String,
    /// `None` once it has been given back.
    lease: Option<Lease>,
    /// The host's ports that lead to this container: nobody else gets them as long as these sockets are there.
    _ports: Vec<OwnedFd>,
}

impl Bridge {
    /// Takes an address, and makes all that the container's end of the cable will need on the host.
    pub fn join(options: &cli::Network) -> Result<Bridge> {
        nft::require()?;
        let (name, subnet, ports) = (options.bridge(), options.subnet(), options.ports());
        let reserved = firewall::reserve(&ports)?;
        let leases = Leases::lock()?;
        let recorded = leases.bridges()?;
        if recorded.is_empty() && nft::has_table(firewall::TABLE)? {
            // The rules are all of Congo's in this network namespace, and only one state folder can tell which.
            return Err(Error::new(format!("the table {} is there, and not from this state folder", firewall::TABLE))
                .hint("use the CONGO_HOME of the containers that run here; or, if none does: nft delete table inet congo"));
        }
        let ours = recorded.iter().any(|bridge| bridge.name == name);
        if !ours && Netlink::open()?.index_of(name)?.is_some() {
            return Err(Error::new(format!(
                "--bridge {name}: there is such a link already, and it is not Congo's"
            ))
            .hint("choose another name with --bridge"));
        }
        let lease = leases.take(name, subnet, options.ip, &ports)?;
        // From here on the drop gives back.
        let mut bridge = Bridge { name: name.to_owned(), lease: Some(lease), _ports: reserved };
        if let Err(error) = settle(&leases) {
            // Here and not by the drop, which would wait for the lock, and could only tell the same once more.
            let _ = bridge.leave(&leases);
            return Err(error);
        }
        Ok(bridge)
    }

    /// In the parent: a cable from the bridge into the child's namespace.
    pub fn connect(&self, child: Pid) -> Result<()> {
        let mut netlink = Netlink::open()?;
        let Some(bridge) = netlink.index_of(&self.name)? else {
            return Err(
                Error::new(format!("the bridge {} is gone", self.name)).hint("somebody has removed it")
            );
        };
        let host_end = host_end(self.address());
        // Of a container that was killed: the kernel takes its end away, and ours with it, but not at once.
        netlink.delete_link(&host_end)?;
        netlink.add_veth(&host_end, bridge, CONTAINER_END, child)?;
        let Some(host_end) = netlink.index_of(&host_end)? else { return Ok(()) };
        // Where the kernel lets the firewall see bridged packets, too (br_netfilter), a container's call to its own
        // published port is turned round within the bridge, and must leave by the port by which it came.
        netlink.set_hairpin(host_end)?;
        netlink.set_up(host_end)
    }

    /// In the child: an address for its end, and a way to all other networks.
    pub fn configure(&self) -> Result<()> {
        let Some(lease) = &self.lease else { return Ok(()) };
        let mut netlink = Netlink::open()?;
        let Some(link) = netlink.index_of(CONTAINER_END)? else { return Ok(()) };
        netlink.add_address(link, lease.address(), lease.subnet().prefix_len())?;
        netlink.set_up(link)?;
        // The kernel refuses a route through a gateway that no link that is up leads to: hence last.
        netlink.add_default_route(gateway(lease.subnet()))
    }

    /// The container's address.
    pub fn address(&self) -> Ipv4Addr {
        self.lease.as_ref().map_or(Ipv4Addr::UNSPECIFIED, Lease::address)
    }

    /// Takes the cable away, and all that nobody else needs. Only then the lease is over: should something fail, the next
    /// run finds one that is dead, and tries again.
    fn leave(&mut self, leases: &Leases) -> Result<()> {
        let Some(lease) = self.lease.take() else { return Ok(()) };
        let removed = Netlink::open().and_then(|mut netlink| netlink.delete_link(&host_end(lease.address())));
        lease.end();
        settle(leases).and(removed)
    }
}

impl Drop for Bridge {
    fn drop(&mut self) {
        if self.lease.is_some() {
            // The command has run, and its status is what counts.
            let left = Leases::lock().and_then(|leases| self.leave(&leases));
            left.unwrap_or_else(|error| error.report(env!("CARGO_PKG_NAME")));
        }
    }
}

/// The name of the host's end of a container's cable: its address in hexadecimal, as a name has at most 15 bytes.
fn host_end(address: Ipv4Addr) -> String {
    format!("veth{:08x}", address.to_bits())
}

/// Cleans up after runtimes that were killed.
pub fn sweep() -> Result<()> {
    let Some(leases) = Leases::lock_if_any()? else { return Ok(()) };
    let is_left = |bridge: &lease::Bridge| bridge.members.is_empty() || !bridge.dead.is_empty();
    if leases.bridges()?.iter().any(is_left) { settle(&leases) } else { Ok(()) }
}

/// Makes bridges, forwarding and rules what the living leases need. Where it fails, the files of the dead stay, for the next
/// run to try again.
fn settle(leases: &Leases) -> Result<()> {
    let settled = try_to_settle(leases);
    if settled.is_err() {
        leases.keep_dead();
    }
    settled
}

fn try_to_settle(leases: &Leases) -> Result<()> {
    let mut netlink = Netlink::open()?;
    let (used, empty): (Vec<_>, Vec<_>) =
        leases.bridges()?.into_iter().partition(|bridge| !bridge.members.is_empty());
    // Their links go with their network namespaces, which others may still use.
    for address in used.iter().chain(&empty).flat_map(|bridge| &bridge.dead) {
        netlink.delete_link(&host_end(*address))?;
    }
    // Before the rules: without those, a bridge would lead to the host's loopback.
    for bridge in &empty {
        netlink.delete_link(&bridge.name)?;
    }
    for bridge in &used {
        make(&mut netlink, bridge)?;
    }
    firewall::load(&used)?;
    forward(leases, !used.is_empty())?;
    empty.iter().try_for_each(|bridge| leases.forget(&bridge.name))
}

/// Makes what is missing of a bridge: all of it, or what a killed runtime did not come to.
fn make(netlink: &mut Netlink, bridge: &lease::Bridge) -> Result<()> {
    let name = &bridge.name;
    if netlink.index_of(name)?.is_none() {
        netlink.add_bridge(name)?;
    }
    let Some(link) = netlink.index_of(name)? else { return Ok(()) };
    let gateway = gateway(bridge.subnet);
    if netlink.addresses(link)?.iter().any(|address| address.addr() == gateway) {
        return Ok(());
    }
    // Who connects to a published port on 127.0.0.1 sends from there, too. The kernel lets no such packet leave the
    // machine, not even to a bridge, unless told so. The firewall takes care that none comes in.
    sysctl::write(&format!("net/ipv4/conf/{name}/route_localnet"), "1")?;
    netlink.set_up(link)?;
    // Last: it says that the bridge is whole.
    netlink.add_address(link, gateway, bridge.subnet.prefix_len())
}

/// Switches forwarding on for as long as there is a container that needs it. Without it, the kernel throws away each
/// packet that is not for itself: to a container, everybody but the host would be silent.
fn forward(leases: &Leases, needed: bool) -> Result<()> {
    let is_on = sysctl::read(FORWARDING)? == "1";
    if needed && !is_on {
        // First, as this process may be killed between the two.
        leases.set_forwarding_was_off(true)?;
        sysctl::write(FORWARDING, "1")?;
    } else if !needed && leases.forwarding_was_off() {
        sysctl::write(FORWARDING, "0")?;
        leases.set_forwarding_was_off(false)?;
    }
    Ok(())
}
