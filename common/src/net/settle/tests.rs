//! Bridges and rules of a network namespace that ends with the test.

use std::io::Write;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::errno::Errno;

use super::*;
use crate::testing::{in_network_namespace, skipped};

const WIRING: Wiring = Wiring {
    program: "test",
    table: "congo",
    make,
    rules: |_, _| "chain c {}\n".into(),
    forward: |_| Ok(()),
};

/// Of a bridge, all that keeps packets away from the host when it fails.
fn make(netlink: &mut Netlink, bridge: &Bridge) -> Result<()> {
    netlink.add_bridge(&bridge.name)?;
    let link = netlink.index(&bridge.name)?;
    netlink.set_up(link)
}

/// In a namespace of its own: a folder, and a lease in it for which all is made.
fn with_bridge(test: impl FnOnce(Leases, Lease) + Send + 'static) {
    if let Err(error) = nft::require() {
        return skipped(&error.to_string());
    }
    in_network_namespace(move || {
        let home = tempfile::tempdir().unwrap();
        let leases = Leases::lock_in(home.path()).unwrap();
        let lease = leases.take("congo0", "10.44.0.0/16".parse().unwrap(), None, &[]).unwrap();
        settle(&WIRING, &leases, None).unwrap();
        assert!(is_there("congo0") && nft::has_table("congo").unwrap());
        test(leases, lease);
    });
}

fn is_there(link: &str) -> bool {
    Netlink::open().unwrap().index_of(link).unwrap().is_some()
}

/// A process in a network namespace of its own, with a cable that leads there. It ends with the value.
struct Container(Child);

impl Container {
    fn start(cable: &str) -> Container {
        let child = Command::new("unshare").args(["--net", "sleep", "60"]).spawn().unwrap();
        let container = Container(child);
        let pid = Pid::from_raw(container.0.id().cast_signed());
        let namespace = |path: &str| fs::read_link(path).unwrap();
        while namespace(&format!("/proc/{pid}/ns/net")) == namespace("/proc/thread-self/ns/net") {
            std::thread::yield_now();
        }
        let mut netlink = Netlink::open().unwrap();
        let bridge = netlink.index("congo0").unwrap();
        netlink.add_veth(cable, bridge, "eth0", pid).unwrap();
        let link = netlink.index(cable).unwrap();
        netlink.set_up(link).unwrap();
        container
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

#[test]
fn the_cable_goes_also_where_its_namespace_stays() {
    for stays in [false, true] {
        with_bridge(move |leases, mut lease| {
            let cable = host_end(lease.address());
            let _container = Some(Container::start(&cable)).filter(|_| stays);
            leases.end(&mut lease);
            settle(&WIRING, &leases, Some(lease.address())).unwrap();
            assert!(!is_there(&cable) && !is_there("congo0") && !nft::has_table("congo").unwrap());
            assert_eq!(leases.bridges(), Ok(vec![]));
        });
    }
}

#[test]
fn a_bridge_is_off_before_its_rules_go() {
    with_bridge(|leases, mut lease| {
        let cable = host_end(lease.address());
        let _container = Container::start(&cable);
        leases.end(&mut lease);
        // The last moment before the rules go.
        let wiring = Wiring {
            forward: |_| {
                let output = Command::new("ip").args(["-oneline", "link", "show", "up"]).output().unwrap();
                assert!(nft::has_table("congo").unwrap());
                Err(Error::new(String::from_utf8(output.stdout).unwrap()))
            },
            ..WIRING
        };
        leases.set_forwarding_was_off(&[]).unwrap();
        let error = settle(&wiring, &leases, None).unwrap_err();
        assert_eq!(error.to_string(), "", "these links are up");
        // What is left is there for the next run.
        assert!(is_there("congo0") && nft::has_table("congo").unwrap());
        settle(&WIRING, &leases, None).unwrap();
        assert!(!is_there(&cable) && !is_there("congo0") && !nft::has_table("congo").unwrap());
    });
}

#[test]
fn links_and_rules_can_both_fail() {
    with_bridge(|leases, _lease| {
        let wiring = Wiring {
            make: |_, _| Err(Error::from_errno("make it", Errno::ENODEV)),
            rules: |_, _| "nonsense\n".into(),
            ..WIRING
        };
        let error = settle(&wiring, &leases, None).unwrap_err().to_string();
        assert!(error.starts_with("make it: ENODEV: No such device; nft -f -: syntax error"), "{error}");
    });
}

#[test]
fn one_of_links_and_rules_is_done_when_the_other_fails() {
    with_bridge(|leases, _lease| {
        nft::load_while("delete table inet congo", &leases, || ()).0.unwrap();
        let make = |_: &mut Netlink, _: &Bridge| Err(Error::from_errno("make it", Errno::ENODEV));
        let error = settle(&Wiring { make, ..WIRING }, &leases, None).unwrap_err();
        assert_eq!((error.errno(), nft::has_table("congo")), (Some(Errno::ENODEV), Ok(true)));
        Netlink::open().unwrap().remove_link("congo0").unwrap();
        let rules = |_: &[Bridge], _: bool| "nonsense\n".into();
        let error = settle(&Wiring { rules, ..WIRING }, &leases, None).unwrap_err().to_string();
        assert!(error.starts_with("nft -f -: syntax error") && is_there("congo0"), "{error}");
    });
}

#[test]
fn the_links_go_although_the_rules_cannot() {
    with_bridge(|leases, mut lease| {
        // A table with an owner goes with that one alone: since Linux 5.12.
        let mut owner = Command::new("nft").arg("-i").stdin(Stdio::piped()).spawn().unwrap();
        let stdin = owner.stdin.as_mut().unwrap();
        stdin.write_all(b"add table inet owned { flags owner; }\n").unwrap();
        let end = Instant::now() + Duration::from_secs(20);
        while !nft::has_table("owned").unwrap() && Instant::now() < end {
            sleep(Duration::from_millis(1));
        }
        assert!(nft::has_table("owned").unwrap());
        leases.end(&mut lease);
        let error = settle(&Wiring { table: "owned", ..WIRING }, &leases, None).unwrap_err().to_string();
        assert!(error.contains("Operation not permitted") && !is_there("congo0"), "{error}");
        owner.kill().unwrap();
        owner.wait().unwrap();
    });
}
