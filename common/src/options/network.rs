//! Which network the container is in.

use std::net::{IpAddr, Ipv4Addr};

use clap::Args;
use nix::unistd::geteuid;

use super::World;
use crate::net::resolv::Resolver;
use crate::net::shared;
use crate::sys::error::{Error, Result};
use crate::sys::namespace::check_namespace;
use crate::values::{self, ExtraHost, HostAddress, Ipv4Net, NetworkMode, PortRequest, Published};

/// The bridge to join, where none is named.
const BRIDGE: &str = "congo0";

/// The network of that bridge: private addresses, of which not many others make use.
const SUBNET: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(10, 44, 0, 0), 16);

/// Which network the container is in.
#[derive(Debug, Args)]
#[command(next_help_heading = "Network (since step 2)")]
pub struct Network {
    /// none, host, bridge, or container:PID to join another container's.
    #[arg(
        long, alias = "net",
        value_name = "MODE", default_value = "none", allow_hyphen_values = true,
        value_parser = values::network_mode
    )]
    pub network: NetworkMode,

    /// The bridge to join, made if it is missing [default: congo0].
    #[arg(long, value_name = "NAME", allow_hyphen_values = true, value_parser = values::bridge_name)]
    bridge: Option<String>,

    /// The bridge's IPv4 network; its first address is the host's [default: 10.44.0.0/16].
    #[arg(long, value_name = "CIDR", allow_hyphen_values = true, value_parser = values::subnet)]
    subnet: Option<Ipv4Net>,

    /// The container's address on the bridge [default: the lowest free one].
    #[arg(long, value_name = "ADDRESS", allow_hyphen_values = true, value_parser = values::ip)]
    pub ip: Option<Ipv4Addr>,

    /// Let a port of the host, or a free one, lead to one of the container's; ranges A-B too; repeatable.
    #[arg(
        short, long,
        value_name = "[[IP:][HOST]:]CONTAINER[/tcp|udp]", allow_hyphen_values = true,
        value_parser = values::publish
    )]
    publish: Vec<Published>,

    /// A nameserver; repeatable [default: the host's].
    #[arg(long, value_name = "ADDRESS", allow_hyphen_values = true, value_parser = values::dns)]
    dns: Vec<IpAddr>,

    /// A domain in which to look names up, or . for none; repeatable [default: the host's].
    #[arg(long, value_name = "DOMAIN", allow_hyphen_values = true, value_parser = values::dns_search)]
    dns_search: Vec<String>,

    /// An option of the resolver, such as ndots:2; repeatable [default: the host's].
    #[arg(
        long, alias = "dns-opt",
        value_name = "OPTION", allow_hyphen_values = true,
        value_parser = values::dns_option
    )]
    dns_option: Vec<String>,

    /// A line for /etc/hosts; host-gateway is the host's address on the bridge; repeatable.
    #[arg(long, value_name = "NAME:ADDRESS", allow_hyphen_values = true, value_parser = values::add_host)]
    pub add_host: Vec<ExtraHost>,
}

impl Network {
    /// Checks the options against each other. Reads the host name of the container whose network is shared.
    ///
    /// # Errors
    /// - An option about a bridge without a bridge.
    /// - An option about names that belong to another container.
    /// - A port that is published twice.
    /// - An address that no container can have.
    /// - A PID that no process has.
    /// - A name for a gateway where there is no gateway.
    pub fn check(&self, world: &World) -> Result<()> {
        let options = [
            ("--bridge", self.bridge.is_some()),
            ("--subnet", self.subnet.is_some()),
            ("--ip", self.ip.is_some()),
            ("--publish", !self.publish.is_empty()),
        ];
        values::check_bridge_options(self.network, &options)?;
        values::check_ports(&self.ports())?;
        if let NetworkMode::Container(pid) = self.network {
            let network = format!("--network container:{pid}");
            check_namespace(pid, "net", &network)?;
            let files = [
                ("--dns", !self.dns.is_empty()),
                ("--dns-search", !self.dns_search.is_empty()),
                ("--dns-option", !self.dns_option.is_empty()),
                ("--add-host", !self.add_host.is_empty()),
            ];
            if let Some((option, _)) = files.iter().find(|(_, is_given)| *is_given) {
                return Err(Error::new(format!("{option}: not with {network}")).hint(
                    "it shares that container's /etc/hosts and /etc/resolv.conf: give that one the option",
                ));
            }
            if world.hostname.is_some() {
                return Err(Error::new(format!("--hostname: not with {network}"))
                    .hint("it has that container's host name: give that one the option"));
            }
            if let Ok(name) = values::hostname(&shared::hostname(pid, &network)?) {
                let _ = world.shared_hostname.set(name);
            }
        }
        // The program that takes the place of an ordinary user's bridge gives the host no address there.
        let has_gateway = self.network == NetworkMode::Bridge && geteuid().is_root();
        let is_gateway = |host: &&ExtraHost| matches!(host.1, HostAddress::Gateway);
        if let Some((name, _)) = self.add_host.iter().find(is_gateway).filter(|_| !has_gateway) {
            return Err(Error::new(format!("--add-host {name}:host-gateway: there is no gateway"))
                .hint("it goes with a bridge, which root has: --network bridge"));
        }
        self.ip.map_or(Ok(()), |ip| values::check_ip(ip, self.subnet()))
    }

    /// The bridge's name: `--bridge`, or congo0.
    pub fn bridge(&self) -> &str {
        self.bridge.as_deref().unwrap_or(BRIDGE)
    }

    /// Whether `--bridge` was given.
    pub fn names_bridge(&self) -> bool {
        self.bridge.is_some()
    }

    /// The bridge's network: `--subnet`, or 10.44.0.0/16.
    pub fn subnet(&self) -> Ipv4Net {
        self.subnet.unwrap_or(SUBNET)
    }

    /// A file of the container whose network is shared, with the names of that network. `None` when no
    /// network is shared, or when that container has no such file.
    ///
    /// # Errors
    /// It is no regular file, or too long.
    pub fn shared_file(&self, path: &str) -> Result<Option<String>> {
        let NetworkMode::Container(pid) = self.network else { return Ok(None) };
        shared::read(pid, path, &format!("--network container:{pid}"))
    }

    /// What the container's resolver is told: `--dns`, `--dns-search`, `--dns-option`.
    pub fn resolver(&self) -> Resolver<'_> {
        Resolver { servers: &self.dns, search: &self.dns_search, options: &self.dns_option }
    }

    /// The ports to publish, one by one.
    pub fn ports(&self) -> Vec<PortRequest> {
        self.publish.iter().flat_map(Published::ports).collect()
    }
}
