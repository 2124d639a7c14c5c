//! The filter as instructions of classic BPF.
//!
//! The filter finds the number of the call by halving. When the kernel (5.11) loads a filter, it tries every
//! call on it, to know the calls that always pass. In a list of comparisons this alone would cost more than
//! all the rest. Neighbouring numbers with the same action are one entry. The comparisons of arguments are
//! seccompiler's, which knows how to compare 64 bits with instructions of 32. Man page: seccomp(2).

use nix::errno::Errno;
use nix::libc;
use seccompiler::{SeccompRule, sock_filter};

use super::architecture::Architecture;
use super::rules::Call;
use super::{Action, Profile, fails_with};
use crate::sys::error::{Error, Result};

/// What an x32 program adds to the number of its call; on aarch64 there are no calls up there.
const X32: u32 = 0x4000_0000;

/// The kernel takes no longer program.
const BPF_MAXINSNS: usize = 4096;

/// A run of numbers to which the same happens: the first of them, and what.
type Run = (u32, Vec<sock_filter>);

/// The filter for these calls. Those of x32 do not exist, whatever the profile says.
pub(super) fn assemble(calls: &[Call], machine: Architecture, profile: &Profile) -> Result<Vec<sock_filter>> {
    let mut program = vec![
        load(std::mem::offset_of!(libc::seccomp_data, arch)),
        // Skips the next one.
        jump(libc::BPF_JEQ, machine.audit(), 1, 0),
        give(&profile.foreign),
        load(std::mem::offset_of!(libc::seccomp_data, nr)),
    ];
    search(&runs(calls, profile), &mut program);
    if program.len() > BPF_MAXINSNS {
        let what = format!("seccomp: {} instructions, and the kernel takes {BPF_MAXINSNS}", program.len());
        return Err(Error::new(what).hint("the profile has too many conditions on arguments"));
    }
    Ok(program)
}

fn runs(calls: &[Call], profile: &Profile) -> Vec<Run> {
    let default = &profile.default;
    let mut runs: Vec<Run> = vec![(0, vec![give(default)])];
    // Most calls belong to the run before them.
    let mut begin = |number, happens: &[sock_filter]| {
        if runs.last().is_none_or(|(_, last)| *last != happens) {
            runs.push((number, happens.to_vec()));
        }
    };
    for (number, call) in (0..).zip(calls) {
        match &call.always {
            Some(action) => begin(number, &[give(action)]),
            None => begin(number, &under_conditions(call, default)),
        }
    }
    // There are a few hundred calls, so the number is no greater than a u32 can be.
    begin(calls.len() as u32, &[give(&profile.newer)]);
    begin(X32, &[give(&fails_with(Errno::ENOSYS))]);
    // The first one may have come to nothing.
    if runs.get(1).is_some_and(|(number, _)| *number == 0) {
        runs.remove(0);
    }
    runs
}

fn under_conditions(call: &Call, default: &Action) -> Vec<sock_filter> {
    let mut program = Vec::new();
    for (tests, action) in &call.conditional {
        // An empty rule is an error, and has no conditions that could be false.
        if let Ok(rule) = SeccompRule::new(tests.clone()) {
            program.append(&mut rule.into());
        }
        // Where a condition is false, the rule's jumps lead behind this one.
        program.push(give(action));
    }
    program.push(give(default));
    program
}

/// Adds the search for the run of the number that is loaded.
fn search(runs: &[Run], program: &mut Vec<sock_filter>) {
    let (lower, upper) = runs.split_at(runs.len() / 2);
    let (Some((first, _)), false) = (upper.first(), lower.is_empty()) else {
        return program.extend(runs.iter().flat_map(|(_, happens)| happens.iter().cloned()));
    };
    let here = program.len();
    program.push(jump(libc::BPF_JGE, *first, 0, 0));
    search(lower, program);
    // Only now it is known how many are to be skipped. All ways in between are relative.
    let skipped = program.len() - here - 1;
    match u8::try_from(skipped) {
        Ok(skipped) => program[here].jt = skipped,
        // A conditional jump has 8 bits for its way, an unconditional one has 32. Programs are far shorter.
        Err(_) => {
            program[here].jf = 1;
            program.insert(here + 1, jump(libc::BPF_JA, skipped as u32, 0, 0));
        }
    }
    search(upper, program);
}

/// Loads a word of the call's description.
fn load(offset: usize) -> sock_filter {
    // The description has 64 bytes.
    instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, offset as u32, 0, 0)
}

/// Compares what is loaded, and skips so many instructions if it is so, or if not.
fn jump(comparison: u32, value: u32, if_so: u8, if_not: u8) -> sock_filter {
    instruction(libc::BPF_JMP | comparison | libc::BPF_K, value, if_so, if_not)
}

/// Ends the program with this action.
fn give(action: &Action) -> sock_filter {
    instruction(libc::BPF_RET | libc::BPF_K, action.clone().into(), 0, 0)
}

fn instruction(code: u32, k: u32, jt: u8, jf: u8) -> sock_filter {
    // All codes are below 256.
    sock_filter { code: code as u16, jt, jf, k }
}
