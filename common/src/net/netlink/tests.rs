//! Each request, in a network namespace that ends with the test, and what the kernel then has.

use std::fs;
use std::process::{Child, Command};

use netlink_packet_core::{NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload};
use nix::sched::{CloneFlags, unshare};

use super::wire::uninterrupted;
use super::*;
use crate::testing::in_network_namespace;

/// A process in a network namespace of its own, into which a peer can go. It ends with the value.
struct Elsewhere(Child);

impl Elsewhere {
    /// Starts it in the thread's namespace, which the thread then leaves for a new one.
    fn start() -> Elsewhere {
        let child = Command::new("sleep").arg("60").spawn().unwrap();
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        Elsewhere(child)
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(self.0.id().cast_signed())
    }
}

impl Drop for Elsewhere {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

/// What `ip` says, in one line: another program's view.
fn ip(arguments: &str) -> String {
    let output = Command::new("ip").args(arguments.split(' ')).output().unwrap();
    assert!(output.status.success(), "ip {arguments}: {output:?}");
    String::from_utf8(output.stdout).unwrap().replace('\n', " ")
}

#[test]
fn only_loopback_is_in_a_new_namespace() {
    in_network_namespace(|| {
        let mut netlink = Netlink::open().unwrap();
        assert_eq!(netlink.index_of("lo"), Ok(Some(1)));
        assert_eq!(netlink.index_of("congo0"), Ok(None));
        assert_eq!(netlink.addresses(1), Ok(vec![]));
        netlink.set_up(1).unwrap();
        assert_eq!(netlink.addresses(1), Ok(vec!["127.0.0.1/8".parse().unwrap()]));
    });
}

#[test]
fn a_bridge_with_its_address() {
    in_network_namespace(|| {
        let mut netlink = Netlink::open().unwrap();
        netlink.add_bridge("congo0").unwrap();
        let index = netlink.index_of("congo0").unwrap().unwrap();
        netlink.add_address(index, [10, 44, 0, 1].into(), 16).unwrap();
        netlink.set_up(index).unwrap();
        assert_eq!(netlink.addresses(index), Ok(vec!["10.44.0.1/16".parse().unwrap()]));
        assert_eq!(netlink.addresses(1), Ok(vec![]));
        let seen = ip("-4 addr show dev congo0");
        assert!(seen.contains("inet 10.44.0.1/16 brd 10.44.255.255 scope global congo0"), "{seen}");
        assert!(seen.contains(",UP"), "{seen}");

        let error = netlink.add_bridge("congo0").unwrap_err();
        assert_eq!(error.errno(), Some(Errno::EEXIST));
        assert!(error.to_string().starts_with("RTM_NEWLINK(name \"congo0\", kind bridge, "), "{error}");
        let error = netlink.add_address(index, [10, 44, 0, 1].into(), 16).unwrap_err();
        assert_eq!(error.errno(), Some(Errno::EEXIST), "{error}");

        netlink.delete_link("congo0").unwrap();
        assert_eq!(netlink.index_of("congo0"), Ok(None));
        netlink.delete_link("congo0").unwrap();
    });
}

#[test]
fn a_link_is_switched_off() {
    in_network_namespace(|| {
        let mut netlink = Netlink::open().unwrap();
        netlink.add_bridge("congo0").unwrap();
        let index = netlink.index("congo0").unwrap();
        netlink.set_up(index).unwrap();
        assert!(ip("-oneline link show congo0").contains(",UP"));
        netlink.set_down("congo0").unwrap();
        assert!(!ip("-oneline link show congo0").contains(",UP"));
        netlink.set_down("congo1").unwrap();
    });
}

#[test]
fn a_link_may_go_by_itself() {
    in_network_namespace(|| {
        let mut netlink = Netlink::open().unwrap();
        let mut goes_unasked = || {
            netlink.add_bridge("congo0").unwrap();
            let requests = netlink.sequence;
            let other = std::thread::spawn(|| {
                let mut netlink = Netlink::open().unwrap();
                sleep(Duration::from_millis(5));
                netlink.remove_link("congo0").unwrap();
            });
            netlink.delete_link("congo0").unwrap();
            let asked = netlink.sequence != requests;
            other.join().unwrap();
            !asked
        };
        // On a busy machine the other thread may be late.
        assert!((0..20).any(|_| goes_unasked()));
        netlink.add_bridge("congo0").unwrap();
        netlink.delete_link("congo0").unwrap();
        assert_eq!(netlink.index_of("congo0"), Ok(None));
    });
}

#[test]
fn a_bridge_keeps_its_ethernet_address() {
    in_network_namespace(|| {
        let elsewhere = Elsewhere::start();
        let mut netlink = Netlink::open().unwrap();
        netlink.add_bridge("congo0").unwrap();
        let bridge = netlink.index_of("congo0").unwrap().unwrap();
        let address = || ip("-br link show dev congo0").split_whitespace().nth(2).map(str::to_owned);
        let before = address().unwrap();
        assert!(before.starts_with("02:"), "{before}");
        for number in 0..8 {
            netlink
                .add_veth(&format!("v{number}"), bridge, &format!("eth{number}"), elsewhere.pid())
                .unwrap();
            assert_eq!(address().as_ref(), Some(&before));
        }
    });
}

#[test]
fn what_the_kernel_refuses_has_a_name_and_the_kernels_words() {
    in_network_namespace(|| {
        let mut netlink = Netlink::open().unwrap();
        let gone = Pid::from_raw(i32::MAX);
        netlink.add_bridge("congo0").unwrap();
        let error = netlink.add_veth("v", 2, "eth0", gone).unwrap_err();
        assert_eq!(error.errno(), Some(Errno::ESRCH), "{error}");
        assert!(
            error.to_string().contains("name \"v\", kind veth, master 2, peer {name \"eth0\""),
            "{error}"
        );
        let error = netlink.add_address(99, [10, 44, 0, 1].into(), 16).unwrap_err();
        assert_eq!(error.errno(), Some(Errno::ENODEV), "{error}");
        assert_eq!(netlink.set_up(99).unwrap_err().errno(), Some(Errno::ENODEV));
        // In a debug view, as the hint has no reader: that is what is printed in the second line.
        let error = netlink.add_default_route([10, 44, 0, 1].into()).unwrap_err();
        assert!(format!("{error:?}").contains("the kernel says: "), "{error:?}");
        let error = netlink.add_address(1, [10, 44, 0, 1].into(), 33).unwrap_err();
        assert_eq!(error.to_string(), "10.44.0.1/33: no prefix of IPv4");
    });
}

#[test]
fn more_addresses_than_one_read_has_room_for() {
    in_network_namespace(|| {
        let mut netlink = Netlink::open().unwrap();
        for number in 0..2000_u32 {
            netlink.add_address(1, Ipv4Addr::from_bits(0x0a2c_0000 + number), 30).unwrap();
        }
        netlink.add_bridge("congo0").unwrap();
        let bridge = netlink.index_of("congo0").unwrap().unwrap();
        netlink.add_address(bridge, [10, 99, 0, 1].into(), 24).unwrap();
        assert_eq!(netlink.addresses(1).unwrap().len(), 2000);
        assert_eq!(netlink.addresses(bridge), Ok(vec!["10.99.0.1/24".parse().unwrap()]));
    });
}

#[test]
fn an_answer_to_an_older_request_is_passed_over() {
    in_network_namespace(|| {
        let mut netlink = Netlink::open().unwrap();
        let mut link = LinkMessage::default();
        link.attributes = vec![LinkAttribute::IfName("congo0".into())];
        let mut request = NetlinkMessage::new(
            NetlinkHeader::default(),
            NetlinkPayload::from(RouteNetlinkMessage::DelLink(link)),
        );
        request.header.flags = NLM_F_REQUEST;
        request.header.sequence_number = 99;
        request.finalize();
        let mut bytes = vec![0; request.buffer_len()];
        request.serialize(&mut bytes);
        netlink.socket.send(&bytes, 0).unwrap();
        // Its answer, ENODEV, is waiting now.
        assert_eq!(netlink.index_of("lo"), Ok(Some(1)));
    });
}

#[test]
fn a_call_that_a_signal_interrupts_is_made_again() {
    let mut results = [Err(Errno::EINTR), Err(Errno::EINTR), Ok(7), Err(Errno::EPERM)].into_iter();
    let mut call = || results.next().unwrap().map_err(std::io::Error::from);
    assert_eq!(uninterrupted(&mut call), Ok(7));
    assert_eq!(uninterrupted(&mut call), Err(Errno::EPERM));
}

#[test]
fn ethernet_addresses_are_one_stations_and_differ() {
    let addresses: Vec<_> = ["congo0", "congo1", "a", ""].map(ethernet_address).into();
    assert!(addresses.iter().all(|address| address[0] == 0x02));
    assert_eq!(addresses.iter().collect::<std::collections::BTreeSet<_>>().len(), 4);
    assert_eq!(colons([2, 0, 0xab, 0, 1, 0xff]), "02:00:ab:00:01:ff");
    // Nothing was left in the host's own namespace by the other tests.
    assert!(!fs::exists("/sys/class/net/veth0a2c0002").unwrap());
}
