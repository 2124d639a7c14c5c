//! Which network the container is in: one of its own without a cable, the host's, another container's, or one
//! on a bridge.
//! An ordinary user's containers have a program in the place of the bridge.
//!
//! Kernel object: a network namespace. Links, addresses, routes, firewall rules, ports and abstract unix
//! sockets all belong to one. Order: the clone makes it, so the child is never seen in the host's by mistake.
//! The parent puts a link into it. The child, within, gives the link its address. /sys comes later, as it
//! shows the links of the namespace in which it is mounted.
//! Man pages: network_namespaces(7), setns(2), rtnetlink(7). The bridge has a file of its own, `bridge.rs`.

use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;
use std::path::Path;

use common::Result;
use common::fs::sysctl;
use common::net::netlink::Netlink;
use common::net::settle;
use common::net::usernet::{Speaker, UserNetwork};
use common::sys::namespace::{enter, is_own_namespace, open_namespace};
use common::values::NetworkMode;
use nix::sched::CloneFlags;
use nix::unistd::Pid;

use crate::bridge::{self, Bridge};
use crate::cli;
use crate::user_namespace::UserNamespace;

/// The network that a container gets.
pub enum Network {
    /// A namespace with loopback alone.
    None,
    /// No namespace: the host's links and ports.
    Host,
    /// The namespace of another container. Kubernetes calls containers that share one a pod.
    Container(OwnedFd),
    /// A namespace with a cable to a bridge.
    Bridge(Bridge),
    /// An ordinary user's: a namespace, and a program that speaks for it.
    Spoken(UserNetwork),
}

impl Network {
    /// In the parent: checks that the container can have this network, and makes the parts that must be there
    /// before the container.
    pub fn prepare(options: &cli::Network, users: &UserNamespace, state: &Path) -> Result<Network> {
        if options.network != NetworkMode::Bridge && !users.is_ordinary() {
            // A container that joins a bridge sweeps anyway.
            settle::sweep(&bridge::WIRING);
        }
        Ok(match options.network {
            NetworkMode::None => Network::None,
            NetworkMode::Host => Network::Host,
            NetworkMode::Container(pid) => {
                let namespace = open_namespace(pid, "net", &format!("--network container:{pid}"))?;
                // That container may use the host's network.
                if is_own_namespace(&namespace, "net")? {
                    Network::Host
                } else {
                    Network::Container(namespace)
                }
            }
            // Only root may lay a cable to the host. A program of the user can instead read the container's
            // packets from a tap device, and pass their content through sockets of the host.
            NetworkMode::Bridge if users.is_ordinary() => {
                let (named, subnet, ports) = (options.names_bridge(), options.subnet(), options.ports());
                let network = UserNetwork::find(named, subnet, options.ip, &ports, state)?;
                network.map_or(Network::None, Network::Spoken)
            }
            NetworkMode::Bridge => Network::Bridge(Bridge::join(options)?),
        })
    }

    /// The namespace that the clone has to make.
    pub fn namespace(&self) -> CloneFlags {
        match self {
            Network::None | Network::Bridge(_) | Network::Spoken(_) => CloneFlags::CLONE_NEWNET,
            Network::Host | Network::Container(_) => CloneFlags::empty(),
        }
    }

    /// In the parent, once there is a child: lays the cable. The child could not: only a process in the
    /// namespace where a link is can move it away.
    pub fn connect(&self, child: Pid) -> Result<()> {
        match self {
            Network::Bridge(bridge) => bridge.connect(child),
            _ => Ok(()),
        }
    }

    /// In the parent, once there is a child: starts the program that speaks for it, until the result is
    /// dropped.
    pub fn speak(&self, child: Pid) -> Result<Option<Speaker>> {
        match self {
            Network::Spoken(network) => network.start(child).map(Some),
            _ => Ok(None),
        }
    }

    /// In the child: brings up the links in its namespace.
    pub fn configure(&self) -> Result<()> {
        match self {
            Network::Host => Ok(()),
            Network::Container(namespace) => enter(namespace, CloneFlags::CLONE_NEWNET),
            Network::None | Network::Spoken(_) => prepare_own(),
            Network::Bridge(bridge) => prepare_own().and_then(|()| bridge.configure()),
        }
    }

    /// The container's address, if Congo gave it one.
    pub fn address(&self) -> Option<Ipv4Addr> {
        match self {
            Network::Bridge(bridge) => Some(bridge.address()),
            Network::Spoken(network) => Some(network.address()),
            _ => None,
        }
    }
}

/// In a namespace of its own: brings loopback up, and opens to all users of the container what endangers
/// nobody else there.
fn prepare_own() -> Result<()> {
    let mut netlink = Netlink::open()?;
    // Even 127.0.0.1 is a link's address, and each new namespace begins with its loopback down. The kernel
    // makes loopback first, so it is number 1 in every namespace. Its addresses come with it.
    netlink.set_up(1)?;
    // Ports below 1024 and ping are root's, so that users of one host can trust who answers there. In here
    // they belong to one application, which need not be root: an image of user 101 may listen on port 80.
    sysctl::write_if_allowed("net.ipv4.ip_unprivileged_port_start", "0")?;
    sysctl::write_if_allowed("net.ipv4.ping_group_range", &format!("0 {}", sysctl::highest_group()?))
}
