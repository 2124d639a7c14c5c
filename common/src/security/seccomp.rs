//! Seccomp: a program in the kernel that looks at each system call of a process before it is made.
//!
//! A [`Profile`] says what is allowed, in Docker's JSON format; Docker's own default has a counterpart in
//! `default.json`. Compiled for a set of capabilities and for this machine it is a [`Filter`], which the thread that loads it
//! can never get rid of, nor can what it starts. Order: compile while files are in sight; load last before execve(2), as the
//! filter holds for the runtime, too; without `CAP_SYS_ADMIN`, no_new_privs before it.
//! Man pages: seccomp(2), proc_pid_status(5) for `Seccomp`; kernel documentation: userspace-api/seccomp_filter.

mod architecture;
mod json;
mod program;
mod rules;
#[cfg(test)]
mod tests;

use std::path::Path;

use nix::errno::Errno;
use nix::libc;
use seccompiler::sock_filter;

use crate::security::capability::Capabilities;
use crate::sys::error::{Context, Error, Hint, Result};
use crate::sys::kernel;
use crate::sys::{call, names};
use architecture::Architecture;
use rules::Rule;

/// What a process may call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Profile {
    /// What happens to a call that no rule is about: a value of `SECCOMP_RET_*`, as all actions here.
    default: u32,
    /// How the filter is loaded: `SECCOMP_FILTER_FLAG_*`.
    flags: u32,
    rules: Vec<Rule>,
}

/// A profile as a program for the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter {
    flags: u32,
    program: Vec<sock_filter>,
}

impl Profile {
    /// The profile for a container that asks for none, on the model of Docker's.
    ///
    /// # Errors
    /// None: it is part of the program.
    pub fn built_in() -> Result<Profile> {
        json::read(include_str!("seccomp/default.json"), "the built-in seccomp profile")
    }

    /// Reads a profile in Docker's JSON format: `--security-opt seccomp=FILE`.
    ///
    /// # Errors
    /// ENOENT, EACCES; what is no JSON; an action, operator, flag or errno that seccomp does not have, with its place.
    pub fn read(path: &Path) -> Result<Profile> {
        let name = format!("the seccomp profile {}", path.display());
        let text = std::fs::read_to_string(path).context(format_args!("reading {name}"))?;
        json::read(&text, &name)
    }

    /// Compiles it for this kernel and a process whose bounding set is `capabilities`: what a capability makes possible, the
    /// profile may allow to those that have it.
    ///
    /// # Errors
    /// On a machine that is neither x86_64 nor aarch64; when it has more instructions than the kernel takes.
    pub fn compile(&self, capabilities: Capabilities) -> Result<Filter> {
        let machine = Architecture::native().ok_or_else(|| {
            Error::new(format!("seccomp: Congo has no table of the calls of {}", std::env::consts::ARCH))
                .hint("run with --security-opt seccomp=unconfined")
        })?;
        self.compile_for(machine, kernel::version()?, capabilities)
    }

    fn compile_for(&self, machine: Architecture, kernel: (u32, u32), has: Capabilities) -> Result<Filter> {
        let holding = self.rules.iter().filter(|rule| rule.holds(machine, kernel, has));
        let calls = rules::by_number(holding, machine, self.default);
        Ok(Filter { flags: self.flags, program: program::assemble(&calls, machine, self.default)? })
    }
}

impl Filter {
    /// Lays it on this thread, above those that it has: seccomp(2), `SECCOMP_SET_MODE_FILTER`. Of several filters the
    /// strictest counts.
    ///
    /// # Errors
    /// EACCES with neither no_new_privs nor `CAP_SYS_ADMIN`; EINVAL from a kernel without seccomp filters; ENOMEM when
    /// all filters of this thread have too many instructions.
    pub fn load(&self) -> Result<()> {
        let count = self.program.len();
        // Fits: assemble() refuses more than BPF_MAXINSNS.
        let program = libc::sock_fprog {
            len: count as u16,
            filter: self.program.as_ptr().cast_mut().cast::<libc::sock_filter>(),
        };
        call(
            "seccomp(2)",
            || {
                format!(
                    "seccomp(SECCOMP_SET_MODE_FILTER, {}, {{{count} instructions}})",
                    flag_names(self.flags)
                )
            },
            || {
                // SAFETY: the kernel copies `len` instructions from `filter`, which lives until the call returns; both
                // types of an instruction are the kernel's, with its layout.
                let result = unsafe {
                    libc::syscall(
                        libc::SYS_seccomp,
                        libc::SECCOMP_SET_MODE_FILTER,
                        self.flags,
                        &raw const program,
                    )
                };
                Errno::result(result).map(drop)
            },
        )
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

/// The flags that a profile can ask for. One for all threads (`TSYNC`) asks for nothing: a container has one yet.
const FLAGS: [(&str, u32); 3] = [
    ("SECCOMP_FILTER_FLAG_TSYNC", 0),
    ("SECCOMP_FILTER_FLAG_LOG", libc::SECCOMP_FILTER_FLAG_LOG as u32),
    ("SECCOMP_FILTER_FLAG_SPEC_ALLOW", libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW as u32),
];

fn flag_names(flags: u32) -> String {
    names(FLAGS.iter().filter(|(_, flag)| flags & flag != 0).map(|(name, _)| *name))
}
