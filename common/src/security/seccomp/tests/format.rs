//! Which texts are read as a profile, and which errors the others give.

use nix::errno::Errno;
use proptest::prelude::*;

use super::super::{Action, Profile, json};

#[test]
fn forms_that_mean_the_same() {
    let short =
        r#"{"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{"name": "read", "action": "SCMP_ACT_ALLOW"}]}"#;
    let long = r#"{
        "defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 1,
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_S390X"],
        "archMap": null, "flags": ["SECCOMP_FILTER_FLAG_TSYNC"], "listenerPath": "",
        "syscalls": [{"names": ["read"], "action": "SCMP_ACT_ALLOW", "errnoRet": null,
            "args": null, "comment": "",
                      "includes": {"minKernel": ""}, "excludes": {}, "priority": 1}]
    }"#;
    let [short, long] = [short, long].map(|text| json::read(text, "x").unwrap());
    assert_eq!(short, long);
}

#[test]
fn an_errno_of_the_default_and_of_a_rule() {
    let profile = json::read(
        r#"{"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 38, "flags": ["SECCOMP_FILTER_FLAG_LOG"],
            "syscalls": [{"names": ["a"], "action": "SCMP_ACT_ERRNO"},
            {"names": ["b"], "action": "SCMP_ACT_ERRNO", "errnoRet": 13},
            {"names": ["c"], "action": "SCMP_ACT_KILL"},
            {"names": ["d"], "action": "SCMP_ACT_KILL_PROCESS"}]}"#,
        "x",
    )
    .unwrap();
    assert_eq!((profile.default, profile.flags), (Action::Errno(38), 2));
    let actions: Vec<_> = profile.rules.into_iter().map(|rule| rule.action).collect();
    // EPERM: the default's errno is that of the default action only.
    assert_eq!(actions, [Action::Errno(1), Action::Errno(13), Action::KillThread, Action::KillProcess]);
}

#[test]
fn what_is_wrong_is_named() {
    let rule = |rule: &str| {
        format!(r#"{{"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{{}}, {rule}]}}"#)
            .replace("{},", r#"{"names": ["read"], "action": "SCMP_ACT_ALLOW"},"#)
    };
    let arg = |arg: &str| rule(&format!(r#"{{"action": "SCMP_ACT_ALLOW", "args": [{arg}]}}"#));
    let top = |fields: &str| format!(r#"{{"defaultAction": "SCMP_ACT_ERRNO", {fields}}}"#);
    for (text, problem) in [
        ("".into(), "EOF while parsing a value at line 1 column 0"),
        ("[1]".into(), "invalid type: integer `1`, expected a string at line 1 column 2"),
        ("{}".into(), "missing field `defaultAction` at line 1 column 2"),
        (
            r#"{"defaultAction": "ALLOW"}"#.into(),
            "defaultAction: unknown \"ALLOW\"; expected SCMP_ACT_ followed",
        ),
        (r#"{"defaultAction": "SCMP_ACT_NOTIFY"}"#.into(), "defaultAction: it asks for a supervisor"),
        (top(r#""defaultErrnoRet": 5000"#), "defaultAction: an errno of 5000; expected at most 4095"),
        (top(r#""listenerPath": "/x""#), "listenerPath: it asks for a supervisor"),
        (
            top(r#""flags": ["TSYNC"]"#),
            "flags: unknown \"TSYNC\"; expected some of SECCOMP_FILTER_FLAG_TSYNC, ",
        ),
        (top(r#""architectures": ["x86"]"#), "architectures: unknown \"x86\"; expected a name such as"),
        (top(r#""archMap": [{"architecture": "amd64"}]"#), "architectures: unknown \"amd64\""),
        (
            top(r#""architectures": ["SCMP_ARCH_X86"], "archMap": [{"architecture": "SCMP_ARCH_X86_64"}]"#),
            "architectures: there is an archMap, too",
        ),
        (rule(r#"{"action": "SCMP_ACT_NO"}"#), "syscalls[1].action: unknown \"SCMP_ACT_NO\""),
        (rule(r#"{"action": "SCMP_ACT_ERRNO", "errnoRet": 4096}"#), "syscalls[1].action: an errno of 4096"),
        (
            rule(r#"{"name": "a", "names": ["b"], "action": "SCMP_ACT_LOG"}"#),
            "syscalls[1].names: there is a name, too",
        ),
        (
            rule(r#"{"action": "SCMP_ACT_LOG", "includes": {"minKernel": "new"}}"#),
            "syscalls[1].includes.minKernel: \"new\" is no version",
        ),
        (
            rule(r#"{"action": "SCMP_ACT_LOG", "excludes": {"minKernel": "5"}}"#),
            "syscalls[1].excludes.minKernel: \"5\" is no version",
        ),
        (
            arg(r#"{"index": 0, "value": 1, "op": "EQ"}"#),
            "syscalls[1].args[0].op: unknown \"EQ\"; expected SCMP_CMP_ followed",
        ),
        (
            arg(r#"{"index": 6, "value": 1, "op": "SCMP_CMP_EQ"}"#),
            "syscalls[1].args[0].index: 6 is none; expected 0 to 5",
        ),
        (
            arg(r#"{"index": 0, "value": -1, "op": "SCMP_CMP_EQ"}"#),
            "invalid value: integer `-1`, expected u64 at line 1",
        ),
    ] {
        let error = json::read(&text, "p.json").unwrap_err().to_string();
        assert!(error.starts_with(&format!("p.json: {problem}")) && !error.contains('\n'), "{text}: {error}");
    }
}

#[test]
fn a_file_that_is_not_there() {
    let error = Profile::read("/no/such/profile.json".as_ref()).unwrap_err();
    assert_eq!(error.errno(), Some(Errno::ENOENT));
    assert!(error.to_string().starts_with("reading the seccomp profile /no/such/profile.json: "), "{error}");
}

/// What may stand in a profile.
const PIECE: &str = r#"["{}\[\]:,0-9a-zA-Z_-]{0,8}"#;

proptest! {
    /// A profile that is cut, or in which something else stands, is one or is refused in one line.
    #[test]
    fn any_text_is_a_profile_or_an_error(at in 0usize..11_000, length in 0usize..40, instead in PIECE) {
        let text = include_str!("docker.json");
        prop_assume!(at + length < text.len() && text.is_ascii());
        let text = format!("{}{instead}{}", &text[..at], &text[at + length..]);
        if let Err(error) = json::read(&text, "p.json") {
            let line = error.to_string();
            prop_assert!(line.starts_with("p.json: ") && !line.contains('\n'), "{line}");
            prop_assert_eq!(error.status(), 125);
        }
    }
}
