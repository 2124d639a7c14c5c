//! The environment and the working directory: exactly what was asked for. environ(7), and `docker run`'s
//! rules.

use std::fs;
use std::path::Path;

use crate::kernel::identity;
use crate::subject::SECRET;
use crate::{Check, Checked, Failure, Subject, ensure, expect};

#[rustfmt::skip] // It would give each argument a line of its own.
pub(crate) const CHECKS: &[Check] = &[
    Check::since(
        0,
        "env.defaults",
        "By default the environment has PATH, HOME, HOSTNAME and TERM, and none of the host's variables.",
        defaults,
    )
    .hint("execve(2) takes the whole environment: begin with an empty one."),
    Check::since(0, "env.path", "A command is looked up in the container's PATH.", path)
        .hint("execvpe(3) would use the PATH of the runtime."),
    Check::since(1, "env.option", "--env NAME=VALUE sets a variable to any value.", option)
        .hint("Only the first `=` divides name and value."),
    Check::since(
        1,
        "env.from-host",
        "--env NAME takes the host's value; a variable that the host does not have is not set.",
        from_host,
    )
    .hint("An unset variable is something else than an empty one."),
    Check::since(
        1,
        "env.file",
        "--env-file knows comments, blank lines, names alone and a byte order mark.",
        file,
    )
    .hint("Docker's rules: no quotes, no expansion, values are taken as they are."),
    Check::since(
        1,
        "env.precedence",
        "--env overrides --env-file, the later of two overrides the earlier, and both override the defaults.",
        precedence,
    )
    .hint("Set each name once: some programs see only the first of two entries."),
    Check::since(0, "workdir.default", "The command starts in /.", workdir_default)
        .hint("chdir(\"/\") after chroot(2)."),
    Check::since(1, "workdir.option", "The command starts in the directory of --workdir.", workdir_option)
        .hint("chdir(2), after the root was entered."),
    Check::since(
        1,
        "workdir.made",
        "--workdir makes its directory, and the directories above it, if they are missing.",
        workdir_made,
    )
    .hint("mkdir(2) for each, in the container."),
    Check::since(
        1,
        "workdir.beneath-root",
        "--workdir through an absolute symbolic link stays in the container.",
        workdir_beneath_root,
    )
    .hint("Resolve it after the root was entered, or the link leads through the host."),
    Check::since(
        1,
        "workdir.link",
        "--workdir through a link makes the directory to which the link leads, in the container.",
        workdir_link,
    )
    .hint("mkdir(2) does not follow a link at its end: read the link, and make what it names."),
];

/// Fails unless the environment is these variables, in any order, and the default ones that are not among
/// them.
fn environment(subject: &Subject, options: &[&str], expected: &[&str]) -> Checked {
    let name = |variable: &str| variable.split('=').next().unwrap_or_default().to_owned();
    let mut found = subject.hold(options)?.first()?.environment()?;
    found.retain(|variable| {
        let default = ["PATH", "HOME", "HOSTNAME", "TERM"].contains(&name(variable).as_str());
        !default || expected.iter().any(|it| name(it) == name(variable))
    });
    found.sort();
    let mut expected: Vec<_> = expected.iter().map(|&variable| variable.to_owned()).collect();
    expected.sort();
    expect(format!("with {} the environment besides the defaults", options.join(" ")), expected, found)
}

fn defaults(subject: &Subject) -> Checked {
    let found = subject.hold(&[])?.first()?.environment()?;
    let mut names: Vec<_> = found.iter().filter_map(|variable| variable.split('=').next()).collect();
    names.sort_unstable();
    expect("the variables' names", vec!["HOME", "HOSTNAME", "PATH", "TERM"], names)?;
    environment(subject, &[], &["HOME=/root", "HOSTNAME=congo"])?;
    let path = found.iter().find_map(|variable| variable.strip_prefix("PATH=")).unwrap_or_default();
    let usual = ["/bin", "/usr/bin", "/sbin", "/usr/sbin"]
        .iter()
        .all(|folder| path.split(':').any(|it| it == *folder));
    ensure(usual, || Failure::new("PATH has /bin, /usr/bin, /sbin and /usr/sbin", format!("{path:?}")))
}

fn path(subject: &Subject) -> Checked {
    // The runtime's own PATH leads nowhere; and one entry holds what cannot be executed.
    let mut command = subject.command(&["cat", "/proc/sys/kernel/ostype"]);
    command.env("PATH", "/nowhere");
    let output = crate::container::Container::start(&mut command)?.output()?;
    expect("what a command says that is only in the container's PATH", "Linux", output.ok()?)
}

fn option(subject: &Subject) -> Checked {
    let options = ["--env", "A=1", "-e", "B=two words = 2", "--env", "EMPTY=", "-e", "UMLAUT=ä€"];
    environment(subject, &options, &["A=1", "B=two words = 2", "EMPTY=", "UMLAUT=ä€"])
}

fn from_host(subject: &Subject) -> Checked {
    environment(subject, &["--env", SECRET, "--env", "CONGO_CHECKS_ABSENT"], &[&format!("{SECRET}=seen")])
}

fn file(subject: &Subject) -> Checked {
    let text = format!(
        "\u{feff}FIRST=after the mark\n\n# a comment\n   # another\nQUOTED=\"as it is\"\nSPACES= a b \
         \nHASH=a # b\n  INDENTED=1\n{SECRET}\nCONGO_CHECKS_ABSENT\nEMPTY=\nLAST=no newline"
    );
    let path = subject.write("env-file", text)?;
    let secret = format!("{SECRET}=seen");
    let expected = [
        "FIRST=after the mark",
        "QUOTED=\"as it is\"",
        "SPACES= a b ",
        "HASH=a # b",
        "INDENTED=1",
        &secret,
        "EMPTY=",
        "LAST=no newline",
    ];
    environment(subject, &["--env-file", &path], &expected)
}

fn precedence(subject: &Subject) -> Checked {
    let one = subject.write("env-one", "A=file\nB=file\nC=file\nHOME=/file\nCONGO_CHECKS_ABSENT=file\n")?;
    let two = subject.write("env-two", "B=second file\n")?;
    let gone = "CONGO_CHECKS_ABSENT";
    let options = format!(
        "--env A=option --env-file {one} --env-file {two} --env D=1 --env D=2 --env TERM=dumb --env {gone}"
    );
    let options: Vec<_> = options.split(' ').collect();
    environment(subject, &options, &["A=option", "B=second file", "C=file", "D=2", "HOME=/file", "TERM=dumb"])
}

fn workdir_default(subject: &Subject) -> Checked {
    let container = subject.hold(&[])?;
    let first = container.first()?;
    let at_root = identity(first.path("cwd/."))? == identity(first.path("root/."))?;
    ensure(at_root, || Failure::new("the working directory is the root", "another directory"))
}

/// Fails unless with `--workdir` the command starts in that directory of the root.
fn starts_in(subject: &Subject, workdir: &str, expected: &str) -> Checked {
    let root = subject.root()?;
    let container = subject.hold(&["--rootfs", root, "--workdir", workdir])?;
    let first = container.first()?;
    let folder = identity(first.path("cwd/."))?;
    // In the container's own root, which need not be the directory itself: it may be a layer above it.
    let inside = first.path("root").join(expected.trim_start_matches('/'));
    let same = identity(inside).is_ok_and(|it| it == folder);
    ensure(same, || {
        Failure::new(
            format!("with --workdir {workdir} the command starts in {expected}"),
            "another directory",
        )
    })
}

fn workdir_option(subject: &Subject) -> Checked {
    starts_in(subject, "/etc", "/etc")
}

fn workdir_link(subject: &Subject) -> Checked {
    let root = Path::new(subject.root()?);
    // The same path on the host and in the container.
    let place = subject.file("workdir-link");
    let inside = root.join(place.strip_prefix("/").unwrap_or(&place));
    let link = root.join("link-to-nothing");
    let _ = fs::remove_file(&link);
    std::os::unix::fs::symlink(&place, &link)?;
    let place = place.display().to_string();
    let results = [
        starts_in(subject, "/link-to-nothing", &place),
        starts_in(subject, "/link-to-nothing/deep/er", &format!("{place}/deep/er")),
    ];
    let strayed = Path::new(&place).exists();
    fs::remove_file(link)?;
    // With an overlay, the root itself keeps nothing.
    let _ = fs::remove_dir_all(inside);
    ensure(!strayed, || {
        Failure::new("nothing is made on the host", "the directory that the link names there")
    })?;
    results.into_iter().collect()
}

fn workdir_made(subject: &Subject) -> Checked {
    let made = Path::new(subject.root()?).join("made");
    let result = starts_in(subject, "/made/by/option", "/made/by/option");
    let _ = fs::remove_dir_all(made);
    result
}

fn workdir_beneath_root(subject: &Subject) -> Checked {
    let root = Path::new(subject.root()?);
    // The same path on the host and in the container: which of the two does the link mean?
    let outside = subject.file("workdir");
    let inside = root.join(outside.strip_prefix("/").unwrap_or(&outside));
    fs::create_dir_all(&outside)?;
    fs::create_dir_all(&inside)?;
    let link = root.join("link-to-workdir");
    let _ = fs::remove_file(&link);
    std::os::unix::fs::symlink(&outside, &link)?;
    let result = starts_in(subject, "/link-to-workdir/new", &format!("{}/new", outside.display()));
    let strayed = outside.join("new").exists();
    fs::remove_file(link)?;
    fs::remove_dir_all(inside)?;
    fs::remove_dir_all(outside)?;
    ensure(!strayed, || {
        Failure::new("nothing is made on the host", "the directory that the link names there")
    })?;
    result
}
