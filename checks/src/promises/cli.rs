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
    Check::since(
        0,
        "cli.docker-options",
        "An option of `docker run` that is not there is refused with what to do instead.",
        docker_options,
    )
    .not_new()
    .hint("A table from each option to a line."),
    Check::since(
        0,
        "cli.docker-words",
        "A word of `docker` or an image's name in the place of the command is answered with how it is done.",
        docker_words,
    )
    .not_new()
    .hint("Only when the root has no such command: 127, as always."),
    Check::since(
        1,
        "cli.docker-taken",
        "What a line for `docker run` has, and what would change nothing here, is taken.",
        docker_taken,
    )
    .not_new()
    .hint("--rm, --name, --label, --pull and others, with the values that Docker takes."),
    Check::since(3, "cli.platform", "--platform takes this machine's platform, and no other one.", platform)
        .not_new()
        .hint("Images have Go's names of machines: amd64, arm64."),
    Check::since(0, "cli.no-short-help", "-h is not the short form of --help.", no_short_help)
        .hint("For `docker run`, -h is the host name: since step 1."),
    Check::since(0, "cli.switches", "A switch takes =true or =false.", switches)
        .hint("As Docker's do: also 1, t, T, TRUE, True, and 0, f, F, FALSE, False."),
];

fn help(subject: &Subject) -> Checked {
    let output = subject.run(&["--help"])?;
    let help = output.ok()?;
    ensure(help.contains("--explain"), || Failure::new("--help names --explain", format!("{help:?}")))
}

fn docker_options(subject: &Subject) -> Checked {
    let answers = [("-d", "end the line with &"), ("--restart=always", "no process watches the container")];
    for (option, answer) in answers {
        let output = subject.run(&[option, "true"])?;
        output.status_is(125)?;
        let says = output.stderr.contains(answer)
            && output.stderr.contains(option.split('=').next().unwrap_or_default());
        ensure(says, || Failure::new(format!("{option}: an error with {answer:?}"), &output.stderr))?;
    }
    Ok(())
}

fn docker_words(subject: &Subject) -> Checked {
    for (word, answer) in [("images", "--image"), ("nginx:latest", "skopeo copy docker://nginx:latest")] {
        let output = subject.run(&[word, "true"])?;
        output.status_is(127)?;
        ensure(output.stderr.contains(answer), || {
            Failure::new(format!("{word}: an error with {answer:?}"), &output.stderr)
        })?;
    }
    Ok(())
}

fn docker_taken(subject: &Subject) -> Checked {
    let taken =
        ["--rm", "--name", "web", "-l", "a=b", "--pull=never", "-q", "--sig-proxy=true", "--expose", "80"];
    let output = subject.run(&[&taken[..], &["echo", "runs"]].concat())?;
    expect("what the command writes", "runs", output.ok()?)?;
    for wrong in ["--pull=sometimes", "--sig-proxy=false", "--rm=perhaps"] {
        subject.run(&[wrong, "true"])?.status_is(125)?;
    }
    Ok(())
}

fn platform(subject: &Subject) -> Checked {
    let machine = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
    subject.run(&["--platform", &format!("linux/{machine}"), "true"])?.ok()?;
    for wrong in ["linux/riscv64", "windows/amd64", "linux/"] {
        subject.run(&["--platform", wrong, "true"])?.status_is(125)?;
    }
    Ok(())
}

fn no_short_help(subject: &Subject) -> Checked {
    let output = subject.run(&["-h"])?;
    output.status_is(125)?;
    expect("what goes to stdout", "", &output.stdout)
}

fn switches(subject: &Subject) -> Checked {
    let explains = |option: &str| {
        let output = subject.run(&[option, "true"])?;
        output.status_is(0)?;
        Ok::<_, Failure>(output.stderr.contains("execve"))
    };
    for (option, expected) in [
        ("--explain", true),
        ("--explain=true", true),
        ("--explain=1", true),
        ("--explain=false", false),
        ("--explain=F", false),
    ] {
        expect(format!("whether {option} narrates"), expected, explains(option)?)?;
    }
    if subject.step() >= 2 {
        let pid = |option: &str| Ok::<_, Failure>(subject.sh(&[option], "echo $$")?.ok()?.to_owned());
        expect("the command's PID with --init=false", "1".to_owned(), pid("--init=false")?)?;
        let with_init = pid("--init=true")?;
        ensure(with_init != "1", || Failure::new("--init=true gives an init", "the command is PID 1"))?;
    }
    Ok(())
}

fn arguments(subject: &Subject) -> Checked {
    let output = subject.run(&["echo", "--help", "--explain", "-x", "--", "a  b", ""])?;
    expect("what `echo` writes", "--help --explain -x -- a  b \n", &output.stdout)
}
