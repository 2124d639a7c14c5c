//! The firewall's rules, through the program `nft`, which translates them for the kernel: nf_tables.
//!
//! Kernel objects: the tables of this network namespace. `nft -f` makes of a whole text one transaction: all
//! of it holds from one packet to the next, or nothing of it. See nft(8).

mod kernel;

use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use nix::errno::Errno;

use crate::run::program;
use crate::sys::descriptors::keep_open_in;
use crate::sys::error::{Context, Error, Result};
use crate::sys::explain::Turn;
use crate::sys::signal::{end_with_parent, unblock_in};

/// A line of the narration shows so many characters of the rules.
const SHOWN: usize = 400;

/// Makes sure that `nft` is there, before anything on the host has changed.
///
/// # Errors
/// When it is not installed.
pub fn require() -> Result<()> {
    program().map(drop)
}

/// Hands the rules to `nft -f -`, and does something else while `nft` works. The kernel makes both wait for
/// all processors, and they can wait together. Returns when both are done. If one fails, the other goes on.
///
/// When this process is killed, so is `nft`. The kernel may still let `nft` finish a change of the rules. So
/// `nft` has the lock of the network, `lock`, and the next runtime waits until it has ended.
///
/// # Errors
/// When `nft` is not installed, or refuses; then nothing has changed, and its first line tells why.
pub fn load_while<T>(ruleset: &str, lock: impl AsFd, action: impl FnOnce() -> T) -> (Result<()>, T) {
    let program = match program() {
        Ok(program) => program,
        Err(error) => return (Err(error), action()),
    };
    let nft = start(&program, ruleset, lock.as_fd());
    let done = action();
    // Not before: the action tells its own lines.
    let turn = Turn::take();
    let output = nft.and_then(Child::wait_with_output);
    if let Some(turn) = turn {
        let result = match &output {
            Ok(output) => {
                output.status.code().map_or_else(|| output.status.to_string(), |code| code.to_string())
            }
            Err(error) => format!("-1 {error}"),
        };
        turn.line(format_args!("nft -f - <<< {:?}", summary(ruleset)), result, "nft(8)");
    }
    let loaded = output.at("run", &program).and_then(|output| match output.status.success() {
        true => Ok(()),
        false => Err(refused(&output)),
    });
    (loaded, done)
}

/// Whether the table `inet NAME` is there.
///
/// # Errors
/// When the kernel cannot tell: rules of others would be replaced.
pub fn has_table(name: &str) -> Result<bool> {
    kernel::has_table(name)
        .map_err(|errno| with_hint(Error::from_errno(format!("look for the table {name}"), errno)))
}

/// The number of the last change to the rules of this network namespace, by any process. A transaction counts
/// as one change.
///
/// # Errors
/// EPERM without `CAP_NET_ADMIN`; EPROTONOSUPPORT or EINVAL for a kernel without nf_tables.
pub fn generation() -> Result<u32> {
    kernel::generation()
        .map_err(|errno| with_hint(Error::from_errno("ask for the state of the rules", errno)))
}

/// The number of the change after this one.
pub fn next(generation: u32) -> u32 {
    // The kernel passes over 0.
    generation.wrapping_add(1).max(1)
}

fn start(program: &Path, ruleset: &str, lock: BorrowedFd<'_>) -> io::Result<Child> {
    let mut command = Command::new(program);
    command.args(["-f", "-"]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    // Its messages are looked through for the first line: in one language.
    command.env("LC_ALL", "C");
    // In another process group: a user who waits for the end may press Ctrl-C, and nft must still change the
    // rules.
    command.process_group(0);
    unblock_in(&mut command);
    // An nft that outlives a killed runtime could remove the rules that the next runtime has loaded.
    end_with_parent(&mut command);
    keep_open_in(&mut command, lock);
    let mut child = command.spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        // When nft ends before it has read all, its own message says why, better than EPIPE.
        let _ = stdin.write_all(ruleset.as_bytes());
    }
    Ok(child)
}

fn refused(output: &Output) -> Error {
    let text = String::from_utf8_lossy(&output.stderr);
    // "/dev/stdin:2:1-3: Error: syntax error, …": the user has not written the rules, so the place is no use.
    let line = text.lines().next().unwrap_or_default();
    let reason = line.split_once("Error: ").map_or(line, |(_, reason)| reason);
    let error = match reason {
        "" => Error::new(format!("nft -f -: {}", output.status)),
        reason => Error::new(format!("nft -f -: {reason}")),
    };
    if reason.contains("Operation not permitted") {
        error.hint(NO_RIGHT)
    } else if reason.contains("Operation not supported") || reason.contains("Protocol not supported") {
        error.hint(NO_TABLES)
    } else {
        error
    }
}

const NO_RIGHT: &str = "only root of this network namespace may change its rules, with CAP_NET_ADMIN";
const NO_TABLES: &str = "this kernel has no nf_tables, or not this part of it: modprobe nf_tables";

fn with_hint(error: Error) -> Error {
    match error.errno() {
        Some(Errno::EPERM) => error.hint(NO_RIGHT),
        Some(Errno::EPROTONOSUPPORT | Errno::EOPNOTSUPP | Errno::EINVAL) => error.hint(NO_TABLES),
        _ => error,
    }
}

/// The rules in one line, as far as they fit.
fn summary(ruleset: &str) -> String {
    let lines: Vec<_> =
        ruleset.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')).collect();
    let mut text = lines.join("; ").replace(";;", ";").replace("{;", "{").replace("; }", " }");
    if let Some((end, _)) = text.char_indices().nth(SHOWN) {
        text.truncate(end);
        text += &format!("… ({} lines)", lines.len());
    }
    text
}

fn program() -> Result<PathBuf> {
    program::find("nft").ok_or_else(|| {
        Error::new("nft: not installed")
            .hint("a bridge needs it for its rules: install the package nftables (apt install nftables)")
    })
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::process::ExitStatusExt;
    use std::time::{Duration, Instant};

    use nix::sys::signal::{SigSet, Signal};
    use rustix::fs::{FlockOperation, flock};

    use super::*;
    use crate::testing::{in_network_namespace, skipped};

    fn tables() -> String {
        let output = Command::new(program().unwrap()).args(["list", "tables"]).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    }

    fn load(ruleset: &str) -> Result<()> {
        load_while(ruleset, nothing(), || ()).0
    }

    /// In the place of a lock.
    fn nothing() -> fs::File {
        fs::File::open("/dev/null").unwrap()
    }

    /// Runs it to its end.
    fn run(program: &Path, ruleset: &str) -> io::Result<Output> {
        start(program, ruleset, nothing().as_fd())?.wait_with_output()
    }

    fn with_rules(test: impl FnOnce() + Send + 'static) {
        match require() {
            Ok(()) => in_network_namespace(test),
            Err(error) => skipped(&error.to_string()),
        }
    }

    /// A program that stands in for nft.
    fn script(folder: &Path, text: &str) -> PathBuf {
        let file = folder.join("nft");
        // This process must not write the file. A child of another test could inherit the open file, and a
        // file that is open for writing cannot be executed (ETXTBSY).
        let shell = ["-c", "printf %s \"$1\" >\"$0\""];
        assert!(Command::new("sh").args(shell).arg(&file).arg(text).status().unwrap().success());
        fs::set_permissions(&file, PermissionsExt::from_mode(0o755)).unwrap();
        file
    }

    #[test]
    fn all_rules_or_none() {
        with_rules(|| {
            load(
                "add table inet congo\nadd chain inet congo forward { type filter hook forward priority 0; }",
            )
            .unwrap();
            assert_eq!(tables(), "table inet congo\n");
            let error = load("add table inet other\nadd nonsense\n").unwrap_err();
            assert!(error.to_string().starts_with("nft -f -: syntax error"), "{error}");
            let error = load("add table inet other\ndelete table inet none\n").unwrap_err();
            assert!(error.to_string().starts_with("nft -f -: No such file or directory"), "{error}");
            assert_eq!(error.status(), 125);
            assert_eq!(tables(), "table inet congo\n");
            load("delete table inet congo").unwrap();
            assert_eq!(tables(), "");
        });
    }

    #[test]
    fn the_kernel_tells_of_tables_and_changes() {
        with_rules(|| {
            let before = generation().unwrap();
            assert_eq!(has_table("congo"), Ok(false));
            load("add table inet congo\nadd chain inet congo forward").unwrap();
            assert_eq!(has_table("congo"), Ok(true));
            assert_eq!(has_table("cong"), Ok(false));
            assert_eq!(generation(), Ok(next(before)));
            load("add table inet congo\nadd nonsense\n").unwrap_err();
            assert_eq!(generation(), Ok(next(before)));
            load("delete table inet congo").unwrap();
            assert_eq!((has_table("congo"), generation()), (Ok(false), Ok(next(next(before)))));
        });
        assert_eq!(next(u32::MAX), 1);
    }

    #[test]
    fn something_else_is_done_while_nft_works() {
        with_rules(|| {
            let sees_it_come = || {
                let before = has_table("congo").unwrap();
                let end = Instant::now() + Duration::from_secs(20);
                while !has_table("congo").unwrap() && Instant::now() < end {}
                (before, has_table("congo").unwrap())
            };
            let long = "add table inet congo\n".repeat(20_000);
            assert_eq!(load_while(&long, nothing(), sees_it_come), (Ok(()), (false, true)));
            let (loaded, done) = load_while("nonsense", nothing(), || 7);
            assert!(loaded.unwrap_err().to_string().starts_with("nft -f -: syntax error"));
            assert_eq!(done, 7);
        });
    }

    #[test]
    fn more_rules_than_a_pipe_holds() {
        with_rules(|| {
            let rules: String = (1..4000)
                .map(|port| format!("add rule inet congo forward tcp dport {port} accept\n"))
                .collect();
            load(&format!("add table inet congo\nadd chain inet congo forward\n{rules}")).unwrap();
            let output =
                Command::new(program().unwrap()).args(["list", "table", "inet", "congo"]).output().unwrap();
            assert_eq!(String::from_utf8(output.stdout).unwrap().matches("accept").count(), 3999);
        });
    }

    #[test]
    fn signals_that_are_blocked_here_reach_nft() {
        let folder = tempfile::tempdir().unwrap();
        let program = script(
            folder.path(),
            "#!/bin/sh\nwhile read -r l; do case $l in SigBlk*) echo $l >&2; esac; done < \
             /proc/self/status\n",
        );
        std::thread::spawn(move || {
            [Signal::SIGINT, Signal::SIGTERM, Signal::SIGCHLD]
                .into_iter()
                .collect::<SigSet>()
                .thread_block()
                .unwrap();
            let output = run(&program, "").unwrap();
            assert_eq!(String::from_utf8(output.stderr).unwrap(), "SigBlk: 0000000000000000\n");
            // Here they still are.
            assert!(SigSet::thread_get_mask().unwrap().contains(Signal::SIGTERM));
        })
        .join()
        .unwrap();
    }

    #[test]
    fn nft_does_not_outlive_its_runtime() {
        let folder = tempfile::tempdir().unwrap();
        let program = script(folder.path(), "#!/bin/sh\nexec sleep 5\n");
        // For the kernel, the parent is the thread.
        let mut nft =
            std::thread::spawn(move || start(&program, "", nothing().as_fd()).unwrap()).join().unwrap();
        assert_eq!(nft.wait().unwrap().signal(), Some(Signal::SIGKILL as i32));
    }

    #[test]
    fn the_lock_is_free_when_nft_has_ended() {
        let folder = tempfile::tempdir().unwrap();
        let program = script(folder.path(), "#!/bin/sh\nexec sleep 600\n");
        let locked = || {
            let folder = fs::File::open(folder.path()).unwrap();
            flock(&folder, FlockOperation::NonBlockingLockExclusive).map(|()| folder)
        };
        let lock = locked().unwrap();
        let mut nft = start(&program, "", lock.as_fd()).unwrap();
        // As when the runtime is killed.
        drop(lock);
        assert_eq!(locked().unwrap_err(), rustix::io::Errno::AGAIN);
        nft.kill().unwrap();
        nft.wait().unwrap();
        // A process that another test makes at this moment has a copy of what is open here.
        let end = Instant::now() + Duration::from_secs(20);
        while locked().is_err() {
            assert!(Instant::now() < end);
        }
    }

    #[test]
    fn an_nft_that_ends_before_it_has_read() {
        let folder = tempfile::tempdir().unwrap();
        let program = script(
            folder.path(),
            "#!/bin/sh\nexec <&-\necho 'x:1:1-2: Error: Operation not permitted' >&2\necho more >&2\nexit \
             1\n",
        );
        let output = run(&program, &"add table inet congo\n".repeat(10_000)).unwrap();
        let error = refused(&output);
        assert_eq!(error.to_string(), "nft -f -: Operation not permitted");
        let silent = script(folder.path(), "#!/bin/sh\nkill -9 $$\n");
        assert_eq!(refused(&run(&silent, "").unwrap()).to_string(), "nft -f -: signal: 9 (SIGKILL)");
    }

    #[test]
    fn rules_in_one_line() {
        let rules =
            "# why\ntable inet congo {\n  chain c {\n    policy drop;\n    tcp dport 80 accept\n  }\n}\n";
        assert_eq!(summary(rules), "table inet congo { chain c { policy drop; tcp dport 80 accept } }");
        let long = summary(&"add rule ä\n".repeat(1000));
        assert!(long.ends_with("… (1000 lines)") && long.chars().count() < SHOWN + 20, "{long}");
    }
}
