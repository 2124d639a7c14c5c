//! The exit status, as Docker's: the command's own, 126, 127, and 128 + n for signal n. wait(2).

use crate::{Check, Checked, Failure, Subject, ensure};

pub(crate) const CHECKS: &[Check] = &[
    Check::since(0, "exit.own", "The runtime exits with the command's own status.", own)
        .hint("WEXITSTATUS of waitpid(2)'s status; all 256 values belong to the command."),
    Check::since(
        0,
        "exit.signal",
        "When a signal ends PID 1, the status is 128 and the signal's number.",
        signal,
    )
    .hint("WTERMSIG."),
    Check::since(0, "exit.fault", "A command that crashes gives 139, that is 128 + SIGSEGV.", fault)
        .hint("WTERMSIG, without the core-dump bit."),
    Check::since(
        0,
        "exit.shells-status",
        "The exit status that a shell makes of a signal passes unchanged.",
        shells_status,
    )
    .hint("143 is an exit status here like any other."),
    Check::since(
        0,
        "exit.not-found",
        "A command that does not exist gives 127, and the error names it.",
        not_found,
    )
    .hint("ENOENT from execve(2), also with a `/` in the command."),
    Check::since(
        0,
        "exit.cannot-execute",
        "A file that is not executable, and a directory, give 126, and the error names them.",
        cannot_execute,
    )
    .hint("EACCES from execve(2)."),
];

fn own(subject: &Subject) -> Checked {
    for status in [0, 1, 7, 125, 126, 127, 128, 255] {
        subject.sh(&[], &format!("exit {status}"))?.status_is(status)?;
    }
    Ok(())
}

fn signal(subject: &Subject) -> Checked {
    // From inside, the kernel protects PID 1 from signals: only the host can kill it.
    let container = subject.hold(&[])?;
    container.first()?.end();
    container.output()?.status_is(137)
}

fn fault(subject: &Subject) -> Checked {
    // A shell that calls itself until the stack is full. This signal the kernel forces even on PID 1.
    subject.sh(&[], "ulimit -c 0; ulimit -s 256; f() { f; }; f")?.status_is(139)
}

fn shells_status(subject: &Subject) -> Checked {
    for (signal, status) in [("TERM", 143), ("KILL", 137), ("INT", 130)] {
        subject.sh(&[], &format!("sh -c 'kill -{signal} $$'; exit $?"))?.status_is(status)?;
    }
    Ok(())
}

fn refused(subject: &Subject, command: &str, status: i32) -> Checked {
    let output = subject.run(&[command])?;
    output.status_is(status)?;
    ensure(output.stderr.contains(command), || {
        Failure::new(format!("stderr names {command:?}"), format!("{:?}", output.stderr))
    })
}

fn not_found(subject: &Subject) -> Checked {
    refused(subject, "no-such-command", 127)?;
    refused(subject, "/no/such/command", 127)
}

fn cannot_execute(subject: &Subject) -> Checked {
    refused(subject, "/etc/passwd", 126)?;
    refused(subject, "/etc", 126)
}
