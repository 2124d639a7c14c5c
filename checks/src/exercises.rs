//! The checks of the lessons' exercises: each fails on the step as it is, and passes once it is solved.

use crate::kernel::Mount;
use crate::probe::Need;
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
