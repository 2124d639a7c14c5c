//! The cgroup's limits. Each check reads a limit from the kernel's files, or runs a program into it.
//! cgroups(7), the kernel's cgroup-v1/ and cgroup-v2.rst.

use std::thread;
use std::time::{Duration, Instant};

use crate::container::Container;
use crate::container::LIMIT;
use crate::kernel::{Cgroup, myself};
use crate::needs::{Need, allowed_cpus};
use crate::{Check, Checked, Failure, Subject, ensure, expect};

const MIB: u64 = 1 << 20;

#[rustfmt::skip] // It would give each argument a line of its own.
pub(crate) const CHECKS: &[Check] = &[
    Check::since(0, "cgroup.is-own",
        "The container's processes are all in one cgroup, which has no others.", is_own)
        .needs(&[Need::Controller("memory")])
        .hint("Join before the command runs: children are born into their parent's cgroup."),
    Check::since(0, "memory.limit", "The cgroup's memory limit is 128 MiB.", |it| memory(it, &[], 128 * MIB))
        .needs(&[Need::Controller("memory")])
        .hint("v1: memory.limit_in_bytes; v2: memory.max."),
    Check::since(0, "memory.felt",
        "The kernel kills a command that uses more memory.", |it| hog(it, &[], 256))
        .needs(&[Need::Controller("memory"), Need::NoSwap])
        .hint("The command must be in the cgroup before it allocates: memory stays charged where it was \
               first used."),
    Check::since(0, "cpu.limit", "The cgroup's processor quota is half a processor.", |it| cpus(it, &[], 0.5))
        .needs(&[Need::Controller("cpu")])
        .hint("v1: cpu.cfs_quota_us and cpu.cfs_period_us; v2: both in cpu.max."),
    Check::since(0, "cpu.felt", "Two busy loops get half a processor together.", |it| spin(it, &[], 0.5))
        .needs(&[Need::Controller("cpu")])
        .hint("The quota counts for the whole cgroup: are all processes in it?"),
    Check::since(0, "pids.limit", "The cgroup's limit of processes is 64.", |it| pids(it, &[], Some(64)))
        .needs(&[Need::Controller("pids")])
        .hint("pids.max, in v1 and v2."),
    Check::since(0, "pids.felt",
        "A script that starts 100 processes is stopped at 64.", |it| bomb(it, &[], 64))
        .needs(&[Need::Controller("pids")])
        .hint("The limit counts all processes of the cgroup, PID 1 too. fork fails with EAGAIN."),
    Check::since(1, "memory.option", "--memory takes bytes, units and fractions.", memory_option)
        .needs(&[Need::Controller("memory")])
        .hint("k, m, g, t are powers of 1024, in small or capital letters; `1.5g` is 1610612736 bytes."),
    Check::since(1, "memory.option-felt",
        "With --memory 32m a command that uses 64 MiB is killed, and the runtime names the limit.", oom)
        .needs(&[Need::Controller("memory"), Need::NoSwap])
        .hint("v1: oom_kill in memory.oom_control; v2: in memory.events. Read it before you remove the \
               cgroup."),
    Check::since(1, "swap.option", "--memory-swap limits memory and swap together.", swap)
        .needs(&[Need::Controller("memory"), Need::SwapAccounting])
        .hint("v1: memory.memsw.limit_in_bytes, after memory.limit_in_bytes. v2: memory.swap.max is the \
               difference."),
    Check::since(1, "swap.unlimited", "--memory-swap -1 leaves swap unlimited.", swap_unlimited)
        .needs(&[Need::Controller("memory"), Need::SwapAccounting])
        .hint("v1: -1; v2: max."),
    Check::since(1, "memory.unlimited", "--memory 0 means no limit.", |it| {
        let limit = it.in_cgroup(&["--memory", "0"], |it| it.limit("memory.limit_in_bytes", "memory.max"));
        expect("the memory limit", None, limit?)
    })
        .needs(&[Need::Controller("memory")])
        .hint("v1: -1; v2: max. A new cgroup has no limit, either."),
    Check::since(1, "cpu.unlimited", "--cpus 0 and --cpu-quota -1 mean no quota.", cpus_unlimited)
        .needs(&[Need::Controller("cpu")])
        .hint("v1: -1; v2: max."),
    Check::since(1, "cpu.period",
        "--cpu-period and --cpu-quota set the two numbers, and each has its default.", cpu_period)
        .needs(&[Need::Controller("cpu")])
        .hint("v1: cpu.cfs_period_us and cpu.cfs_quota_us. v2: cpu.max, first the quota."),
    Check::since(1, "cpu.option", "--cpus sets the quota, from 0.01 to all processors.", cpus_option)
        .needs(&[Need::Controller("cpu")])
        .hint("The kernel accepts a quota of 1000 µs and more."),
    Check::since(1, "cpu.option-felt",
        "With --cpus 0.2 two busy loops get 0.2 processors together.", |it| spin(it, &["--cpus", "0.2"], 0.2))
        .needs(&[Need::Controller("cpu")])
        .hint("Is it still the default quota?"),
    Check::since(1, "cpu.shares", "--cpu-shares sets the weight.", shares)
        .needs(&[Need::Controller("cpu")])
        .hint("v1: cpu.shares, 2 to 262144. v2: cpu.weight, 1 to 10000; the ends of both ranges correspond."),
    Check::since(1, "cpuset.option", "--cpuset-cpus keeps the container on those processors.", cpuset)
        .needs(&[Need::Controller("cpuset")])
        .hint("v1: cpuset.mems must be set, too, before a process can join."),
    Check::since(1, "cpuset.mems", "--cpuset-mems keeps the container's memory on those nodes.", cpuset_mems)
        .needs(&[Need::Controller("cpuset")])
        .hint("v1: cpuset.cpus must be set, too, before a process can join."),
    Check::since(1, "pids.option",
        "--pids-limit sets the limit, and a script that starts 40 processes feels it.", pids_option)
        .needs(&[Need::Controller("pids")])
        .hint("pids.max."),
    Check::since(1, "pids.unlimited",
        "--pids-limit -1 means no limit.", |it| pids(it, &["--pids-limit", "-1"], None))
        .needs(&[Need::Controller("pids")])
        .hint("Write `max`, or nothing."),
];

fn is_own(subject: &Subject) -> Checked {
    let container = subject.hold_sh(&[], "sleep 1000 & echo ready; cat")?;
    let its = container.first()?.cgroup()?.folder("memory")?.to_owned();
    let of_host = myself().cgroup()?.folder("memory")?.to_owned();
    ensure(its != of_host, || Failure::new("a cgroup of its own", format!("the host's, {}", its.display())))?;
    for process in container.processes()? {
        expect(
            format!("the cgroup of \"{}\"", process.command_line()),
            &its,
            &process.cgroup()?.folder("memory")?.to_owned(),
        )?;
    }
    Ok(())
}

fn memory(subject: &Subject, options: &[&str], bytes: u64) -> Checked {
    let limit = subject.in_cgroup(options, |it| it.limit("memory.limit_in_bytes", "memory.max"))?;
    expect("the memory limit", Some(bytes), limit)
}

fn memory_option(subject: &Subject) -> Checked {
    let sizes = [
        ("64m", 64 * MIB),
        ("1.5g", 1536 * MIB),
        ("128 MiB", 128 * MIB),
        ("67108864", 64 * MIB),
        ("65536K", 64 * MIB),
        ("6m", 6 * MIB),
    ];
    for (text, bytes) in sizes {
        memory(subject, &["--memory", text], bytes)
            .map_err(|failure| failure.of(format_args!("with --memory {text:?}")))?;
    }
    Ok(())
}

/// Runs a program that uses so many MiB and must be killed for it: dd takes one buffer of that size and fills
/// it.
fn hog(subject: &Subject, options: &[&str], mib: u32) -> Checked {
    let size = format!("bs={mib}M");
    let output =
        subject.run(&[options, &["dd", "if=/dev/zero", "of=/dev/null", "count=1", &size]].concat())?;
    output.status_is(137)
}

fn oom(subject: &Subject) -> Checked {
    hog(subject, &["--memory", "32m"], 64)?;
    let output =
        subject.run(&["--memory", "32m", "dd", "if=/dev/zero", "of=/dev/null", "count=1", "bs=64M"])?;
    let named = output.stderr.contains("memory") && output.stderr.contains("32");
    ensure(named, || {
        Failure::new("stderr names the memory limit of 32 MiB as the cause", format!("{:?}", output.stderr))
    })?;
    // And only then: another SIGKILL is not the memory's fault.
    let container = subject.hold(&["--memory", "32m"])?;
    container.first()?.end();
    let output = container.output()?;
    output.status_is(137)?;
    expect("stderr when somebody else killed PID 1", "", &output.stderr)
}

fn swap(subject: &Subject) -> Checked {
    // 0 is the default: as much swap as memory.
    for (both, swap) in [("64m", 0), ("100m", 36 * MIB), ("0", 64 * MIB)] {
        let options = ["--memory", "64m", "--memory-swap", both];
        let (v1, limit) = subject.in_cgroup(&options, swap_limit)?;
        let expected = if v1 { swap + 64 * MIB } else { swap };
        expect(format!("the limit of swap with --memory-swap {both}"), Some(expected), limit)?;
    }
    Ok(())
}

/// The limit of swap, and whether it is v1's, of memory and swap together.
fn swap_limit(cgroup: &Cgroup) -> Result<(bool, Option<u64>), Failure> {
    let v1 = cgroup.folder("memory")?.join("memory.memsw.limit_in_bytes").exists();
    Ok((v1, cgroup.limit("memory.memsw.limit_in_bytes", "memory.swap.max")?))
}

fn swap_unlimited(subject: &Subject) -> Checked {
    let options = ["--memory", "64m", "--memory-swap", "-1"];
    memory(subject, &options, 64 * MIB)?;
    expect("the limit of swap", None, subject.in_cgroup(&options, swap_limit)?.1)?;
    expect("the limit of swap with --memory 0", None, subject.in_cgroup(&["--memory", "0"], swap_limit)?.1)
}

fn cpus(subject: &Subject, options: &[&str], expected: f64) -> Checked {
    let found = subject.in_cgroup(options, Cgroup::cpus)?;
    let close = found.is_some_and(|found| (found - expected).abs() < 0.001);
    ensure(close, || Failure::new(format!("a quota of {expected} processors"), format!("{found:?}")))
}

fn cpus_option(subject: &Subject) -> Checked {
    let all = thread::available_parallelism()?.get();
    for (text, expected) in
        [("0.25", 0.25), ("0.01", 0.01), (".5", 0.5), (all.to_string().as_str(), all as f64)]
    {
        cpus(subject, &["--cpus", text], expected)?;
    }
    Ok(())
}

fn cpus_unlimited(subject: &Subject) -> Checked {
    for options in [["--cpus", "0"], ["--cpu-quota", "-1"]] {
        let found = subject.in_cgroup(&options, Cgroup::cpus)?;
        expect(format!("the quota with {}", options.join(" ")), None, found)?;
    }
    Ok(())
}

fn cpu_period(subject: &Subject) -> Checked {
    for (options, numbers) in [
        (&["--cpu-period", "50000", "--cpu-quota", "20000"][..], "20000 50000"),
        (&["--cpu-quota", "20000"], "20000 100000"),
        // The default is half a CPU.
        (&["--cpu-period", "50000"], "25000 50000"),
    ] {
        let found = subject.in_cgroup(options, Cgroup::quota_and_period)?;
        expect(format!("quota and period with {}", options.join(" ")), numbers, &found)?;
    }
    Ok(())
}

/// Lets two loops spin, and measures their processor time. The rest of the machine may be busy, too. So the
/// container gets the largest weight: then only the quota holds it back. Too little time is measured again.
fn spin(subject: &Subject, options: &[&str], limit: f64) -> Checked {
    let container =
        subject.hold_sh(options, "(while :; do :; done) & (while :; do :; done) & echo ready; cat")?;
    let cgroup = container.first()?.cgroup()?;
    let folder = cgroup.folder("cpu")?;
    let (weight, largest) =
        if folder.join("cpu.shares").exists() { ("cpu.shares", "262144") } else { ("cpu.weight", "10000") };
    let of_host = myself().cgroup()?;
    // A runtime that does not join its cgroup must not cost the host's its weight.
    if of_host.folder("cpu")? != folder {
        std::fs::write(folder.join(weight), largest)?;
    }
    // After the start: that processor time does not belong to the loops.
    thread::sleep(Duration::from_millis(200));
    let mut share = 0.0;
    for _ in 0..3 {
        // In this order: when this process has to wait between the two, it is too little that is found.
        let (start, before) = (Instant::now(), cpu_time(&container)?);
        thread::sleep(Duration::from_millis(1600));
        share = (cpu_time(&container)? - before).as_secs_f64() / start.elapsed().as_secs_f64();
        if share >= limit * 0.8 {
            break;
        }
    }
    let close = (share - limit).abs() <= limit * 0.2;
    ensure(close, || {
        Failure::new(format!("two busy loops get {limit} processors, ± 20 %"), format!("{share:.2}"))
    })
}

fn cpu_time(container: &Container) -> Result<Duration, Failure> {
    container.processes()?.into_iter().map(|process| process.cpu_time()).sum()
}

fn shares(subject: &Subject) -> Checked {
    for (shares, weight) in [("2", "1"), ("262144", "10000")] {
        let (v1, found) = subject.in_cgroup(&["--cpu-shares", shares], |cgroup| {
            Ok((cgroup.folder("cpu")?.join("cpu.shares").exists(), cgroup.read("cpu.shares", "cpu.weight")?))
        })?;
        expect(format!("the weight with --cpu-shares {shares}"), if v1 { shares } else { weight }, &found)?;
    }
    Ok(())
}

fn cpuset(subject: &Subject) -> Checked {
    for cpu in [allowed_cpus().first(), allowed_cpus().last()].into_iter().flatten() {
        let container = subject.hold(&["--cpuset-cpus", &cpu.to_string()])?;
        let first = container.first()?;
        expect("cpuset.cpus", cpu.to_string(), first.cgroup()?.read("cpuset.cpus", "cpuset.cpus")?)?;
        expect("the processors that PID 1 may use", cpu.to_string(), first.status("Cpus_allowed_list")?)?;
    }
    Ok(())
}

/// Most machines have a single node. So that a container keeps to it shows only in its own cpuset.
fn cpuset_mems(subject: &Subject) -> Checked {
    let container = subject.hold(&["--cpuset-mems", "0"])?;
    let first = container.first()?;
    let (its, of_host) = (first.cgroup()?, myself().cgroup()?);
    let folder = its.folder("cpuset")?;
    ensure(folder != of_host.folder("cpuset")?, || {
        Failure::new("a cpuset of the container's own", format!("the host's, {}", folder.display()))
    })?;
    expect("cpuset.mems", "0", &its.read("cpuset.mems", "cpuset.mems")?)?;
    expect("the nodes from which PID 1 may have memory", "0", &first.status("Mems_allowed_list")?)
}

fn pids(subject: &Subject, options: &[&str], limit: Option<u64>) -> Checked {
    expect("pids.max", limit, subject.in_cgroup(options, |cgroup| cgroup.limit("pids.max", "pids.max"))?)
}

fn pids_option(subject: &Subject) -> Checked {
    pids(subject, &["--pids-limit", "20"], Some(20))?;
    bomb(subject, &["--pids-limit", "20"], 20)
}

/// Lets a script start more processes than it may, a bounded number, and counts them when they stop to become
/// more.
fn bomb(subject: &Subject, options: &[&str], limit: usize) -> Checked {
    let count = if limit > 40 { 100 } else { 40 };
    // In a subshell: a shell that cannot fork ends, and as PID 1 it would end all.
    let script = format!("echo ready; (for i in $(seq {count}); do sleep 1000 & done); cat");
    let container = subject.hold_sh(options, &script)?;
    let mut most = 0;
    let mut unchanged = 0;
    let deadline = Instant::now() + LIMIT;
    // Under half a processor of a busy machine, what pauses has not yet stopped: it has that long to get to
    // its limit.
    while unchanged < 10 || (most + 3 < limit && Instant::now() < deadline) {
        thread::sleep(Duration::from_millis(30));
        let now = container.processes()?.len();
        unchanged = if now > most { 0 } else { unchanged + 1 };
        most = most.max(now);
    }
    let stopped = (limit - 3..=limit).contains(&most);
    ensure(stopped, || {
        Failure::new(format!("{count} processes are stopped at {limit}"), format!("{most} at once"))
    })
}
