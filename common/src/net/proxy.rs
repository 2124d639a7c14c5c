//! Ports of the host on IPv6 addresses: a process carries their connections and data into the container.
//!
//! A container has an IPv4 address alone, and no rule of the firewall makes an IPv4 packet of an IPv6 packet.
//! So a process accepts the connection on the host, and makes a second one to the container. It copies bytes
//! between the two, as Docker's `docker-proxy` does. The container sees its own address as the other side's.
//!
//! Kernel objects: sockets. A socket stays for ever in the network namespace in which it was made. The
//! runtime makes the listening sockets, on the host. The process inherits them, and enters the container's
//! network namespace. So every new connection of the process is in there. It needs no route, no rule and no
//! forwarding. A server that listens on the container's 127.0.0.1 stays closed.
//!
//! An attacker that takes over this process gets little. The process has the doors and the container's
//! network. It has the user id of nobody where there is such a user, and no capability. It ends with the
//! runtime, for whatever reason that ends.
//! Man pages: network_namespaces(7), setns(2), capabilities(7), PR_SET_PDEATHSIG(2const), setsid(2).

mod carry;

use std::cell::{OnceCell, RefCell};
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sched::CloneFlags;
use nix::unistd::{Pid, setsid};
use rustix::stdio::{dup2_stderr, dup2_stdin, dup2_stdout};
use rustix::thread::{CapabilitySet, CapabilitySets, set_capabilities};

use crate::run::helper::{Helper, HelperEnd};
use crate::sys::descriptors::close_all_but;
use crate::sys::error::{Context, Result};
use crate::sys::namespace::{enter, open_namespace_of_child};
use crate::sys::{call, explain, open, set_no_new_privs, set_not_dumpable, setgroups, setresgid, setresuid};
use crate::values::Proxied;

/// The user and the group that own nothing.
const NOBODY: u32 = 65534;

/// A port of the host, and the socket on it: for TCP it listens.
#[derive(Debug)]
pub struct Door {
    /// Where it leads.
    pub port: Proxied,
    /// Bound to the host's side, and non-blocking.
    pub socket: OwnedFd,
}

/// The doors to a container, and the process that serves them. Dropped, it is ended, and the ports are free.
#[derive(Debug)]
pub struct Proxy {
    doors: RefCell<Vec<Door>>,
    helper: OnceCell<Helper>,
}

impl Proxy {
    /// Serves no door yet. Until it does, connections wait there.
    pub fn of(doors: Vec<Door>) -> Proxy {
        Proxy { doors: RefCell::new(doors), helper: OnceCell::new() }
    }

    /// Starts the process for the network namespace of `container`, in which that has, or will have, this
    /// address. Without doors it does nothing. This process must have one thread.
    ///
    /// # Errors
    /// EAGAIN at a limit of processes; EPERM when the namespace is another user's.
    pub fn start(&self, container: Pid, address: Ipv4Addr) -> Result<()> {
        let doors = self.doors.take();
        if doors.is_empty() {
            return Ok(());
        }
        let doing = "leading ports of IPv6 addresses into the container";
        let mut helper = Helper::start(doing, move |runtime| serve(doors, container, address, runtime))?;
        helper.wait_until_ready()?;
        let _ = self.helper.set(helper);
        Ok(())
    }

    /// Ends the process, if there is one, and waits for that. The kernel then need not keep the container's
    /// network any more.
    pub fn end(&mut self) {
        drop(self.helper.take());
    }
}

/// The process's life.
fn serve(doors: Vec<Door>, container: Pid, address: Ipv4Addr, runtime: &mut HelperEnd) -> Result<()> {
    // Not in the terminal's foreground: a Ctrl-C is the container's.
    let _ = setsid();
    // The runtime's locks, too, which must be free as soon as it is dead.
    close_all_but(doors.iter().map(|door| door.socket.as_fd()).chain([runtime.as_fd()]))?;
    let network = open_namespace_of_child(container.as_raw(), "net", "--publish")?;
    enter(&network, CloneFlags::CLONE_NEWNET)?;
    drop(network);
    become_nobody()?;
    give_up_capabilities()?;
    set_no_new_privs()?;
    // Others of the same user could otherwise take over this process, or look at the runtime's memory in it.
    set_not_dumpable()?;
    // A change of ids would have cancelled it.
    runtime.die_with_parent()?;
    // A process that reads the runtime's output must see its end when the runtime ends. So this process keeps
    // no copy of it open.
    let null = open("/dev/null", OFlag::O_RDWR)?;
    explain::be_silent();
    dup2_stdin(&null).and_then(|()| dup2_stdout(&null)).and_then(|()| dup2_stderr(&null)).context("dup2")?;
    drop(null);
    runtime.ready()?;
    carry::carry(doors, address, runtime.as_fd());
    Ok(())
}

/// Becomes a user that owns no file and no process. Even without capabilities, root's id could still change
/// everything that belongs to root. The namespace of a user without subordinate ids has no such id: then the
/// process stays that user's.
fn become_nobody() -> Result<()> {
    let where_there_is = |result: Result<()>| match result {
        // setresuid(2): the id is not one of this user namespace.
        Err(error) if error.errno() == Some(Errno::EINVAL) => Ok(false),
        result => result.map(|()| true),
    };
    if where_there_is(setresgid(NOBODY))? {
        setgroups(NOBODY, &[])?;
        where_there_is(setresuid(NOBODY))?;
    }
    Ok(())
}

fn give_up_capabilities() -> Result<()> {
    let none = CapabilitySet::empty();
    let sets = CapabilitySets { effective: none, permitted: none, inheritable: none };
    call("capset(2)", || "capset({0, 0, 0})".into(), || set_capabilities(None, sets))
}
