//! Which bridges there are, which addresses on them are taken, and which of their runtimes still live.
//!
//! Kernel objects: folders and files, each claimed with a lock, flock(2). In the folder of [`run_dir`], each
//! network namespace has a folder, `net-` and the numbers of the namespace. In it each bridge has one,
//! `congo0@10.44.0.0_16`; in that each address has a file, `10.44.0.2`. If the container has published ports,
//! the file is `10.44.0.2+ports`, and has them. Only the process that has claimed the namespace's folder may
//! change the network. A runtime claims its address's file as long as it lives. So a file whose lock is free
//! is a dead runtime's.
//!
//! To open a thousand files takes longer than to start a container. So the most needed facts are in the names
//! of the files, and only a few files are opened at a time.
//!
//! Order, to begin: [`Leases::lock`], [`Leases::bridges`] to sweep, [`Leases::take`]; then the links and
//! rules; drop the `Leases`. To end: lock, end the [`Lease`], [`Leases::bridges`] for what remains; then the
//! links and rules; [`Leases::forget`] an empty bridge, drop the `Leases`. `settle.rs` keeps to it. See
//! flock(2), namespaces(7).

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use ipnet::Ipv4Net;
use nix::errno::Errno;
use nix::libc;
use rustix::fs::FlockOperation;

use crate::fs::claim::{Claim, LIVING, Make, Maker, begin_anywhere, maker_of};
use crate::fs::own::{Access, own_folder};
use crate::fs::rootfs::run_dir;
use crate::sys::error::{Context, Error, Result};
use crate::sys::folder::names_in;
use crate::sys::namespace::network_cookie;
use crate::sys::short::read_text;
use crate::values::{Publish, check_ip, container_addresses, publish};

/// No bridge's folder, as it has no `@`.
const FORWARDING: &str = "forwarding-was-off";

/// The same for the rules that were loaded last.
const RULES: &str = "rules";

/// At the end of a file's name: the file has ports.
const WITH_PORTS: &str = "+ports";

/// The right to change this network namespace's bridges, and the known facts about them. The drop removes the
/// files of the dead that [`bridges`](Leases::bridges) has told of. It also removes this value's folder when
/// that is empty.
#[derive(Debug)]
pub struct Leases {
    folder: PathBuf,
    /// Files that go when this value is dropped. If they went earlier and this process were killed, nobody
    /// would remove what the dead containers have left.
    dead: RefCell<Vec<PathBuf>>,
    claim: Claim,
}

/// The open file that is locked.
impl AsFd for Leases {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.claim.as_fd()
    }
}

/// A bridge that was made and not yet forgotten.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bridge {
    /// The link's name.
    pub name: String,
    /// Its network.
    pub subnet: Ipv4Net,
    /// The containers on the bridge whose runtime lives, by address.
    pub members: Vec<Member>,
    /// The addresses of the containers whose runtime was killed. Their link on the host may still be there,
    /// when another process keeps their network namespace alive.
    pub dead: Vec<Ipv4Addr>,
}

/// A container on a bridge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Its address.
    pub address: Ipv4Addr,
    /// Its published ports.
    pub ports: Vec<Publish>,
}

/// An address that is this runtime's for as long as the value lives. Dropped, its file goes.
///
/// But drop it while you hold a [`Leases`], and remove the container's link before you drop that: from then
/// on another container may get the address.
#[derive(Debug)]
pub struct Lease {
    address: Ipv4Addr,
    subnet: Ipv4Net,
    claim: Option<Claim>,
}

impl Leases {
    /// Waits until no other runtime changes this network namespace.
    ///
    /// # Errors
    /// Those of [`run_dir`]; EACCES, EROFS where no folder may be made.
    pub fn lock() -> Result<Leases> {
        Leases::lock_in(&run_dir()?)
    }

    /// The same, if anything is recorded; else `None`, and nothing was made. That costs two stats.
    ///
    /// # Errors
    /// As [`lock`](Leases::lock).
    pub fn lock_if_any() -> Result<Option<Leases>> {
        Leases::lock_if_any_in(&run_dir()?)
    }

    pub(super) fn lock_in(run_dir: &Path) -> Result<Leases> {
        own_folder(run_dir, Access::Owner)?;
        Claim::wait(Make::Folder, &run_dir.join(namespace_name()?)).map(Leases::new)
    }

    fn lock_if_any_in(run_dir: &Path) -> Result<Option<Leases>> {
        let claim = Claim::of(&run_dir.join(namespace_name()?), FlockOperation::LockExclusive)?;
        Ok(claim.map(Leases::new))
    }

    /// The folder goes with the value, and the one above it, where nothing is in them.
    fn new(claim: Claim) -> Leases {
        Leases { folder: claim.path().to_owned(), dead: RefCell::default(), claim: claim.going(1) }
    }

    /// Takes an address on a bridge: the wanted one, or the lowest that is free. Records the bridge, if it is
    /// new, and the published ports. Call [`bridges`](Leases::bridges) before: until then a bridge that no
    /// container uses any more still counts.
    ///
    /// # Errors
    /// - No container can have the address, or another container has it.
    /// - No address is left.
    /// - The bridge has another subnet, or another bridge has a part of this one.
    pub fn take(
        &self,
        bridge: &str,
        subnet: Ipv4Net,
        wanted: Option<Ipv4Addr>,
        ports: &[Publish],
    ) -> Result<Lease> {
        for (name, other) in self.recorded()? {
            if name == bridge && other != subnet {
                return Err(Error::new(format!(
                    "--subnet {subnet}: the bridge {name} has the subnet {other}"
                ))
                .hint(format!("use --subnet {other}, or another bridge: --bridge NAME")));
            } else if name != bridge && overlap(other, subnet) {
                return Err(Error::new(format!("--subnet {subnet}: overlaps {other} of the bridge {name}"))
                    .hint(format!("choose another subnet for the bridge {bridge}")));
            }
        }
        wanted.map_or(Ok(()), |ip| check_ip(ip, subnet))?;
        let folder = self.bridge_folder(bridge, subnet);
        let is_new = !folder.exists();
        own_folder(&folder, Access::Owner)?;
        let lease = self.take_in(&folder, subnet, wanted, ports);
        if lease.is_err() && is_new {
            // Nobody would know of a bridge that was never made.
            let _ = fs::remove_dir(&folder);
        }
        lease
    }

    fn take_in(
        &self,
        folder: &Path,
        subnet: Ipv4Net,
        wanted: Option<Ipv4Addr>,
        ports: &[Publish],
    ) -> Result<Lease> {
        let listed = recorded_in(folder)?;
        // As far as is known: the addresses that have a file and were not told to be dead.
        let is_known_dead = |it: &Recorded| self.dead.borrow().contains(&it.path(folder));
        let living = listed.iter().filter(|it| !is_known_dead(it)).map(|it| it.address);
        let living: BTreeSet<_> = living.collect();
        let has_died = |it: &&Recorded| Ok(maker_of(&it.path(folder))? != Maker::Lives);
        let address = match wanted {
            Some(ip) if living.contains(&ip) => {
                let of_it: Vec<_> = listed.iter().filter(|it| it.address == ip).collect();
                let have_died = of_it.iter().map(has_died).collect::<Result<Vec<_>>>()?;
                if have_died.contains(&false) {
                    return Err(Error::new(format!("--ip {ip}: taken by another container"))
                        .hint("without --ip, a container gets the lowest free address"));
                }
                ip
            }
            Some(ip) => ip,
            None => {
                let (first, last) = container_addresses(subnet);
                let mut all = (first.to_bits()..=last.to_bits()).map(Ipv4Addr::from_bits);
                match all.find(|ip| !living.contains(ip)) {
                    Some(free) => free,
                    None => a_dead_ones(folder, &listed)?.ok_or_else(|| {
                        Error::new(format!("--subnet {subnet}: all of its addresses are taken")).hint(
                            "end a container, or use a larger subnet with another bridge: --bridge NAME",
                        )
                    })?,
                }
            }
        };
        let path = Recorded { address, publishes: !ports.is_empty() }.path(folder);
        // A dead one's file may be there: it becomes ours, or goes if it has the other name.
        for old in listed.iter().filter(|it| it.address == address).map(|it| it.path(folder)) {
            self.dead.borrow_mut().retain(|dead| *dead != old);
            if old != path {
                remove_file(&old)?;
            }
        }
        // The dead one's file may also be gone, with its bridge. Then the drop of this value would remove
        // ours in its place.
        self.dead.borrow_mut().retain(|dead| *dead != path);
        let mut claim = Claim::take(Make::File, &path)?.ok_or(Errno::EWOULDBLOCK).at("lock", &path)?.going(0);
        let text: String = ports.iter().map(|port| format!("{port}\n")).collect();
        let written = claim.file().set_len(0).and_then(|()| claim.file().write_all(text.as_bytes()));
        written.at("write", &path).map(|()| Lease { address, subnet, claim: Some(claim) })
    }

    /// Every recorded bridge, with the containers on it. The files of the dead ones go when this value is
    /// dropped. If there are many containers without published ports, each call checks only some of them, the
    /// next call others. The rest counts as living. If none lives, this is told for certain. A dead container
    /// that was told before is told again: its file goes, so all that it has left must go.
    ///
    /// # Errors
    /// EIO and the like.
    pub fn bridges(&self) -> Result<Vec<Bridge>> {
        let mut bridges = Vec::new();
        for (name, subnet) in self.recorded()? {
            let folder = self.bridge_folder(&name, subnet);
            let (living, dead) = self.living_and_dead(&folder)?;
            let mut members = Vec::new();
            for Recorded { address, publishes } in living {
                if !publishes {
                    members.push(Member { address, ports: Vec::new() });
                    continue;
                }
                let file = Recorded { address, publishes }.path(&folder);
                let text = match read_text(&file) {
                    // A container that ends just now takes its file with it.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                    // Without this one, a bridge that is used would pass for one that is not.
                    text => text.at("read", &file)?,
                };
                let ports = text.lines().filter_map(|line| publish(line).ok());
                members.push(Member {
                    address,
                    ports: ports
                        .flat_map(|it| it.ports())
                        .filter_map(|it| it.published(it.fixed()?))
                        .collect(),
                });
            }
            self.dead.borrow_mut().extend(dead.iter().map(|it| it.path(&folder)));
            bridges.push(Bridge { name, subnet, members, dead: dead.iter().map(|it| it.address).collect() });
        }
        Ok(bridges)
    }

    /// Lets the files of the dead stay. Their leftovers could not be removed, and the next run has to try
    /// again.
    pub fn keep_dead(&self) {
        self.dead.borrow_mut().clear();
    }

    /// Forgets a bridge that is no more, and the dead on it. One that is not recorded is fine.
    ///
    /// # Errors
    /// A container is still on it.
    pub fn forget(&self, bridge: &str) -> Result<()> {
        for (name, subnet) in self.recorded()?.into_iter().filter(|(name, _)| name == bridge) {
            let folder = self.bridge_folder(&name, subnet);
            let (living, dead) = self.living_and_dead(&folder)?;
            if let Some(Recorded { address, .. }) = living.first() {
                return Err(Error::new(format!(
                    "forget the bridge {name}: the container {address} is on it"
                )));
            }
            for one in dead {
                remove_file(&one.path(&folder))?;
            }
            fs::remove_dir(&folder).at("remove", &folder)?;
        }
        Ok(())
    }

    /// Whether forwarding (`net.ipv4.ip_forward`) was off before Congo switched it on. A record from before
    /// the machine's last start does not count: the kernel has begun anew since.
    ///
    /// `None` when it was on; else the links that were switched on by themselves.
    ///
    /// # Errors
    /// When that cannot be told: the host would go on as everybody's router.
    pub fn forwarding_was_off(&self) -> Result<Option<Vec<String>>> {
        let path = self.folder.join(FORWARDING);
        let recorded = match read_text(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            recorded => recorded.at("read", &path)?,
        };
        let mut lines = recorded.lines();
        let is_of_now = lines.next() == Some(boot_id()?.trim_end());
        Ok(is_of_now.then(|| lines.map(str::to_owned).collect()))
    }

    /// Records that forwarding was off, with these links, for the runtime that removes the last bridge.
    ///
    /// # Errors
    /// ENOSPC and the like.
    pub fn set_forwarding_was_off(&self, links: &[String]) -> Result<()> {
        let path = self.folder.join(FORWARDING);
        let lines = links.iter().fold(boot_id()?.trim_end().to_owned(), |lines, link| lines + "\n" + link);
        write_new(&path, &lines)
    }

    /// Whether these rules were loaded last, and nobody has changed any rule since. `generation` is the
    /// number of the last change to the rules.
    ///
    /// # Errors
    /// EIO and the like.
    pub fn has_loaded(&self, rules: &str, generation: u32) -> Result<bool> {
        let path = self.folder.join(RULES);
        match read_text(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            // The kernel counts anew when the machine starts.
            recorded => Ok(recorded.at("read", &path)? == record(rules, generation)?),
        }
    }

    /// Records it. A record that is cut off, by the death of this process, is none of any rules.
    ///
    /// # Errors
    /// ENOSPC and the like.
    pub fn set_loaded(&self, rules: &str, generation: u32) -> Result<()> {
        write_new(&self.folder.join(RULES), &record(rules, generation)?)
    }

    /// Takes the record away.
    ///
    /// # Errors
    /// EROFS and the like.
    pub fn forget_loaded(&self) -> Result<()> {
        remove_file(&self.folder.join(RULES))
    }

    /// Takes the record away.
    ///
    /// # Errors
    /// EROFS and the like.
    pub fn forget_forwarding(&self) -> Result<()> {
        remove_file(&self.folder.join(FORWARDING))
    }

    /// The names and subnets of the bridges. Both stand in the folder's name, so that a bridge is never
    /// recorded by half.
    fn recorded(&self) -> Result<Vec<(String, Ipv4Net)>> {
        let entries = entries(&self.folder)?;
        let parse = |name: OsString| {
            let folder = name.into_string().ok()?;
            let (name, subnet) = folder.rsplit_once('@')?;
            Some((name.to_owned(), subnet.replace('_', "/").parse().ok()?))
        };
        let mut bridges: Vec<_> = entries.into_iter().filter_map(parse).collect();
        bridges.sort();
        Ok(bridges)
    }

    /// The living, and the dead. Each one with published ports is asked: the rules of a dead one would send
    /// somebody's packets nowhere. So is each one that was dead before. Of the others so many are asked that
    /// a few are known to live.
    fn living_and_dead(&self, folder: &Path) -> Result<(Vec<Recorded>, Vec<Recorded>)> {
        let (mut living, mut dead, mut known) = (Vec::new(), Vec::new(), 0);
        let told = self.dead.borrow();
        let mut listed = recorded_in(folder)?;
        begin_anywhere(&mut listed);
        for one in listed {
            let path = one.path(folder);
            let is_asked = one.publishes || told.contains(&path);
            if !is_asked && known == LIVING {
                living.push(one);
                continue;
            }
            match maker_of(&path)? {
                Maker::Lives => {
                    known += usize::from(!is_asked);
                    living.push(one);
                }
                Maker::Died => dead.push(one),
                // It takes its file with it.
                Maker::Ended => {}
            }
        }
        living.sort();
        dead.sort();
        Ok((living, dead))
    }

    /// Ends a lease as the death of its runtime would: the file stays, unlocked. The lease counts among the
    /// dead until everything that the container has left is removed.
    pub fn end(&self, lease: &mut Lease) {
        if let Some(mut claim) = lease.claim.take() {
            claim.leave();
            self.dead.borrow_mut().push(claim.path().to_owned());
        }
    }

    fn bridge_folder(&self, bridge: &str, subnet: Ipv4Net) -> PathBuf {
        self.folder.join(format!("{bridge}@{}_{}", subnet.addr(), subnet.prefix_len()))
    }
}

impl Drop for Leases {
    fn drop(&mut self) {
        for path in self.dead.take() {
            let _ = fs::remove_file(path);
        }
    }
}

impl Lease {
    /// The container's address.
    pub fn address(&self) -> Ipv4Addr {
        self.address
    }

    /// The network of its bridge.
    pub fn subnet(&self) -> Ipv4Net {
        self.subnet
    }

    /// Ends the lease as the death of its runtime would: the file stays. For a runtime that cannot get the
    /// right to end it in order.
    pub fn leave(&mut self) {
        if let Some(mut claim) = self.claim.take() {
            claim.leave();
        }
    }

    /// Whether it has not ended.
    pub fn is_held(&self) -> bool {
        self.claim.is_some()
    }
}

/// The names in a folder. If a bridge or an address could not be read, another container would get it.
fn entries(folder: &Path) -> Result<Vec<OsString>> {
    names_in(folder).at("read", folder)
}

/// An address that is recorded, by the name of its file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Recorded {
    address: Ipv4Addr,
    /// Whether the file has ports.
    publishes: bool,
}

impl Recorded {
    fn parse(name: &str) -> Option<Recorded> {
        let address = name.strip_suffix(WITH_PORTS);
        Some(Recorded { address: address.unwrap_or(name).parse().ok()?, publishes: address.is_some() })
    }

    fn path(&self, folder: &Path) -> PathBuf {
        folder.join(format!("{}{}", self.address, if self.publishes { WITH_PORTS } else { "" }))
    }
}

/// The addresses that are recorded in a bridge's folder.
fn recorded_in(folder: &Path) -> Result<Vec<Recorded>> {
    Ok(entries(folder)?.iter().filter_map(|name| Recorded::parse(name.to_str()?)).collect())
}

/// An address whose runtime has died, if there is one.
fn a_dead_ones(folder: &Path, listed: &[Recorded]) -> Result<Option<Ipv4Addr>> {
    for one in listed {
        if maker_of(&one.path(folder))? == Maker::Died {
            return Ok(Some(one.address));
        }
    }
    Ok(None)
}

/// Two prefixes overlap when the shorter one contains the other's beginning.
fn overlap(one: Ipv4Net, other: Ipv4Net) -> bool {
    one.contains(&other.network()) || other.contains(&one.network())
}

/// `net-4026531840-1`: the inode of this thread's network namespace, and its cookie. The kernel gives the
/// inode of a namespace that has ended to a new one. Its links and rules are not those of the records.
fn namespace_name() -> Result<String> {
    let path = Path::new("/proc/thread-self/ns/net");
    let inode = fs::metadata(path).at("read", path)?.ino();
    Ok(match network_cookie()? {
        Some(cookie) => format!("net-{inode}-{cookie}"),
        // Before 5.14.
        None => format!("net-{inode}"),
    })
}

/// The end of a table closes each record.
fn record(rules: &str, generation: u32) -> Result<String> {
    Ok(format!("{}change {generation}\n{rules}}}\n", boot_id()?))
}

fn write_new(path: &Path, text: &str) -> Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).custom_flags(libc::O_NOFOLLOW);
    options.open(path).and_then(|mut file| file.write_all(text.as_bytes())).at("write", path)
}

fn boot_id() -> Result<String> {
    let path = Path::new("/proc/sys/kernel/random/boot_id");
    read_text(path).at("read", path)
}

fn remove_file(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result.at("remove", path),
    }
}

#[cfg(test)]
mod tests;
