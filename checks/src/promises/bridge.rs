//! Containers on a bridge: their connections, and the bridge's objects on the host. veth(4), ip(7), nft(8).

use std::collections::BTreeSet;
use std::net::IpAddr;

use crate::container::Container;
use crate::container::LIMIT;
use crate::installed::program;
use crate::kernel::{Process, eventually};
use crate::needs::Need;
use crate::network::{self, Network, Outside};
use crate::{Check, Checked, Failure, Subject, ensure, expect};

#[rustfmt::skip] // It would give each argument a line of its own.
pub(crate) const CHECKS: &[Check] = &[
    Check::since(2, "bridge.address",
        "A container on a bridge has the lowest free address, and its default route leads to the bridge.",
        address)
        .needs(&[Need::Bridge])
        .hint("Put one end of a veth pair into the container, as eth0: up, with the address and the subnet's \
               prefix. Only then add a route through the gateway."),
    Check::since(2, "bridge.on-the-host",
        "The host has the bridge, with the gateway's address, and the other end of the veth pair, which is \
         named after the container's address.", on_the_host)
        .needs(&[Need::Bridge])
        .hint("`veth` and the address in eight hexadecimal digits: veth0a2c0002."),
    Check::since(2, "bridge.ip",
        "--ip, --subnet and --bridge choose the address, the network and the bridge.", chosen)
        .needs(&[Need::Bridge])
        .hint("The gateway is the first address of the subnet."),
    Check::since(2, "bridge.neighbours",
        "Two containers on a bridge reach each other, over TCP and UDP.", neighbours)
        .needs(&[Need::Bridge])
        .hint("Are both ends up, and is the host's end a port of the bridge? Must the packet filter accept \
               packets from the bridge to the bridge?"),
    Check::since(2, "bridge.from-the-host", "The host reaches a container by its address.", from_the_host)
        .needs(&[Need::Bridge])
        .hint("The bridge needs an address in the subnet, and must be up."),
    Check::since(2, "bridge.outbound",
        "A container reaches a host outside, and that host sees the host's address.", outbound)
        .needs(&[Need::Bridge])
        .hint("net.ipv4.ip_forward, and masquerade in a postrouting chain, for packets that leave the \
               bridge."),
    Check::since(2, "bridge.closed",
        "A host outside cannot open a connection to a container, even if it has a route there.", closed)
        .needs(&[Need::Bridge])
        .hint("A forward chain: established connections may pass, and so may packets from the bridge. Drop \
               the rest."),
    Check::since(2, "bridge.separate", "Containers on different bridges do not reach each other.", separate)
        .needs(&[Need::Bridge])
        .hint("Drop a packet to a bridge if it does not come from that bridge, even if it comes from another \
               one."),
    Check::since(2, "bridge.fifty", "Fifty containers at once have fifty addresses.", fifty)
        .needs(&[Need::Bridge])
        .hint("Finding a free address and taking it must be one act: flock(2)."),
    Check::since(2, "bridge.used-again",
        "When a container ends, the next one gets its address.", used_again)
        .needs(&[Need::Bridge])
        .hint("Take the lowest free address."),
    Check::since(2, "bridge.successor",
        "A server that ends and starts again on the same address can be reached by its neighbours at once.",
        successor)
        .needs(&[Need::Bridge])
        .hint("Neighbours remember the Ethernet address, so the same IP address must have the same Ethernet \
               address again."),
    Check::since(2, "bridge.other-state",
        "A runtime with another state folder does not replace the rules of running containers.", other_state)
        .needs(&[Need::Bridge])
        .hint("There is one table for the whole network namespace. Refuse, and do not replace rules that the \
               runtime does not know."),
    Check::since(2, "bridge.gone",
        "The bridge is removed with its last container, and the packet filter's table with the last \
         container of all.", gone)
        .needs(&[Need::Bridge])
        .hint("When a container ends, its runtime looks, under the lock, whether others are left."),
    Check::since(2, "bridge.forwarding",
        "The host forwards packets while a container is on a bridge, and is then as it was before.",
        forwarding)
        .needs(&[Need::Bridge])
        .hint("Remember whether forwarding was off: another program may have turned it on before."),
    Check::since(2, "bridge.never-open",
        "Whenever the packet filter's rules are changed, the host's forwarding is off, if it was before.",
        never_open)
        .needs(&[Need::Bridge])
        .hint("First the rules, then forwarding; at the end first forwarding, then the rules. The runtime \
               may be killed between the two."),
    Check::since(2, "bridge.rules-again",
        "A container on a bridge that is used starts nft only if the rules are not in force any more.",
        rules_again)
        .needs(&[Need::Bridge])
        .hint("The kernel counts the changes to its rules, whoever makes them: NFT_MSG_GETGEN. Remember the \
               number and the rules after each change."),
    Check::since(2, "bridge.no-router",
        "A container on a bridge does not make the host a router between its other networks. A host that \
         already is a router stays one.", no_router)
        .needs(&[Need::Bridge])
        .hint("net.ipv4.ip_forward opens the way between all links. A runtime that switches it on must drop \
               packets that neither come from a bridge nor go to one."),
];

/// The default bridge.
pub(super) const BRIDGE: &str = "congo0";

/// Its address.
pub(super) const GATEWAY: &str = "10.44.0.1";

/// A container on a bridge.
pub(super) struct Member {
    /// Where it is.
    pub network: Network,
    /// Its process 1.
    pub first: Process,
    /// Its address, without the prefix.
    pub address: String,
    /// What runs.
    pub container: Container,
}

impl Member {
    /// With these options besides.
    pub fn new(subject: &Subject, options: &[&str]) -> Result<Member, Failure> {
        Member::of(subject.hold(&[&["--network", "bridge"], options].concat())?)
    }

    fn of(container: Container) -> Result<Member, Failure> {
        let first = container.first()?;
        let network = Network::of(first)?;
        let addresses = network.link("eth0")?.addresses;
        let address = match addresses.as_slice() {
            [one] => one.split('/').next().unwrap_or(one).to_owned(),
            _ => return Err(Failure::new("one address of eth0", format!("{addresses:?}"))),
        };
        Ok(Member { network, first, address, container })
    }

    /// A port of it.
    pub fn port(&self, port: u16) -> String {
        format!("{}:{port}", self.address)
    }

    /// Lets it end.
    pub fn end(self) -> Checked {
        // First, as it keeps the namespace.
        drop(self.network);
        self.container.output()?.status_is(0)
    }
}

fn address(subject: &Subject) -> Checked {
    let member = Member::new(subject, &[])?;
    let eth0 = member.network.link("eth0")?;
    expect("the address of eth0", vec!["10.44.0.2/16".to_owned()], eth0.addresses)?;
    expect("whether eth0 is up", true, eth0.up)?;
    expect("whether lo is up", true, member.network.link("lo")?.up)?;
    let gateway = network::default_gateway(member.first)?.map(|it| it.to_string());
    expect("the gateway of the default route", Some(GATEWAY.to_owned()), gateway)?;
    let up: BTreeSet<_> =
        member.network.links()?.into_iter().filter(|link| link.up).map(|link| link.name).collect();
    expect("the links that are up", BTreeSet::from(["eth0".to_owned(), "lo".to_owned()]), up)
}

fn on_the_host(subject: &Subject) -> Checked {
    let _member = Member::new(subject, &[])?;
    let host = Network::of_host()?;
    let bridge = host.link(BRIDGE)?;
    expect("the address of the bridge", vec![format!("{GATEWAY}/16")], bridge.addresses)?;
    expect("whether the bridge is up", true, bridge.up)?;
    expect("whether the container's end on the host is up", true, host.link("veth0a2c0002")?.up)
}

fn chosen(subject: &Subject) -> Checked {
    let member = Member::new(subject, &["--ip", "10.44.7.9"])?;
    expect("the address of eth0", "10.44.7.9", member.address.as_str())?;
    Network::of_host()?.link("veth0a2c0709")?;
    let options = ["--bridge", "lab1", "--subnet", "10.45.6.0/24", "--ip", "10.45.6.254"];
    let other = Member::new(subject, &options)?;
    let eth0 = other.network.link("eth0")?;
    expect("the address of eth0", vec!["10.45.6.254/24".to_owned()], eth0.addresses)?;
    let gateway = network::default_gateway(other.first)?.map(|it| it.to_string());
    expect("the gateway of the default route", Some("10.45.6.1".to_owned()), gateway)?;
    let bridge = Network::of_host()?.link("lab1")?;
    expect("the address of the bridge", vec!["10.45.6.1/24".to_owned()], bridge.addresses)
}

fn neighbours(subject: &Subject) -> Checked {
    let (one, other) = (Member::new(subject, &[])?, Member::new(subject, &[])?);
    for (from, to) in [(&one, &other), (&other, &one)] {
        let listener = to.network.tcp("0.0.0.0:80")?;
        let source = from.network.reaches(&to.port(80), &listener)?;
        expect("whom the one sees that is called", from.address.clone(), source.to_string())?;
        let server = to.network.udp("0.0.0.0:80")?;
        from.network.reaches_by_udp(&to.port(80), &server)?;
    }
    Ok(())
}

fn from_the_host(subject: &Subject) -> Checked {
    let member = Member::new(subject, &[])?;
    let listener = member.network.tcp("0.0.0.0:80")?;
    let source = Network::of_host()?.reaches(&member.port(80), &listener)?;
    expect("whom the container sees", GATEWAY.to_owned(), source.to_string())
}

fn outbound(subject: &Subject) -> Checked {
    let outside = Outside::new()?;
    let member = Member::new(subject, &[])?;
    let expected = IpAddr::V4(Outside::HOST);
    let listener = outside.network.tcp("0.0.0.0:80")?;
    let source = member.network.reaches("192.0.2.2:80", &listener)?;
    expect("whom the host outside sees", expected, source)?;
    let server = outside.network.udp("0.0.0.0:80")?;
    let source = member.network.reaches_by_udp("192.0.2.2:80", &server)?;
    expect("whom the host outside sees over UDP", expected, source)
}

fn closed(subject: &Subject) -> Checked {
    let outside = Outside::new()?;
    // Published, another port of the same container can be reached: the way there is no obstacle.
    let member = Member::new(subject, &["--publish", "8080:81"])?;
    let published = member.network.tcp("0.0.0.0:81")?;
    outside.network.reaches("192.0.2.1:8080", &published)?;
    let _listener = member.network.tcp("0.0.0.0:80")?;
    outside.network.does_not_reach(&member.port(80))
}

fn separate(subject: &Subject) -> Checked {
    let one = Member::new(subject, &[])?;
    let other = Member::new(subject, &["--bridge", "lab1", "--subnet", "10.45.0.0/24"])?;
    let host = Network::of_host()?;
    for (from, to) in [(&one, &other), (&other, &one)] {
        let listener = to.network.tcp("0.0.0.0:80")?;
        host.reaches(&to.port(80), &listener)?;
        from.network.does_not_reach(&to.port(80))?;
    }
    Ok(())
}

fn fifty(subject: &Subject) -> Checked {
    const COUNT: usize = 50;
    let start = || subject.start(&["--network", "bridge", "--memory", "16m", "cat"]);
    let mut started: Vec<_> = (0..COUNT).map(|_| start()).collect::<Result<_, _>>()?;
    let mut members = vec![];
    for container in &mut started {
        container.say("ready")?;
    }
    for container in started {
        // They all start at once, and an emulated processor needs half a minute for them.
        container.wait_for_within(4 * LIMIT, "ready")?;
        members.push(Member::of(container)?);
    }
    let addresses: BTreeSet<_> = members.iter().map(|member| member.address.clone()).collect();
    expect("the number of addresses of fifty containers", COUNT, addresses.len())?;
    let highest = members.iter().filter_map(|member| member.address.rsplit('.').next()?.parse().ok()).max();
    expect("the last number of the highest address", Some(COUNT + 1), highest)?;
    let (Some(first), Some(last)) = (members.first(), members.last()) else { return Ok(()) };
    let listener = last.network.tcp("0.0.0.0:80")?;
    first.network.reaches(&last.port(80), &listener)?;
    drop(listener);
    // All at once, as they came.
    for member in &members {
        member.first.end();
    }
    members.into_iter().try_for_each(|member| {
        drop(member.network);
        member.container.output_within(4 * LIMIT)?.status_is(137)
    })
}

fn successor(subject: &Subject) -> Checked {
    let neighbour = Member::new(subject, &[])?;
    for _ in 0..2 {
        let server = Member::new(subject, &["--ip", "10.44.0.9"])?;
        let listener = server.network.tcp("0.0.0.0:80")?;
        neighbour.network.reaches("10.44.0.9:80", &listener)?;
        drop(listener);
        server.container.output()?;
    }
    Ok(())
}

fn other_state(subject: &Subject) -> Checked {
    let server = Member::new(subject, &["--publish", "8080:80"])?;
    let listener = server.network.tcp("0.0.0.0:80")?;
    let home = subject.file("other-state");
    std::fs::create_dir_all(&home)?;
    let mut other =
        subject.command(&["--network", "bridge", "--bridge", "lab1", "--subnet", "10.45.0.0/24", "true"]);
    let refused = Container::start(other.env("CONGO_HOME", &home))?.output_within(LIMIT * 3);
    std::fs::remove_dir_all(&home)?;
    refused?.status_is(125)?;
    Network::of_host()?.reaches("127.0.0.1:8080", &listener).map(|_| ())
}

fn used_again(subject: &Subject) -> Checked {
    let (one, other) = (Member::new(subject, &[])?, Member::new(subject, &[])?);
    expect("the address of the second", "10.44.0.3", other.address.as_str())?;
    one.end()?;
    let third = Member::new(subject, &[])?;
    expect("the address of the next after the first has ended", "10.44.0.2", third.address.as_str())?;
    other.end()?;
    let fourth = Member::new(subject, &[])?;
    expect("the address of the next after the second has ended", "10.44.0.3", fourth.address.as_str())
}

/// The host's links that are not there without Congo.
fn links_of_bridges() -> Result<BTreeSet<String>, Failure> {
    let names = Network::of_host()?.links()?.into_iter().map(|link| link.name);
    Ok(names.filter(|name| ["congo", "lab", "veth"].iter().any(|start| name.starts_with(start))).collect())
}

fn gone(subject: &Subject) -> Checked {
    let none = BTreeSet::new();
    expect("what links of bridges there are before", &none, &links_of_bridges()?)?;
    let lab = ["--bridge", "lab1", "--subnet", "10.45.0.0/24"];
    let (one, other) = (Member::new(subject, &[])?, Member::new(subject, &[])?);
    let third = Member::new(subject, &lab)?;
    let links = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect::<BTreeSet<_>>();
    one.end()?;
    // The kernel removes a cable a moment after the container's end.
    let are_left =
        |names: &[&str]| eventually(LIMIT, || links_of_bridges().is_ok_and(|now| now == links(names)));
    are_left(&["congo0", "veth0a2c0003", "lab1", "veth0a2d0002"]);
    let left = links(&["congo0", "veth0a2c0003", "lab1", "veth0a2d0002"]);
    expect("what is left when the first has ended", &left, &links_of_bridges()?)?;
    other.end()?;
    are_left(&["lab1", "veth0a2d0002"]);
    let left = links(&["lab1", "veth0a2d0002"]);
    expect("what is left with the last of congo0", &left, &links_of_bridges()?)?;
    let tables = network::tables()?;
    ensure(tables.contains("table inet congo"), || {
        Failure::new("the table inet congo, while there is a container", format!("{tables:?}"))
    })?;
    third.end()?;
    are_left(&[]);
    expect("what is left after the last", &none, &links_of_bridges()?)?;
    expect("the tables after the last", "", network::tables()?.as_str())
}

fn forwarding(subject: &Subject) -> Checked {
    let before = network::forwarding()?;
    let of_link = "/proc/sys/net/ipv4/conf/lo/forwarding";
    let result = [false, true].into_iter().try_for_each(|at_first| {
        network::set_forwarding(at_first)?;
        // A single link can forward although the host as a whole does not.
        std::fs::write(of_link, "1")?;
        let (one, other) = (Member::new(subject, &[])?, Member::new(subject, &[])?);
        expect("whether the host passes packets on", true, network::forwarding()?)?;
        one.end()?;
        expect("the same while one container is left", true, network::forwarding()?)?;
        other.end()?;
        let back = eventually(LIMIT, || network::forwarding().is_ok_and(|now| now == at_first));
        ensure(back, || {
            Failure::new(format!("net.ipv4.ip_forward is as before, {at_first}"), format!("{}", !at_first))
        })?;
        expect("the forwarding of the link lo, as before", "1", std::fs::read_to_string(of_link)?.trim())
    });
    network::set_forwarding(before)?;
    result
}

fn no_router(subject: &Subject) -> Checked {
    let (one, other) = Outside::two()?;
    let listener = other.network.tcp("0.0.0.0:80")?;
    let before = network::forwarding()?;
    let result = [false, true].into_iter().try_for_each(|is_router| {
        network::set_forwarding(is_router)?;
        let member = Member::new(subject, &[])?;
        let served = one.network.tcp("0.0.0.0:80")?;
        member.network.reaches("192.0.2.2:80", &served)?;
        match is_router {
            false => one.network.does_not_reach("198.51.100.2:80")?,
            true => one.network.reaches("198.51.100.2:80", &listener).map(drop)?,
        }
        member.end()
    });
    network::set_forwarding(before)?;
    result
}

fn never_open(subject: &Subject) -> Checked {
    let before = network::forwarding()?;
    network::set_forwarding(false)?;
    let told = forwarding_at_nft(subject);
    network::set_forwarding(before)?;
    let states = BTreeSet::from_iter(told?);
    expect("net.ipv4.ip_forward whenever nft begins", BTreeSet::from(["0".to_owned()]), states)
}

/// Runs a container on the bridge, and tells of each nft that begins meanwhile whether the host then passes
/// packets on.
fn forwarding_at_nft(subject: &Subject) -> Result<Vec<String>, Failure> {
    let (folder, told) = (subject.file("nft-that-looks"), subject.file("forwarding-at-nft"));
    std::fs::create_dir_all(&folder)?;
    std::fs::write(&told, "")?;
    let path = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin:/sbin";
    let script = "#!/bin/sh\nread -r on < /proc/sys/net/ipv4/ip_forward; echo $on >> \"$TOLD\"\n\
                  PATH=$REST exec nft \"$@\"\n";
    let nft = folder.join("nft");
    std::fs::write(&nft, script)?;
    std::fs::set_permissions(&nft, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    let mut command = subject.command(&["--network", "bridge", "true"]);
    command.env("PATH", format!("{}:{path}", folder.display())).env("REST", &path).env("TOLD", &told);
    Container::start(&mut command)?.output()?.ok()?;
    Ok(std::fs::read_to_string(told)?.lines().map(str::to_owned).collect())
}

fn rules_again(subject: &Subject) -> Checked {
    let one = Member::new(subject, &[])?;
    let times = || Ok::<_, Failure>(forwarding_at_nft(subject)?.len());
    expect("how often nft begins, when no rule has to change", 0, times()?)?;
    // As a firewall does that begins anew.
    let emptied = std::process::Command::new(program("nft").unwrap_or_default())
        .args(["flush", "table", "inet", "congo"])
        .status()?;
    ensure(emptied.success(), || Failure::new("the table inet congo is there", "nft cannot empty it"))?;
    expect("how often nft begins, when somebody has removed the rules", 1, times()?)?;
    expect("how often nft begins after that", 0, times()?)?;
    one.end()
}
