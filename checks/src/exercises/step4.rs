//! The exercises of step 4: more groups, fewer ids, other masks, and a container that may do all that can be
//! had.
//!
//! Kernel objects: the credentials, maps and mounts of the container's first process, as the host sees them.
//! Man pages: setgroups(2), user_namespaces(7), capabilities(7), seccomp(2), proc_pid_status(5),
//! proc_pid_mountinfo(5).

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, chown};

use super::{Exercise, folder, is_refused};
use crate::container::Container;
use crate::kernel::{Process, myself};
use crate::needs::Need;
use crate::{Checked, Failure, Subject, ensure, expect};

pub(super) const EXERCISES: &[Exercise] = &[
    Exercise {
        id: "step4.group-add",
        step: 4,
        sentence: "Add --group-add NAME|GID, repeatable: one more supplementary group, by the container's \
                   own list.",
        hint: "setgroups(2) takes all groups at once, and removes those that it does not name. The child \
               looks a name up, since the container's /etc/group counts. Root has groups, too.",
        needs: &[Need::Root],
        run: group_add,
    },
    Exercise {
        id: "step4.userns-size",
        step: 4,
        sentence: "Add --userns auto:size=NUMBER, from 1 to 65536: the container has that many ids, from 0 \
                   on, and no others.",
        hint: "Keep the size of the range: the map need not name all of it. The container sees a file of an \
               id outside of the map as a file of 65534.",
        needs: &[Need::Root],
        run: userns_size,
    },
    Exercise {
        id: "step4.mask",
        step: 4,
        sentence: "Add --security-opt mask=PATH[:PATH]… and unmask=PATH[:PATH]…|ALL: hide more, or less.",
        hint: "Change the use of both lists in src/hardening.rs. With ALL nothing is masked or read-only. A \
               path is absolute.",
        needs: &[],
        run: mask,
    },
    Exercise {
        id: "step4.privileged",
        step: 4,
        sentence: "Add --privileged: all capabilities that there are, no filter, no no_new_privs, nothing \
                   masked.",
        hint: "Four protections, each switched off in its own file. The fifth one, the user namespace, \
               stays: what can this container still not do?",
        needs: &[Need::Root],
        run: privileged,
    },
];

/// An id of the host as the container has it.
fn inside(id: u32, map: &[u32]) -> Option<u32> {
    match map {
        [container, host, size] => {
            id.checked_sub(*host).filter(|offset| offset < size).map(|offset| container + offset)
        }
        _ => None,
    }
}

/// The numbers in a text of the kernel's.
fn numbers(text: &str) -> Vec<u32> {
    text.split_whitespace().filter_map(|number| number.parse().ok()).collect()
}

/// User, group and supplementary groups of a container's first process, as the container has them.
fn ids(container: &Container) -> Result<String, Failure> {
    let first = container.first()?;
    let (users, groups) = (numbers(&first.read("uid_map")?), numbers(&first.read("gid_map")?));
    let of = |field: &str, map: &[u32]| -> Result<Vec<Option<u32>>, Failure> {
        Ok(numbers(&first.status(field)?).into_iter().map(|id| inside(id, map)).collect())
    };
    // The second of the four is the effective one.
    let (user, group) = (of("Uid", &users)?[1], of("Gid", &groups)?[1]);
    let mut more = of("Groups", &groups)?;
    more.sort_unstable();
    let text = |id: Option<u32>| id.map_or("none".to_owned(), |id| id.to_string());
    let more: Vec<_> = more.into_iter().map(text).collect();
    Ok(format!("user {} group {} and [{}]", text(user), text(group), more.join(" ")))
}

fn group_add(subject: &Subject) -> Checked {
    let layer = folder(subject, "with-groups")?;
    fs::create_dir(layer.join("etc"))?;
    let passwd = "root:x:0:0::/root:/bin/sh\nada:x:1001:1002::/:/bin/sh\n";
    fs::write(layer.join("etc/passwd"), passwd)?;
    fs::write(layer.join("etc/group"), "root:x:0:\nada:x:1002:\naudio:x:29:ada\nlp:x:7:\n44:x:8:\n")?;
    let path = layer.display().to_string();
    for (options, expected) in [
        (&["--group-add", "44"][..], "user 0 group 0 and [0 44]"),
        (&["--group-add", "44", "--group-add", "lp"], "user 0 group 0 and [0 7 44]"),
        (&["--user", "1000:7", "--group-add", "audio"], "user 1000 group 7 and [7 29]"),
        (&["--user", "ada", "--group-add", "lp"], "user 1001 group 1002 and [7 29 1002]"),
        (&["--user", "ada", "--group-add=65535"], "user 1001 group 1002 and [29 1002 65535]"),
        (&["--user", "ada"], "user 1001 group 1002 and [29 1002]"),
    ] {
        let container = subject.hold(&[&["--layer", &path], options].concat())?;
        expect(format!("who it is with {options:?}"), expected, &ids(&container)?)?;
    }
    for group in ["no-such-group", "a:b", ""] {
        is_refused(&subject.run(&["--group-add", group, "true"])?, "--group-add")?;
    }
    // One that the container does not have: the kernel says so.
    is_refused(&subject.run(&["--group-add", "65536", "true"])?, "setgroups")
}

fn userns_size(subject: &Subject) -> Checked {
    let layer = folder(subject, "with-owners")?;
    for (name, owner) in [("known", 1023), ("strange", 1024)] {
        fs::write(layer.join(name), "")?;
        chown(layer.join(name), Some(owner), Some(owner))?;
    }
    let map = |options: &[&str]| -> Result<(Vec<u32>, Vec<u32>), Failure> {
        let container = subject.hold(options)?;
        let first = container.first()?;
        Ok((numbers(&first.read("uid_map")?), numbers(&first.read("gid_map")?)))
    };
    for (options, size) in [
        (&["--userns", "auto:size=1024"][..], 1024),
        (&["--userns", "auto:size=1"], 1),
        (&["--userns", "auto:size=65536"], 65536),
        (&["--userns", "auto"], 65536),
        (&[], 65536),
    ] {
        let (users, groups) = map(options)?;
        expect(format!("the first id and the size with {options:?}"), (0, size), (users[0], users[2]))?;
        ensure(users[1] > 65536, || Failure::new("ids of Congo's on the host", users[1]))?;
        expect("the map of groups", users, groups)?;
    }
    let script = "cd / && stat -c %u known strange && touch new && chown 1023 new && ! chown 1024 new \
                  2>/dev/null && echo refused";
    let run = subject.sh(&["--layer", &layer.display().to_string(), "--userns", "auto:size=1024"], script)?;
    expect("owners, and what chown says to an id too many", "1023\n65534\nrefused", run.ok()?)?;
    for mode in ["auto:size=0", "auto:size=65537", "auto:size=", "auto:size=x", "auto:", "host:size=5"] {
        is_refused(&subject.run(&["--userns", mode, "true"])?, "--userns")?;
    }
    Ok(())
}

/// The mounts below /proc and /sys.
fn masks(process: Process) -> Result<Vec<String>, Failure> {
    let points = process.mounts()?.into_iter().map(|mount| mount.point);
    Ok(points.filter(|point| point.starts_with("/proc/") || point.starts_with("/sys/")).collect())
}

fn mask(subject: &Subject) -> Checked {
    let masked = |options: &[&str]| masks(subject.hold(options)?.first()?);
    let usual = masked(&[])?;
    let differs = |what: &str, more: &[&str], less: &[&str], found: &[String]| {
        let mut expected: Vec<_> = usual.iter().map(String::as_str).filter(|it| !less.contains(it)).collect();
        expected.extend(more);
        expected.sort_unstable();
        let mut found: Vec<_> = found.iter().map(String::as_str).collect();
        found.sort_unstable();
        expect(format!("what is mounted below /proc and /sys with {what}"), expected, found)
    };
    let option = "mask=/proc/version:/sys/class:/no/such/path";
    differs(option, &["/proc/version", "/sys/class"], &[], &masked(&["--security-opt", option])?)?;
    let script = "cat /proc/version /etc/group; ls /sys/class; echo x > /proc/version; echo nothing";
    let more = ["--security-opt", option, "--security-opt", "mask=/etc/group"];
    expect("what can be read there", "nothing", subject.sh(&more, script)?.ok()?)?;
    // One that hides, and one that is read-only.
    let (hidden, fixed) = ("/proc/interrupts", "/proc/irq");
    let option = format!("unmask={hidden}:{fixed}");
    differs(&option, &[], &[hidden, fixed], &masked(&["--security-opt", &option])?)?;
    let run =
        subject.sh(&["--security-opt", &option], "head -c 4 /proc/interrupts | wc -c; wc -c < /proc/keys")?;
    expect("bytes of /proc/interrupts and of /proc/keys", "4\n0", run.ok()?)?;
    expect("masks with unmask=ALL", Vec::<String>::new(), masked(&["--security-opt", "unmask=ALL"])?)?;
    for bad in ["mask=", "mask=proc/version", "unmask=", "unmask=/proc/keys:", "mask"] {
        is_refused(&subject.run(&["--security-opt", bad, "true"])?, "--security-opt")?;
    }
    Ok(())
}

fn privileged(subject: &Subject) -> Checked {
    let container = subject.hold(&["--privileged"])?;
    let first = container.first()?;
    let all = myself().status("CapBnd")?;
    for set in ["CapPrm", "CapEff", "CapBnd"] {
        expect(set, &all, &first.status(set)?)?;
    }
    expect("its filter", "0", first.status("Seccomp")?.as_str())?;
    expect("no_new_privs", "0", first.status("NoNewPrivs")?.as_str())?;
    expect("what is mounted below /proc and /sys", Vec::<String>::new(), masks(first)?)?;
    drop(container);

    let secrets = folder(subject, "secrets")?;
    fs::set_permissions(&secrets, Permissions::from_mode(0o755))?;
    fs::write(secrets.join("secret"), "secret")?;
    fs::set_permissions(secrets.join("secret"), Permissions::from_mode(0o600))?;
    // What must fail would, where it succeeds, write what is there already, and make a node that nobody
    // opens.
    let script = "mkdir /t; mount -t tmpfs none /t && echo mounted; unshare --mount true && echo unshared; \
        { cat /v/secret; echo \"$(cat /proc/sys/kernel/printk)\" > /proc/sys/kernel/printk && echo set; \
        mknod /node b 7 0 && echo made; } 2>/dev/null; :";
    let run = subject.sh(&["--privileged", "-v", &format!("{}:/v", secrets.display())], script)?;
    expect("what it can do, and not more", "mounted\nunshared", run.ok()?)?;
    // A container without the option stays as it was.
    let container = subject.hold(&[])?;
    expect("the filter without --privileged", "2", container.first()?.status("Seccomp")?.as_str())
}
