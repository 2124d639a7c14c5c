//! The narration of --explain: complete, in order, and what the kernel was really told. strace(1).

use crate::needs::Need;
use crate::{Check, Checked, Failure, Subject, ensure, expect};

#[rustfmt::skip] // It would give each argument a line of its own.
pub(crate) const CHECKS: &[Check] = &[
    Check::since(0, "explain.lines",
        "--explain writes numbered lines: the process, the call, its result, the man page.", numbered)
        .hint("Parent and child are two processes with one counter: it must lie in memory that both share."),
    Check::since(0, "explain.silent", "Without --explain the runtime writes nothing.", silent)
        .hint("stderr belongs to the command."),
    Check::since(0, "explain.true",
        "strace sees the same mounts, nodes, chroot and host name, with the same arguments in the same \
         order.", truthful)
        .needs(&[Need::Program("strace")])
        .hint("Report each action in the code that does it, with the arguments that it passes."),
];

/// One line of the narration, as `  3 child   chroot("/x") = 0  [chroot(2)]`.
struct Line {
    number: usize,
    who: String,
    call: String,
}

impl Line {
    fn parse(line: &str) -> Result<Line, Failure> {
        let malformed = || {
            Failure::new(
                "`NUMBER parent|child|helper CALL(ARGUMENTS) = RESULT [MAN PAGE]`",
                format!("{line:?}"),
            )
        };
        let (number, rest) = line.trim_start().split_once(' ').ok_or_else(malformed)?;
        let (who, call) = rest.trim_start().split_once(' ').ok_or_else(malformed)?;
        let is_complete = call.contains('(') && call.contains(") = ") && call.trim_end().ends_with(")]");
        ensure(is_complete && ["parent", "child", "helper"].contains(&who), malformed)?;
        let number = number.parse().map_err(|_| malformed())?;
        Ok(Line { number, who: who.into(), call: call.trim().into() })
    }

    fn all(stderr: &str) -> Result<Vec<Line>, Failure> {
        stderr.lines().map(Line::parse).collect()
    }
}

fn numbered(subject: &Subject) -> Checked {
    let output = subject.run(&["--explain", "true"])?;
    output.ok()?;
    let lines = Line::all(&output.stderr)?;
    let numbers: Vec<_> = lines.iter().map(|line| line.number).collect();
    expect("the numbers of the lines", (1..=lines.len()).collect(), numbers)?;
    for (who, call) in [
        ("parent", "clone"),
        ("child", "mount"),
        ("child", "sethostname"),
        ("child", "execve"),
        ("parent", "wait"),
    ] {
        let told = lines.iter().any(|line| line.who == who && line.call.starts_with(call));
        ensure(told, || Failure::new(format!("a line of the {who} about {call}"), "none"))?;
    }
    Ok(())
}

fn silent(subject: &Subject) -> Checked {
    let output = subject.run(&["true"])?;
    output.ok()?;
    expect("what a run without --explain writes", "", &(output.stdout + &output.stderr))
}

/// The name of a call and the strings among its arguments. The rest of the notation differs between tools.
#[derive(Debug, PartialEq, Eq)]
struct Call {
    name: String,
    strings: Vec<String>,
}

impl Call {
    /// Reads `name(…, "string", …) = 0`, if it is one of the calls that a lesson is about.
    fn parse(text: &str) -> Option<Call> {
        // glibc makes `mknod` out of mknodat(2), and so on.
        const NAMES: [&str; 7] =
            ["mount", "umount2", "chroot", "pivot_root", "sethostname", "mknod", "symlink"];
        let (name, rest) = text.split_once('(')?;
        let name = NAMES.into_iter().find(|known| name == *known || name == format!("{known}at"))?;
        let (arguments, result) = rest.rsplit_once(" = ")?;
        let strings = arguments.split('"').skip(1).step_by(2).map(str::to_owned).collect();
        (!result.starts_with('-')).then(|| Call { name: name.into(), strings })
    }
}

fn truthful(subject: &Subject) -> Checked {
    let trace = subject.file("strace");
    let mut strace = std::process::Command::new(crate::installed::program("strace").unwrap_or_default());
    strace.args(["--follow-forks", "--string-limit=4096", "--quiet=all", "--output"]).arg(&trace);
    strace.arg("--trace=/^(mount|umount2|chroot|pivot_root|sethostname|mknod|symlink)");
    strace.arg(subject.binary()).args(["--explain", "true"]).envs(subject.environment());
    let output = crate::container::Container::start(&mut strace)?.output()?;
    output.ok()?;
    let told: Vec<_> = Line::all(&output.stderr)?.iter().filter_map(|line| Call::parse(&line.call)).collect();
    // Each line of strace begins with the process's id.
    let trace = crate::kernel::read(&trace)?;
    let seen: Vec<_> = trace
        .lines()
        .filter_map(|line| Call::parse(line.trim_start_matches(|c: char| c.is_numeric() || c == ' ')))
        .collect();
    ensure(!seen.is_empty(), || Failure::new("strace sees calls", "none"))?;
    for (index, (told, seen)) in told.iter().zip(&seen).enumerate() {
        expect(format!("call {} that is told", index + 1), seen, told)?;
    }
    expect("the number of calls that are told", seen.len(), told.len())
}
