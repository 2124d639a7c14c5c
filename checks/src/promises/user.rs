//! The user that runs the command. credentials(7), passwd(5), group(5), umask(2).

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Stdio;

use serde_json::json;

use super::bad_input::refused;
use super::user_namespace::first_id;
use crate::container::Container;
use crate::image::{Archive, Layer, Layout, base, config};
use crate::needs::Need;
use crate::{Check, Checked, Failure, Subject, expect, inside};

#[rustfmt::skip] // It would give each argument a line of its own.
pub(crate) const CHECKS: &[Check] = &[
    Check::since(4, "user.number",
        "--user UID[:GID] sets the user and the group. No other group stays, and the primary group is among \
         the supplementary ones.", number)
        .needs(&[Need::Root])
        .hint("setgroups(2), setresgid(2), setresuid(2), in this order. A number without a line in \
               /etc/passwd has the group 0. Without the primary group, a setgid program could shed it \
               (CVE-2022-36109)."),
    Check::since(4, "user.name",
        "--user NAME has the ids, groups and home of the container's own files.", name)
        .needs(&[Need::Root])
        .hint("Read /etc/passwd and /etc/group of the container's root after it is entered. A group in the \
               option replaces all others."),
    Check::since(4, "user.image", "An image's User counts, unless --user names another.", image)
        .needs(&[Need::Root])
        .hint("It is a name or a number, with a group or without, as for --user."),
    Check::since(4, "user.home",
        "HOME is the user's home directory, unless an option or the image sets it.", home)
        .needs(&[Need::Root])
        .hint("The sixth field of /etc/passwd; / for a number without a line there."),
    Check::since(4, "user.unknown",
        "A name without a line in /etc/passwd, and an id that the container does not have, are refused.",
        unknown)
        .needs(&[Need::Root])
        .hint("Exit status 125, before the command. EINVAL from setresuid(2) says that the user namespace \
               has no such id."),
    Check::since(4, "user.streams", "The user may open its own streams by their paths.", streams)
        .needs(&[Need::Root])
        .hint("A pipe belongs to its maker: fchown(2), before the process changes its user."),
    Check::since(4, "user.umask", "The command's umask is 022, whatever the caller's is.", umask)
        .not_new()
        .hint("Call umask(2) in the child: all later processes inherit it."),
];

/// The ids of a container's first process, as numbers of the container: user, group, supplementary groups.
fn ids(container: &Container) -> Result<(u32, u32, Vec<u32>), Failure> {
    let (first, host) = (container.first()?, first_id(container)?);
    let ids = |field: &str| -> Result<Vec<u32>, Failure> {
        let text = first.status(field)?;
        Ok(text
            .split_whitespace()
            .filter_map(|it| it.parse::<u32>().ok())
            .map(|id| id.wrapping_sub(host))
            .collect())
    };
    let same = |field: &str, ids: Vec<u32>| {
        let first = ids.first().copied().unwrap_or(u32::MAX);
        expect(format!("{field}: real, effective, saved, file system's"), vec![first; 4], ids).map(|()| first)
    };
    Ok((same("Uid", ids("Uid")?)?, same("Gid", ids("Gid")?)?, ids("Groups")?))
}

fn number(subject: &Subject) -> Checked {
    for (user, expected) in [
        ("0", (0, 0, vec![0])),
        ("0:5", (0, 5, vec![5])),
        ("1000", (1000, 0, vec![0])),
        ("1000:1001", (1000, 1001, vec![1001])),
        ("65535:65535", (65535, 65535, vec![65535])),
    ] {
        let container = subject.hold(&["--user", user])?;
        expect(format!("the ids of --user {user}"), expected, ids(&container)?)?;
    }
    Ok(())
}

const USERS: &str =
    "root:x:0:0::/root:/bin/sh\n# none\nada:x:1001:1002:Ada,,,:/home/ada:/bin/sh\n12:x:77:77::/:/bin/sh\n";
const GROUPS: &str = "root:x:0:\nada:x:1002:\naudio:x:29:ada\nvideo:x:44:root,ada\nlp:x:7:adalbert\n";

fn name(subject: &Subject) -> Checked {
    let etc = Path::new(subject.root()?).join("etc");
    let files = [("passwd", USERS), ("group", GROUPS)];
    let before = files.map(|(name, _)| fs::read(etc.join(name)).ok());
    files.iter().try_for_each(|(name, text)| fs::write(etc.join(name), text))?;
    let result = names(subject);
    for ((name, _), text) in files.iter().zip(before) {
        match text {
            Some(text) => fs::write(etc.join(name), text)?,
            None => fs::remove_file(etc.join(name))?,
        }
    }
    result
}

fn names(subject: &Subject) -> Checked {
    let root = subject.root()?;
    for (user, expected) in [
        ("ada", (1001, 1002, vec![29, 44, 1002])),
        // The same by number.
        ("1001", (1001, 1002, vec![29, 44, 1002])),
        ("ada:audio", (1001, 29, vec![29])),
        ("ada:3", (1001, 3, vec![3])),
        ("root", (0, 0, vec![0, 44])),
        // Digits are a number, whoever has such a name.
        ("12", (12, 0, vec![0])),
    ] {
        let container = subject.hold(&["--rootfs", root, "--user", user])?;
        expect(format!("the ids of --user {user}"), expected, ids(&container)?)?;
    }
    let home = subject.sh(&["--rootfs", root, "--user", "ada"], "echo $HOME")?;
    expect("HOME of --user ada", "/home/ada", home.ok()?)?;
    for user in ["adalbert", "ada:x", "Ada"] {
        refused(subject, &["--rootfs", root, "--user", user, "true"], &["--user"])?;
    }
    Ok(())
}

fn image(subject: &Subject) -> Checked {
    let layer = Archive::default().folder("etc").file("etc/passwd", USERS).file("etc/group", GROUPS);
    let layers = [base()?, Layer::plain(layer)];
    let image = |user: &str| -> Result<String, Failure> {
        Ok(Layout::of(subject, "of-a-user", &config(json!({ "User": user })), &layers)?.name())
    };
    for (user, options, expected) in [
        ("ada", &[][..], (1001, 1002, vec![29, 44, 1002])),
        ("ada:lp", &[], (1001, 7, vec![7])),
        ("33", &[], (33, 0, vec![0])),
        ("ada:", &[], (1001, 1002, vec![29, 44, 1002])),
        (":29", &[], (0, 29, vec![29])),
        ("", &[], (0, 0, vec![])),
        ("ada", &["--user", "0"], (0, 0, vec![0, 44])),
        ("nobody-here", &["--user", "5:6"], (5, 6, vec![6])),
    ] {
        let container = subject.hold(&[&["--image", &image(user)?], options].concat())?;
        expect(format!("the ids of User {user:?} with {options:?}"), expected, ids(&container)?)?;
    }
    for user in ["nobody-here", "a:b:c"] {
        refused(subject, &["--image", &image(user)?, "true"], &[user])?;
    }
    Ok(())
}

fn home(subject: &Subject) -> Checked {
    for (options, expected) in [
        (&[][..], "/root"),
        (&["--user", "0"], "/root"),
        (&["--user", "4242"], "/"),
        (&["--user", "4242", "--env", "HOME=/srv"], "/srv"),
        // An empty one counts as none.
        (&["--user", "4242", "--env", "HOME="], "/"),
        (&["--env", "HOME="], "/root"),
    ] {
        let output = subject.sh(options, "echo $HOME")?;
        expect(format!("HOME with {options:?}"), expected, output.ok()?)?;
    }
    Ok(())
}

fn unknown(subject: &Subject) -> Checked {
    for user in ["no-such-user", "root:no-such-group", "65536", "0:65536"] {
        refused(subject, &["--user", user, "true"], &["--user", "expected"])?;
    }
    // Where the root has to be copied for these ids, it is said once.
    subject.run(&["--uidmap", "0:500000:10", "true"])?.ok()?;
    let words = ["--uidmap", "0:500000:10", "--user", "10", "true"];
    refused(subject, &words, &["--user", "expected"])
}

fn streams(subject: &Subject) -> Checked {
    for options in
        [&[][..], &["--user", "1000:7"], &["--userns", "host", "--user", "1000"], &["--init", "--user", "5"]]
    {
        let output = subject.sh(options, "echo out > /dev/stdout; echo err > /dev/stderr")?;
        expect(format!("what is written with {options:?}"), "out", output.ok()?)?;
        expect("what is written to /dev/stderr", "err\n", &output.stderr)?;
    }
    Ok(())
}

fn umask(subject: &Subject) -> Checked {
    let mask = |mask: &str, options: &[&str]| {
        let program = inside::install(Path::new(subject.root()?))?;
        let root = ["--rootfs", subject.root()?];
        let command = [program.as_str(), inside::ASKED, inside::STATUS, "Umask"];
        // A shell that becomes the runtime: it inherits its umask.
        let mut shell = std::process::Command::new("sh");
        shell.arg0("sh").args(["-c", "umask $0; exec \"$@\"", mask]).arg(subject.binary());
        shell.args([&root, options, &command].concat()).envs(subject.environment()).stdin(Stdio::null());
        Container::start(&mut shell)?.output()
    };
    for options in [&[][..], &["--init"]] {
        for caller in ["077", "000"] {
            let output = mask(caller, options)?;
            expect(
                format!("with {options:?}, the umask of a caller with {caller}"),
                "Umask=0022",
                output.ok()?,
            )?;
        }
    }
    Ok(())
}
