//! Images. OCI image specification.

use std::fs;

use crate::{Check, Checked, Subject, expect};

pub(crate) const CHECKS: &[Check] = &[Check::since(
    3,
    "image.commit-and-run",
    "--commit makes an image that --image runs, with the root and the change.",
    commit,
)
.hint("The root and the writable layer, each as a layer; a whiteout becomes a file .wh.NAME.")];

fn commit(subject: &Subject) -> Checked {
    let out = subject.file("committed.tar");
    let _ = fs::remove_file(&out);
    let out = out.display().to_string();
    subject.sh(&["--commit", &out], "echo changed > /of-the-image; rm /etc/passwd")?.ok()?;
    let script = "cat /of-the-image; test -s /etc/group && echo base; ls /etc/passwd 2>/dev/null; :";
    expect("what the image has", "changed\nbase", subject.sh(&["--image", &out], script)?.ok()?)
}
