//! The files by which a container knows names: its own, its neighbours', and its nameservers.
//!
//! Kernel objects: bind mounts of three files in a tmpfs over /etc/hosts, /etc/hostname and /etc/resolv.conf.
//! So they are the container's own, while the root on disk, which others may use too, keeps what it has.
//! Man pages: hosts(5), hostname(5), resolv.conf(5); mount(2) for bind mounts.

use std::fmt::Write;
use std::net::IpAddr;
use std::path::Path;

use common::fs::path::make_mount_point;
use common::sys::{mkdir, mount, umount2, write_file};
use common::values::{HostAddress, gateway};
use common::{Result, tell};
use nix::mount::{MntFlags, MsFlags};

use crate::cli;
use crate::network::Network;

/// A file's path in the container, and its content.
pub type File = (&'static str, String);

/// In the parent, which can still read the host's files: puts the three texts together. Containers that share
/// a network share the names in it.
pub fn build(hostname: &str, options: &cli::Network, network: &Network) -> Result<[File; 3]> {
    let shared = |path| options.shared_file(path);
    Ok([
        ("/etc/hosts", shared("/etc/hosts")?.unwrap_or_else(|| hosts(hostname, options, network))),
        ("/etc/hostname", format!("{hostname}\n")),
        ("/etc/resolv.conf", shared("/etc/resolv.conf")?.unwrap_or_else(|| resolv_conf(options, network))),
    ])
}

fn hosts(hostname: &str, options: &cli::Network, network: &Network) -> String {
    let mut hosts = String::from("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n");
    // Programs ask for the address of their own host, and some wait long for an answer that does not come.
    let own = network.address().map_or("127.0.0.1".into(), |address| address.to_string());
    // Of a name with a domain, the first part is a name of its own.
    let alias = hostname.split_once('.').map_or(String::new(), |(host, _)| format!(" {host}"));
    let _ = writeln!(hosts, "{own}\t{hostname}{alias}");
    for (name, address) in &options.add_host {
        let address = match address {
            HostAddress::Ip(address) => *address,
            // `Network::check` lets it pass only together with a bridge.
            HostAddress::Gateway => gateway(options.subnet()).into(),
        };
        let _ = writeln!(hosts, "{address}\t{name}");
    }
    hosts
}

/// The host's file, with lines of the options in the place of its own. Nameservers on the host's loopback are
/// left out, as the container has another loopback.
fn resolv_conf(options: &cli::Network, network: &Network) -> String {
    let is_reachable = |server: IpAddr| !server.is_loopback() || matches!(network, Network::Host);
    let made = options.resolver().on_this_host(is_reachable);
    if made.has_lost_servers && !matches!(network, Network::None) {
        tell(format_args!(
            "congo: the host's nameservers are on its loopback: give the container one by --dns"
        ));
    }
    made.text
}

/// In the child, in its root, with /dev there: mounts the files.
pub fn mount_files(files: &[File], read_only: bool) -> Result<()> {
    // In a tmpfs, so that they are gone with the container. It is mounted anywhere, and unmounted at the end.
    // A filesystem lives as long as one of its mounts, and each of the three files becomes a mount.
    let folder = Path::new("/dev/shm");
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mkdir(folder, 0o1777)?;
    mount("tmpfs", folder, "tmpfs", flags, "mode=755,size=1m")?;
    for (path, content) in files {
        let source = folder.join(Path::new(path).file_name().unwrap_or_default());
        write_file(&source, content)?;
        make_mount_point(path)?;
        mount(source, path, "", MsFlags::MS_BIND, "")?;
        if read_only {
            mount("", path, "", MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY | flags, "")?;
        }
    }
    umount2(folder, MntFlags::MNT_DETACH)
}
