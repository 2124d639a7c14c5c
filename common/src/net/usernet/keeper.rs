//! The process that starts the program, says when it is up, and ends it.
//!
//! The runtime does not do this itself: when it is killed, another process must be left to end the program.
//! A request to the kernel to end it with its parent (PR_SET_PDEATHSIG) would not last. It is gone as soon as
//! the program changes its user namespace, or a security module its domain. But the keeper is PID 1 of a
//! PID namespace, and the program is in that namespace. So the kernel kills the program when the keeper ends.
//! Man pages: poll(2), setsid(2), pid_namespaces(7), slirp4netns(1), "API SOCKET".

use std::fs;
use std::io::{self, Read, Write};
use std::net::Ipv4Addr;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::{Pid, mkdtemp, setsid};

use super::{Kind, LINK, UserNetwork};
use crate::run::helper::HelperEnd;
use crate::sys::descriptors::close_all_but;
use crate::sys::error::{Context, Error, Result, tell};
use crate::sys::explain;
use crate::sys::signal::unblock_in;
use crate::values::{Protocol, Publish};

/// How long a program may take to come up.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often it is looked whether it is.
const PAUSE: u16 = 2;
/// So many bytes of the program's output are kept: the first error is the one that counts.
const KEPT: usize = 1 << 14;

/// The keeper's life.
pub(super) fn keep(network: &UserNetwork, container: Pid, runtime: &mut HelperEnd) -> Result<()> {
    explain::be_silent();
    // Not in the terminal's foreground: a Ctrl-C is the container's.
    let _ = setsid();
    // The runtime's locks, too, which must be free as soon as it is dead.
    close_all_but(Some(runtime.as_fd()))?;
    Program::start(network, container)?.attend(network, container, runtime)
}

struct Program {
    child: Child,
    said: Vec<u8>,
    /// slirp4netns: where it listens for which ports it is to publish.
    orders: Option<Orders>,
}

impl Program {
    fn start(network: &UserNetwork, container: Pid) -> Result<Program> {
        let mut command = Command::new(&network.program);
        command.args(network.arguments(container));
        let orders =
            (network.kind == Kind::Slirp && !network.ports.is_empty()).then(Orders::make).transpose()?;
        if let Some(orders) = &orders {
            command.arg("--api-socket").arg(orders.path());
        }
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        unblock_in(&mut command);
        let child = command.spawn();
        let child = child.at("run", &network.program)?;
        Ok(Program { child, said: Vec::new(), orders })
    }

    /// Waits until the runtime has ended, or the program.
    fn attend(&mut self, network: &UserNetwork, container: Pid, runtime: &mut HelperEnd) -> Result<()> {
        let (begun, mut up) = (Instant::now(), false);
        let mut complaints = self.child.stderr.take();
        loop {
            // Where nothing tells of the program's end, it has to be looked for.
            let pause = match (&complaints, up) {
                (Some(_), true) => PollTimeout::NONE,
                (None, true) => PollTimeout::from(500_u16),
                (_, false) => PollTimeout::from(PAUSE),
            };
            let (runtime_ended, has_said) = {
                let mut waited = vec![PollFd::new(runtime.as_fd(), PollFlags::POLLIN)];
                waited.extend(complaints.iter().map(|pipe| PollFd::new(pipe.as_fd(), PollFlags::POLLIN)));
                // Interrupted, it is asked again.
                let _ = poll(&mut waited, pause);
                let is_ready = |one: &PollFd| one.any().unwrap_or(false);
                (is_ready(&waited[0]), waited.get(1).is_some_and(is_ready))
            };
            if runtime_ended {
                return Ok(());
            }
            if has_said && let Some(pipe) = &mut complaints {
                let mut buffer = [0; 1024];
                match pipe.read(&mut buffer).unwrap_or(0) {
                    0 => complaints = None,
                    length if self.said.len() < KEPT => self.said.extend(&buffer[..length]),
                    _ => {}
                }
            }
            if complaints.is_none() && matches!(self.child.try_wait(), Ok(Some(_))) {
                let why = self.complaint(network);
                if up {
                    tell(format_args!("congo: {why}; the container goes on without its network"));
                    return Ok(());
                }
                return Err(why);
            }
            if !up && has_route(container) && self.publish(network)? {
                up = true;
                runtime.ready()?;
            }
            if !up && begun.elapsed() > PATIENCE {
                return Err(Error::new(format!(
                    "{}: not up after {} seconds",
                    network.name(),
                    PATIENCE.as_secs()
                )));
            }
        }
    }

    /// Whether all ports are published: false when the program does not listen yet.
    fn publish(&mut self, network: &UserNetwork) -> Result<bool> {
        let Some(orders) = &self.orders else { return Ok(true) };
        if !orders.path().exists() {
            return Ok(false);
        }
        for port in &network.ports {
            match orders.publish(port, network.address) {
                // The first one: it has made its socket, and does not listen yet.
                Err(error) if error.errno() == Some(Errno::ECONNREFUSED) => return Ok(false),
                result => result?,
            }
        }
        self.orders = None;
        Ok(true)
    }

    /// Why it has ended, in its own words: the last ones, as warnings come before.
    fn complaint(&self, network: &UserNetwork) -> Error {
        let text = String::from_utf8_lossy(&self.said);
        // pasta's own trouble with a log that is not there; and slirp4netns's last word after the one that
        // says why.
        let more = |line: &str| line.contains("to syslog") || line.starts_with("child failed");
        let last = text.lines().rfind(|line| !line.trim().is_empty() && !more(line));
        let last = last.unwrap_or("it has ended without a word").trim();
        let error = Error::new(format!("{}: {last}", network.name()));
        if last.contains("tun") || last.contains("tap") {
            error.hint("it needs /dev/net/tun, open for all users, as udev makes it; or take --network none")
        } else if last.contains("interface") || last.contains("routable") {
            error.hint("the host itself has no way to anywhere, no default route: take --network none")
        } else {
            error.hint("take --network none to do without")
        }
    }
}

/// Whether the program has come so far that packets would be sent to it.
fn has_route(container: Pid) -> bool {
    let routes = fs::read_to_string(format!("/proc/{container}/net/route")).unwrap_or_default();
    // Interface, destination.
    routes.lines().any(|line| line.split_whitespace().take(2).eq([LINK, "00000000"]))
}

/// A folder with a socket on which slirp4netns takes orders. Dropped, it goes.
struct Orders(PathBuf);

impl Orders {
    fn make() -> Result<Orders> {
        let template = std::env::temp_dir().join("congo-slirp-XXXXXX");
        let made = mkdtemp(&template);
        made.map(Orders).context(format_args!("mkdtemp({})", template.display()))
    }

    fn path(&self) -> PathBuf {
        self.0.join("orders")
    }

    /// One connection for each order: it closes it after its answer.
    fn publish(&self, port: &Publish, to: Ipv4Addr) -> Result<()> {
        let protocol = match port.protocol {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
        };
        let arguments = format!(
            r#"{{"proto":"{protocol}","host_addr":"{}","host_port":{},"guest_addr":"{to}","guest_port":{}}}"#,
            port.host_ip.unwrap_or(Ipv4Addr::UNSPECIFIED),
            port.host_port,
            port.container_port
        );
        let order = format!(r#"{{"execute":"add_hostfwd","arguments":{arguments}}}"#);
        let ask = || -> io::Result<String> {
            let mut socket = UnixStream::connect(self.path())?;
            socket.set_read_timeout(Some(PATIENCE))?;
            socket.write_all(order.as_bytes())?;
            socket.shutdown(std::net::Shutdown::Write)?;
            let mut answer = String::new();
            socket.read_to_string(&mut answer)?;
            Ok(answer)
        };
        let answer = ask().context(format_args!("slirp4netns: --publish {port}"))?;
        if answer.contains("\"error\"") {
            return Err(Error::new(format!("slirp4netns: --publish {port}: {}", answer.trim())));
        }
        Ok(())
    }
}

impl Drop for Orders {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
