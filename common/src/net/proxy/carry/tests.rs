use std::net::{Ipv6Addr, SocketAddr};
use std::os::unix::net::UnixStream;
use std::thread;

use super::*;
use crate::net::port;
use crate::testing::skipped;
use crate::values::publish;

const LONG: Duration = Duration::from_secs(20);

/// A proxy to this host's own 127.0.0.1, on a thread. Dropped, it ends.
struct Running {
    runtime: Option<UnixStream>,
    thread: Option<thread::JoinHandle<()>>,
    protocol: Protocol,
    address: SocketAddr,
}

impl Running {
    /// `None` on a host without IPv6.
    fn start(container_port: u16, protocol: &str) -> Option<Running> {
        if TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).is_err() {
            skipped("this host has no IPv6");
            return None;
        }
        let request =
            publish(&format!("[::1]::{container_port}/{protocol}")).unwrap().ports().next().unwrap();
        let doors = port::reserve(&[request]).unwrap().doors;
        let (protocol, address) = (doors[0].port.protocol, doors[0].port.host.into());
        let (runtime, end) = UnixStream::pair().unwrap();
        let thread = thread::spawn(move || carry(doors, Ipv4Addr::LOCALHOST, end.as_fd()));
        Some(Running { runtime: Some(runtime), thread: Some(thread), protocol, address })
    }

    fn client(&self) -> TcpStream {
        let client = TcpStream::connect(self.address).unwrap();
        client.set_read_timeout(Some(LONG)).unwrap();
        client
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.runtime.take());
        let _ = self.thread.take().unwrap().join();
        // The port is free again, past connections that have ended.
        let is_free = match self.protocol {
            Protocol::Tcp => TcpListener::bind(self.address).is_ok(),
            Protocol::Udp => UdpSocket::bind(self.address).is_ok(),
        };
        assert!(thread::panicking() || is_free);
    }
}

fn server() -> (TcpListener, u16) {
    let server = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = server.local_addr().unwrap().port();
    (server, port)
}

#[test]
fn bytes_go_both_ways_and_each_way_ends_alone() {
    let (server, port) = server();
    let Some(running) = Running::start(port, "tcp") else { return };
    // More than both sides' buffers hold, to a receiver that begins late.
    let sent: Vec<u8> = (0..20_000_000_u32).map(|number| (number % 251) as u8).collect();
    let expected = sent.clone();
    let mut client = running.client();
    let writer = {
        let mut client = client.try_clone().unwrap();
        thread::spawn(move || {
            client.write_all(&sent).unwrap();
            client.shutdown(Shutdown::Write).unwrap();
        })
    };
    let (mut accepted, _) = server.accept().unwrap();
    thread::sleep(Duration::from_millis(200));
    let mut received = Vec::new();
    accepted.read_to_end(&mut received).unwrap();
    assert!(received == expected);
    writer.join().unwrap();
    // The answer comes after the client's end.
    accepted.write_all(b"the answer").unwrap();
    drop(accepted);
    let mut answer = String::new();
    client.read_to_string(&mut answer).unwrap();
    assert_eq!(answer, "the answer");
}

#[test]
fn a_missing_server_costs_one_connection() {
    let (server, port) = server();
    let Some(running) = Running::start(port, "tcp") else { return };
    drop(server);
    let error = running.client().read(&mut [0]).map_err(|error| error.kind());
    assert_eq!(error, Err(ErrorKind::ConnectionReset));
    let server = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).unwrap();
    let mut client = running.client();
    client.write_all(b"x").unwrap();
    let (accepted, _) = server.accept().unwrap();
    // A server that breaks off is no orderly end.
    reset(&accepted);
    drop(accepted);
    let read = client.read(&mut [0]).map_err(|error| error.kind());
    assert_eq!(read, Err(ErrorKind::ConnectionReset));
}

#[test]
fn a_failure_stays_one_when_both_sides_are_ready() {
    let ((door, at_door), (server, port)) = (server(), server());
    let mut client = TcpStream::connect((Ipv4Addr::LOCALHOST, at_door)).unwrap();
    client.set_read_timeout(Some(LONG)).unwrap();
    let to = SocketAddrV4::new(Ipv4Addr::LOCALHOST, port);
    let mut pair = Pair::new(door.accept().unwrap().0, to).unwrap();
    let wait = |pair: &Pair, side: Side, wanted: PollFlags| {
        let mut waited = [PollFd::new(pair.socket(side).as_fd(), wanted)];
        assert_eq!(poll(&mut waited, 20_000_u16), Ok(1));
        waited[0].revents().unwrap()
    };
    let mut buffer = [0; PIECE];
    let flags = wait(&pair, Side::Container, PollFlags::POLLOUT);
    pair.go_on(Side::Container, flags, &mut buffer);
    let (accepted, _) = server.accept().unwrap();
    client.write_all(b"x").unwrap();
    reset(&accepted);
    drop(accepted);
    let from_host = wait(&pair, Side::Host, PollFlags::POLLIN);
    let from_container = wait(&pair, Side::Container, PollFlags::empty());
    // The write to the container's side takes the error. After that, a read there finds an orderly end.
    pair.go_on(Side::Host, from_host, &mut buffer);
    pair.go_on(Side::Container, from_container, &mut buffer);
    drop(pair);
    let read = client.read(&mut [0]).map_err(|error| error.kind());
    assert_eq!(read, Err(ErrorKind::ConnectionReset));
}

#[test]
fn connections_above_the_bound_wait() {
    let (server, port) = server();
    let Some(running) = Running::start(port, "tcp") else { return };
    let served = thread::spawn(move || {
        let accept = || server.accept().unwrap().0;
        let mut accepted: Vec<_> = (0..CONNECTIONS).map(|_| accept()).collect();
        // One ends, and the next one is served.
        accepted.remove(0);
        let mut last = accept();
        last.write_all(b"last").unwrap();
        accepted
    });
    let mut clients: Vec<_> = (0..CONNECTIONS).map(|_| running.client()).collect();
    let mut last = running.client();
    last.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    clients.remove(0);
    last.set_read_timeout(Some(LONG)).unwrap();
    let mut bytes = [0; 4];
    last.read_exact(&mut bytes).unwrap();
    assert_eq!(&bytes, b"last");
    drop(served.join().unwrap());
}

#[test]
fn each_udp_client_has_its_answers() {
    let server = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    server.set_read_timeout(Some(LONG)).unwrap();
    let Some(running) = Running::start(server.local_addr().unwrap().port(), "udp") else { return };
    let client = || {
        let client = UdpSocket::bind((Ipv6Addr::LOCALHOST, 0)).unwrap();
        client.set_read_timeout(Some(LONG)).unwrap();
        client.connect(running.address).unwrap();
        client
    };
    let mut buffer = [0; 16];
    let clients: Vec<_> = (0..CLIENTS + 3).map(|_| client()).collect();
    let mut sources = Vec::new();
    for client in &clients {
        client.send(b"question").unwrap();
        let (length, from) = server.recv_from(&mut buffer).unwrap();
        assert_eq!(&buffer[..length], b"question");
        sources.push(from);
    }
    // In another order than they came. The first ones have made room for the last ones.
    for (client, from) in clients.iter().zip(&sources).skip(3).rev() {
        server.send_to(from.port().to_string().as_bytes(), from).unwrap();
        let length = client.recv(&mut buffer).unwrap();
        assert_eq!(&buffer[..length], from.port().to_string().as_bytes());
    }
    clients[0].send(b"again").unwrap();
    let (length, from) = server.recv_from(&mut buffer).unwrap();
    assert_eq!(&buffer[..length], b"again");
    assert!(from != sources[1]);
}
