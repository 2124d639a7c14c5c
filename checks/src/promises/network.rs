//! The network without a bridge: the container alone, with the host's, or with another's.
//! network_namespaces(7), lo, unix(7).

use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::process::Command;

use crate::kernel::{Process, myself, read};
use crate::network::Network;
use crate::{Check, Checked, Failure, Subject, ensure, expect};

#[rustfmt::skip] // It would give each argument a line of its own.
pub(crate) const CHECKS: &[Check] = &[
    Check::since(2, "network.loopback",
        "By default there is a loopback interface that works, and no other link.", loopback)
        .hint("A new network namespace has a `lo` that is down, and without an address until it is up."),
    Check::since(2, "network.open-to-all-users",
        "In a network of its own every user may listen on port 80 and send a ping; the host's settings stay.",
        open_to_all_users)
        .hint("net.ipv4.ip_unprivileged_port_start and net.ipv4.ping_group_range, as Docker sets them. The \
               second takes only groups that the user namespace has."),
    Check::since(2, "network.hides-the-host",
        "The container cannot reach servers on the host's 127.0.0.1, nor the host's abstract sockets.",
        hides_the_host)
        .hint("Both belong to the network namespace: clone(2) with CLONE_NEWNET. Abstract sockets have no \
               file that a root could hide."),
    Check::since(2, "network.host",
        "--network host, or --net host, leaves the container in the host's network.", of_host)
        .hint("No CLONE_NEWNET."),
    Check::since(2, "network.container",
        "--network container:PID joins the network of that process.", of_container)
        .hint("setns(2) with /proc/PID/ns/net, opened while the host's /proc is still in sight."),
];

/// The options that change nothing say what the default is.
const ALONE: [&[&str]; 2] = [&[], &["--network", "none"]];

fn loopback(subject: &Subject) -> Checked {
    for options in ALONE {
        let container = subject.hold(options)?;
        let first = container.first()?;
        let own = first.namespace("net")? != myself().namespace("net")?;
        ensure(own, || Failure::new("a network namespace of its own", "the host's"))?;
        let network = Network::of(first)?;
        // A kernel may give each namespace a tunnel's end or two, which are down.
        let up: Vec<_> = network.links()?.into_iter().filter(|link| link.up).collect();
        let names: Vec<_> = up.iter().map(|link| link.name.as_str()).collect();
        expect("the links that are up", vec!["lo"], names)?;
        expect("the addresses of lo", vec!["127.0.0.1/8".to_owned()], up[0].addresses.clone())?;
        let listener = network.tcp("127.0.0.1:80")?;
        network.reaches("127.0.0.1:80", &listener)?;
    }
    Ok(())
}

fn hides_the_host(subject: &Subject) -> Checked {
    let of_host = Network::of_host()?;
    let tcp = of_host.tcp("127.0.0.1:0")?;
    let port = tcp.local_addr()?.to_string();
    let name = SocketAddr::from_abstract_name(format!("congo-checks-{}", std::process::id()))?;
    let unix = UnixListener::bind_addr(&name)?;
    // Both are really there.
    of_host.reaches(&port, &tcp)?;
    UnixStream::connect_addr(&name)?;
    for options in ALONE {
        let container = subject.hold(options)?;
        let network = Network::of(container.first()?)?;
        network.does_not_reach(&port)?;
        let connected = network.run(|| Ok(UnixStream::connect_addr(&name).is_ok()))?;
        ensure(!connected, || {
            Failure::new("no connection to an abstract socket of the host", "one was made")
        })?;
    }
    drop(unix);
    Ok(())
}

fn of_host(subject: &Subject) -> Checked {
    let of_host = myself().namespace("net")?;
    for options in [["--network", "host"], ["--net", "host"]] {
        let container = subject.hold(&options)?;
        expect(
            format!("the network namespace with {options:?}"),
            &of_host,
            &container.first()?.namespace("net")?,
        )?;
    }
    Ok(())
}

fn of_container(subject: &Subject) -> Checked {
    let one = subject.hold(&[])?;
    let first = one.first()?;
    let listener = Network::of(first)?.tcp("127.0.0.1:80")?;
    let other = subject.hold(&["--network", &format!("container:{first}")])?;
    expect("the network namespace", first.namespace("net")?, other.first()?.namespace("net")?)?;
    Network::of(other.first()?)?.reaches("127.0.0.1:80", &listener)?;
    other.output()?.status_is(0)?;
    // Any process will do, not only one of Congo's, but root of another user namespace may not join it. A
    // container that leaves must not take the joined network down.
    Network::of(first)?.reaches("127.0.0.1:80", &listener)?;
    let of_host = subject.hold(&["--network", "host"])?;
    let with_it = subject.hold(&["--network", &format!("container:{}", of_host.first()?)])?;
    let (expected, found) = (myself().namespace("net")?, with_it.first()?.namespace("net")?);
    expect("the network namespace of who joins one that is in the host's", expected, found)?;
    if !nix::unistd::geteuid().is_root() {
        // Nothing of a user's is outside of all user namespaces, and what is in another one is closed to it.
        return Ok(());
    }
    let mut stranger = Command::new("sleep").arg("1000").spawn()?;
    let its = Process(stranger.id().cast_signed());
    let network = format!("container:{its}");
    let options = [subject.as_host_root(), &["--network", &network]].concat();
    let result = subject.hold(&options).and_then(|container| {
        expect("the network namespace", its.namespace("net")?, container.first()?.namespace("net")?)
    });
    stranger.kill()?;
    stranger.wait()?;
    result
}

fn open_to_all_users(subject: &Subject) -> Checked {
    let settings = || -> Result<Vec<String>, Failure> {
        let read = |name| read(format!("/proc/sys/net/ipv4/{name}"));
        Ok(vec![read("ip_unprivileged_port_start")?, read("ping_group_range")?])
    };
    let before = settings()?;
    let container = subject.hold(&[])?;
    let inside = Network::of(container.first()?)?.run(settings)?;
    expect("net.ipv4.ip_unprivileged_port_start", "0", inside[0].trim())?;
    let groups: Vec<u32> = inside[1].split_whitespace().filter_map(|it| it.parse().ok()).collect();
    let map = container.first()?.read("gid_map")?;
    let count: u32 = map.lines().filter_map(|line| line.split_whitespace().nth(2)?.parse::<u32>().ok()).sum();
    let wanted = count.min(1 << 16) - 1;
    let is_wide = groups.len() == 2 && groups[0] <= groups[1] && groups[1] - groups[0] >= wanted;
    ensure(is_wide, || Failure::new("a net.ipv4.ping_group_range of all groups", &inside[1]))?;
    expect("the host's settings", before, settings()?)
}
