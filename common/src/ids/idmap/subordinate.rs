//! The ids of the host that a user may give to containers: `/etc/subuid` and `/etc/subgid`.
//!
//! A line is `USER:FIRST:COUNT`, the user by name or by number. The administrator writes them; useradd(8)
//! gives each new user 65,536. This module only reads the lists; newuidmap(1) decides.
//! Man pages: subuid(5), subgid(5), passwd(5).

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::Path;

use nix::unistd::{getgid, getuid};

use super::{IdMap, IdMaps};
use crate::ids::passwd;
use crate::run::program;
use crate::sys::error::{Context, Error, Result};
use crate::values::IdRange;

pub(super) const SUBUID: &str = "/etc/subuid";
pub(super) const SUBGID: &str = "/etc/subgid";
/// More is no list of ids.
const MAX_BYTES: u64 = 1 << 24;

/// A line: the user, the first id, and how many ids.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Line {
    pub(super) user: Vec<u8>,
    pub(super) first: u32,
    pub(super) count: u32,
}

/// What an ordinary user can have without any help: the container's root is the caller, and nobody else is
/// there.
pub fn own() -> IdMaps {
    let (user, group) = (getuid().as_raw(), getgid().as_raw());
    IdMaps { users: IdMap::of(0, user, 1), groups: IdMap::of(0, group, 1) }
}

/// For an ordinary user: the container's root is the caller, and the other users are the caller's subordinate
/// ones. `None` when the caller has none, or the programs are not installed that could give them to a
/// container.
///
/// # Errors
/// One of the lists cannot be read.
pub fn subordinate() -> Result<Option<IdMaps>> {
    let Some((users, groups)) = callers_lines()? else { return Ok(None) };
    Ok(Some(IdMaps {
        users: around(0, getuid().as_raw(), &users),
        groups: around(0, getgid().as_raw(), &groups),
    }))
}

/// The same for `--userns keep-id`: the caller has its own ids in the container, too, and the others, root
/// among them, are the subordinate ones. `None` when the caller has none.
///
/// # Errors
/// One of the lists cannot be read.
pub fn keep_id() -> Result<Option<IdMaps>> {
    let Some((users, groups)) = callers_lines()? else { return Ok(None) };
    let (user, group) = (getuid().as_raw(), getgid().as_raw());
    Ok(Some(IdMaps { users: around(user, user, &users), groups: around(group, group, &groups) }))
}

/// For root and `--subuidname`: the container's ids are the subordinate ones of that user, from 0 on.
///
/// # Errors
/// The user has none; one of the lists cannot be read.
pub fn subordinate_of(name: &str) -> Result<IdMaps> {
    let map = |file| {
        let lines = lines_of(read(Path::new(file))?, &[name.as_bytes()]);
        if lines.is_empty() {
            return Err(Error::new(format!("--subuidname {name}: {file} has no line for it"))
                .hint(format!("add one, such as {name}:100000:65536, where nobody else has these ids")));
        }
        Ok(in_a_row(&lines))
    };
    Ok(IdMaps { users: map(SUBUID)?, groups: map(SUBGID)? })
}

/// Says what is missing where there are no maps, and what helps.
///
/// # Errors
/// Always: for where the maps are needed and there are none.
pub fn require(maps: Option<IdMaps>) -> Result<IdMaps> {
    maps.ok_or_else(|| {
        if let Some(program) = missing_program() {
            return Error::new(format!(
                "{program} is not installed: only it can give a container a user's ids"
            ))
            .hint("install the package uidmap (Fedora: shadow-utils; Arch, Alpine: shadow)");
        }
        let user = callers_names()
            .first()
            .map_or_else(String::new, |name| String::from_utf8_lossy(name).into_owned());
        Error::new(format!("{SUBUID} and {SUBGID} have no ids for the user {user}"))
            .hint(format!("as root: usermod --add-subuids 100000-165535 --add-subgids 100000-165535 {user}"))
    })
}

fn callers_lines() -> Result<Option<(Vec<Line>, Vec<Line>)>> {
    if missing_program().is_some() {
        return Ok(None);
    }
    let names = callers_names();
    let names: Vec<_> = names.iter().map(Vec::as_slice).collect();
    let (users, groups) =
        (lines_of(read(Path::new(SUBUID))?, &names), lines_of(read(Path::new(SUBGID))?, &names));
    Ok((!users.is_empty() && !groups.is_empty()).then_some((users, groups)))
}

fn missing_program() -> Option<&'static str> {
    ["newuidmap", "newgidmap"].into_iter().find(|name| program::find(name).is_none())
}

/// What the caller is called in the lists: by name, by number.
fn callers_names() -> Vec<Vec<u8>> {
    let user = getuid().as_raw();
    let name = passwd::name_on_host(user);
    name.into_iter().chain([user.to_string().into_bytes()]).collect()
}

fn lines_of(lines: Vec<Line>, names: &[&[u8]]) -> Vec<Line> {
    lines.into_iter().filter(|line| names.contains(&line.user.as_slice())).collect()
}

/// The lines of a list; none when there is no list. A line that is none is passed over, as newuidmap(1) does.
pub(super) fn read(path: &Path) -> Result<Vec<Line>> {
    let mut text = Vec::new();
    match File::open(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        file => file.and_then(|file| file.take(MAX_BYTES).read_to_end(&mut text)).at("read", path)?,
    };
    Ok(text.split(|&byte| byte == b'\n').filter_map(parse).collect())
}

pub(super) fn parse(line: &[u8]) -> Option<Line> {
    let mut fields = line.split(|&byte| byte == b':');
    let user = fields.next().filter(|user| !user.is_empty() && !user.starts_with(b"#"))?.to_vec();
    let mut number = || passwd::number(fields.next()?);
    let (first, count) = (number()?, number()?);
    let fits = count > 0 && first.checked_add(count).is_some() && fields.next().is_none();
    fits.then_some(Line { user, first, count })
}

/// The ids of the lines one after the other, from the container's 0 on.
pub(super) fn in_a_row(lines: &[Line]) -> IdMap {
    lay(lines, None)
}

/// The same with a place for one id of another kind: the caller's own.
pub(super) fn around(container: u32, host: u32, lines: &[Line]) -> IdMap {
    lay(lines, Some(IdRange { container, host, size: 1 }))
}

/// A line's ids, first and count, in one part or two: without the one that has its place.
fn without(line: &Line, fixed: Option<IdRange>) -> Vec<(u32, u32)> {
    let whole = (line.first, line.count);
    let Some(before) = fixed.and_then(|fixed| fixed.host.checked_sub(line.first)) else { return vec![whole] };
    if before >= line.count {
        return vec![whole];
    }
    vec![(line.first, before), (line.first.saturating_add(before + 1), line.count - before - 1)]
}

/// Lays ranges in a row, around `fixed`. What overlaps or is too much is left out: the kernel would refuse
/// all of it.
fn lay(lines: &[Line], fixed: Option<IdRange>) -> IdMap {
    let mut ranges: Vec<IdRange> = Vec::new();
    let mut next = 0_u32;
    for (mut host, mut count) in lines.iter().flat_map(|line| without(line, fixed)) {
        while count > 0 {
            if fixed.is_some_and(|fixed| fixed.container == next) {
                next += 1;
            }
            // As far as the place of the fixed one, if that is still to come.
            let place = fixed.map(|fixed| fixed.container).filter(|&at| at > next);
            let size = place.map_or(count, |at| count.min(at - next));
            let range = IdRange { container: next, host, size };
            let taken = ranges.iter().any(|other| super::overlap(&range, other, |it| it.host));
            // One is for the fixed range.
            if taken || next.checked_add(size).is_none() || ranges.len() + 1 >= super::MAX_RANGES / 4 {
                break;
            }
            ranges.push(range);
            next += size;
            count -= size;
            host = host.saturating_add(size);
        }
    }
    ranges.extend(fixed);
    ranges.sort_by_key(|range| range.container);
    IdMap(ranges)
}
