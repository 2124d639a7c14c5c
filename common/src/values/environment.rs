//! `--env` and `--env-file`: the grammar, and no more.
//!
//! The runtime decides which variables a container gets, and which of two values counts. In an
//! [`Environment`](crate::run::process::Environment) an `insert` replaces an earlier value, and a `remove`
//! takes it back. Docker has two rules for a NAME that the host does not have. `--env NAME` also removes a
//! value that a default or a file had set. In a file such a line changes nothing (docker/cli issue 2254 tells
//! how that came to be). environ(7), execve(2). Docker's rules for the file: the package `kvfile` of
//! docker/cli.

use std::ffi::OsString;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

use super::Invalid;
use crate::sys::error::{Context, Error, Result};

/// A name, and its value; `None`: the value that the host has.
pub type Variable = (OsString, Option<OsString>);

/// Docker reads lines of less than 64 KiB, the newline included. The kernel refuses a variable from 128 KiB
/// on (`E2BIG`, execve(2), "Limits on size of arguments and environment").
const LONGEST_LINE: u64 = 64 * 1024;

/// Reads a value of `--env`: `NAME=value`, where the value may be empty, or `NAME` for the host's value.
///
/// A name may be anything that has no `=`. The kernel knows no names, only strings, and some programs can use
/// any name. Neither the name nor the value has to be UTF-8.
///
/// # Errors
/// No name, or a NUL byte, which would end the string in execve.
pub fn env(text: OsString) -> Result<Variable, Invalid> {
    if text.as_bytes().contains(&0) {
        return Err("a variable cannot have a NUL byte".into());
    }
    let mut parts = text.as_bytes().splitn(2, |&byte| byte == b'=');
    let mut next = || parts.next().map(|part| OsString::from_vec(part.to_vec()));
    match next().filter(|name| !name.is_empty()) {
        Some(name) => Ok((name, next())),
        None => Err("no name; expected NAME=value, or NAME to take it from the host".into()),
    }
}

/// Reads the file of `--env-file`, line by line, in order; a name may come more than once.
///
/// Docker's rules: a BOM before the first line and white space before each line are dropped. So are blank
/// lines, lines that begin with `#`, and the CR of a CR LF. The text behind the `=` is the value as it is,
/// with its quotes and trailing spaces: this is no shell. The text must be UTF-8, and no name may have white
/// space in it (`export A=b`).
///
/// # Errors
/// The file cannot be read, or a line breaks these rules: which one, and how. Its value is not shown, because
/// such files hold passwords and error messages end in logs.
pub fn env_file(path: &Path) -> Result<Vec<Variable>> {
    let option = format!("--env-file {}", path.display());
    let file = File::open(path).context(&option)?;
    read(BufReader::new(file), &option)
}

fn read(mut file: impl BufRead, option: &str) -> Result<Vec<Variable>> {
    let mut variables = Vec::new();
    let mut bytes = Vec::new();
    for number in 1u64.. {
        bytes.clear();
        // Never more than one line in memory: the file may be /dev/zero.
        let mut limited = file.by_ref().take(LONGEST_LINE);
        limited.read_until(b'\n', &mut bytes).context(option)?;
        if bytes.is_empty() {
            break;
        }
        let wrong = |what: &str| {
            Error::new(format!("{option}: line {number}: {}: {what}", shown(&bytes)))
                .hint("a line is NAME=value, NAME (taken from the host), a # comment, or blank")
        };
        if bytes.len() as u64 == LONGEST_LINE && bytes.last() != Some(&b'\n') {
            return Err(wrong("64 KiB or longer"));
        }
        let line = str::from_utf8(&bytes).map_err(|_| wrong("not UTF-8"))?;
        let line = line.strip_suffix('\n').unwrap_or(line);
        let line = line.strip_suffix('\r').unwrap_or(line);
        let line = line.strip_prefix('\u{feff}').filter(|_| number == 1).unwrap_or(line).trim_start();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (name, value) = env(line.into()).map_err(|what| wrong(&what.to_string()))?;
        if line.split('=').next().is_some_and(|name| name.contains(char::is_whitespace)) {
            return Err(wrong("white space in the name"));
        }
        variables.push((name, value));
    }
    Ok(variables)
}

/// The part of a line that an error shows: only its name, and at most 40 characters of that.
fn shown(line: &[u8]) -> String {
    let line = String::from_utf8_lossy(line);
    let line = line.trim();
    let mut shown: String = line.split_inclusive('=').next().unwrap_or_default().chars().take(40).collect();
    if shown.len() < line.len() {
        shown.push('…');
    }
    format!("{shown:?}")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::values::testing::refused;

    fn variable(name: &str, value: Option<&str>) -> Variable {
        (name.into(), value.map(OsString::from))
    }

    fn lines(text: &[u8]) -> Result<Vec<Variable>> {
        read(text, "--env-file f")
    }

    fn failure(text: &[u8]) -> String {
        lines(text).unwrap_err().to_string()
    }

    #[test]
    fn options() {
        for (text, expected) in [
            ("A=1", variable("A", Some("1"))),
            ("A=", variable("A", Some(""))),
            ("A", variable("A", None)),
            ("A==b=c", variable("A", Some("=b=c"))),
            ("A= 'x' ", variable("A", Some(" 'x' "))),
            ("a b=c", variable("a b", Some("c"))),
            ("A=x\ny", variable("A", Some("x\ny"))),
        ] {
            assert_eq!(env(text.into()), Ok(expected), "{text:?}");
        }
        let bytes = |bytes: &[u8]| OsString::from_vec(bytes.to_vec());
        assert_eq!(env(bytes(b"A=\xff")), Ok(("A".into(), Some(bytes(b"\xff")))));
        refused(env, "no name; expected NAME=value", &["", "=", "=x", "=="]);
        refused(env, "a variable cannot have a NUL byte", &["A=\0"]);
    }

    #[test]
    fn a_file_by_dockers_rules() {
        let text = "\u{feff}  A=1\r\n\n# c\n\t # c\n \u{a0}B=\"x\" \nC\nD=\nE=#5\nF=a=b\nA=2";
        let expected = [
            ("A", Some("1")),
            ("B", Some("\"x\" ")),
            ("C", None),
            ("D", Some("")),
            ("E", Some("#5")),
            ("F", Some("a=b")),
            ("A", Some("2")),
        ];
        assert_eq!(lines(text.as_bytes()), Ok(expected.map(|(name, value)| variable(name, value)).to_vec()));
        assert_eq!(lines(b""), Ok(vec![]));
        assert_eq!(lines(b"A=1\r\r\n"), Ok(vec![variable("A", Some("1\r"))]));
        // Only the first line has a BOM; another one is part of a name.
        assert_eq!(lines("A\n\u{feff}B".as_bytes()).unwrap()[1], variable("\u{feff}B", None));
    }

    #[test]
    fn a_file_that_breaks_a_rule_is_named_with_the_line() {
        assert_eq!(failure(b"A=1\n\na b=c\n"), "--env-file f: line 3: \"a b=…\": white space in the name");
        assert_eq!(failure(b"A =c"), "--env-file f: line 1: \"A =…\": white space in the name");
        assert_eq!(failure(b"export A"), "--env-file f: line 1: \"export A\": white space in the name");
        assert!(failure(b" =secret").starts_with("--env-file f: line 1: \"=…\": no name"));
        assert!(failure(b"A=\0").ends_with("cannot have a NUL byte"));
        assert!(failure(b"# \xff\n").ends_with("not UTF-8"));
        assert!(!failure(b"a b=secret").contains("secret"));
    }

    #[test]
    fn a_line_has_less_than_64_kib() {
        let line = |length: usize| format!("A={}", "x".repeat(length - 2)).into_bytes();
        assert_eq!(lines(&line(65_535)).unwrap().len(), 1);
        assert_eq!(lines(&[line(65_535), b"\nB=1\n".to_vec()].concat()).unwrap().len(), 2);
        let error = failure(&[b"B=1\n".to_vec(), line(65_536)].concat());
        assert_eq!(error, "--env-file f: line 2: \"A=…\": 64 KiB or longer");
    }

    #[test]
    fn files_that_cannot_be_read_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let missing = folder.path().join("missing");
        let shown = |path: &Path| env_file(path).unwrap_err().to_string();
        assert_eq!(
            shown(&missing),
            format!("--env-file {}: ENOENT: No such file or directory", missing.display())
        );
        assert!(shown(folder.path()).contains("EISDIR"));
        // Without an end, but also without a second line.
        assert!(shown(Path::new("/dev/zero")).ends_with("64 KiB or longer"));
        let file = folder.path().join("file");
        std::fs::write(&file, "A=1\n").unwrap();
        assert_eq!(env_file(&file), Ok(vec![variable("A", Some("1"))]));
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_list_or_an_error_of_one_line(
            bytes: Vec<u8>,
            text in "[\u{feff} \t\r\n#=aB\0é\"]{0,60}",
        ) {
            for bytes in [&bytes[..], text.as_bytes()] {
                match lines(bytes) {
                    Ok(variables) => for (name, _) in variables {
                        prop_assert!(!name.is_empty() && !name.as_bytes().contains(&b'='));
                    },
                    Err(error) => prop_assert!(!error.to_string().contains('\n')),
                }
            }
        }

        #[test]
        fn an_option_keeps_its_bytes(name in "[^=\0]{1,10}", value: Option<Vec<u8>>) {
            let value = value.filter(|value| !value.contains(&0)).map(OsString::from_vec);
            let mut text = OsString::from(&name);
            if let Some(value) = &value {
                text.push("=");
                text.push(value);
            }
            prop_assert_eq!(env(text), Ok((name.into(), value)));
        }

        /// A file takes every value that an option takes, with the same meaning, as long as it fits on a
        /// line.
        #[test]
        fn a_file_and_an_option_agree(text in "[A-Z_]{1,5}(=[^\0\r\n]{0,20})?", end in "(\r?\n)?") {
            let from_file = lines(format!(" {text}{end}").as_bytes());
            prop_assert_eq!(from_file.ok(), env(text.into()).ok().map(|one| vec![one]));
        }
    }
}
