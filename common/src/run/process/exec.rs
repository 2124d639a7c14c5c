//! From the runtime to the command: its file, its environment, its signals.
//!
//! Man pages: execve(2), exec(3), environ(7), signal(7).

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::ffi::{CString, OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};

use crate::run::cli::docker;
use crate::run::handshake::ChildEnd;
use crate::sys::error::{CANNOT_EXECUTE, Error, NOT_FOUND, Result};
use crate::sys::explain;
use crate::sys::signal::{SignalNumber, ignored, set_default};
use crate::sys::{call, list};

/// The variables of a command by name, and so sorted: the same options always give the same environment.
pub type Environment = BTreeMap<OsString, OsString>;

/// Becomes the command: execve(2), after the [last act](ChildEnd::at_last) of this process. A name without
/// `/` is looked for in the `PATH` of `environment`, as execvp(3) does. Signals are as in a new process
/// again.
///
/// # Errors
/// With Docker's exit status: 127 when there is no such command, 126 when it cannot be executed.
pub fn exec(command: &[OsString], environment: &Environment, parent: &mut ChildEnd) -> Result<Infallible> {
    let name = command.first().map_or(OsStr::new(""), OsString::as_os_str);
    let file = find(name, environment)?;
    default_signals()?;

    let nul = |_| Error::new(format!("{name:?}: a NUL byte in an argument or in the environment"));
    let c_string = |bytes: Vec<u8>| CString::new(bytes).map_err(nul);
    let c_file = c_string(file.as_os_str().as_bytes().to_vec())?;
    let arguments = command.iter().map(|argument| c_string(argument.as_bytes().to_vec()));
    let arguments = arguments.collect::<Result<Vec<_>>>()?;
    let variables =
        environment.iter().map(|(key, value)| c_string([key.as_bytes(), b"=", value.as_bytes()].concat()));
    let variables = variables.collect::<Result<Vec<_>>>()?;

    let line = format!("execve({file:?}, {}, {} variables)", list(command), environment.len());
    parent.last_act()?;
    // Told before it is done: nobody is left to tell it afterwards.
    explain::line(&line, "(the command runs)", "execve(2)");
    let Err(errno) = nix::unistd::execve(&c_file, &arguments, &variables);
    Err(exec_failed(&file, line, errno))
}

/// Undoes what a new program would inherit: the runtime's blocked signals, and signals that are ignored. The
/// standard library ignores SIGPIPE. A shell cannot change signals that were ignored when it began, so in it
/// `yes | head -1` would end with an error message.
fn default_signals() -> Result<()> {
    // The kernel says which ones are ignored. Where it cannot be asked, each signal is set.
    let (ignored, rest) = (ignored(), [Signal::SIGKILL, Signal::SIGSTOP].map(SignalNumber::from));
    let is_set = |it: &SignalNumber| ignored.as_ref().is_none_or(|ignored| ignored.contains(it));
    for signal in SignalNumber::all().filter(|it| is_set(it) && !rest.contains(it)) {
        set_default(signal)?;
    }
    explain::line("sigaction(each signal that is ignored, SIG_DFL)", 0, "sigaction(2)");
    call(
        "sigprocmask(2)",
        || "sigprocmask(SIG_SETMASK, [])".into(),
        || sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None),
    )
}

/// The file that a command's name means.
fn find(name: &OsStr, environment: &Environment) -> Result<PathBuf> {
    if name.as_bytes().contains(&b'/') {
        return Ok(name.into());
    }
    let path = environment.get(OsStr::new("PATH")).map_or(&b""[..], |path| path.as_bytes());
    let candidates =
        path.split(|&byte| byte == b':').map(|folder| Path::new(OsStr::from_bytes(folder)).join(name));
    let mut there = candidates.filter(|file| file.is_file()).peekable();
    let executable = |file: &PathBuf| nix::unistd::access(file, nix::unistd::AccessFlags::X_OK).is_ok();
    // Like a shell: the first that may be executed, else the first that is there. Its exec then says why not.
    let first = there.peek().cloned();
    there.find(executable).or(first).ok_or_else(|| {
        let looked = || format!("looked in the container's PATH, {}", String::from_utf8_lossy(path));
        Error::new(format!("{name:?}: command not found"))
            .hint(docker::about_command(name).unwrap_or_else(looked))
            .with_status(NOT_FOUND)
    })
}

fn exec_failed(file: &Path, line: String, errno: Errno) -> Error {
    let error = Error::from_errno(line, errno);
    match errno {
        Errno::ENOENT if file.exists() => error
            .hint("the file is there, but not the interpreter of its first line, or its dynamic loader")
            .with_status(NOT_FOUND),
        Errno::ENOENT | Errno::ENOTDIR => {
            let none = || "the container's root has no such file".to_owned();
            error.hint(docker::about_command(file.as_os_str()).unwrap_or_else(none)).with_status(NOT_FOUND)
        }
        Errno::EACCES if file.is_dir() => error.hint("it is a directory").with_status(CANNOT_EXECUTE),
        Errno::EACCES => error.hint("it has no execute permission: chmod +x").with_status(CANNOT_EXECUTE),
        Errno::EPERM | Errno::ENOSYS => {
            error.hint("a seccomp profile or a security module forbids it").with_status(CANNOT_EXECUTE)
        }
        Errno::ENOEXEC => error
            .hint("no program of this machine's architecture, and no \"#!\" line")
            .with_status(CANNOT_EXECUTE),
        _ => error.with_status(CANNOT_EXECUTE),
    }
}
