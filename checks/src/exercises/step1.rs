//! The exercises of step 1: options more of the same kinds. Kernel objects: the process's own settings, and a
//! cgroup's. Man pages: proc_pid_oom_score_adj(5), cgroups(7), umask(2).

use super::Exercise;
use crate::kernel::myself;
use crate::{Checked, Failure, Need, Subject, ensure, expect};

pub(super) const EXERCISES: &[Exercise] = &[
    Exercise {
        id: "step1.oom-score-adj",
        step: 1,
        sentence: "Add --oom-score-adj N, from -1000 to 1000: it decides which process the kernel kills \
                   first when the whole host is out of memory.",
        hint: "proc_pid_oom_score_adj(5): the child can write its own file, while it still sees the host's \
               /proc.",
        needs: &[],
        run: oom_score_adj,
    },
    Exercise {
        id: "step1.memory-reservation",
        step: 1,
        sentence: "Add --memory-reservation SIZE: the memory that the container may keep when the host is \
                   short of it.",
        hint: "v1: memory.soft_limit_in_bytes; v2: memory.low.",
        needs: &[Need::Controller("memory")],
        run: memory_reservation,
    },
    Exercise {
        id: "step1.umask",
        step: 1,
        sentence: "Add --umask MASK, in octal; the default stays 0022.",
        hint: "umask(2) in the child, as its last act before the exec: the files that the runtime makes \
               before need the runtime's umask.",
        needs: &[],
        run: umask,
    },
];

fn oom_score_adj(subject: &Subject) -> Checked {
    // Lower than its own it may be written with CAP_SYS_RESOURCE only, which not every host gives to its
    // root.
    for score in ["500", "1000"] {
        let found = subject.hold(&["--oom-score-adj", score])?.first()?.read("oom_score_adj")?;
        expect(format!("oom_score_adj with --oom-score-adj {score}"), score, found.trim())?;
    }
    let unchanged = subject.hold(&[])?.first()?.read("oom_score_adj")?;
    expect("oom_score_adj without the option", myself().read("oom_score_adj")?, unchanged)?;
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
