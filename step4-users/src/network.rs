//! Which network the container is in: its own with nobody else, the host's, another container's, or one on a bridge.
//! An ordinary user's containers have a program in the place of the bridge.
//!
//! Kernel object: a network namespace. Links, addresses, routes, firewall rules, ports and abstract unix sockets all
//! belong to one. Order: the clone makes it, as a new process cannot be seen in the old one by mistake; the parent
//! puts a link into it; the child, within, gives the link its address. All that before /sys is mounted, which shows the
//! links of the namespace in which it is mounted.
//! Man pages: network_namespaces(7), setns(2), rtnetlink(7). The bridge has a file of its own, `bridge.rs`.

use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;
use std::path::Path;

use common::keep::state::tell_once;
use common::net::netlink::Netlink;
use common::net::usernet::{Speaker, UserNetwork};
use common::sys::namespace::{enter, is_own_namespace, open_namespace};
use common::values::NetworkMode;
use common::{Error, Result};
use nix::sched::CloneFlags;
use nix::unistd::Pid;

use crate::bridge::{self, Bridge};
use crate::cli;
use crate::user_namespace::UserNamespace;

/// The network that a container gets.
pub enum Network {
    /// A namespace in which nothing is but loopback.
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
    /// In the parent: looks whether what is asked for can be had, and makes what must be there before the container.
    pub fn prepare(options: &cli::Network, users: &UserNamespace, state: &Path) -> Result<Network> {
        if users.is_ordinary() && options.network == NetworkMode::Bridge {
            return Network::of_ordinary_user(options, state);
        }
        // Nothing of an ordinary user is there to be swept.
        let swept = if users.is_ordinary() { Ok(()) } else { bridge::sweep() };
        match options.network {
            NetworkMode::Bridge => swept?,
            // What others have left need not keep a container from running that needs no bridge.
            _ => swept.unwrap_or_else(|error| error.report(env!("CARGO_PKG_NAME"))),
        }
        Ok(match options.network {
            NetworkMode::None => Network::None,
            NetworkMode::Host => Network::Host,
            NetworkMode::Container(pid) => {
                let namespace = open_namespace(pid, "net", &format!("--network container:{pid}"))?;
                // It may be in the host's itself.
                if is_own_namespace(&namespace, "net")? {
                    Network::Host
                } else {
                    Network::Container(namespace)
                }
            }
            NetworkMode::Bridge => Network::Bridge(Bridge::join(options)?),
        })
    }

    /// Who is not root can lay no cable to the host, as it would change the host's network. But it can have a program read
    /// each packet from a tap device in the container, and say the same on the host, by sockets as any program has them.
    fn of_ordinary_user(options: &cli::Network, state: &Path) -> Result<Network> {
        if options.names_bridge() {
            return Err(Error::new("--bridge: an ordinary user has none")
                .hint("leave it out: the container gets a network of its own"));
        }
        let ports = options.ports();
        let publishes = !ports.is_empty();
        match UserNetwork::find(options.subnet(), options.ip, ports)? {
            Some(network) => Ok(Network::Spoken(network)),
            None if publishes => Err(Error::new("--publish: neither pasta nor slirp4netns is installed")
                .hint("an ordinary user needs one of them: install the package passt")),
            None => {
                let line = "neither pasta (package passt) nor slirp4netns is installed, so a user's containers have loopback only";
                tell_once(state, "no-network", format_args!("congo: {line}"));
                Ok(Network::None)
            }
        }
    }

    /// The namespace that the clone has to make.
    pub fn namespace(&self) -> CloneFlags {
        match self {
            Network::None | Network::Bridge(_) | Network::Spoken(_) => CloneFlags::CLONE_NEWNET,
            Network::Host | Network::Container(_) => CloneFlags::empty(),
        }
    }

    /// In the parent, once the child is there: lays the cable. A link is moved by who sees it, which is the host.
    pub fn connect(&self, child: Pid) -> Result<()> {
        match self {
            Network::Bridge(bridge) => bridge.connect(child),
            _ => Ok(()),
        }
    }

    /// In the parent, once the child is there: starts the program that speaks for it, until what is returned is dropped.
    pub fn speak(&self, child: Pid) -> Result<Option<Speaker>> {
        match self {
            Network::Spoken(network) => network.start(child).map(Some),
            _ => Ok(None),
        }
    }

    /// In the child: brings up what is in its namespace.
    pub fn configure(&self) -> Result<()> {
        match self {
            Network::Host => Ok(()),
            Network::Container(namespace) => enter(namespace, CloneFlags::CLONE_NEWNET),
            Network::None | Network::Spoken(_) => bring_up_loopback(),
            Network::Bridge(bridge) => bring_up_loopback().and_then(|()| bridge.configure()),
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

/// Even 127.0.0.1 is a link's address, and each new namespace begins with its loopback down.
fn bring_up_loopback() -> Result<()> {
    let mut netlink = Netlink::open()?;
    // The kernel makes loopback first, so it is number 1 in every namespace. Its addresses come with it.
    netlink.set_up(1)
}
