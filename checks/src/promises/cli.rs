//! The command line besides its values.

use crate::{Check, Checked, Failure, Subject, ensure, expect};

pub(crate) const CHECKS: &[Check] = &[
    Check::since(0, "cli.help", "--help goes to stdout, names the options and exits with 0.", help)
        .hint("--help is not an error."),
    Check::since(
        0,
        "cli.arguments-of-the-command",
        "Words after the command belong to it, even if they look like options.",
        arguments,
    )
    .hint("The options of the runtime end where the command begins."),
];

fn help(subject: &Subject) -> Checked {
    let output = subject.run(&["--help"])?;
    let help = output.ok()?;
    ensure(help.contains("--explain"), || Failure::new("--help names --explain", format!("{help:?}")))
}

fn arguments(subject: &Subject) -> Checked {
    let output = subject.run(&["echo", "--help", "--explain", "-x", "--", "a  b", ""])?;
    expect("what `echo` writes", "--help --explain -x -- a  b \n", &output.stdout)
}
