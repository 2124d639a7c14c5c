//! A network of containers: a bridge on the host, and from each container a cable to it.
//!
//! Kernel objects: a bridge is a switch, with an address for the host. A veth pair is a cable, with one end
//! in the container as `eth0`. A route, forwarding (the sysctl) and the rules of `firewall.rs` complete it.
//! The runtime of a container holds a *lease*, a file that it has locked, on the container's address. The
//! kernel unlocks the file when the runtime dies, however it dies, so `common::net::settle` can tell which
//! bridges are needed. It calls the functions of [`WIRING`].
//! Man pages: rtnetlink(7), veth(4), bridge(8), ip(7), flock(2).

use std::net::Ipv4Addr;

use common::fs::sysctl;
use common::net::lease;
use common::net::netlink::Netlink;
use common::net::settle::{FORWARDING, Place, Wiring};
use common::values::gateway;
use common::{Hint, Result};
use nix::errno::Errno;
use nix::unistd::Pid;

use crate::{cli, firewall};

/// The container's end of the cable.
const CONTAINER_END: &str = "eth0";

/// The parts on the host that are needed as long as containers are on bridges.
pub const WIRING: Wiring =
    Wiring { program: env!("CARGO_PKG_NAME"), table: firewall::TABLE, make, rules: firewall::rules, forward };

/// A container's place on a bridge. Dropping it removes its cable, and all that no other container needs.
pub struct Bridge(Place);

impl Bridge {
    /// In the parent: takes an address, and makes all that the container's end of the cable will need on the
    /// host.
    pub fn join(options: &cli::Network) -> Result<Bridge> {
        let (bridge, subnet, ports) = (options.bridge(), options.subnet(), options.ports());
        Place::take(&WIRING, bridge, subnet, options.ip, &ports).map(Bridge)
    }

    /// In the parent: a cable from the bridge into the child's namespace.
    pub fn connect(&self, child: Pid) -> Result<()> {
        let mut netlink = Netlink::open()?;
        let bridge = netlink.index(self.0.bridge()).hint_if(Errno::ENODEV, "somebody has removed it")?;
        let host_end = self.0.host_end();
        // A killed container may have left a cable of this name. The kernel removes it, but not at once.
        netlink.delete_link(&host_end)?;
        netlink.add_veth(&host_end, bridge, CONTAINER_END, child)?;
        let host_end = netlink.index(&host_end)?;
        // With br_netfilter the firewall sees bridged packets, too. It then turns a container's call to its
        // own published port round within the bridge. The call must leave by the port by which it came.
        netlink.set_hairpin(host_end)?;
        netlink.set_up(host_end)?;
        // From here on ports of the host may lead there.
        self.0.leads_to(child)
    }

    /// In the child: an address for its end, and a way to all other networks.
    pub fn configure(&self) -> Result<()> {
        let mut netlink = Netlink::open()?;
        let link = netlink.index(CONTAINER_END)?;
        netlink.add_address(link, self.address(), self.0.subnet().prefix_len())?;
        netlink.set_up(link)?;
        // Last: the kernel refuses a route through a gateway to which no link leads that is up.
        netlink.add_default_route(gateway(self.0.subnet()))
    }

    /// The container's address.
    pub fn address(&self) -> Ipv4Addr {
        self.0.address()
    }
}

/// Makes the missing parts of a bridge: all of it, or what a killed runtime has not reached.
fn make(netlink: &mut Netlink, bridge: &lease::Bridge) -> Result<()> {
    let (name, gateway) = (&bridge.name, gateway(bridge.subnet));
    if netlink.index_of(name)?.is_none() {
        netlink.add_bridge(name)?;
    }
    let link = netlink.index(name)?;
    if netlink.addresses(link)?.iter().any(|address| address.addr() == gateway) {
        return Ok(());
    }
    // A packet to a published port on 127.0.0.1 also comes from there. Without this setting the kernel lets
    // no such packet leave the machine, not even to a bridge. The firewall drops those that come in.
    sysctl::write(&format!("net/ipv4/conf/{name}/route_localnet"), "1")?;
    netlink.set_up(link)?;
    // Last: the address marks the bridge as whole.
    netlink.add_address(link, gateway, bridge.subnet.prefix_len())
}

/// Without forwarding, the kernel drops each packet that is not for itself: a container would reach only the
/// host. It goes off again with the last container, if Congo has switched it on.
fn forward(on: bool) -> Result<()> {
    sysctl::write(FORWARDING, if on { "1" } else { "0" })
}
