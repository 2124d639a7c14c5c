//! Published ports: from where they lead into the container, and from where nothing else does. nft(8), ip(7).

use std::io::{ErrorKind, Read};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use super::bad_input::refused;
use super::bridge::{GATEWAY, Member};
use nix::sys::signal::Signal;

use crate::container::Container;
use crate::kernel::{Process, eventually};
use crate::needs::{self, Need};
use crate::network::{self, Network, Outside};
use crate::{Check, Checked, Failure, Subject, ensure, expect};

#[rustfmt::skip] // It would give each argument a line of its own.
pub(crate) const CHECKS: &[Check] = &[
    Check::since(2, "publish.tcp",
        "A published port can be reached at every address of the host: from the host, from outside, from \
         other containers and from its own.", tcp)
        .needs(&[Need::Bridge])
        .hint("The prerouting hook sees packets from elsewhere, the output hook packets of the host. \
               127.0.0.1 takes net.ipv4.conf.BRIDGE.route_localnet and masquerade; so does the container \
               that calls itself."),
    Check::since(2, "publish.udp",
        "The same works over UDP, and the answers come from the address of the question.", udp)
        .needs(&[Need::Bridge])
        .hint("The kernel rewrites answers because it tracks the connection. A rule for tcp does not match \
               udp."),
    Check::since(2, "publish.one-address",
        "A port with an address before it is published on that address only.", one_address)
        .needs(&[Need::Bridge])
        .hint("`ip daddr` in the rule, instead of every local address."),
    Check::since(2, "publish.range",
        "A range of ports leads to a range of the same length, port by port.", range)
        .needs(&[Need::Bridge])
        .hint("A rule for each, or a map."),
    Check::since(2, "publish.free-port",
        "Of a port of the container alone, as in -p 80 or -p 127.0.0.1::80, a free port of the host leads \
         there. The runtime says on stderr which.", free_port)
        .needs(&[Need::Bridge])
        .hint("bind(2) to port 0, then getsockname(2). The line is that of `docker port`: 80/tcp -> \
               0.0.0.0:49153."),
    Check::since(2, "publish.one-of-a-range",
        "Of a range of host ports and one port of the container, the first free port leads there.",
        one_of_a_range)
        .needs(&[Need::Bridge])
        .hint("EADDRINUSE of bind(2): try the next one."),
    Check::since(2, "publish.two",
        "Two containers publish the same port of theirs under two ports of the host.", two)
        .needs(&[Need::Bridge])
        .hint("Each rule belongs to one container: a new container must keep the rules of the others."),
    Check::since(2, "publish.reserved",
        "While a port is published, no process on the host can take it. Afterwards it is free.", reserved)
        .needs(&[Need::Bridge])
        .hint("A socket that is bound to the port and does not listen, held by the runtime."),
    Check::since(2, "publish.taken",
        "A port that a program or another container already has is refused.", taken)
        .needs(&[Need::Bridge])
        .hint("bind(2) says EADDRINUSE: call it before anything is made."),
    Check::since(2, "publish.ipv6",
        "A port on an IPv6 address of the host leads into the container, over TCP and UDP, and a free one \
         does, too. The container's 127.0.0.1 stays closed.", ipv6)
        .needs(&[Need::Bridge, Need::Ipv6])
        .hint("No rule makes an IPv4 packet of an IPv6 packet. A process accepts on the host, and connects \
               from within the container's network namespace to the address of its eth0."),
    Check::since(2, "publish.ipv6-taken",
        "A port that is taken on an IPv6 address is refused. On IPv4 it is another port.", ipv6_taken)
        .needs(&[Need::Bridge, Need::Ipv6])
        .hint("listen(2) before anything is made; IPV6_V6ONLY, as [::] would be all IPv4 addresses, too."),
    Check::since(2, "publish.ipv6-rights",
        "The process that carries IPv6 connections has no capability and no file of the runtime's. It ends, \
         and frees its port, with a killed runtime.", ipv6_rights)
        .needs(&[Need::Bridge, Need::Ipv6])
        .hint("Drop all rights once it is in the container's network namespace. A change of ids takes \
               PR_SET_PDEATHSIG away: set it afterwards."),
    Check::since(2, "publish.real-server",
        "A Debian's python3 serves a page to the host's curl.", real_server)
        .needs(&[Need::Bridge, Need::Debian, Need::Program("curl")])
        .hint("Try it by hand: --rootfs with the folder that `cargo xtask debian` prints."),
    Check::since(2, "publish.no-way-to-loopback",
        "A container that forges packets to 127.0.0.1 reaches no listener on the host's loopback interface.",
        no_way_to_loopback)
        .needs(&[Need::Bridge])
        .hint("CVE-2020-8558: route_localnet lets such packets in. Drop packets from a bridge to \
               127.0.0.0/8, unless the host began the connection."),
    Check::since(2, "publish.loopback-is-private",
        "A neighbour of the host that routes 127.0.0.0/8 there cannot reach a port that is published on \
         127.0.0.1.", loopback_is_private)
        .needs(&[Need::Bridge])
        .hint("The kernel refuses such a packet only after the destination NAT has changed its address. So \
               drop before that all packets for 127.0.0.0/8 from links other than lo."),
];

/// From where, and to which address, a published port must lead.
struct Ways {
    outside: Outside,
    other: Member,
    publisher: Member,
}

impl Ways {
    fn new(subject: &Subject, publish: &[&str]) -> Result<Ways, Failure> {
        let outside = Outside::new()?;
        let (publisher, other) = (Member::new(subject, publish)?, Member::new(subject, &[])?);
        Ok(Ways { outside, other, publisher })
    }

    fn each(&self, try_it: impl Fn(&Network, &str) -> Checked) -> Checked {
        let host = Network::of_host()?;
        let other = &self.other.network;
        for (who, network, address) in [
            ("the host", &host, "127.0.0.1"),
            ("the host", &host, GATEWAY),
            ("the host", &host, "192.0.2.1"),
            ("a host outside", &self.outside.network, "192.0.2.1"),
            ("another container", other, GATEWAY),
            ("another container", other, "192.0.2.1"),
            ("the container itself", &self.publisher.network, GATEWAY),
            ("the container itself", &self.publisher.network, "192.0.2.1"),
        ] {
            try_it(network, address).map_err(|failure| failure.of(format_args!("from {who}")))?;
        }
        Ok(())
    }
}

fn tcp(subject: &Subject) -> Checked {
    let ways = Ways::new(subject, &["--publish", "8080:80"])?;
    let listener = ways.publisher.network.tcp("0.0.0.0:80")?;
    ways.each(|from, address| from.reaches(&format!("{address}:8080"), &listener).map(|_| ()))
}

fn udp(subject: &Subject) -> Checked {
    let ways = Ways::new(subject, &["-p", "5353:53/udp"])?;
    let server = ways.publisher.network.udp("0.0.0.0:53")?;
    ways.each(|from, address| from.reaches_by_udp(&format!("{address}:5353"), &server).map(|_| ()))?;
    // And no other protocol.
    let _listener = ways.publisher.network.tcp("0.0.0.0:53")?;
    ways.outside.network.does_not_reach("192.0.2.1:5353")
}

fn one_address(subject: &Subject) -> Checked {
    let outside = Outside::new()?;
    let host = Network::of_host()?;
    let member = Member::new(subject, &["-p", "127.0.0.1:8080:80", "-p", "192.0.2.1:8081:81"])?;
    let (inner, outer) = (member.network.tcp("0.0.0.0:80")?, member.network.tcp("0.0.0.0:81")?);
    host.reaches("127.0.0.1:8080", &inner)?;
    outside.network.does_not_reach("192.0.2.1:8080")?;
    host.does_not_reach("192.0.2.1:8080")?;
    outside.network.reaches("192.0.2.1:8081", &outer)?;
    host.does_not_reach("127.0.0.1:8081")
}

fn range(subject: &Subject) -> Checked {
    let member = Member::new(subject, &["--publish", "9000-9002:80-82/tcp"])?;
    let host = Network::of_host()?;
    for number in 0..3 {
        let listener = member.network.tcp(&format!("0.0.0.0:{}", 80 + number))?;
        host.reaches(&format!("127.0.0.1:{}", 9000 + number), &listener)?;
    }
    // The neighbours of the range are not in it.
    let _listeners = [member.network.tcp("0.0.0.0:79")?, member.network.tcp("0.0.0.0:83")?];
    host.does_not_reach("127.0.0.1:8999")?;
    host.does_not_reach("127.0.0.1:9003")
}

fn two(subject: &Subject) -> Checked {
    let one = Member::new(subject, &["-p", "8080:80"])?;
    let other = Member::new(subject, &["-p", "8081:80", "-p", "8082:80"])?;
    let host = Network::of_host()?;
    let (of_one, of_other) = (one.network.tcp("0.0.0.0:80")?, other.network.tcp("0.0.0.0:80")?);
    host.reaches("127.0.0.1:8080", &of_one)?;
    host.reaches("127.0.0.1:8081", &of_other)?;
    host.reaches("127.0.0.1:8082", &of_other)?;
    drop(of_one);
    one.end()?;
    host.does_not_reach("127.0.0.1:8080")?;
    host.reaches("127.0.0.1:8081", &of_other).map(|_| ())
}

/// The port of the host that the runtime says it has chosen.
pub(super) fn chosen(container: &Container, port: &str, ip: &str) -> Result<u16, Failure> {
    let rest = container.wait_for_on_stderr(&format!("{port} -> {ip}:"))?;
    rest.parse().map_err(|_| Failure::new(format!("the number of a port after `{port} -> {ip}:`"), rest))
}

fn free_port(subject: &Subject) -> Checked {
    let member = Member::new(subject, &["-p", "80", "-p", "127.0.0.1::81", "-p", "53/UDP"])?;
    let first = chosen(&member.container, "80/tcp", "0.0.0.0")?;
    let second = chosen(&member.container, "81/tcp", "127.0.0.1")?;
    let udp = chosen(&member.container, "53/udp", "0.0.0.0")?;
    let listeners = (member.network.tcp("0.0.0.0:80")?, member.network.tcp("0.0.0.0:81")?);
    let host = Network::of_host()?;
    host.reaches(&format!("127.0.0.1:{first}"), &listeners.0)?;
    host.reaches(&format!("{GATEWAY}:{first}"), &listeners.0)?;
    host.reaches(&format!("127.0.0.1:{second}"), &listeners.1)?;
    host.does_not_reach(&format!("{GATEWAY}:{second}"))?;
    let server = member.network.udp("0.0.0.0:53")?;
    host.reaches_by_udp(&format!("127.0.0.1:{udp}"), &server)?;
    let taken = TcpListener::bind(("0.0.0.0", first)).is_err();
    ensure(taken, || Failure::new("the port is taken while it is published", "it is free"))
}

fn one_of_a_range(subject: &Subject) -> Checked {
    let _taken = Network::of_host()?.tcp("0.0.0.0:8000")?;
    let options = ["-p", "8000-8003:80", "-p", "8001:81"];
    let member = Member::new(subject, &options)?;
    let port = chosen(&member.container, "80/tcp", "0.0.0.0")?;
    expect("the port: 8000 is another program's, 8001 leads to another port", 8002, port)?;
    let (first, second) = (member.network.tcp("0.0.0.0:80")?, member.network.tcp("0.0.0.0:81")?);
    let host = Network::of_host()?;
    host.reaches("127.0.0.1:8002", &first)?;
    host.reaches("127.0.0.1:8001", &second)?;
    let all_taken = ["--network", "bridge", "-p", "8000-8002:80", "true"];
    refused(subject, &all_taken, &["--publish", "8000-8002:80"])
}

fn reserved(subject: &Subject) -> Checked {
    let member = Member::new(subject, &["-p", "8080:80", "-p", "5353:53/udp"])?;
    let is_free = || (TcpListener::bind("0.0.0.0:8080").is_ok(), UdpSocket::bind("0.0.0.0:5353").is_ok());
    let free = is_free();
    ensure(free == (false, false), || {
        Failure::new("both ports are taken while they are published", format!("free are (TCP, UDP) {free:?}"))
    })?;
    member.end()?;
    let free = is_free();
    ensure(free == (true, true), || {
        Failure::new("both ports are free after the run", format!("free are (TCP, UDP) {free:?}"))
    })?;
    Member::new(subject, &["-p", "8080:80"])?.end()
}

fn taken(subject: &Subject) -> Checked {
    let options = ["--network", "bridge", "--publish"];
    let program = TcpListener::bind("127.0.0.1:8080")?;
    refused(subject, &[&options[..], &["8080:80", "true"]].concat(), &["--publish", "8080"])?;
    drop(program);
    let program = UdpSocket::bind("0.0.0.0:5353")?;
    refused(subject, &[&options[..], &["5353:53/udp", "true"]].concat(), &["--publish", "5353"])?;
    drop(program);
    let _member = Member::new(subject, &["-p", "8080:80"])?;
    refused(subject, &[&options[..], &["8079-8080:80-81", "true"]].concat(), &["--publish", "8080"])?;
    refused(subject, &[&options[..], &["127.0.0.1:8080:80", "true"]].concat(), &["--publish", "8080"])
}

/// A connection to a port on which nobody listens in the container, or on its 127.0.0.1 only: it ends.
pub(super) fn leads_nowhere(host: &Network, to: &str, closed: &TcpListener) -> Checked {
    let read = |mut client: TcpStream| {
        client.set_read_timeout(Some(Duration::from_secs(8)))?;
        client.read(&mut [0])
    };
    let is_over = match host.run(|| Ok(TcpStream::connect(to)))? {
        // On a slow processor the connection may end before connect(2) returns.
        Err(error) if error.kind() == ErrorKind::ConnectionReset => true,
        connected => match read(connected?) {
            Ok(count) => count == 0,
            Err(error) => error.kind() != ErrorKind::WouldBlock,
        },
    };
    ensure(is_over && closed.accept().is_err(), || {
        Failure::new(
            format!("a connection to {to} ends, as only 127.0.0.1 listens"),
            "it goes on, or leads there",
        )
    })
}

/// The processes of the runtime that are not the container's.
pub(super) fn helpers(container: &Container) -> Result<Vec<Process>, Failure> {
    let first = container.first()?;
    let inside = first.descendants();
    let below = container.runtime().descendants().into_iter();
    Ok(below.filter(|it| *it != first && !inside.contains(it)).collect())
}

fn ipv6(subject: &Subject) -> Checked {
    let options = ["-p", "[::1]:8080:80", "-p", "[::]:5353:53/udp", "-p", "[::1]::81", "-p", "[::1]:8082:82"];
    let member = Member::new(subject, &options)?;
    let host = Network::of_host()?;
    // The server is not there yet: that connection ends, and the next one does not.
    let closed = member.network.tcp("127.0.0.1:82")?;
    leads_nowhere(&host, "[::1]:8080", &closed)?;
    leads_nowhere(&host, "[::1]:8082", &closed)?;
    let (first, second) = (member.network.tcp("0.0.0.0:80")?, member.network.tcp("0.0.0.0:81")?);
    // From within: the host itself would come from the bridge's address, and need a route.
    let from = host.reaches("[::1]:8080", &first)?;
    expect("who connects, as the container sees it", member.address.as_str(), &from.to_string())?;
    let port = chosen(&member.container, "81/tcp", "[::1]")?;
    host.reaches(&format!("[::1]:{port}"), &second)?;
    let server = member.network.udp("0.0.0.0:53")?;
    host.reaches_by_udp("[::1]:5353", &server)?;
    host.does_not_reach("127.0.0.1:8080")?;
    member.end()?;
    host.does_not_reach("[::1]:8080")
}

fn ipv6_taken(subject: &Subject) -> Checked {
    let taken = Network::of_host()?.tcp("[::1]:8080")?;
    for value in ["[::1]:8080:80", "[::]:8080:80", "[::1]:8079-8080:79-80"] {
        refused(subject, &["--network", "bridge", "--publish", value, "true"], &["--publish", "8080"])?;
    }
    drop(taken);
    let both = Member::new(subject, &["-p", "8080:80", "-p", "[::]:8080:80"])?;
    let listener = both.network.tcp("0.0.0.0:80")?;
    let host = Network::of_host()?;
    host.reaches("127.0.0.1:8080", &listener)?;
    host.reaches("[::1]:8080", &listener).map(|_| ())
}

fn ipv6_rights(subject: &Subject) -> Checked {
    let member = Member::new(subject, &["-p", "[::1]:8080:80", "-p", "[::1]:5353:53/udp"])?;
    let helpers = helpers(&member.container)?;
    let [helper] = helpers[..] else {
        return Err(Failure::new("one process beside the runtime", format!("{}", helpers.len())));
    };
    for set in ["CapEff", "CapPrm", "CapInh"] {
        expect(format!("its {set}"), "0000000000000000", helper.status(set)?.as_str())?;
    }
    expect("its NoNewPrivs", "1", helper.status("NoNewPrivs")?.as_str())?;
    let root = helper.status("Uid")?.split_whitespace().any(|id| id == "0");
    ensure(!root, || Failure::new("another user than root", "root"))?;
    // Two sockets of the host, and one whose end is that of the runtime.
    let files = helper.descriptors()?;
    expect("its descriptors above 2", 3, files.iter().filter(|&&number| number > 2).count())?;
    member.container.signal(Signal::SIGKILL)?;
    let host = Network::of_host()?;
    let is_over = || !helper.is_alive() && host.tcp("[::1]:8080").is_ok() && host.udp("[::1]:5353").is_ok();
    ensure(eventually(Duration::from_secs(5), is_over), || {
        Failure::new("the process is gone and its ports are free", "not so")
    })?;
    // The check's own hold on the namespaces goes first. The next run sweeps.
    drop(member);
    subject.run(&["true"])?.ok().map(|_| ())
}

fn real_server(subject: &Subject) -> Checked {
    let debian = needs::debian_root().map_err(|reason| Failure::new("a Debian root", reason))?;
    let options = ["--network", "bridge", "-p", "8080:80", "--init", "--rootfs", &debian.to_string_lossy()];
    let served = ["python3", "-u", "-m", "http.server", "80", "--directory", "/etc"];
    let container = subject.start(&[&options[..], &served].concat())?;
    container.wait_for("Serving HTTP")?;
    let mut curl = std::process::Command::new("curl");
    curl.args(["--silent", "--show-error", "--max-time", "10", "http://localhost:8080/os-release"]);
    let page = Container::start(&mut curl)?.output()?;
    let file = crate::kernel::read(debian.join("etc/os-release"))?;
    expect("the page", file.trim_end(), page.ok()?)?;
    container.signal(Signal::SIGTERM)?;
    container.output()?.status_is(143)
}

fn no_way_to_loopback(subject: &Subject) -> Checked {
    let host = Network::of_host()?;
    let secret = host.tcp("127.0.0.1:7777")?;
    // Published, as that is what lets packets to 127.0.0.0/8 pass at all.
    let member = Member::new(subject, &["-p", "8080:80"])?;
    let gateway = GATEWAY.parse().map_err(|error| Failure::new("an address", error))?;
    host.reaches("127.0.0.1:7777", &secret)?;
    member.network.run(|| network::forge_loopback(gateway))?;
    member.network.does_not_reach("127.0.0.1:7777")?;
    // The way back to the host is there: what is not for 127.0.0.0/8 arrives.
    let open = host.tcp(&format!("{GATEWAY}:7778"))?;
    member.network.reaches(&format!("{GATEWAY}:7778"), &open)?;
    // And the host's own way to the published port still works.
    let listener = member.network.tcp("0.0.0.0:80")?;
    host.reaches("127.0.0.1:8080", &listener).map(|_| ())
}

fn loopback_is_private(subject: &Subject) -> Checked {
    let outside = Outside::new()?;
    let member = Member::new(subject, &["-p", "127.0.0.1:8080:80", "-p", "8081:80"])?;
    let listener = member.network.tcp("0.0.0.0:80")?;
    Network::of_host()?.reaches("127.0.0.1:8080", &listener)?;
    outside.network.run(|| network::forge_loopback(Outside::HOST))?;
    outside.network.does_not_reach("127.0.0.1:8080")?;
    // The way is there: what is published on all addresses arrives.
    outside.network.reaches("192.0.2.1:8081", &listener).map(|_| ())
}
