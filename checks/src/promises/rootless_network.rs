//! A network without root: a program speaks for the container. All that it talks to lies in namespaces of the
//! checks.
//!
//! Man pages: pasta(1), slirp4netns(1), network_namespaces(7).

use std::time::Duration;

use nix::sys::signal::Signal;

use super::bad_input::error;
use super::publish::{chosen, helpers, leads_nowhere};
use crate::container::Container;
use crate::kernel::{Process, eventually};
use crate::network::{Network, Outside, default_gateway};
use crate::user::{User, with_tap};
use crate::{Check, Checked, Failure, Need, Subject, ensure, expect};

#[rustfmt::skip] // It would give each argument a line of its own.
pub(crate) const CHECKS: &[Check] = &[
    Check::since(4, "rootless.reaches-outside",
        "An ordinary user's container on a bridge reaches hosts outside, from the address of --ip.",
        reaches_outside)
        .needs(&[Need::UsersOverlay, Need::Program("pasta"), Need::Tap, Need::Veth])
        .hint("pasta --config-net with the container's user and network namespace, before the command runs."),
    Check::since(4, "rootless.publish",
        "Its published ports lead into it, over TCP and UDP, at the address of the option. No other ports \
         do.",
        publish)
        .needs(&[Need::UsersOverlay, Need::Program("pasta"), Need::Tap, Need::Veth])
        .hint("Without --tcp-ports and --udp-ports, pasta publishes every port on which the container \
               listens."),
    Check::since(4, "rootless.publish-ipv6",
        "A port on an IPv6 address leads into it, over TCP and UDP, and not to its 127.0.0.1. With a killed \
         runtime the port is free again.", publish_ipv6)
        .needs(&[Need::UsersOverlay, Need::Program("pasta"), Need::Tap, Need::Veth, Need::Ipv6])
        .hint("A process of the runtime's, in the container's network namespace; pasta is not told of it."),
    Check::since(4, "rootless.no-way-to-loopback",
        "The container reaches no listener on the host's loopback interface.", no_way_to_loopback)
        .needs(&[Need::UsersOverlay, Need::Program("pasta"), Need::Tap, Need::Veth])
        .hint("By default pasta maps its gateway's address, and the container's loopback, to the host's \
               loopback: --no-map-gw, --tcp-ns none, --udp-ns none."),
    Check::since(4, "rootless.speaker-ends",
        "The program that passes the container's packets ends with the container, and with a killed runtime. \
         The container has none of its descriptors.", speaker_ends)
        .needs(&[Need::UsersOverlay, Need::Program("pasta"), Need::Tap, Need::Veth])
        .hint("Let a process beside the runtime wait for its end. PR_SET_PDEATHSIG does not outlive a change \
               of the user namespace."),
    Check::since(4, "rootless.keeper-killed",
        "What speaks for it ends, and gives its ports back, also when the process that keeps it is killed; \
         the container goes on.", keeper_killed)
        .needs(&[Need::UsersOverlay, Need::Program("pasta"), Need::Tap, Need::Veth])
        .hint("When PID 1 of a PID namespace ends, the kernel kills all others in it: clone(2) with \
               CLONE_NEWPID."),
    Check::since(4, "rootless.publish-refused",
        "A port that is taken, or that only root may have, is refused.", publish_refused)
        .needs(&[Need::UsersOverlay, Need::Program("pasta"), Need::Tap, Need::Veth])
        .hint("bind(2) gives the reason, before anything is made."),
    Check::since(4, "rootless.slirp4netns",
        "With slirp4netns instead of pasta, the container reaches hosts outside, but not the host's \
         loopback. Its published ports lead into it.", slirp4netns)
        .needs(&[Need::UsersOverlay, Need::Program("slirp4netns"), Need::Tap, Need::Veth])
        .hint("slirp4netns --configure --disable-host-loopback; it publishes by orders on its socket, \
               --api-socket."),
    Check::since(4, "rootless.no-speaker",
        "Without pasta and slirp4netns, the container has only loopback, and the runtime says so once. \
         --publish is refused.", no_speaker)
        .needs(&[Need::UsersOverlay])
        .hint("pasta is in the package passt."),
];

/// Does something beside a host outside, to which all ways lead.
fn outside<T: Send>(
    subject: &Subject,
    action: impl FnOnce(&Outside) -> Result<T, Failure> + Send,
) -> Result<T, Failure> {
    let outside = Outside::new()?;
    crate::netlink::add_route([0, 0, 0, 0].into(), 0, Outside::ADDRESS)?;
    with_tap(subject, || action(&outside))
}

/// The network of a container's.
fn of(container: &Container) -> Result<Network, Failure> {
    Network::of(container.first()?)
}

fn reaches_outside(subject: &Subject) -> Checked {
    let user = User::new(subject, "reaches-outside")?;
    outside(subject, |outside| {
        let (tcp, udp) = (outside.network.tcp("0.0.0.0:80")?, outside.network.udp("0.0.0.0:53")?);
        for (options, address) in [
            (&["--network", "bridge"][..], "10.44.0.2/16"),
            (&["--network", "bridge", "--subnet", "10.99.7.0/24", "--ip", "10.99.7.9"], "10.99.7.9/24"),
        ] {
            let container = user.hold(options)?;
            let network = of(&container)?;
            // As the host sees it, it is the host who speaks.
            expect(
                "who comes by TCP",
                Outside::HOST.to_string(),
                network.reaches("192.0.2.2:80", &tcp)?.to_string(),
            )?;
            let by_udp = network.reaches_by_udp("192.0.2.2:53", &udp)?;
            expect("who comes by UDP", Outside::HOST.to_string(), by_udp.to_string())?;
            expect("its address", vec![address.to_owned()], network.link("eth0")?.addresses)?;
            ensure(network.link("lo")?.up, || Failure::new("loopback is up", "it is down"))?;
            ensure(default_gateway(container.first()?)?.is_some(), || Failure::new("a gateway", "none"))?;
        }
        Ok(())
    })
}

fn publish(subject: &Subject) -> Checked {
    let user = User::new(subject, "publish")?;
    outside(subject, |outside| {
        let ports =
            ["--publish", "8080-8081:80-81", "--publish", "5353:53/udp", "--publish", "127.0.0.1:8090:80"];
        let free = ["--publish", "81", "-p", "8080-8089:81"];
        let container = user.hold(&[&["--network", "bridge"][..], &ports, &free].concat())?;
        let (network, host) = (of(&container)?, Network::of_host()?);
        // pasta has to know it before the container has sent anything, or the first connection is lost at
        // times.
        expect("its hardware address", Some([2, 0x42, 10, 44, 0, 2]), network.link("eth0")?.hardware)?;
        let (first, second) = (network.tcp("0.0.0.0:80")?, network.tcp("0.0.0.0:81")?);
        let udp = network.udp("0.0.0.0:53")?;
        outside.network.reaches("192.0.2.1:8080", &first)?;
        outside.network.reaches("192.0.2.1:8081", &second)?;
        host.reaches("127.0.0.1:8080", &first)?;
        let any = chosen(&container, "81/tcp", "0.0.0.0")?;
        host.reaches(&format!("127.0.0.1:{any}"), &second)?;
        host.reaches("127.0.0.1:8082", &second)?;
        outside.network.reaches_by_udp("192.0.2.1:5353", &udp)?;
        host.reaches("127.0.0.1:8090", &first)?;
        outside.network.does_not_reach("192.0.2.1:8090")?;
        let other = user.hold(&["--network", "bridge"])?;
        let _unasked = of(&other)?.tcp("0.0.0.0:8070")?;
        // pasta looks once a second for what it could publish unasked.
        std::thread::sleep(Duration::from_millis(1500));
        outside.network.does_not_reach("192.0.2.1:8070")
    })
}

fn publish_ipv6(subject: &Subject) -> Checked {
    let user = User::new(subject, "publish-ipv6")?;
    outside(subject, |_| {
        let ports = ["-p", "[::1]:8060:80", "-p", "[::1]:5360:53/udp", "-p", "[::1]::81"];
        let container = user.hold(&[&["--network", "bridge"][..], &ports].concat())?;
        let (network, host) = (of(&container)?, Network::of_host()?);
        let (tcp, udp) = (network.tcp("0.0.0.0:80")?, network.udp("0.0.0.0:53")?);
        host.reaches("[::1]:8060", &tcp)?;
        host.reaches_by_udp("[::1]:5360", &udp)?;
        let closed = network.tcp("127.0.0.1:81")?;
        let port = chosen(&container, "81/tcp", "[::1]")?;
        leads_nowhere(&host, &format!("[::1]:{port}"), &closed)?;
        host.does_not_reach("127.0.0.1:8060")?;
        let others = helpers(&container)?;
        container.signal(Signal::SIGKILL)?;
        let gone = || others.iter().all(|it| !it.is_alive()) && host.tcp("[::1]:8060").is_ok();
        ensure(eventually(Duration::from_secs(5), gone), || {
            Failure::new("no process is left, and the port is free", "not so")
        })
    })
}

fn no_way_to_loopback(subject: &Subject) -> Checked {
    let user = User::new(subject, "loopback")?;
    outside(subject, |_| {
        let host = Network::of_host()?;
        let listener = host.tcp("127.0.0.1:8060")?;
        host.reaches("127.0.0.1:8060", &listener)?;
        let container = user.hold(&["--network", "bridge"])?;
        let network = of(&container)?;
        let gateway = default_gateway(container.first()?)?;
        let gateway = gateway.ok_or_else(|| Failure::new("a gateway", "none"))?;
        std::thread::sleep(Duration::from_millis(1500));
        for address in ["127.0.0.1".to_owned(), gateway.to_string(), "10.44.0.2".into()] {
            network.does_not_reach(&format!("{address}:8060"))?;
        }
        Ok(())
    })
}

fn speaker_ends(subject: &Subject) -> Checked {
    let user = User::new(subject, "speaker-ends")?;
    outside(subject, |_| {
        let options = ["--network", "bridge", "--publish", "8050:80"];
        for killed in [false, true] {
            let container = user.hold(&options)?;
            let descriptors = container.first()?.descriptors()?;
            expect("the container's descriptors", vec![0, 1, 2], descriptors.into_iter().collect())?;
            let first = container.first()?;
            let others: Vec<_> =
                container.runtime().descendants().into_iter().filter(|it| *it != first).collect();
            let speaks = others.iter().any(|it| it.command_line().contains("pasta"));
            ensure(speaks, || Failure::new("pasta among the runtime's descendants", "none"))?;
            if killed {
                container.signal(Signal::SIGKILL)?;
            } else {
                container.output()?.ok()?;
            }
            let gone = || others.iter().all(|it| !it.is_alive());
            let ended = if killed { eventually(Duration::from_secs(5), gone) } else { gone() };
            ensure(ended, || Failure::new("nothing of it is left", "what spoke for it lives"))?;
        }
        Ok(())
    })
}

fn keeper_killed(subject: &Subject) -> Checked {
    let mut users = vec![("pasta", User::new(subject, "keeper-killed")?)];
    if Need::Program("slirp4netns").met().is_ok() {
        let user = User::new(subject, "keeper-of-slirp4netns")?.with_programs_only(&["slirp4netns"])?;
        users.push(("slirp4netns", user));
    }
    outside(subject, |_| {
        for (name, user) in &users {
            let container = user.hold(&["--network", "bridge", "--publish", "8055:80"])?;
            let below = container.runtime().descendants();
            let speaks = |process: &Process| process.command_line().contains(&format!("{name} "));
            let speaker = below.iter().copied().find(speaks);
            let speaker = speaker.ok_or_else(|| Failure::new("a speaker below the runtime", "none"))?;
            let keeper = below.iter().copied().find(|it| it.descendants().contains(&speaker));
            keeper.ok_or_else(|| Failure::new("a process that keeps it", "none"))?.end();
            let ended = eventually(Duration::from_secs(2), || !speaker.is_alive());
            ensure(ended, || Failure::new(format!("{name} ends with its keeper"), "it lives"))?;
            // slirp4netns has two processes, and the second one ends a moment later.
            let host = Network::of_host()?;
            let free = eventually(Duration::from_secs(2), || host.tcp("0.0.0.0:8055").is_ok());
            ensure(free, || Failure::new("the port is free again", "it is taken"))?;
            container.output()?.ok()?;
        }
        Ok(())
    })
}

fn publish_refused(subject: &Subject) -> Checked {
    let user = User::new(subject, "publish-refused")?;
    user.run(&["true"])?.ok()?;
    outside(subject, |_| {
        let _taken = Network::of_host()?.tcp("0.0.0.0:8040")?;
        for (port, words) in [
            ("8040:80", &["8040", "EADDRINUSE", "another"][..]),
            ("80:80", &["EACCES", "ip_unprivileged_port_start"]),
            ("203.0.113.1:8030:80", &["203.0.113.1", "EADDRNOTAVAIL"]),
        ] {
            error(&user.run(&["--network", "bridge", "--publish", port, "true"])?, 125, words)?;
        }
        let run = user.run(&["--network", "bridge", "--bridge", "mine", "true"])?;
        error(&run, 125, &["--bridge", "ordinary user"])
    })
}

fn slirp4netns(subject: &Subject) -> Checked {
    let user = User::new(subject, "slirp4netns")?.with_programs_only(&["slirp4netns"])?;
    outside(subject, |outside| {
        let (host, far) = (Network::of_host()?, outside.network.tcp("0.0.0.0:80")?);
        let near = host.tcp("127.0.0.1:8020")?;
        let ports = ["--publish", "8010:80", "--publish", "5354:53/udp"];
        let container =
            user.hold(&[&["--network", "bridge", "--subnet", "10.99.7.0/24"][..], &ports].concat())?;
        let network = of(&container)?;
        expect("its address", vec!["10.99.7.100/24".to_owned()], network.link("eth0")?.addresses)?;
        let who = network.reaches("192.0.2.2:80", &far)?;
        expect("who comes by TCP", Outside::HOST.to_string(), who.to_string())?;
        let (tcp, udp) = (network.tcp("0.0.0.0:80")?, network.udp("0.0.0.0:53")?);
        outside.network.reaches("192.0.2.1:8010", &tcp)?;
        host.reaches("127.0.0.1:8010", &tcp)?;
        outside.network.reaches_by_udp("192.0.2.1:5354", &udp)?;
        host.reaches("127.0.0.1:8020", &near)?;
        let gateway =
            default_gateway(container.first()?)?.ok_or_else(|| Failure::new("a gateway", "none"))?;
        for address in ["127.0.0.1".to_owned(), gateway.to_string()] {
            network.does_not_reach(&format!("{address}:8020"))?;
        }
        let first = container.first()?;
        let others: Vec<_> =
            container.runtime().descendants().into_iter().filter(|it| *it != first).collect();
        container.output()?.ok()?;
        ensure(others.iter().all(|it| !it.is_alive()), || {
            Failure::new("nothing of it is left", "what spoke for it lives")
        })?;
        let run = user.run(&["--network", "bridge", "--ip", "10.44.0.9", "true"])?;
        error(&run, 125, &["--ip", "10.44.0.100"])
    })
}

fn no_speaker(subject: &Subject) -> Checked {
    let user = User::new(subject, "no-speaker")?.with_programs_only(&[])?;
    let run =
        |options: &[&str]| user.run(&[&["--network", "bridge"], options, &["cat", "/proc/net/dev"]].concat());
    let first = run(&[])?;
    let links =
        first.ok()?.lines().filter_map(|line| Some(line.split_once(':')?.0.trim())).collect::<Vec<_>>();
    expect("its links", vec!["lo"], links)?;
    ensure(first.stderr.contains("loopback only"), || Failure::new("a line that says so", &first.stderr))?;
    expect("what the second one says", "", run(&[])?.stderr.as_str())?;
    error(&run(&["--publish", "8080:80"])?, 125, &["--publish", "passt"])
}
