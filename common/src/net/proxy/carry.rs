//! The loop that carries bytes between the host's sockets and the container's.
//!
//! One thread does all, so no connection can fail for want of another thread. It looks at no byte. When a
//! receiver is slow, it keeps one piece in each direction of a connection: that bounds its memory.
//!
//! Both bounds fit into 1,024 open files, the usual limit. Further connections wait until one ends. A further
//! UDP client takes the place of the client that was silent longest.
//! Man pages: poll(2), tcp(7), udp(7), ipv6(7), recvmsg(2).

use std::io::{self, ErrorKind, IoSlice, IoSliceMut, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddrV4, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, SockaddrIn6, recvmsg, sendmsg};
use rustix::net::sockopt::{set_socket_keepalive, set_socket_linger, set_tcp_keepidle};
use rustix::net::{AddressFamily, SocketFlags, SocketType, connect, socket_with};

use super::Door;
use crate::values::{Protocol, Proxied};

/// So many TCP connections at a time.
const CONNECTIONS: usize = 400;
/// So many UDP clients at a time.
const CLIENTS: usize = 200;
/// After so long without a packet, a UDP client is forgotten. Docker takes the same time.
const SILENCE: Duration = Duration::from_secs(90);
/// After so long without a byte, the kernel asks whether a TCP client is still there.
const KEEP_ALIVE: Duration = Duration::from_secs(60);
/// How long no connection is accepted when the kernel had no room for one.
const REST: Duration = Duration::from_millis(100);
/// The longest piece of a connection.
const PIECE: usize = 1 << 15;
/// The longest UDP packet.
const PACKET: usize = 1 << 16;

/// Serves the doors until the runtime has ended.
pub(super) fn carry(doors: Vec<Door>, container: Ipv4Addr, runtime: BorrowedFd<'_>) {
    let carrier = Carrier {
        doors: doors.into_iter().map(Entry::of).collect(),
        container,
        pairs: Vec::new(),
        clients: Vec::new(),
        rest_until: None,
        buffer: vec![0; PACKET],
    };
    carrier.run(runtime);
}

/// A door, as the one or the other protocol serves it.
enum Entry {
    Tcp(TcpListener, Proxied),
    Udp(OwnedFd, Proxied),
}

impl Entry {
    fn of(Door { port, socket }: Door) -> Entry {
        match port.protocol {
            Protocol::Tcp => Entry::Tcp(socket.into(), port),
            Protocol::Udp => Entry::Udp(socket, port),
        }
    }
}

struct Carrier {
    doors: Vec<Entry>,
    container: Ipv4Addr,
    pairs: Vec<Pair>,
    clients: Vec<Client>,
    /// No connection is accepted before.
    rest_until: Option<Instant>,
    buffer: Vec<u8>,
}

/// Which socket is ready.
#[derive(Clone, Copy)]
enum Source {
    Runtime,
    Door(usize),
    Pair(usize, Side),
    Client(usize),
}

impl Carrier {
    fn run(mut self, runtime: BorrowedFd<'_>) {
        loop {
            for (source, flags) in self.wait(runtime) {
                match source {
                    // It says nothing more, so this is its end.
                    Source::Runtime => return,
                    Source::Door(index) => self.open(index),
                    Source::Pair(index, side) => self.pairs[index].go_on(side, flags, &mut self.buffer),
                    Source::Client(index) => self.answer(index),
                }
            }
            self.pairs.retain(|pair| !pair.has_ended);
            self.clients.retain(|client| client.last.elapsed() < SILENCE);
        }
    }

    /// Waits until something can be done.
    fn wait(&self, runtime: BorrowedFd<'_>) -> Vec<(Source, PollFlags)> {
        let resting = self.rest_until.and_then(|until| until.checked_duration_since(Instant::now()));
        let may_accept = resting.is_none() && self.pairs.len() < CONNECTIONS;
        let mut waited = vec![(Source::Runtime, PollFd::new(runtime, PollFlags::POLLIN))];
        for (index, door) in self.doors.iter().enumerate() {
            let socket = match door {
                Entry::Tcp(listener, _) if may_accept => listener.as_fd(),
                Entry::Tcp(..) => continue,
                Entry::Udp(socket, _) => socket.as_fd(),
            };
            waited.push((Source::Door(index), PollFd::new(socket, PollFlags::POLLIN)));
        }
        for (index, pair) in self.pairs.iter().enumerate() {
            for side in [Side::Host, Side::Container] {
                if let Some(flags) = pair.waits_for(side) {
                    let socket = pair.socket(side).as_fd();
                    waited.push((Source::Pair(index, side), PollFd::new(socket, flags)));
                }
            }
        }
        for (index, client) in self.clients.iter().enumerate() {
            waited.push((Source::Client(index), PollFd::new(client.socket.as_fd(), PollFlags::POLLIN)));
        }
        let silent = self.clients.iter().map(|client| SILENCE.saturating_sub(client.last.elapsed())).min();
        let longest = [resting, silent].into_iter().flatten().min();
        // A millisecond more, as the clock of poll(2) cuts off the rest of one.
        let longest = longest.map_or(PollTimeout::NONE, |longest| {
            PollTimeout::from(u16::try_from(longest.as_millis() + 1).unwrap_or(u16::MAX))
        });
        let (sources, mut descriptors): (Vec<_>, Vec<_>) = waited.into_iter().unzip();
        match poll(&mut descriptors, longest) {
            Ok(_) => {}
            Err(Errno::EINTR) => return Vec::new(),
            // Without memory for now.
            Err(_) => {
                std::thread::sleep(REST);
                return Vec::new();
            }
        }
        let ready = sources.into_iter().zip(descriptors.iter().filter_map(PollFd::revents));
        ready.filter(|(_, flags)| !flags.is_empty()).collect()
    }

    /// Somebody is at the door.
    fn open(&mut self, index: usize) {
        match &self.doors[index] {
            Entry::Tcp(listener, port) => match listener.accept() {
                Ok((client, _)) => {
                    let to = SocketAddrV4::new(self.container, port.container_port);
                    // Without room for the second socket, the first one is closed.
                    self.pairs.extend(Pair::new(client, to).ok());
                }
                Err(error) => {
                    use ErrorKind::{ConnectionAborted, Interrupted, WouldBlock};
                    if !matches!(error.kind(), ConnectionAborted | Interrupted | WouldBlock) {
                        // EMFILE, ENFILE, ENOBUFS, ENOMEM: the connection waits, and the socket stays ready.
                        self.rest_until = Some(Instant::now() + REST);
                    }
                }
            },
            Entry::Udp(socket, port) => {
                let Ok((length, from, at)) = receive(socket, &mut self.buffer) else { return };
                let known = |client: &Client| client.door == index && client.from == from && client.at == at;
                let place = match self.clients.iter().position(known) {
                    Some(place) => place,
                    None => {
                        let to = SocketAddrV4::new(self.container, port.container_port);
                        // A packet may be lost, and this one is.
                        let Ok(socket) = connected(to) else { return };
                        self.admit(Client { door: index, from, at, socket, last: Instant::now() })
                    }
                };
                let client = &mut self.clients[place];
                client.last = Instant::now();
                // ECONNREFUSED is about a packet before; this one may arrive all the same.
                if client.socket.send(&self.buffer[..length]).is_err() {
                    let _ = client.socket.send(&self.buffer[..length]);
                }
            }
        }
    }

    /// Gives a new UDP client a place. Where the bound is reached, that is the place of the client that was
    /// silent longest. The others stay where they are: the sockets that are ready now are known by place.
    fn admit(&mut self, client: Client) -> usize {
        let oldest = self.clients.iter().enumerate().min_by_key(|(_, client)| client.last);
        match oldest {
            Some((oldest, _)) if self.clients.len() >= CLIENTS => {
                self.clients[oldest] = client;
                oldest
            }
            _ => {
                self.clients.push(client);
                self.clients.len() - 1
            }
        }
    }

    /// The container has sent something to a UDP client.
    fn answer(&mut self, index: usize) {
        let client = &mut self.clients[index];
        // An error is that of a packet before: nobody listens there.
        let Ok(length) = client.socket.recv(&mut self.buffer) else { return };
        client.last = Instant::now();
        if let Entry::Udp(socket, _) = &self.doors[client.door] {
            send(socket, &self.buffer[..length], client);
        }
    }
}

/// One end of a connection through the door.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Host,
    Container,
}

impl Side {
    fn other(self) -> Side {
        match self {
            Side::Host => Side::Container,
            Side::Container => Side::Host,
        }
    }
}

/// A connection through the door, which is two.
struct Pair {
    ends: [End; 2],
    is_connected: bool,
    has_ended: bool,
}

/// A socket, and what comes from it.
struct End {
    socket: TcpStream,
    /// Bytes that the other side has not taken yet.
    kept: Vec<u8>,
    /// It sends nothing more.
    is_done: bool,
    /// And the other side knows that.
    is_passed_on: bool,
    /// The kernel has said that the connection is over, and would say so again at once.
    has_hung_up: bool,
}

impl End {
    fn new(socket: TcpStream) -> End {
        End { socket, kept: Vec::new(), is_done: false, is_passed_on: false, has_hung_up: false }
    }
}

impl Pair {
    fn new(client: TcpStream, to: SocketAddrV4) -> io::Result<Pair> {
        client.set_nonblocking(true)?;
        // A client that has lost its network says nothing, and would have its place for ever.
        set_socket_keepalive(&client, true)?;
        set_tcp_keepidle(&client, KEEP_ALIVE)?;
        for_small_pieces(&client)?;
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let server = TcpStream::from(socket_with(AddressFamily::INET, SocketType::STREAM, flags, None)?);
        for_small_pieces(&server)?;
        let is_connected = match connect(&server, &to) {
            Ok(()) => true,
            Err(rustix::io::Errno::INPROGRESS) => false,
            Err(error) => {
                reset(&client);
                return Err(error.into());
            }
        };
        Ok(Pair { ends: [End::new(client), End::new(server)], is_connected, has_ended: false })
    }

    fn end(&mut self, side: Side) -> &mut End {
        &mut self.ends[side as usize]
    }

    fn socket(&self, side: Side) -> &TcpStream {
        &self.ends[side as usize].socket
    }

    /// What poll(2) is to tell of this side. It tells of errors unasked.
    fn waits_for(&self, side: Side) -> Option<PollFlags> {
        let (end, other) = (&self.ends[side as usize], &self.ends[side.other() as usize]);
        let mut flags = PollFlags::empty();
        if self.is_connected {
            flags.set(PollFlags::POLLIN, end.kept.is_empty() && !end.is_done);
            flags.set(PollFlags::POLLOUT, !other.kept.is_empty());
        } else {
            flags.set(PollFlags::POLLOUT, side == Side::Container);
        }
        (!flags.is_empty() || !end.has_hung_up).then_some(flags)
    }

    /// Reads and writes as far as possible. When one side has failed, the other must not take that for an
    /// orderly end.
    fn go_on(&mut self, side: Side, flags: PollFlags, buffer: &mut [u8]) {
        // Both sides were ready, and the first one has failed. A read from the second one now finds an end.
        if self.has_ended {
            return;
        }
        if self.try_to_go_on(side, flags, buffer).is_err() {
            self.ends.iter().for_each(|end| reset(&end.socket));
            self.has_ended = true;
        }
        self.has_ended |= self.ends.iter().all(|end| end.is_passed_on);
    }

    fn try_to_go_on(&mut self, side: Side, flags: PollFlags, buffer: &mut [u8]) -> io::Result<()> {
        if let Some(error) = self.socket(side).take_error()? {
            return Err(error);
        }
        if !self.is_connected {
            self.is_connected = side == Side::Container && flags.contains(PollFlags::POLLOUT);
        } else {
            if !self.end(side.other()).kept.is_empty() && flags.contains(PollFlags::POLLOUT) {
                self.pass_on(side.other())?;
            }
            if self.end(side).kept.is_empty() && !self.end(side).is_done {
                self.read(side, buffer)?;
            }
        }
        if flags.contains(PollFlags::POLLHUP) {
            self.end(side).has_hung_up = true;
        }
        Ok(())
    }

    /// Reads a piece. The part that the other side does not take at once is kept.
    fn read(&mut self, side: Side, buffer: &mut [u8]) -> io::Result<()> {
        let Some(length) = now(self.socket(side).read(&mut buffer[..PIECE]))? else { return Ok(()) };
        if length == 0 {
            self.end(side).is_done = true;
            return self.pass_on(side);
        }
        let taken = now(self.socket(side.other()).write(&buffer[..length]))?.unwrap_or(0);
        self.end(side).kept = buffer[taken..length].to_vec();
        Ok(())
    }

    /// Passes on what is kept of this side, and its end after that: shutdown(2). The other side may still
    /// send.
    fn pass_on(&mut self, side: Side) -> io::Result<()> {
        let [host, container] = &mut self.ends;
        let (from, to) = if side == Side::Host { (host, container) } else { (container, host) };
        if !from.kept.is_empty() {
            let taken = now(to.socket.write(&from.kept))?.unwrap_or(0);
            from.kept.drain(..taken);
        }
        if from.kept.is_empty() {
            // Its memory, too.
            from.kept = Vec::new();
            if from.is_done && !from.is_passed_on {
                to.socket.shutdown(Shutdown::Write)?;
                from.is_passed_on = true;
            }
        }
        Ok(())
    }
}

/// Sends each piece at once. The sender has already decided which bytes it sends together.
fn for_small_pieces(socket: &TcpStream) -> io::Result<()> {
    socket.set_nodelay(true)
}

/// When it is closed, the other side sees an error: tcp(7), SO_LINGER with no time.
fn reset(socket: &TcpStream) {
    let _ = set_socket_linger(socket, Some(Duration::ZERO));
}

/// `None` when that has to wait.
fn now(result: io::Result<usize>) -> io::Result<Option<usize>> {
    match result {
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => Ok(None),
        result => result.map(Some),
    }
}

/// A UDP client: it has sent a packet, and may get answers.
struct Client {
    door: usize,
    from: SockaddrIn6,
    at: Receiver,
    /// The container answers to this one.
    socket: UdpSocket,
    last: Instant,
}

/// To which address of the host a packet has come, and by which link. An answer has to come from there.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Receiver {
    address: [u8; 16],
    link: libc::c_uint,
}

/// A socket for one client, which hears of nobody but the container's port.
fn connected(to: SocketAddrV4) -> io::Result<UdpSocket> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    socket.connect(to)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// Receives a packet. Returns its length, its sender, and the address of the host to which it has come.
fn receive(socket: &OwnedFd, buffer: &mut [u8]) -> nix::Result<(usize, SockaddrIn6, Receiver)> {
    let mut space = nix::cmsg_space!(libc::in6_pktinfo);
    let mut parts = [IoSliceMut::new(buffer)];
    let flags = MsgFlags::MSG_DONTWAIT;
    let message = recvmsg::<SockaddrIn6>(socket.as_raw_fd(), &mut parts, Some(&mut space), flags)?;
    let at = message.cmsgs()?.find_map(|control| match control {
        ControlMessageOwned::Ipv6PacketInfo(info) => {
            Some(Receiver { address: info.ipi6_addr.s6_addr, link: info.ipi6_ifindex })
        }
        _ => None,
    });
    // The socket was told to say where a packet has come to.
    Ok((message.bytes, message.address.ok_or(Errno::EINVAL)?, at.ok_or(Errno::EINVAL)?))
}

/// Sends an answer, which may be lost as any packet.
fn send(socket: &OwnedFd, packet: &[u8], client: &Client) {
    let Receiver { address, link } = client.at;
    // The route decides on the link, but an address such as fe80::1 is another one on each link.
    let link = if address.starts_with(&[0xfe, 0x80]) { link } else { 0 };
    let info = libc::in6_pktinfo { ipi6_addr: libc::in6_addr { s6_addr: address }, ipi6_ifindex: link };
    let control = [ControlMessage::Ipv6PacketInfo(&info)];
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
    let _ = sendmsg(socket.as_raw_fd(), &[IoSlice::new(packet)], &control, flags, Some(&client.from));
}

#[cfg(test)]
mod tests;
