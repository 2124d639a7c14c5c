//! The filter of system calls, and no_new_privs, which keeps programs from gaining anything. seccomp(2),
//! PR_SET_NO_NEW_PRIVS(2const), proc_pid_status(5).

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::bad_input::{error, refused};
use super::capabilities::{possible, with_init};
use crate::needs::Need;
use crate::{Check, Checked, Subject, expect, inside};

#[rustfmt::skip] // It would give each argument a line of its own.
pub(crate) const CHECKS: &[Check] = &[
    Check::since(
        4,
        "seccomp.default",
        "A filter applies to each process of the container, and no_new_privs is set.",
        default,
    )
    .hint("prctl(2), then seccomp(2) with SECCOMP_SET_MODE_FILTER, last before the exec."),
    Check::since(
        4,
        "seccomp.unconfined",
        "With --security-opt seccomp=unconfined there is no filter.",
        unconfined,
    )
    .hint("Seccomp in /proc/PID/status is 0."),
    Check::since(4, "seccomp.file", "A profile in Docker's format decides what happens to a call.", file)
        .hint("defaultAction, and in syscalls: names, action, errnoRet, args."),
    Check::since(
        4,
        "seccomp.bad-file",
        "A malformed profile is refused, and the error says what is wrong in it.",
        bad_file,
    )
    .hint("Exit status 125, before anything is made: name the file, the field, and the accepted values."),
    Check::since(
        4,
        "seccomp.kills-the-runtime",
        "A profile that ends the runtime before the command begins is an error; a signal that ends the \
         command is not.",
        kills_the_runtime,
    )
    .hint("Both end by SIGSYS. Until its exec a process has the flag PF_FORKNOEXEC in /proc/PID/stat, also \
           as a zombie."),
    Check::since(
        4,
        "seccomp.needs-nothing-else",
        "A profile may refuse all that the runtime does before the exec; one that refuses the exec is named \
         as the cause.",
        needs_nothing_else,
    )
    .hint("Load the filter last of all. What fails after it can be told to the parent by memory that both \
           share: that takes no call."),
    Check::since(
        4,
        "seccomp.by-capability",
        "A call that needs a capability is allowed if the container has that capability.",
        by_capability,
    )
    .hint("Compare includes.caps of the profile with the result of --cap-add and --cap-drop."),
    Check::since(
        4,
        "seccomp.no-new-privileges",
        "--security-opt no-new-privileges=false leaves no_new_privs off, and the filter on.",
        privileges,
    )
    .needs(&[Need::Root])
    .hint("Without no_new_privs seccomp(2) takes CAP_SYS_ADMIN: load the filter before the capabilities go."),
];

/// What `/proc/PID/status` says with these options: of the filter, and of no_new_privs.
fn modes(subject: &Subject, options: &[&str]) -> Result<(String, String), crate::Failure> {
    let container = subject.hold(options)?;
    let first = container.first()?;
    Ok((first.status("Seccomp")?, first.status("NoNewPrivs")?))
}

fn expect_modes(subject: &Subject, options: &[&str], filter: &str, no_new: &str) -> Checked {
    let (found_filter, found_no_new) = modes(subject, options)?;
    let what = format!("Seccomp and NoNewPrivs with {options:?}");
    expect(what, (filter, no_new), (found_filter.as_str(), found_no_new.as_str()))
}

fn default(subject: &Subject) -> Checked {
    let options: [&[&str]; 6] = [
        &[],
        &["--user", "1000"],
        &["--userns", "host"],
        &["--cap-add", "ALL"],
        &["--cap-drop", "ALL"],
        &["--security-opt", "no-new-privileges", "--security-opt", "seccomp=builtin"],
    ];
    for options in possible(&options) {
        expect_modes(subject, options, "2", "1")?;
    }
    // What it starts has it, too.
    let output = subject.sh(&[], "grep -E '^(Seccomp|NoNewPrivs):' /proc/self/status; :")?;
    expect("of a child", "NoNewPrivs:\t1\nSeccomp:\t2", output.ok()?)
}

fn unconfined(subject: &Subject) -> Checked {
    expect_modes(subject, &["--security-opt", "seccomp=unconfined"], "0", "1")?;
    let (_container, command) = with_init(subject, &["--security-opt", "seccomp=unconfined"])?;
    expect("Seccomp of the command below an init", "0", command.status("Seccomp")?.as_str())
}

fn file(subject: &Subject) -> Checked {
    // 38 is ENOSYS, 22 EINVAL. The mode of a new folder is the last argument, in either call.
    let profile = r#"{
        "defaultAction": "SCMP_ACT_ALLOW",
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_AARCH64"],
        "syscalls": [
            {"names": ["symlink", "symlinkat", "no_such_call"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38},
            {"names": ["kill"], "action": "SCMP_ACT_ERRNO", "errnoRet": 22,
             "args": [{"index": 1, "value": 10, "op": "SCMP_CMP_EQ"}]}
        ]
    }"#;
    let path = subject.write("profile.json", profile)?;
    let option = format!("seccomp={path}");
    let script = "ln -s a /b 2>&1; kill -USR2 $$ 2>&1; trap 'echo got' USR2; kill -USR2 $$; kill -USR1 $$ \
                  2>&1; mkdir /d && echo made";
    // USR2 would end the shell before it is trapped.
    let script = script.replacen("kill -USR2 $$ 2>&1; ", "", 1);
    let output = subject.sh(&["--security-opt", &option], &script)?;
    let found = output.ok()?.to_lowercase();
    let has = |words: &str| found.contains(words);
    let all = has("function not implemented") && has("got\n") && has("invalid argument") && has("made");
    crate::ensure(all, || {
        crate::Failure::new("ENOSYS from symlink, EINVAL from kill with SIGUSR1, and nothing else", &found)
    })?;
    expect_modes(subject, &["--security-opt", &option], "2", "1")
}

fn bad_file(subject: &Subject) -> Checked {
    for (profile, word) in [
        ("", "JSON"),
        ("[]", "JSON"),
        (r#"{"syscalls": []}"#, "defaultAction"),
        (r#"{"defaultAction": "ALLOW"}"#, "SCMP_ACT_"),
        (
            r#"{"defaultAction": "SCMP_ACT_ALLOW", 
                "syscalls": [{"names": ["kill"], "action": "SCMP_ACT_NOTIFY"}]}"#,
            "supervisor",
        ),
        (r#"{"defaultAction": "SCMP_ACT_ALLOW", "flags": ["x"]}"#, "SECCOMP_FILTER_FLAG_"),
        (
            r#"{"defaultAction": "SCMP_ACT_ALLOW", 
                "syscalls": [{"names": ["kill"], "action": "SCMP_ACT_ERRNO",
                "args": [{"index": 6, "value": 1, "op": "SCMP_CMP_EQ"}]}]}"#,
            "args[0].index",
        ),
    ] {
        let path = subject.write("bad-profile.json", profile)?;
        refused(subject, &["--security-opt", &format!("seccomp={path}"), "true"], &[&path, word])?;
    }
    refused(subject, &["--security-opt", "seccomp=/no/such/file", "true"], &["/no/such/file"])
}

fn kills_the_runtime(subject: &Subject) -> Checked {
    let profile = |call: &str| {
        let name = format!("kills-{call}.json");
        let rule = format!(r#"[{{"names": ["{call}"], "action": "SCMP_ACT_KILL_PROCESS"}}]"#);
        let path =
            subject.write(&name, format!(r#"{{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": {rule}}}"#))?;
        Ok::<_, crate::Failure>(format!("seccomp={path}"))
    };
    let (execve, kill) = (profile("execve")?, profile("kill")?);
    let run = subject.run(&["--security-opt", &execve, "true"])?;
    error(&run, 125, &["SIGSYS", "the runtime", "seccomp"])?;
    let run = subject.sh(&["--security-opt", &kill], "kill -0 $$")?;
    expect("the status of a command that is killed", 128 + 31, run.status)?;
    expect("what the runtime says", "", run.stderr.trim())
}

fn needs_nothing_else(subject: &Subject) -> Checked {
    let profile = |name: &str, calls: &[&str]| {
        let names = calls.iter().map(|call| format!("\"{call}\"")).collect::<Vec<_>>().join(", ");
        let rule = format!(r#"[{{"names": [{names}], "action": "SCMP_ACT_ERRNO"}}]"#);
        let text = format!(r#"{{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": {rule}}}"#);
        subject.write(name, text).map(|path| format!("seccomp={path}"))
    };
    let calls =
        ["setsid", "sendto", "sendmsg", "prctl", "capset", "setresuid", "seccomp", "unshare", "mount"];
    let refuses = profile("refuses-much.json", &calls)?;
    // An ordinary user may have no other id.
    let user = if nix::unistd::geteuid().is_root() { "1000" } else { "0" };
    for options in [&[][..], &["--user", user], &["--init"]] {
        let run = subject.sh(&[options, &["--security-opt", &refuses]].concat(), "echo ran")?;
        expect(format!("what a command says with {options:?}"), "ran", run.ok()?)?;
    }
    let all = profile("refuses-exec.json", &["execve", "sendto", "write"])?;
    for options in [&[][..], &["--init"]] {
        let run = subject.run(&[options, &["--security-opt", &all, "true"]].concat())?;
        error(&run, 126, &["execve", "EPERM", "seccomp"])?;
    }
    Ok(())
}

fn by_capability(subject: &Subject) -> Checked {
    let root = subject.root()?;
    let program = inside::install(Path::new(root))?;
    let call = |options: &[&str]| -> Result<String, crate::Failure> {
        let words = ["--rootfs", root, &program, inside::ASKED, inside::CALL, "mount", "setns", "clone3"];
        Ok(subject.run(&[options, &words].concat())?.ok()?.to_owned())
    };
    expect("as a rule", "mount=EPERM\nsetns=EPERM\nclone3=ENOSYS", call(&[])?.as_str())?;
    // What the kernel itself says to these arguments.
    expect(
        "with SYS_ADMIN",
        "mount=EFAULT\nsetns=EBADF\nclone3=EINVAL",
        call(&["--cap-add", "SYS_ADMIN"])?.as_str(),
    )
}

fn privileges(subject: &Subject) -> Checked {
    let off = ["--security-opt", "no-new-privileges=false"];
    expect_modes(subject, &off, "2", "0")?;
    expect_modes(subject, &[&off[..], &["--user", "1000", "--cap-drop", "ALL"]].concat(), "2", "0")?;
    expect_modes(subject, &[&off[..], &["--security-opt", "no-new-privileges=true"]].concat(), "2", "1")?;
    // A set-user-ID program shows what it is for.
    let program = inside::install(Path::new(subject.root()?))?;
    let file = Path::new(subject.root()?).join(program.trim_start_matches('/'));
    let mode = fs::metadata(&file)?.permissions();
    fs::set_permissions(&file, Permissions::from_mode(0o4755))?;
    let words =
        ["--rootfs", subject.root()?, "--user", "1000", &program, inside::ASKED, inside::STATUS, "Uid"];
    let gained = subject.run(&[&off[..], &words].concat());
    fs::set_permissions(&file, mode)?;
    expect("who a set-user-ID program of root's is", "Uid=1000 0 0 0", gained?.ok()?)
}
