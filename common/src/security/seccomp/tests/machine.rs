//! A machine of the test's own that runs filters. So the tests also try the filters of the other
//! architecture, and each number and argument that a process could call the kernel with.

use nix::libc;
use seccompiler::sock_filter;

use super::super::architecture::Architecture;
use super::super::{Profile, json, rules};
use super::{docker, lesson};
use crate::security::capability::{Capabilities, Capability, by_name};

const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;
const KILL: u32 = libc::SECCOMP_RET_KILL_PROCESS;
const EPERM: u32 = libc::SECCOMP_RET_ERRNO | 1;
const ENOSYS: u32 = libc::SECCOMP_RET_ERRNO | 38;

/// What the program says about this call, as the kernel runs classic BPF.
fn run(program: &[sock_filter], machine: u32, number: u32, arguments: [u64; 6]) -> u32 {
    let mut words = vec![number, machine, 0, 0];
    words.extend(arguments.iter().flat_map(|it| [*it as u32, (*it >> 32) as u32]));
    let (mut at, mut loaded) = (0, 0);
    loop {
        let it = &program[at];
        at += 1;
        let skip = |so: bool| usize::from(if so { it.jt } else { it.jf });
        match it.code {
            0x20 => loaded = words[it.k as usize / 4],
            0x54 => loaded &= it.k,
            0x05 => at += it.k as usize,
            0x15 => at += skip(loaded == it.k),
            0x25 => at += skip(loaded > it.k),
            0x35 => at += skip(loaded >= it.k),
            0x06 => return it.k,
            code => panic!("unknown instruction {code:#x}"),
        }
    }
}

fn filter(
    profile: &Profile,
    machine: Architecture,
    kernel: (u32, u32),
    has: &Capabilities,
) -> Vec<sock_filter> {
    profile.compile_for(machine, kernel, has).unwrap().program
}

/// The built-in one on this machine.
fn built_in(machine: Architecture, has: &Capabilities) -> Vec<sock_filter> {
    filter(&lesson::built_in(has), machine, (6, 12), has)
}

fn read(text: &str) -> Profile {
    json::read(text, "test.json").unwrap()
}

/// Docker's own profile in Docker's format, and the one that step 4 builds, come to the same program. So they
/// decide alike about every call with every argument.
#[test]
fn the_lesson_builds_dockers_profile() {
    let from_docker = read(include_str!("docker.json"));
    let each = caps::all().into_iter().map(|it| Capabilities::from([it]));
    for has in each.chain([Capabilities::new(), docker(), caps::all()]) {
        for machine in [Architecture::X86_64, Architecture::Aarch64] {
            let expected = filter(&from_docker, machine, (6, 12), &has);
            assert_eq!(built_in(machine, &has), expected, "{machine:?} {has:?}");
        }
    }
}

#[test]
fn each_number_on_each_machine() {
    for machine in [Architecture::X86_64, Architecture::Aarch64] {
        for has in [Capabilities::new(), docker(), caps::all()] {
            let (profile, program) = (lesson::built_in(&has), built_in(machine, &has));
            let calls = rules::by_number(profile.rules.iter(), machine, &profile.default);
            let newest = calls.len() as u32 - 1;
            assert_eq!(newest, 466);
            for number in 0..=newest {
                let call = &calls[number as usize];
                let expected = match &call.always {
                    Some(action) => action.clone().into(),
                    // Their own tests try those with conditions.
                    None if !call.conditional.is_empty() => continue,
                    None => EPERM,
                };
                let found = run(&program, machine.audit(), number, [0; 6]);
                assert_eq!(found, expected, "{machine:?} {number} {has:?}");
            }
            for number in [newest + 1, 1000, 0x3FFF_FFFF, 0x4000_0000, 0x4000_0001, u32::MAX] {
                assert_eq!(run(&program, machine.audit(), number, [0; 6]), ENOSYS, "{machine:?} {number}");
            }
            for other in [0x4000_0003, 0x4000_0028, 0] {
                assert_eq!(run(&program, other, 0, [0; 6]), KILL, "{machine:?}");
            }
        }
    }
}

#[test]
fn the_other_machine_has_its_own_numbers() {
    let admin = Capabilities::from([Capability::CAP_SYS_ADMIN]);
    let machine = Architecture::Aarch64;
    let [plain, admin] = [docker(), admin].map(|has| built_in(machine, &has));
    let run = |program, number, first| run(program, machine.audit(), number, [first, 0, 0, 0, 0, 0]);
    // The kernel's include/uapi/asm-generic/unistd.h: openat, newfstatat, execve, getpid; mount, unshare,
    // keyctl.
    for number in [56, 79, 221, 172] {
        assert_eq!(run(&plain, number, 0), ALLOW, "{number}");
    }
    for (number, with_admin) in [(40, ALLOW), (97, ALLOW), (219, EPERM)] {
        assert_eq!((run(&plain, number, 0), run(&admin, number, 0)), (EPERM, with_admin), "{number}");
    }
    // clone, clone3, socket.
    assert_eq!((run(&plain, 220, 0x1000_0000), run(&plain, 220, 17)), (EPERM, ALLOW));
    assert_eq!((run(&plain, 435, 0), run(&admin, 435, 0)), (ENOSYS, ALLOW));
    assert_eq!((run(&plain, 198, 38), run(&plain, 198, 2)), (EPERM, ALLOW));
}

#[test]
fn sockets_personalities_and_namespaces() {
    let program = built_in(Architecture::X86_64, &docker());
    let allowed = |number, first| run(&program, 0xC000_003E, number, [first, 0, 0, 0, 0, 0]) == ALLOW;
    let families: Vec<u64> = (0..=60).filter(|&family| !allowed(41, family)).collect();
    let high = (46..=60).collect::<Vec<_>>();
    assert_eq!(families, [vec![12, 19, 20, 23, 25, 34, 37, 38, 40], high].concat());
    let personalities: Vec<u64> = (0..=0x00FF_FFFF).step_by(8).chain([0xFFFF_FFFF]).collect();
    let personalities: Vec<u64> = personalities.into_iter().filter(|&it| allowed(135, it)).collect();
    assert_eq!(personalities, [0, 8, 0x0002_0000, 0x0002_0008, 0xFFFF_FFFF]);
    let namespaces: Vec<u32> = (0..32).filter(|bit| !allowed(56, 1 << bit)).collect();
    // NEWNS; NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET.
    assert_eq!(namespaces, [17, 25, 26, 27, 28, 29, 30]);
    // The kernel reads the lower half of each of these arguments. With higher bits, what is refused without
    // them must not pass.
    let values = || (0..=60).chain((6..32).map(|bit| 1 << bit));
    for (number, value) in [41, 56, 135].into_iter().flat_map(|number| values().map(move |it| (number, it))) {
        for higher in [1 << 32, 1 << 63, !0 << 32] {
            let passes = allowed(number, higher | value) && !allowed(number, value);
            assert!(!passes, "{number}({:#x})", higher | value);
        }
    }
}

#[test]
fn for_whom_a_rule_holds() {
    let holds = |scope: &str, machine, kernel, has: &[&str]| {
        let rule = format!(r#"{{"names": ["getpid"], "action": "SCMP_ACT_ALLOW", {scope}}}"#);
        let profile = read(&format!(r#"{{"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{rule}]}}"#));
        profile.rules[0].holds(machine, kernel, &has.iter().map(|name| by_name(name).unwrap()).collect())
    };
    let (intel, arm) = (Architecture::X86_64, Architecture::Aarch64);
    for (scope, expected) in [
        (r#""includes": {}"#, [true, true]),
        (r#""includes": {"arches": ["amd64", "x32"]}"#, [true, false]),
        (r#""includes": {"arches": ["arm64"]}"#, [false, true]),
        (r#""excludes": {"arches": ["s390x", "amd64"]}"#, [false, true]),
        (r#""excludes": {"arches": ["s390x"]}"#, [true, true]),
    ] {
        assert_eq!([intel, arm].map(|machine| holds(scope, machine, (6, 1), &[])), expected, "{scope}");
    }
    for (scope, expected) in [
        (r#""includes": {"minKernel": "5.10"}"#, [false, false, true, true]),
        (r#""excludes": {"minKernel": "5.10"}"#, [true, true, false, false]),
    ] {
        let kernels = [(4, 19), (5, 9), (5, 10), (6, 1)];
        assert_eq!(kernels.map(|kernel| holds(scope, intel, kernel, &[])), expected, "{scope}");
    }
    for (scope, expected) in [
        (r#""includes": {"caps": ["CAP_KILL", "CAP_CHOWN"]}"#, [false, false, true]),
        (r#""excludes": {"caps": ["CAP_KILL", "CAP_CHOWN"]}"#, [true, false, false]),
        (r#""includes": {"caps": ["CAP_OF_TOMORROW"]}"#, [false, false, false]),
        (r#""excludes": {"caps": ["CAP_OF_TOMORROW"]}"#, [true, true, true]),
    ] {
        let has: [&[&str]; 3] = [&[], &["KILL"], &["KILL", "CHOWN"]];
        assert_eq!(has.map(|has| holds(scope, intel, (6, 1), has)), expected, "{scope}");
    }
}

/// What happens to `getpid` with this first and second argument, by these rules about it.
fn by_rules(default: &str, rules: &str, first: u64, second: u64) -> u32 {
    let profile = read(&format!(r#"{{"defaultAction": "SCMP_ACT_{default}", "syscalls": [{rules}]}}"#));
    let program = filter(&profile, Architecture::X86_64, (6, 12), &docker());
    run(&program, 0xC000_003E, 39, [first, second, 0, 0, 0, 0])
}

fn rule(action: &str, args: &str) -> String {
    format!(r#"{{"names": ["getpid"], "action": "SCMP_ACT_{action}", "args": [{args}]}}"#)
}

fn arg(index: u32, op: &str, value: u64) -> String {
    format!(r#"{{"index": {index}, "op": "SCMP_CMP_{op}", "value": {value}}}"#)
}

#[test]
fn comparisons_are_of_64_bits() {
    type Compare = fn(&u64, &u64) -> bool;
    let operators: [(&str, Compare); 6] = [
        ("NE", u64::ne),
        ("LT", u64::lt),
        ("LE", u64::le),
        ("EQ", u64::eq),
        ("GE", u64::ge),
        ("GT", u64::gt),
    ];
    let values = [0, 1, 38, u64::from(u32::MAX), 1 << 32, 1 << 32 | 38, 3 << 32, u64::MAX];
    for (op, compare) in operators {
        for value in values {
            for argument in values.into_iter().chain(values.map(|it| it.wrapping_add(1))) {
                let expected = if compare(&argument, &value) { ALLOW } else { EPERM };
                let got = by_rules("ERRNO", &rule("ALLOW", &arg(0, op, value)), argument, 0);
                assert_eq!(got, expected, "{argument:#x} {op} {value:#x}");
            }
        }
    }
    let masked = r#"{"index": 0, "op": "SCMP_CMP_MASKED_EQ", "value": 4294967310, "valueTwo": 6}"#;
    for (argument, expected) in [(6, ALLOW), (7, ALLOW), (0x66, ALLOW), (2, EPERM), (6 | 1 << 32, EPERM)] {
        assert_eq!(by_rules("ERRNO", &rule("ALLOW", masked), argument, 0), expected, "{argument:#x}");
    }
}

#[test]
fn several_conditions_and_several_rules() {
    // On two arguments both must be so; on one and the same, one of them.
    let both = rule("ALLOW", &[arg(0, "EQ", 1), arg(1, "EQ", 2)].join(","));
    let one = rule("ALLOW", &[arg(0, "EQ", 1), arg(0, "EQ", 2)].join(","));
    assert_eq!([(1, 2), (1, 0), (0, 2)].map(|(a, b)| by_rules("ERRNO", &both, a, b)), [ALLOW, EPERM, EPERM]);
    assert_eq!([1, 2, 3].map(|a| by_rules("ERRNO", &one, a, 0)), [ALLOW, ALLOW, EPERM]);
    // Without conditions before with; then the first one. One that says what the default says, says nothing.
    let (allow, log, trap, refuse) =
        (rule("ALLOW", ""), rule("LOG", &arg(0, "EQ", 1)), rule("TRAP", &arg(0, "LE", 1)), rule("ERRNO", ""));
    let (is_log, is_trap) = (libc::SECCOMP_RET_LOG, libc::SECCOMP_RET_TRAP);
    assert_eq!(by_rules("ERRNO", &[&log, &allow].map(String::as_str).join(","), 1, 0), ALLOW);
    assert_eq!(by_rules("ERRNO", &[&log, &trap].map(String::as_str).join(","), 1, 0), is_log);
    assert_eq!(by_rules("ERRNO", &[&trap, &log].map(String::as_str).join(","), 1, 0), is_trap);
    assert_eq!(by_rules("ERRNO", &[&refuse, &allow].map(String::as_str).join(","), 1, 0), ALLOW);
    let trap_always = rule("TRAP", "");
    assert_eq!(by_rules("ERRNO", &[&trap_always, &allow].map(String::as_str).join(","), 1, 0), is_trap);
    assert_eq!(by_rules("ERRNO", &[&allow, &trap_always].map(String::as_str).join(","), 1, 0), ALLOW);
    assert_eq!(by_rules("ALLOW", &trap, 2, 0), ALLOW);
    assert_eq!(by_rules("ALLOW", &trap, 0, 0), is_trap);
}

#[test]
fn a_profile_that_forbids_some_has_no_way_around() {
    let profile = read(
        r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
            {"names": ["mount", "no_such_call"], "action": "SCMP_ACT_ERRNO"}]}"#,
    );
    let program = filter(&profile, Architecture::X86_64, (6, 12), &caps::all());
    let run = |number| run(&program, 0xC000_003E, number, [0; 6]);
    assert_eq!([0, 164, 165, 166, 400, 4000].map(run), [ALLOW, ALLOW, EPERM, ALLOW, ALLOW, ALLOW]);
    assert_eq!(run(0x4000_0000 + 165), ENOSYS);
}

#[test]
fn a_long_profile() {
    let many = |count: u64| (0..count).map(|value| arg(0, "EQ", value)).collect::<Vec<_>>().join(",");
    assert_eq!(
        [0, 399, 400].map(|it| by_rules("ERRNO", &rule("ALLOW", &many(400)), it, 0)),
        [ALLOW, ALLOW, EPERM]
    );
    let profile = read(&format!(
        r#"{{"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{}]}}"#,
        rule("ALLOW", &many(700))
    ));
    let error = profile.compile_for(Architecture::X86_64, (6, 12), &Capabilities::new()).unwrap_err();
    assert!(error.to_string().ends_with("and the kernel takes 4096"), "{error}");
}
