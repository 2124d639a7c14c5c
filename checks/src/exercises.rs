//! The checks of the lessons' exercises: each fails on the step as it is, and passes once it is solved.

use crate::kernel::Mount;
use crate::network::{Network, Outside};
use crate::probe::Need;
use crate::terminal::Terminal;
use crate::{Checked, Failure, Subject, ensure, expect, host};

/// One exercise.
#[derive(Debug, Clone, Copy)]
pub struct Exercise {
    /// `step0.private-tmp`.
    pub id: &'static str,
    /// Which step's binary is changed to solve it.
    pub step: u8,
    /// What is asked.
    pub sentence: &'static str,
    /// Where to begin.
    pub hint: &'static str,
    /// What the machine must have.
    pub needs: &'static [Need],
    /// Tries a solution.
    pub run: fn(&Subject) -> Checked,
}

/// All exercises, in the order of the lessons.
pub const ALL: &[Exercise] = &[
    Exercise {
        id: "step0.private-tmp",
        step: 0,
        sentence: "Give the container a /tmp of its own that is gone with it.",
        hint: "A tmpfs with mode 1777, mounted where /proc is; mount_namespaces(7) says why it needs no unmount.",
        needs: &[],
        run: private_tmp,
    },
    Exercise {
        id: "step0.no-swap",
        step: 0,
        sentence: "Let the container use no swap: its 128 MiB are all that it gets.",
        hint: "v1: memory.memsw.limit_in_bytes counts memory and swap together. v2: memory.swap.max counts swap alone.",
        needs: &[Need::Controller("memory"), Need::SwapAccounting],
        run: no_swap,
    },
    Exercise {
        id: "step0.domainname",
        step: 0,
        sentence: "Set the NIS domain name in the container to \"congo\", and leave the host's alone.",
        hint: "uts_namespaces(7) says what else is in a UTS namespace; /proc/sys/kernel/domainname can be written.",
        needs: &[],
        run: domainname,
    },
    Exercise {
        id: "step1.oom-score-adj",
        step: 1,
        sentence: "Add --oom-score-adj N, from -1000 to 1000: who is killed first when the whole host is out of memory.",
        hint: "proc_pid_oom_score_adj(5): the child can write its own, while it still sees the host's /proc.",
        needs: &[],
        run: oom_score_adj,
    },
    Exercise {
        id: "step1.memory-reservation",
        step: 1,
        sentence: "Add --memory-reservation SIZE: what the container may keep when the host is short of memory.",
        hint: "v1: memory.soft_limit_in_bytes; v2: memory.low.",
        needs: &[Need::Controller("memory")],
        run: memory_reservation,
    },
    Exercise {
        id: "step1.umask",
        step: 1,
        sentence: "Add --umask MASK, in octal; the default stays 0022.",
        hint: "umask(2) in the child, as its last act before the exec: what the runtime makes before needs its own.",
        needs: &[],
        run: umask,
    },
    Exercise {
        id: "step2.mac-address",
        step: 2,
        sentence: "Add --mac-address ADDRESS: the hardware address of eth0, on a bridge.",
        hint: "IFLA_ADDRESS in the request that makes the pair, or another one for eth0: rtnetlink(7). Multicast addresses, whose first byte is odd, are refused.",
        needs: &[Need::Bridge],
        run: mac_address,
    },
    Exercise {
        id: "step2.console",
        step: 2,
        sentence: "Give a container that has a terminal a /dev/console, which is that terminal.",
        hint: "A bind mount of the pseudo-terminal's slave: /dev/console itself is the host's. console(4).",
        needs: &[],
        run: console,
    },
    Exercise {
        id: "step2.host-is-off-limits",
        step: 2,
        sentence: "Keep containers on a bridge from opening connections to the host itself.",
        hint: "An input chain: what comes from the bridge and is new is dropped. Published ports are forwarded, not input; answers to what the host began must still arrive.",
        needs: &[Need::Bridge],
        run: host_is_off_limits,
    },
    Exercise {
        id: "step2.cgroup-view",
        step: 2,
        sentence: "Show the container its own cgroup at /sys/fs/cgroup, to read only.",
        hint: "Mounted in the container's cgroup namespace, cgroup2 shows its own part. v1: a tmpfs with a mount for each hierarchy.",
        needs: &[Need::Controller("memory")],
        run: cgroup_view,
    },
];

fn private_tmp(subject: &Subject) -> Checked {
    let container = subject.hold_sh(&[], "touch /tmp/first && stat -c %a /tmp && echo ready; cat")?;
    let mounts = container.first()?.mounts()?;
    let kind = mounts.iter().rfind(|mount: &&Mount| mount.point == "/tmp").map(|mount| mount.kind.as_str());
    expect("the filesystem at /tmp", Some("tmpfs"), kind)?;
    expect("the mode of /tmp", "1777", container.stdout().lines().next().unwrap_or_default())?;
    expect("what the next container finds in /tmp", "", subject.run(&["ls", "-A", "/tmp"])?.ok()?)
}

fn no_swap(subject: &Subject) -> Checked {
    subject.in_cgroup(&[], |cgroup| {
        let memory = cgroup.limit("memory.limit_in_bytes", "memory.max")?;
        let limit = cgroup.limit("memory.memsw.limit_in_bytes", "memory.swap.max")?;
        match cgroup.folder("memory")?.join("memory.memsw.limit_in_bytes").exists() {
            true => expect("the limit of memory and swap", memory, limit),
            false => expect("the limit of swap", Some(0), limit),
        }
    })
}

fn domainname(subject: &Subject) -> Checked {
    let of_host = || crate::kernel::read("/proc/sys/kernel/domainname");
    let before = of_host()?;
    let inside = subject.run(&["cat", "/proc/sys/kernel/domainname"])?;
    expect("the domain name inside", "congo", inside.ok()?)?;
    expect("the host's domain name", before, of_host()?)
}

fn oom_score_adj(subject: &Subject) -> Checked {
    // Lower than its own it may be written with CAP_SYS_RESOURCE only, which not every host gives to its root.
    for score in ["500", "1000"] {
        let found = subject.hold(&["--oom-score-adj", score])?.first()?.read("oom_score_adj")?;
        expect(format!("oom_score_adj with --oom-score-adj {score}"), score, found.trim())?;
    }
    let unchanged = subject.hold(&[])?.first()?.read("oom_score_adj")?;
    expect("oom_score_adj without the option", host::myself().read("oom_score_adj")?, unchanged)?;
    for score in ["1001", "abc"] {
        subject.run(&["--oom-score-adj", score, "true"])?.status_is(125)?;
    }
    Ok(())
}

fn memory_reservation(subject: &Subject) -> Checked {
    let options = ["--memory-reservation", "32m"];
    let limit = subject.in_cgroup(&options, |it| it.limit("memory.soft_limit_in_bytes", "memory.low"))?;
    expect("the reservation", Some(32 << 20), limit)?;
    subject.run(&["--memory-reservation", "abc", "true"])?.status_is(125)
}

fn umask(subject: &Subject) -> Checked {
    for (options, mask) in [(&["--umask", "0077"][..], "0077"), (&["--umask", "7"], "0007"), (&[], "0022")] {
        let found = subject.hold(options)?.first()?.status("Umask")?;
        expect(format!("the umask with {options:?}"), mask, &found)?;
    }
    let output = subject.run(&["--umask", "9", "true"])?;
    ensure(output.status == 125 && output.stderr.contains("--umask"), || {
        Failure::new("--umask 9 is refused with 125 and an error that names it", format!("{output:?}"))
    })
}

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
    for address in ["10.44.0.1:7777", "192.0.2.1:7777"] {
        inside.does_not_reach(address)?;
    }
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
    let script = "cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/memory/memory.limit_in_bytes 2>/dev/null; echo ready; cat";
    let container = subject.hold_sh(&["--memory", "64m"], script)?;
    expect("the memory limit that the container reads", Some("67108864"), container.stdout().lines().next())?;
    let mounts = container.first()?.mounts()?;
    let mut views = mounts.iter().filter(|mount| mount.kind.starts_with("cgroup"));
    let read_only = |mount: &Mount| mount.options.split(',').any(|option| option == "ro");
    ensure(views.all(read_only), || Failure::new("every mount of a cgroup hierarchy is ro", "one is not"))
}
