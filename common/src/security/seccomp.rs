//! Seccomp: a program in the kernel that looks at each system call of a process before it is made.
//!
//! A [`Profile`] says what is allowed. It is built call by call, as step 4's `seccomp.rs` does, or read from
//! a file in Docker's JSON format. Compiled for a set of capabilities and for this machine it is a
//! [`Filter`]. The thread that loads a filter can never get rid of it, nor can what that thread starts.
//! Man pages: seccomp(2), proc_pid_status(5) for `Seccomp`; kernel documentation:
//! userspace-api/seccomp_filter.

mod architecture;
pub mod calls;
mod json;
mod program;
mod rules;
#[cfg(test)]
mod tests;

use std::path::Path;

use nix::errno::Errno;
use nix::libc;
pub use seccompiler::{SeccompAction as Action, SeccompCmpOp as Op};
use seccompiler::{SeccompCmpArgLen, SeccompCondition, sock_filter};

use crate::security::capability::Capabilities;
use crate::sys::error::{Context, Error, Hint, Result};
use crate::sys::filter::set_seccomp_filter;
use crate::sys::kernel;
use crate::sys::names;
use architecture::Architecture;
pub use architecture::Calls;
use rules::{Condition, Rule};

/// What a process may call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Profile {
    /// What happens to a call of another ABI than the machine's own.
    foreign: Action,
    /// What happens to a call with a greater number than all that the rules name.
    newer: Action,
    /// What happens to every other call that no rule is about.
    default: Action,
    /// How the filter is loaded: `SECCOMP_FILTER_FLAG_*`.
    flags: u32,
    rules: Vec<Rule>,
}

/// The call returns -1, with this errno.
pub fn fails_with(errno: Errno) -> Action {
    Action::Errno(errno as u32)
}

/// The process ends by SIGSYS.
pub fn kills() -> Action {
    Action::KillProcess
}

/// A profile as a program for the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter {
    flags: u32,
    program: Vec<sock_filter>,
}

impl Profile {
    /// One that allows nothing yet.
    #[allow(clippy::new_without_default)]
    pub fn new() -> Profile {
        Profile { foreign: kills(), newer: kills(), default: kills(), flags: 0, rules: Vec::new() }
    }

    /// What happens to a call of another ABI than the machine's own. A call of x32 fails with ENOSYS in any
    /// case.
    pub fn other_abi(&mut self, action: Action) {
        self.foreign = action;
    }

    /// What happens to a call with a greater number than all that the rules name: one that came later than
    /// they did.
    pub fn newer_calls(&mut self, action: Action) {
        self.newer = action;
    }

    /// What happens to every other call that no rule is about.
    pub fn other_calls(&mut self, action: Action) {
        self.default = action;
    }

    /// Allows these calls, whatever their arguments are. Between two names is white space. A call that the
    /// machine does not have is passed over.
    pub fn allow(&mut self, names: &str) {
        self.allow_all(&names.into());
    }

    /// The same, for calls that the compiler has looked up.
    pub fn allow_all(&mut self, calls: &Calls) {
        self.rules.push(Rule::new(*calls, Action::Allow, Vec::new()));
    }

    /// Allows this call if the argument, of which the first is 0, compares so with the value, as numbers of
    /// 64 bits.
    ///
    /// # Panics
    /// A call has no more than six arguments.
    pub fn allow_if(&mut self, name: &str, argument: u8, op: Op, value: u64) {
        let test = SeccompCondition::new(argument, SeccompCmpArgLen::Qword, op, value);
        let condition = Condition { argument, test: test.expect("an argument from 0 to 5") };
        self.rules.push(Rule::new(name.into(), Action::Allow, vec![condition]));
    }

    /// Refuses these calls in this way, where it is not how all others are refused.
    pub fn refuse(&mut self, names: &str, action: Action) {
        self.rules.push(Rule::new(names.into(), action, Vec::new()));
    }

    /// Reads a profile in Docker's JSON format: `--security-opt seccomp=FILE`.
    ///
    /// # Errors
    /// - ENOENT, EACCES
    /// - a file that is no JSON
    /// - an action, operator, flag or errno that seccomp does not have; the error tells its place
    pub fn read(path: &Path) -> Result<Profile> {
        let name = format!("the seccomp profile {}", path.display());
        let text = std::fs::read_to_string(path).context(format_args!("reading {name}"))?;
        json::read(&text, &name)
    }

    /// Compiles the profile for this kernel and a process whose bounding set is `capabilities`. A profile may
    /// allow a call only to processes that have a certain capability.
    ///
    /// # Errors
    /// On a machine that is neither x86_64 nor aarch64; when it has more instructions than the kernel takes.
    pub fn compile(&self, capabilities: &Capabilities) -> Result<Filter> {
        let machine = Architecture::native().ok_or_else(|| {
            Error::new(format!("seccomp: Congo has no table of the calls of {}", std::env::consts::ARCH))
                .hint("run with --security-opt seccomp=unconfined")
        })?;
        self.compile_for(machine, kernel::version()?, capabilities)
    }

    fn compile_for(&self, machine: Architecture, kernel: (u32, u32), has: &Capabilities) -> Result<Filter> {
        let holding = self.rules.iter().filter(|rule| rule.holds(machine, kernel, has));
        let calls = rules::by_number(holding, machine, &self.default);
        Ok(Filter { flags: self.flags, program: program::assemble(&calls, machine, self)? })
    }
}

impl Filter {
    /// Loads the filter on this thread, on top of the thread's other filters: seccomp(2),
    /// `SECCOMP_SET_MODE_FILTER`. Of several filters the strictest counts.
    ///
    /// # Errors
    /// EACCES with neither no_new_privs nor `CAP_SYS_ADMIN`; EINVAL from a kernel without seccomp filters;
    /// ENOMEM when all filters of this thread have too many instructions.
    pub fn load(&self) -> Result<()> {
        set_seccomp_filter(&self.program, self.flags, &flag_names(self.flags))
            .hint_if(Errno::EACCES, "it takes no_new_privs, or CAP_SYS_ADMIN: seccomp(2)")
            .hint_if(
                Errno::EINVAL,
                "this kernel has no seccomp filters; --security-opt seccomp=unconfined runs without",
            )
    }

    /// How many instructions it has.
    pub fn instructions(&self) -> usize {
        self.program.len()
    }
}

/// The flags that a profile can ask for. One for all threads (`TSYNC`) asks for nothing: a container has one
/// yet.
const FLAGS: [(&str, u32); 3] = [
    ("SECCOMP_FILTER_FLAG_TSYNC", 0),
    ("SECCOMP_FILTER_FLAG_LOG", libc::SECCOMP_FILTER_FLAG_LOG as u32),
    ("SECCOMP_FILTER_FLAG_SPEC_ALLOW", libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW as u32),
];

fn flag_names(flags: u32) -> String {
    names(FLAGS.iter().filter(|(_, flag)| flags & flag != 0).map(|(name, _)| *name))
}
