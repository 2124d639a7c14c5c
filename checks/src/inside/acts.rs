//! Acts that a word asks for. The answers are lines `WHAT=RESULT`: the errno's name, or `ok`.
//!
//! Kernel objects: the process itself, and its rights. Man pages: syscalls(2), keyctl(2), ptrace(2), bind(2),
//! proc_pid_status(5), setns(2), kill(2).

use std::ffi::CString;
use std::fs::{self, File};
use std::io;
use std::path::Path;

use common::fs::mount::Detached;
use common::ids::idmap::{IdMaps, user_namespace};
use common::sys::attack;
use nix::sched::{CloneFlags, setns};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Gid, Pid, Uid, setgroups, setresgid, setresuid};

/// Makes the calls that are named.
pub const CALL: &str = "call";
/// Makes a call of the 32-bit ABI.
pub const CALL_32_BIT: &str = "call-32-bit";
/// Becomes the tracer of that process.
pub const TRACE: &str = "trace";
/// Looks for a key of that name.
pub const FIND_KEY: &str = "find-key";
/// Prints these lines of its `/proc/self/status`.
pub const STATUS: &str = "status";
/// On the host: becomes who is root in the container of the first process, and sends SIGTERM to the second.
pub const SIGNAL: &str = "signal";

/// On the host: maps the owners of the files in that folder, by a mount that nobody sees.
pub const MAP_IDS: &str = "map-ids";

/// Does it, if the word is one of these.
pub(super) fn act(word: &str, arguments: &[String]) -> bool {
    let first = arguments.first().map_or("", String::as_str);
    let number = |text: &str| text.parse().unwrap_or(-1);
    match word {
        CALL => {
            for name in arguments {
                match attack::attempt(name) {
                    Some(result) => answer(name, result),
                    None => println!("{name}=unknown"),
                }
            }
        }
        CALL_32_BIT => {
            attack::call_32_bit();
            answer(word, Ok(()));
        }
        TRACE => answer(word, attack::trace(number(first))),
        FIND_KEY => answer(word, attack::find_key(&CString::new(first).unwrap_or_default())),
        STATUS => {
            let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
            for field in arguments {
                let value = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
                println!("{field}={}", value.unwrap_or("none").trim().replace('\t', " "));
            }
        }
        MAP_IDS => match map_ids(Path::new(first)) {
            Ok(true) => answer(word, Ok(())),
            Ok(false) => println!("{word}=no"),
            Err(error) => println!("{word}={error}"),
        },
        SIGNAL => {
            let target = Pid::from_raw(arguments.get(1).map_or(-1, |text| number(text)));
            match become_root_of(first) {
                Ok(()) => answer(word, kill(target, Signal::SIGTERM)),
                Err(error) => println!("not tried: {error}"),
            }
        }
        _ => return false,
    }
    true
}

fn answer(what: &str, result: nix::Result<()>) {
    match result {
        Ok(()) => println!("{what}=ok"),
        Err(errno) => println!("{what}={errno:?}"),
    }
}

/// Joins the user namespace of a process and becomes its root. Before step 4, that is who we are.
fn become_root_of(process: &str) -> io::Result<()> {
    let path = format!("/proc/{process}/ns/user");
    if fs::read_link(&path)? != fs::read_link("/proc/self/ns/user")? {
        setns(File::open(path)?, CloneFlags::CLONE_NEWUSER)?;
        setgroups(&[])?;
    }
    setresgid(Gid::from_raw(0), Gid::from_raw(0), Gid::from_raw(0))?;
    Ok(setresuid(Uid::from_raw(0), Uid::from_raw(0), Uid::from_raw(0))?)
}

fn map_ids(folder: &Path) -> common::Result<bool> {
    let namespace = user_namespace(&IdMaps::from_zero(0x7000_0000, 65536))?;
    Detached::copy_of(folder)?.map_ids(&namespace)
}
