//! A network for an ordinary user's container. That user cannot lay a cable to the host, so a program speaks
//! for the container.
//!
//! Kernel objects: a tap device in the container's network namespace. The program reads there, packet by
//! packet, all that the container sends. It repeats each action with its own sockets on the host, as any
//! program of this user may. The program is pasta(1), or else slirp4netns(1). A keeper starts it. The keeper
//! ends when the runtime ends, for whatever reason. It waits for the end of a socket, and only the runtime
//! has the other side. The keeper is PID 1 of a PID namespace, so the kernel then kills the program, also
//! when somebody has killed the keeper. Order: the namespace has its maps; start; the program is up when
//! there is a route; "go". Man pages: network_namespaces(7), user_namespaces(7), pid_namespaces(7),
//! /proc/PID/net/route in proc_pid_net(5).

mod keeper;

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use ipnet::Ipv4Net;
use nix::unistd::Pid;

use crate::explain;
use crate::keep::state::tell_once;
use crate::net::port;
use crate::net::proxy::Proxy;
use crate::run::helper::Helper;
use crate::run::program;
use crate::sys::error::{Error, Result};
use crate::values::{PortRequest, Protocol, Publish, gateway};

/// How the link is called in the container, as that of a cable.
const LINK: &str = "eth0";

/// The program that speaks for the container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Pasta,
    Slirp,
}

/// What a container's network will be.
#[derive(Debug)]
pub struct UserNetwork {
    kind: Kind,
    /// Where it lies.
    program: PathBuf,
    subnet: Ipv4Net,
    address: Ipv4Addr,
    /// Those on IPv4 addresses, which the program publishes.
    ports: Vec<Publish>,
    /// Those on IPv6 addresses lead to the container through this.
    proxy: Proxy,
}

/// The program at work. Dropped, it is ended, and nothing of it is there any more.
#[derive(Debug)]
pub struct Speaker(#[expect(dead_code, reason = "held for its drop")] Helper);

impl UserNetwork {
    /// Finds out how the container can speak to others. Its address is `address`, or else the first one in
    /// `subnet` after the gateway's. `ports` of the host will lead to it. Where neither program is installed,
    /// this is `None`: the container has loopback only. The runtime says so for the first such container from
    /// this `state` folder.
    ///
    /// # Errors
    /// - The user has named a bridge.
    /// - A port is taken, or is root's, or no program can publish it.
    /// - slirp4netns does not give that address.
    pub fn find(
        names_bridge: bool,
        subnet: Ipv4Net,
        address: Option<Ipv4Addr>,
        ports: &[PortRequest],
        state: &Path,
    ) -> Result<Option<UserNetwork>> {
        if names_bridge {
            return Err(Error::new("--bridge: an ordinary user has none")
                .hint("leave it out: the container gets a network of its own"));
        }
        let found = [(Kind::Pasta, "pasta"), (Kind::Slirp, "slirp4netns")]
            .into_iter()
            .find_map(|(kind, name)| Some((kind, program::find(name)?)));
        let Some((kind, program)) = found else {
            if !ports.is_empty() {
                return Err(Error::new("--publish: neither pasta nor slirp4netns is installed")
                    .hint("an ordinary user needs one of them: install the package passt"));
            }
            let line = "congo: neither pasta (package passt) nor slirp4netns is installed, so a user's \
                containers have loopback only";
            tell_once(state, "no-network", format_args!("{line}"));
            return Ok(None);
        };
        let own = match kind {
            Kind::Pasta => after(gateway(subnet), 1),
            // It always takes these: slirp4netns(1), --cidr.
            Kind::Slirp => after(subnet.network(), 100),
        };
        if kind == Kind::Slirp && address.is_some_and(|address| address != own) {
            return Err(Error::new(format!("--ip: slirp4netns gives {own} and no other address"))
                .hint("install pasta, of the package passt, which can"));
        }
        // The program's own error about a port that is taken says less. From here on another process can
        // still take one.
        let found = port::find_free(ports)?;
        found.tell();
        let (address, ports, proxy) = (address.unwrap_or(own), found.ports, Proxy::of(found.doors));
        Ok(Some(UserNetwork { kind, program, subnet, address, ports, proxy }))
    }

    /// The container's address.
    pub fn address(&self) -> Ipv4Addr {
        self.address
    }

    /// Starts the program for the network namespace of `container`, which waits for its "go", and waits until
    /// it is up. Starts the [`proxy`](super::proxy), if a port of an IPv6 address leads there. This process
    /// must have one thread.
    ///
    /// # Errors
    /// What the program complains of; those of [`Proxy::start`].
    pub fn start(&self, container: Pid) -> Result<Speaker> {
        let doing = "keeping the container's network";
        let mut keeper = Helper::start_as_first(doing, |runtime| keeper::keep(self, container, runtime))?;
        let up = keeper.wait_until_ready();
        let result = if up.is_ok() { "up" } else { "failed" };
        explain::line(
            format_args!("{} {}", self.name(), self.arguments(container).join(" ")),
            result,
            self.page(),
        );
        up?;
        self.proxy.start(container, self.address)?;
        Ok(Speaker(keeper))
    }

    fn name(&self) -> &'static str {
        match self.kind {
            Kind::Pasta => "pasta",
            Kind::Slirp => "slirp4netns",
        }
    }

    fn page(&self) -> &'static str {
        match self.kind {
            Kind::Pasta => "pasta(1)",
            Kind::Slirp => "slirp4netns(1)",
        }
    }

    fn arguments(&self, container: Pid) -> Vec<String> {
        let [users, network] = ["user", "net"].map(|kind| format!("/proc/{container}/ns/{kind}"));
        match self.kind {
            Kind::Pasta => self.arguments_of_pasta(users, network),
            Kind::Slirp => vec![
                "--configure".into(),
                "--mtu=65520".into(),
                // As below.
                "--disable-host-loopback".into(),
                format!("--cidr={}", self.subnet),
                format!("--userns-path={users}"),
                "--netns-type=path".into(),
                network,
                LINK.into(),
            ],
        }
    }

    fn arguments_of_pasta(&self, users: String, network: String) -> Vec<String> {
        let mut arguments: Vec<String> = Vec::new();
        let mut add = |words: &[&str]| arguments.extend(words.iter().map(|&word| word.to_owned()));
        add(&["--foreground", "--quiet", "--config-net", "--ns-ifname", LINK]);
        // Otherwise pasta learns the address from the first packet that the container sends. A client that
        // connects to a published port before that gets no answer.
        add(&["--ns-mac-addr", &hardware_address(self.address)]);
        add(&["--address", &self.address.to_string(), "--netmask", &self.subnet.prefix_len().to_string()]);
        add(&["--gateway", &gateway(self.subnet).to_string()]);
        // Without this, packets to the gateway would reach the host's loopback, where services trust
        // everybody. Without the next two options, packets to the container's own loopback would.
        add(&["--no-map-gw", "--tcp-ns", "none", "--udp-ns", "none"]);
        // By default it would publish all that the container listens on.
        for (option, protocol) in [("--tcp-ports", Protocol::Tcp), ("--udp-ports", Protocol::Udp)] {
            let mut ports = self.ports.iter().filter(|port| port.protocol == protocol).peekable();
            if ports.peek().is_none() {
                add(&[option, "none"]);
            }
            for Publish { host_ip, host_port, container_port, .. } in ports {
                let at = host_ip.map_or_else(String::new, |ip| format!("{ip}/"));
                add(&[option, &format!("{at}{host_port}:{container_port}")]);
            }
        }
        add(&["--userns", &users, "--netns", &network]);
        arguments
    }
}

fn after(address: Ipv4Addr, number: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(address.to_bits().saturating_add(number))
}

/// Of the range that everybody may give: 02:42 and the address, as Docker does it.
fn hardware_address(address: Ipv4Addr) -> String {
    let [a, b, c, d] = address.octets();
    format!("02:42:{a:02x}:{b:02x}:{c:02x}:{d:02x}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(kind: Kind, ports: &[&str]) -> UserNetwork {
        let requests = ports.iter().flat_map(|port| crate::values::publish(port).unwrap().ports());
        let ports = requests.filter_map(|port| port.published(port.fixed()?));
        UserNetwork {
            kind,
            program: "/nowhere".into(),
            subnet: "10.44.0.0/16".parse().unwrap(),
            address: "10.44.0.9".parse().unwrap(),
            ports: ports.collect(),
            proxy: Proxy::of(Vec::new()),
        }
    }

    #[test]
    fn nothing_is_published_unasked() {
        let arguments = network(Kind::Pasta, &[]).arguments(Pid::from_raw(7)).join(" ");
        for words in ["--tcp-ports none", "--udp-ports none", "--tcp-ns none", "--udp-ns none", "--no-map-gw"]
        {
            assert!(arguments.contains(words), "{arguments}");
        }
        assert!(arguments.contains("--ns-mac-addr 02:42:0a:2c:00:09"), "{arguments}");
        assert!(arguments.contains("--address 10.44.0.9 --netmask 16 --gateway 10.44.0.1"), "{arguments}");
        assert!(arguments.ends_with("--userns /proc/7/ns/user --netns /proc/7/ns/net"), "{arguments}");
    }

    #[test]
    fn ports_lead_where_they_are_to() {
        let arguments = network(Kind::Pasta, &["8080-8081:80-81", "127.0.0.1:53:5353/udp"]);
        let arguments = arguments.arguments(Pid::from_raw(7)).join(" ");
        assert!(arguments.contains("--tcp-ports 8080:80 --tcp-ports 8081:81"), "{arguments}");
        assert!(arguments.contains("--udp-ports 127.0.0.1/53:5353"), "{arguments}");
        assert!(!arguments.contains("-ports none"), "{arguments}");
    }

    #[test]
    fn slirp_keeps_off_the_hosts_loopback() {
        let arguments = network(Kind::Slirp, &[]).arguments(Pid::from_raw(7)).join(" ");
        assert!(arguments.contains("--disable-host-loopback --cidr=10.44.0.0/16"), "{arguments}");
        assert!(arguments.ends_with("--netns-type=path /proc/7/ns/net eth0"), "{arguments}");
    }
}
