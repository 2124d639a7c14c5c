//! `--cap-add`, `--cap-drop` and `--security-opt`: what a container may do, beyond or below the default.
//!
//! They end in capset(2), in prctl(2) with `PR_SET_NO_NEW_PRIVS`, and in seccomp(2), last before the command.
//! Names and forms are Docker's. See capabilities(7).

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

use caps::Capability;

use super::Invalid;

/// What `--cap-add` and `--cap-drop` name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Named {
    /// `ALL`.
    All,
    /// One of them.
    One(Capability),
}

/// Reads a value of `--cap-add` or `--cap-drop`: `ALL`, or the name of a capability, with or without `CAP_`,
/// in any case.
///
/// # Errors
/// Another name. The list of names is too long for the line of the error. So it comes as clap's tip, which is
/// the second line.
pub fn capability(text: &str) -> Result<Named, Invalid> {
    if text.eq_ignore_ascii_case("ALL") {
        return Ok(Named::All);
    }
    by_name(text).map(Named::One).ok_or_else(|| {
        let bare = |it: Capability| it.to_string().trim_start_matches("CAP_").to_owned();
        let mut names: Vec<_> = caps::all().into_iter().map(bare).collect();
        names.sort_unstable();
        format!("expected ALL or a capability\n\n  tip: one of {}", names.join(", ")).into()
    })
}

/// The capability of this name, in any case, with or without `CAP_`.
pub fn by_name(name: &str) -> Option<Capability> {
    let name = name.to_ascii_uppercase();
    let bare = name.strip_prefix("CAP_").unwrap_or(&name);
    format!("CAP_{bare}").parse().ok()
}

/// One `--security-opt`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SecurityOption {
    /// Changes nothing: an option for a security module, and Congo uses none.
    Nothing,
    /// Whether execve(2) may give more than a process has, by set-user-ID bits and file capabilities.
    NoNewPrivileges(bool),
    /// Which system calls it may make.
    Seccomp(SeccompProfile),
}

/// Which seccomp profile holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum SeccompProfile {
    /// Congo's own, on the model of Docker's.
    #[default]
    BuiltIn,
    /// None: all system calls are let through.
    Unconfined,
    /// That of a file in Docker's JSON format.
    File(PathBuf),
}

/// What all `--security-opt` together come to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Security {
    /// Whether no_new_privs is set.
    pub no_new_privileges: bool,
    /// Which seccomp profile holds.
    pub seccomp: SeccompProfile,
}

/// Without any: the safe side.
impl Default for Security {
    fn default() -> Self {
        Security { no_new_privileges: true, seccomp: SeccompProfile::BuiltIn }
    }
}

/// Of two about the same, the last counts.
impl<'a> FromIterator<&'a SecurityOption> for Security {
    fn from_iter<T: IntoIterator<Item = &'a SecurityOption>>(options: T) -> Self {
        let mut security = Security::default();
        for option in options {
            match option {
                SecurityOption::Nothing => {}
                SecurityOption::NoNewPrivileges(on) => security.no_new_privileges = *on,
                SecurityOption::Seccomp(profile) => security.seccomp = profile.clone(),
            }
        }
        security
    }
}

/// Reads a value of `--security-opt`: `no-new-privileges[=true|false]`, or `seccomp=` with `unconfined`,
/// `builtin` or a file. In place of `=` a `:` is fine, as in older versions of Docker.
///
/// # Errors
/// Another option, or a value that is none for it.
pub fn security_opt(text: OsString) -> Result<SecurityOption, Invalid> {
    let text = text.as_bytes();
    let middle = text.iter().position(|byte| matches!(byte, b'=' | b':'));
    let (option, value) = match middle {
        Some(at) => (&text[..at], Some(&text[at + 1..])),
        None => (text, None),
    };
    match (option, value) {
        (b"no-new-privileges", None | Some(b"true")) => Ok(SecurityOption::NoNewPrivileges(true)),
        (b"no-new-privileges", Some(b"false")) => Ok(SecurityOption::NoNewPrivileges(false)),
        (b"no-new-privileges", Some(_)) => Err("expected no-new-privileges=true or =false".into()),
        // SELinux and AppArmor: Congo uses neither.
        (b"label", Some(_)) | (b"apparmor", Some(b"unconfined")) => Ok(SecurityOption::Nothing),
        (b"seccomp", None | Some(b"")) => {
            Err("expected seccomp=unconfined, =builtin or =FILE, a profile in Docker's JSON format".into())
        }
        (b"seccomp", Some(value)) => Ok(SecurityOption::Seccomp(match value {
            b"unconfined" => SeccompProfile::Unconfined,
            b"builtin" => SeccompProfile::BuiltIn,
            _ if value.contains(&0) => return Err("a NUL byte in a path".into()),
            file => SeccompProfile::File(OsString::from_vec(file.to_vec()).into()),
        })),
        _ => Err("expected no-new-privileges[=true|false] or seccomp=unconfined|builtin|FILE".into()),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use proptest::prelude::*;

    use super::*;
    use crate::values::testing::refused;

    #[derive(Debug, Parser)]
    struct Cli {
        #[arg(long, value_name = "NAME", value_parser = capability)]
        cap_add: Vec<Named>,
    }

    #[test]
    fn an_unknown_capability_is_answered_in_two_lines() {
        let error = Cli::try_parse_from(["x", "--cap-add", "NET_ROOT"]).unwrap_err();
        let error = crate::run::cli::in_two_lines(&error, "x");
        let what = "invalid value 'NET_ROOT' for '--cap-add <NAME>': expected ALL or a capability";
        assert_eq!(error.to_string(), what);
        let hint = format!("{error:?}");
        for name in ["one of AUDIT_CONTROL, ", ", CHECKPOINT_RESTORE, ", ", NET_ADMIN, ", ", WAKE_ALARM\""] {
            assert!(hint.contains(name), "{name}: {hint}");
        }
    }

    #[test]
    fn what_is_no_capability() {
        let others = ["", "CAP_", "cap", "CAP_ALL", "NET-ADMIN", " NET_ADMIN", "NET_ADMIN,SYS_TIME", "12"];
        refused(capability, "expected ALL or a capability\n\n", &others);
        refused(capability, "expected ALL or a capability\n\n", &["CAP_CAP_KILL"]);
    }

    #[test]
    fn security_options() {
        let read = |text: &str| security_opt(text.into());
        for (text, on) in [
            ("no-new-privileges", true),
            ("no-new-privileges=true", true),
            ("no-new-privileges:true", true),
            ("no-new-privileges=false", false),
            ("no-new-privileges:false", false),
        ] {
            assert_eq!(read(text), Ok(SecurityOption::NoNewPrivileges(on)), "{text}");
        }
        for (text, profile) in [
            ("seccomp=unconfined", SeccompProfile::Unconfined),
            ("seccomp:unconfined", SeccompProfile::Unconfined),
            ("seccomp=builtin", SeccompProfile::BuiltIn),
            ("seccomp=/a=b:c.json", SeccompProfile::File("/a=b:c.json".into())),
            ("seccomp=Unconfined", SeccompProfile::File("Unconfined".into())),
        ] {
            assert_eq!(read(text), Ok(SecurityOption::Seccomp(profile)), "{text}");
        }
        let not_bool = ["no-new-privileges=", "no-new-privileges=1"];
        refused(security_opt, "expected no-new-privileges=true or", &not_bool);
        refused(security_opt, "expected seccomp=unconfined, ", &["seccomp", "seccomp="]);
        for text in ["apparmor=unconfined", "label=disable", "label:type:svirt_t"] {
            assert_eq!(read(text), Ok(SecurityOption::Nothing), "{text}");
        }
        let others = ["", "unconfined", "apparmor=docker-default", "label"];
        refused(security_opt, "expected no-new-privileges[=true|false] or seccomp=", &others);
    }

    #[test]
    fn the_last_option_counts() {
        assert_eq!(
            Security::from_iter([]),
            Security { no_new_privileges: true, seccomp: SeccompProfile::BuiltIn }
        );
        let options = ["seccomp=unconfined", "no-new-privileges=false", "seccomp=x"];
        let options = options.map(|text| security_opt(text.into()).unwrap());
        let file = SeccompProfile::File("x".into());
        assert_eq!(Security::from_iter(&options), Security { no_new_privileges: false, seccomp: file });
    }

    proptest! {
        #[test]
        fn a_capability_in_any_writing(number in 0u8..41, prefix in any::<bool>(), upper in any::<u64>()) {
            let expected = caps::all().into_iter().find(|it| it.index() == number).unwrap();
            let name = expected.to_string();
            let name = if prefix { &name[..] } else { name.trim_start_matches("CAP_") };
            let letters = name.chars().enumerate();
            let written: String = letters
                .map(|(at, it)| if upper >> at & 1 == 1 { it } else { it.to_ascii_lowercase() })
                .collect();
            prop_assert_eq!(capability(&written), Ok(Named::One(expected)));
        }

        #[test]
        fn a_profile_keeps_its_path(path in "[^\0]{1,40}") {
            prop_assume!(path != "unconfined" && path != "builtin");
            let expected = SecurityOption::Seccomp(SeccompProfile::File((&path).into()));
            prop_assert_eq!(security_opt(format!("seccomp={path}").into()), Ok(expected));
        }
    }
}
