//! Resource limits of each process. getrlimit(2), proc_pid_limits(5).

use crate::{Check, Checked, Subject, expect};

pub(crate) const CHECKS: &[Check] = &[
    Check::since(1, "ulimit.option", "--ulimit sets soft and hard limit, as often as it is given.", option)
        .hint("setrlimit(2), in the child, before the exec."),
    Check::since(1, "ulimit.one-value", "--ulimit name=value sets both limits to the value.", one_value)
        .hint("Without `:hard` both are the same, as with Docker."),
    Check::since(1, "ulimit.unlimited", "--ulimit name=-1 is no limit.", unlimited).hint("RLIM_INFINITY."),
];

fn limit(subject: &Subject, options: &[&str], name: &str, soft: &str, hard: &str) -> Checked {
    let found = subject.hold(options)?.first()?.limit(name)?;
    expect(format!("\"{name}\" with {}", options.join(" ")), (soft.into(), hard.into()), found)
}

fn option(subject: &Subject) -> Checked {
    let options = ["--ulimit", "nofile=100:200", "--ulimit", "core=0", "--ulimit", "fsize=4096:8192"];
    limit(subject, &options, "Max open files", "100", "200")?;
    limit(subject, &options, "Max core file size", "0", "0")?;
    limit(subject, &options, "Max file size", "4096", "8192")
}

fn one_value(subject: &Subject) -> Checked {
    limit(subject, &["--ulimit", "nofile=64"], "Max open files", "64", "64")
}

fn unlimited(subject: &Subject) -> Checked {
    limit(subject, &["--ulimit", "core=-1"], "Max core file size", "unlimited", "unlimited")
}
