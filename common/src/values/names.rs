//! Names: `--hostname`, `--bridge`, `--keep`, and those of volumes.
//!
//! They end in sethostname(2), in the container's UTS namespace, in the name of a link, and in names of
//! folders. hostname(7), uts_namespaces(7).

use super::Invalid;

/// The kernel's `__NEW_UTS_LEN`, `HOST_NAME_MAX` in the C library: one byte more is `EINVAL`.
const HOST_NAME_MAX: usize = 64;

/// The kernel's `IFNAMSIZ`, less the NUL at the end.
#[cfg(feature = "network")]
const LINK_NAME_MAX: usize = 15;

/// Reads the value of `--hostname`: 1 to 64 letters, digits, `-`, `.` and `_`, not beginning with `-`.
///
/// The kernel itself takes any bytes. But prompts and logs print the name, and there a newline or an escape
/// sequence could forge other text. Step 2 writes it into `/etc/hosts`, where white space ends it. Programs
/// get it as an argument, where a leading `-` makes it an option. `_` is not in hostname(7), but in use.
///
/// # Errors
/// Empty, too long, or with another character.
pub fn hostname(text: &str) -> Result<String, Invalid> {
    plain_name(text, HOST_NAME_MAX, &['-'], "'-'")
}

/// Reads the value of `--bridge`: 1 to 15 letters, digits, `-`, `.` and `_`, not beginning with `-` or `.`.
///
/// The kernel takes nearly all bytes, but a `%` in a name is a pattern to it. It refuses `/` and white space.
/// It also refuses `all` and `default`, which are folders beside those of the links in `/proc/sys/net`.
///
/// # Errors
/// Empty, too long, with another character, or a name that the kernel uses itself.
#[cfg(feature = "network")]
pub fn bridge_name(text: &str) -> Result<String, Invalid> {
    let name = plain_name(text, LINK_NAME_MAX, &['-', '.'], "'-' or '.'")?;
    match text {
        "all" | "default" | "lo" => {
            Err(format!("the kernel uses {text} itself; expected another name, such as congo0").into())
        }
        _ => Ok(name),
    }
}

/// Letters, digits, `-`, `.` and `_`, which are no danger to any reader of the name.
fn plain_name(text: &str, longest: usize, not_first: &[char], shown: &str) -> Result<String, Invalid> {
    let is_plain = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte));
    if !(1..=longest).contains(&text.len()) {
        Err(format!("has {} bytes; expected 1 to {longest}", text.len()).into())
    } else if !is_plain || text.starts_with(not_first) {
        Err(format!("expected letters, digits, '-', '.' and '_', not beginning with {shown}").into())
    } else {
        Ok(text.into())
    }
}

/// Reads the value of `--keep`: a name, as a volume's.
///
/// # Errors
/// Too short, too long, or with another character.
pub fn keep_name(text: &str) -> Result<String, Invalid> {
    folder_name(text.as_bytes())
}

/// `[a-zA-Z0-9][a-zA-Z0-9_.-]+`: Docker's names of volumes, which become the names of folders.
pub(super) fn folder_name(text: &[u8]) -> Result<String, Invalid> {
    let plain = text.iter().all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(byte));
    let begins = text.first().is_some_and(u8::is_ascii_alphanumeric);
    if !plain || !begins || !(2..=255).contains(&text.len()) {
        return Err(
            "expected a name of 2 to 255 letters, digits, '_', '.' and '-', beginning with a letter \
                    or digit"
                .into(),
        );
    }
    Ok(String::from_utf8_lossy(text).into_owned())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::values::testing::refused;

    #[test]
    fn hostnames() {
        let longest = "a".repeat(64);
        for name in ["congo", "a", "a-b.c_d", "9", ".x", &longest] {
            assert_eq!(hostname(name).as_deref(), Ok(name));
        }
        let others = ["-a", "a b", "a\nb", "a\0", "é", "a/b", "a:b", "\x1b[2J"];
        refused(hostname, "expected letters", &others);
        refused(hostname, "has 0 bytes; expected 1 to 64", &[""]);
        refused(hostname, "has 65 bytes; expected 1 to 64", &[&"a".repeat(65)]);
    }

    #[cfg(feature = "network")]
    #[test]
    fn bridge_names() {
        for name in ["congo0", "a", "br-1.2_x", "fifteen-letters"] {
            assert_eq!(bridge_name(name).as_deref(), Ok(name));
        }
        let others = ["a/b", "a b", "a\tb", "-a", ".", "..", ".a", "br%d", "a:b", "é", "a\0", "a@b"];
        refused(bridge_name, "expected letters", &others);
        refused(bridge_name, "has 0 bytes; expected 1 to 15", &[""]);
        refused(bridge_name, "has 16 bytes; expected 1 to 15", &["sixteen-letters!"]);
        refused(bridge_name, "the kernel uses ", &["all", "default", "lo"]);
    }

    #[test]
    fn names_to_keep() {
        assert_eq!(keep_name("web-1.layer_2").as_deref(), Ok("web-1.layer_2"));
        refused(keep_name, "expected a name", &["", "a", "..", "../x", "a/b", "-a", "a b", "é"]);
    }

    proptest! {
        #[test]
        fn a_name_is_always_one_that_the_kernel_takes(text in "(?s:.{0,70})|[-a-zA-Z0-9._%/]{0,70}") {
            let is_plain = |name: &str| {
                !name.contains(|c: char| c.is_whitespace() || c.is_control() || "/:%@".contains(c))
            };
            if let Ok(name) = hostname(&text) {
                prop_assert!((1..=64).contains(&name.len()) && name == text && is_plain(&name));
            }
            #[cfg(feature = "network")]
            if let Ok(name) = bridge_name(&text) {
                prop_assert!((1..=15).contains(&name.len()) && name == text && is_plain(&name));
            }
        }
    }
}
