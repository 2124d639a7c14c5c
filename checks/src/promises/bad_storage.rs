//! Bad input to the options of step 3: refused in two lines, before anything is made.

use std::fs;

use super::bad_input::{each, error, refused};
use super::volume::folder;
use crate::kernel::listing;
use crate::{Check, Checked, Subject, expect};

pub(crate) const CHECKS: &[Check] = &[
    Check::since(
        3,
        "bad.volume",
        "Relative targets, malformed names, unknown options and too many parts are refused.",
        |it| {
            each(
                it,
                "--volume",
                &[
                    "",
                    "a",
                    "data",
                    "aa:b",
                    "/a:",
                    ":/b",
                    "/a:/b:rw:ro",
                    "/a:/b:x",
                    "/a:ro",
                    "/a:rw,nocopy",
                    "/a:/b:cached,delegated",
                    "/a:/b:ro,rw",
                    "/a:/b:shared,slave",
                    "a:/b",
                    "-a:/b",
                    "a/b:/c",
                    "a b:/c",
                    "/a:/",
                    "/a:/x/..",
                    "/a:/proc",
                    "/a:/sys/x",
                ],
                &[],
            )
        },
    )
    .hint("[SOURCE:]TARGET[:OPTIONS]; a path begins with /, ./ or ../, and everything else is a name."),
    Check::since(
        3,
        "bad.mount",
        "Unknown keys and types, a missing target, and keys that do not belong together are refused.",
        |it| {
            each(
                it,
                "--mount",
                &[
                    "",
                    "target",
                    "target=x",
                    "source=data",
                    "type=nfs,target=/x",
                    "type=bind,target=/x",
                    "type=bind,source=data,target=/x",
                    "typ=bind,target=/x",
                    "target=/x,target=/y",
                    "type=tmpfs,source=data,target=/x",
                    "type=tmpfs,target=/x,tmpfs-size=0",
                    "type=tmpfs,target=/x,tmpfs-mode=9",
                    "target=/x,readonly=maybe",
                    "target=/x,consistency=much",
                    "source=/srv,target=/x",
                    "type=bind,source=/,target=/x,bind-propagation=x",
                    "\"target=/x",
                ],
                &[],
            )
        },
    )
    .hint("The error names the key, and the values that it takes."),
    Check::since(3, "bad.tmpfs", "Relative targets and unknown options are refused.", |it| {
        each(
            it,
            "--tmpfs",
            &[
                "",
                "x",
                "/",
                "/x:size=0",
                "/x:size=much",
                "/x:size=101%",
                "/x:mode=8",
                "/x:mode=77777",
                "/x:nr_inodes=0",
                "/x:uid=root",
                "/x:gid=-1",
                "/x:huge=always",
                "/x:bind",
                "/x:remount",
                "/x:size=1m:ro",
                "/proc",
            ],
            &[],
        )
    })
    .hint("The kernel takes more options, such as huge=. They must not get through by chance."),
    Check::since(3, "bad.layer", "A layer that is missing, or is not a folder, is refused.", |it| {
        each(it, "--layer", &["/no/such/dir", "/etc/passwd", ""], &["directory"])
    })
    .hint("Check it before anything is made."),
    Check::since(
        3,
        "bad.layer-overlap",
        "A layer that is given twice, or lies in another layer, is refused, and the hint says so.",
        overlap,
    )
    .hint("overlayfs says ELOOP for that, and for an upper layer that lies in a lower one."),
    Check::since(
        3,
        "bad.keep",
        "Names that could be a path, and names of one character, are refused.",
        |it| each(it, "--keep", &["", "a", "..", ".hidden", "a/b", "../x", "/abs", "a b", "-a"], &["name"]),
    )
    .hint("The name becomes the name of a folder: letters, digits, '_', '.' and '-', like a volume's."),
    Check::since(
        3,
        "bad.nothing-made",
        "If any option is refused, no volume's folder has been made.",
        nothing_made,
    )
    .not_new()
    .hint("Check all options before you make anything for one of them."),
];

fn overlap(subject: &Subject) -> Checked {
    let (path, text) = folder(subject, "overlapping")?;
    fs::create_dir(path.join("in-it"))?;
    for other in [text.clone(), format!("{text}/in-it")] {
        let run = subject.run(&["--layer", &text, "--layer", &other, "true"])?;
        error(&run, 125, &["--layer may lie in another"])?;
    }
    Ok(())
}

/// Greater than any PID can be: proc_sys_kernel(5), pid_max.
const NOBODY: &str = "container:2147483647";

fn nothing_made(subject: &Subject) -> Checked {
    let (path, text) = folder(subject, "nothing-made")?;
    let volume = format!("{text}/made:/mnt/it");
    let bad: [&[&str]; 13] = [
        &["--memory", "1k"],
        &["--layer", "/no/such"],
        &["--keep", "/"],
        &["-v", "x:y"],
        &["-v", "/tmp:/mnt/it"],
        &["-v", "/tmp:/proc"],
        &["--tmpfs", "/mnt/it"],
        &["--env-file", "/no/such"],
        &["--image", "/no/such"],
        &["-it"],
        &["--ipc", NOBODY],
        &["--network", NOBODY],
        &["--add-host", "up.example:host-gateway"],
    ];
    for options in bad {
        let arguments = [&["-v", &volume, "-v", "never-made:/mnt/named"], options, &["true"]].concat();
        refused(subject, &arguments, &[])?;
        expect(format!("what is made with {options:?}"), 0, listing(&path, 1).len())?;
        let named = subject.home().join("volumes/never-made").exists();
        expect(format!("whether a named volume is made with {options:?}"), false, named)?;
    }
    Ok(())
}
