//! The exercises of step 2: networks, terminals, and a view of the cgroup. Kernel objects: links, rules,
//! mounts. Man pages: rtnetlink(7), nft(8), console(4), cgroup_namespaces(7).

use super::Exercise;
use crate::network::{Network, Outside};
use crate::terminal::Terminal;
use crate::{Checked, Failure, Need, Subject, ensure, expect};

pub(super) const EXERCISES: &[Exercise] = &[
    Exercise {
        id: "step2.mac-address",
        step: 2,
        sentence: "Add --mac-address ADDRESS: the hardware address of eth0, on a bridge.",
        hint: "IFLA_ADDRESS in the request that makes the pair, or another one for eth0: rtnetlink(7). \
               Multicast addresses, whose first byte is odd, are refused.",
        needs: &[Need::Bridge],
        run: mac_address,
    },
    Exercise {
        id: "step2.console",
        step: 2,
        sentence: "If a container has a terminal, make /dev/console that terminal.",
        hint: "A bind mount of the pseudo-terminal's slave: /dev/console itself is the host's. console(4).",
        needs: &[],
        run: console,
    },
    Exercise {
        id: "step2.host-is-off-limits",
        step: 2,
        sentence: "Keep containers on a bridge from opening connections to the host itself.",
        hint: "An input chain: drop new connections from the bridge. Packets to published ports are \
               forwarded, not input. Answers to the host's own connections must still arrive, and ping is to \
               work both ways.",
        needs: &[Need::Bridge],
        run: host_is_off_limits,
    },
    Exercise {
        id: "step2.cgroup-view",
        step: 2,
        sentence: "Show the container its own cgroup at /sys/fs/cgroup, read-only.",
        hint: "Mounted in the container's cgroup namespace, cgroup2 shows its own part. v1: a tmpfs with a \
               mount for each hierarchy.",
        needs: &[Need::Controller("memory")],
        run: cgroup_view,
    },
];

fn mac_address(subject: &Subject) -> Checked {
    let options = ["--network", "bridge", "--mac-address"];
    let container = subject.hold(&[&options[..], &["02:42:AC:11:00:02"]].concat())?;
    let found = Network::of(container.first()?)?.link("eth0")?.hardware;
    expect("the hardware address of eth0", Some([0x02, 0x42, 0xac, 0x11, 0x00, 0x02]), found)?;
    for bad in ["abc", "02:42:ac:11:00", "03:42:ac:11:00:02", "02:42:ac:11:00:zz"] {
        let output = subject.run(&[&options[..], &[bad, "true"]].concat())?;
        ensure(output.status == 125 && output.stderr.contains("--mac-address"), || {
            Failure::new(
                format!("{bad} is refused with 125 and an error that names the option"),
                format!("{output:?}"),
            )
        })?;
    }
    Ok(())
}

fn console(subject: &Subject) -> Checked {
    let binary = subject.binary().to_string_lossy();
    let mut terminal = Terminal::start(subject, "sh", &["-c", "\"$0\"; exit $?", &binary])?;
    terminal.prompt()?;
    terminal.enter("sleep 1000")?;
    let sleeping = terminal.until("sleep 1000", 'S')?;
    let identity = |path: &str| crate::kernel::identity(sleeping.path(path));
    let console = identity("root/dev/console").map_err(|error| Failure::new("a /dev/console", error))?;
    expect("the file that /dev/console is", identity("fd/0")?, console)?;
    terminal.press_until_gone("\x03", sleeping)?;
    terminal.enter("echo to the console > /dev/console; exit $?")?;
    terminal.see("\nto the console")?;
    expect("the exit status", Some(0), terminal.exit_status()?)
}

fn host_is_off_limits(subject: &Subject) -> Checked {
    let outside = Outside::new()?;
    let host = Network::of_host()?;
    let container = subject.hold(&["--network", "bridge", "--publish", "8080:80"])?;
    let inside = Network::of(container.first()?)?;
    let _listener = host.tcp("0.0.0.0:7777")?;
    let service = host.udp("0.0.0.0:7777")?;
    for address in ["10.44.0.1", "192.0.2.1"] {
        let port = format!("{address}:7777");
        inside.does_not_reach(&port)?;
        ensure(inside.reaches_by_udp(&port, &service).is_err(), || {
            Failure::new(format!("no UDP packet to {port} is answered"), "one was")
        })?;
        inside.pings(address)?;
    }
    inside.pings("192.0.2.2")?;
    host.pings("10.44.0.2")?;
    let elsewhere = outside.network.tcp("0.0.0.0:80")?;
    inside.reaches("192.0.2.2:80", &elsewhere)?;
    let published = inside.tcp("0.0.0.0:80")?;
    outside.network.reaches("192.0.2.1:8080", &published)?;
    for address in ["127.0.0.1:8080", "10.44.0.2:80"] {
        host.reaches(address, &published)?;
    }
    Ok(())
}

fn cgroup_view(subject: &Subject) -> Checked {
    let script = "cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/memory/memory.limit_in_bytes 2>/dev/null; \
                  echo ready; cat";
    let container = subject.hold_sh(&["--memory", "64m"], script)?;
    expect("the memory limit that the container reads", Some("67108864"), container.stdout().lines().next())?;
    let mounts = container.first()?.mounts()?;
    let mut views = mounts.iter().filter(|mount| mount.kind.starts_with("cgroup"));
    ensure(views.all(|mount| mount.has("ro")), || {
        Failure::new("every mount of a cgroup hierarchy is ro", "one is not")
    })
}
