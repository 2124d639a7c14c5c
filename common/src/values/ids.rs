//! `--userns`, `--uidmap`, `--gidmap`, `--subuidname` and `--user`: the container's users.
//!
//! They end in clone(2) with CLONE_NEWUSER, in `/proc/PID/uid_map` and `gid_map`, and in setresuid(2).
//! `common::ids::idmap` checks later which ranges go together. The container's own `/etc/passwd` says what a
//! user's name means. The names are Podman's, as Docker has such options for its daemon only; `--user` is
//! Docker's. Man pages: user_namespaces(7), subuid(5), passwd(5).

use super::{Invalid, whole};

const RANGE: &str = "expected CONTAINER:HOST:SIZE, such as 0:100000:65536: first ids, and a size of at \
                     least 1, up to id 4294967294";
const NAME: &str =
    "expected a user's name of 1 to 256 bytes, without white space, ':', ',' and '/', or a number";

/// Which user namespace a container is in, and which ids it has there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UsernsMode {
    /// One of its own, with ids of the host that nobody else has; for a user without root, with the
    /// subordinate ones.
    Auto,
    /// That of the runtime.
    Host,
    /// One of its own, in which the caller has the same ids as on the host.
    KeepId,
}

/// Ids that follow one another: `size` of them, in the container from `container` on, on the host from `host`
/// on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IdRange {
    /// The first one in the container.
    pub container: u32,
    /// The first one on the host.
    pub host: u32,
    /// How many.
    pub size: u32,
}

/// A user or a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NameOrId {
    /// By a name, which `/etc/passwd` or `/etc/group` has.
    Name(String),
    /// By its number, which need not stand anywhere.
    Id(u32),
}

/// The value of `--user`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// The user.
    pub user: NameOrId,
    /// The group, if it is not the user's own.
    pub group: Option<NameOrId>,
}

/// Reads the value of `--userns`: `auto`, `host` or `keep-id`.
///
/// # Errors
/// None of these.
pub fn userns_mode(text: &str) -> Result<UsernsMode, Invalid> {
    match text {
        "auto" => Ok(UsernsMode::Auto),
        "host" => Ok(UsernsMode::Host),
        "keep-id" => Ok(UsernsMode::KeepId),
        _ => Err("expected auto, host or keep-id".into()),
    }
}

/// Reads a value of `--uidmap` or `--gidmap`: `CONTAINER:HOST:SIZE`.
///
/// # Errors
/// Not of this form; a size of 0; ids above 4294967294, as the last number of 32 bits means "no id".
pub fn id_range(text: &str) -> Result<IdRange, Invalid> {
    let read = || {
        let mut numbers = text.split(':').map(whole::<u32>);
        let (container, host, size) = (numbers.next()??, numbers.next()??, numbers.next()??);
        let ends = |first: u32| first.checked_add(size).is_some();
        let fits = numbers.next().is_none() && size > 0 && ends(container) && ends(host);
        fits.then_some(IdRange { container, host, size })
    };
    read().ok_or_else(|| RANGE.into())
}

/// Reads the value of `--subuidname`: the name of a user. The container runs with the lines of `/etc/subuid`
/// and `/etc/subgid` for that user.
///
/// # Errors
/// No name or number of a user.
pub fn subid_name(text: &str) -> Result<String, Invalid> {
    name_or_id(text).map(|_| text.to_owned())
}

/// Reads the value of `--user`: `NAME|UID[:GROUP|GID]`. As for Docker, `NAME:` is `NAME`, and `:GROUP` is
/// root with that group.
///
/// # Errors
/// Nothing at all, or a part that is neither a name nor the number of a user.
pub fn user(text: &str) -> Result<User, Invalid> {
    let (user, group) = text.split_once(':').map_or((text, None), |(user, group)| (user, Some(group)));
    let error = |_| Invalid::from(format!("NAME|UID[:GROUP|GID]: {NAME}"));
    let group = group.filter(|group| !group.is_empty()).map(name_or_id).transpose().map_err(error)?;
    let user = match user {
        "" if group.is_some() => NameOrId::Id(0),
        user => name_or_id(user).map_err(error)?,
    };
    Ok(User { user, group })
}

/// Digits alone are a number, even if a user has such a name: the same option must not mean different users
/// in different images.
fn name_or_id(text: &str) -> Result<NameOrId, Invalid> {
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        let id = whole(text).filter(|&id| id != u32::MAX);
        return id.map(NameOrId::Id).ok_or_else(|| "expected an id of at most 4294967294".into());
    }
    let plain = |c: char| !c.is_whitespace() && !c.is_control() && !matches!(c, ':' | ',' | '/');
    if (1..=256).contains(&text.len()) && text.chars().all(plain) {
        Ok(NameOrId::Name(text.to_owned()))
    } else {
        Err(NAME.into())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::values::testing::refused;

    #[test]
    fn modes() {
        assert_eq!(userns_mode("auto"), Ok(UsernsMode::Auto));
        assert_eq!(userns_mode("host"), Ok(UsernsMode::Host));
        assert_eq!(userns_mode("keep-id"), Ok(UsernsMode::KeepId));
        let others = ["", "Auto", "keep_id", "keep-id:uid=1", "nomap"];
        refused(userns_mode, "expected auto, host or keep-id", &others);
    }

    #[test]
    fn ranges() {
        let range = |container, host, size| Ok(IdRange { container, host, size });
        assert_eq!(id_range("0:100000:65536"), range(0, 100_000, 65536));
        assert_eq!(id_range("4294967294:0:1"), range(4_294_967_294, 0, 1));
        assert_eq!(id_range("0:0:4294967295"), range(0, 0, u32::MAX));
        let others = ["", "0", "0:1", "0:1:0", "0:1:2:3", "0:1:+2", "-1:0:1", "a:0:1", " 0:1:2", "0:1:2:"];
        refused(id_range, "expected CONTAINER:HOST:SIZE", &others);
        let too_high = ["4294967295:0:1", "0:4294967295:1", "1:0:4294967295", "0:0:4294967296"];
        refused(id_range, "expected CONTAINER:HOST:SIZE", &too_high);
    }

    #[test]
    fn users() {
        let name = |name: &str| NameOrId::Name(name.into());
        let id = NameOrId::Id;
        for (text, wanted, group) in [
            ("root", name("root"), None),
            ("1000", id(1000), None),
            ("www-data:adm", name("www-data"), Some(name("adm"))),
            ("0:5", id(0), Some(id(5))),
            (":5", id(0), Some(id(5))),
            ("root:", name("root"), None),
            ("a.b_c$:007", name("a.b_c$"), Some(id(7))),
            ("4294967294", id(4_294_967_294), None),
            ("-1", name("-1"), None),
            ("ä", name("ä"), None),
        ] {
            assert_eq!(user(text), Ok(User { user: wanted, group }), "{text:?}");
        }
        let others = ["", ":", ":a b", "a:b:c", "a b", "a\nb", "4294967295", "99999999999", "a/b", "a\0"];
        refused(user, "NAME|UID[:GROUP|GID]: expected", &others);
        refused(user, "NAME|UID[:GROUP|GID]: expected", &[&"a".repeat(257)]);
    }

    #[test]
    fn names_for_subordinate_ids() {
        assert_eq!(subid_name("containers").as_deref(), Ok("containers"));
        assert_eq!(subid_name("1000").as_deref(), Ok("1000"));
        refused(subid_name, "expected a user's name", &["a:b", ""]);
    }

    proptest! {
        #[test]
        fn a_range_is_read_as_it_is_written(container: u32, host: u32, size: u32) {
            let ends = |first: u32| u64::from(first) + u64::from(size) < 1 << 32;
            let valid = size > 0 && ends(container) && ends(host);
            let read = id_range(&format!("{container}:{host}:{size}"));
            prop_assert_eq!(read.ok(), valid.then_some(IdRange { container, host, size }));
        }
    }
}
