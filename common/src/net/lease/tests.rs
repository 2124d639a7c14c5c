//! Leases of this process, of fifty others at once, and of one that is killed.

use super::*;
use crate::testing::{OtherProcess, in_network_namespace, other_process, skipped};

fn net(text: &str) -> Ipv4Net {
    text.parse().unwrap()
}

fn ports(text: &str) -> Vec<Publish> {
    publish(text).unwrap().ports().filter_map(|port| port.published(port.fixed()?)).collect()
}

#[test]
#[ignore = "a part of other tests, which start it"]
fn of_another_process() {
    other_process(|folder| {
        let leases = Leases::lock_in(folder).unwrap();
        let lease = leases.take("congo0", net("10.44.0.0/16"), None, &ports("8080:80")).unwrap();
        (lease.address().to_string(), lease)
    });
}

fn start(folder: &Path) -> OtherProcess {
    OtherProcess::start(concat!(module_path!(), "::of_another_process"), folder)
}

fn address(process: &mut OtherProcess) -> Ipv4Addr {
    process.taken().parse().unwrap()
}

#[test]
fn nothing_is_made_where_nothing_is_recorded() {
    let home = tempfile::tempdir().unwrap();
    let run = home.path().join("run");
    assert!(Leases::lock_if_any_in(&run).unwrap().is_none());
    assert!(!run.exists());
    drop(Leases::lock_in(&run).unwrap());
    assert!(!run.exists(), "an empty folder goes with the lock");
    assert!(home.path().exists());
}

#[test]
fn the_lowest_free_address_and_the_wanted_one() {
    let home = tempfile::tempdir().unwrap();
    let run = home.path().join("run");
    let leases = Leases::lock_in(&run).unwrap();
    let subnet = net("10.44.0.0/29");
    let take =
        |wanted: Option<&str>| leases.take("congo0", subnet, wanted.map(|text| text.parse().unwrap()), &[]);
    let mut held: Vec<_> =
        [None, Some("10.44.0.4"), None, None, None].map(|wanted| take(wanted).unwrap()).into();
    let addresses: Vec<_> = held.iter().map(|lease| lease.address().octets()[3]).collect();
    assert_eq!(addresses, [2, 4, 3, 5, 6]);
    let error = take(None).unwrap_err();
    assert_eq!(error.to_string(), "--subnet 10.44.0.0/29: all of its addresses are taken");
    let error = take(Some("10.44.0.4")).unwrap_err();
    assert_eq!(error.to_string(), "--ip 10.44.0.4: taken by another container");
    let error = take(Some("10.44.0.1")).unwrap_err();
    assert_eq!(error.to_string(), "--ip 10.44.0.1: the gateway's address in 10.44.0.0/29");
    assert_eq!(error.status(), 125);
    // The third, 10.44.0.3.
    held.remove(2);
    assert_eq!(take(None).unwrap().address(), Ipv4Addr::new(10, 44, 0, 3));
    drop(leases);
    assert!(run.exists());
}

#[test]
fn bridges_are_recorded_until_they_are_forgotten() {
    let home = tempfile::tempdir().unwrap();
    let run = home.path().join("run");
    let leases = Leases::lock_in(&run).unwrap();
    let published = [ports("127.0.0.1:53:53/udp"), ports("8000-8001:80-81")].concat();
    let lease = leases.take("congo0", net("10.44.0.0/16"), None, &published).unwrap();
    let other = leases.take("a@b_c", net("10.45.0.0/16"), None, &[]).unwrap();
    let bridges = leases.bridges().unwrap();
    let names: Vec<_> = bridges.iter().map(|bridge| (bridge.name.as_str(), bridge.subnet)).collect();
    assert_eq!(names, [("a@b_c", other.subnet()), ("congo0", lease.subnet())]);
    let member = Member { address: [10, 44, 0, 2].into(), ports: published };
    assert_eq!(bridges[1].members, [member]);
    assert!(bridges[1].dead.is_empty());

    let error = leases.forget("congo0").unwrap_err();
    assert_eq!(error.to_string(), "forget the bridge congo0: the container 10.44.0.2 is on it");
    drop(lease);
    assert_eq!(leases.bridges().unwrap()[1].members, Vec::<Member>::new());
    leases.forget("congo0").unwrap();
    leases.forget("congo0").unwrap();
    assert_eq!(leases.bridges().unwrap().len(), 1);
    drop(other);
    leases.forget("a@b_c").unwrap();
    drop(leases);
    assert!(!run.exists());
}

#[test]
fn a_bridge_has_one_subnet_and_shares_it_with_none() {
    let home = tempfile::tempdir().unwrap();
    let leases = Leases::lock_in(home.path()).unwrap();
    let _held = leases.take("congo0", net("10.44.0.0/16"), None, &[]).unwrap();
    let refused = |bridge, subnet| leases.take(bridge, net(subnet), None, &[]).unwrap_err().to_string();
    assert_eq!(
        refused("congo0", "10.45.0.0/16"),
        "--subnet 10.45.0.0/16: the bridge congo0 has the subnet 10.44.0.0/16"
    );
    for overlapping in ["10.44.0.0/16", "10.44.7.0/24", "10.0.0.0/8"] {
        assert_eq!(
            refused("congo1", overlapping),
            format!("--subnet {overlapping}: overlaps 10.44.0.0/16 of the bridge congo0")
        );
    }
    assert!(leases.take("congo1", net("10.45.0.0/16"), Some([10, 46, 0, 2].into()), &[]).is_err());
    assert_eq!(leases.bridges().unwrap().len(), 1, "what was refused is not recorded");
    assert!(leases.take("congo1", net("10.45.0.0/16"), None, &[]).is_ok());
}

#[test]
fn forwarding_is_remembered_until_the_machine_starts_anew() {
    let home = tempfile::tempdir().unwrap();
    let leases = Leases::lock_in(home.path()).unwrap();
    assert_eq!(leases.forwarding_was_off(), Ok(None));
    leases.set_forwarding_was_off(&["eth1".into()]).unwrap();
    assert_eq!(leases.forwarding_was_off(), Ok(Some(vec!["eth1".into()])));
    fs::write(leases.folder.join(FORWARDING), "of another boot").unwrap();
    assert_eq!(leases.forwarding_was_off(), Ok(None));
    leases.forget_forwarding().unwrap();
    leases.forget_forwarding().unwrap();
    assert!(!leases.folder.join(FORWARDING).exists());
    // A record that cannot be read does not count as "it was on".
    fs::create_dir(leases.folder.join(FORWARDING)).unwrap();
    assert_eq!(leases.forwarding_was_off().unwrap_err().errno(), Some(Errno::EISDIR));
    assert!(leases.set_forwarding_was_off(&[]).is_err());
}

#[test]
fn what_a_killed_runtime_left_is_told_and_swept() {
    let home = tempfile::tempdir().unwrap();
    let run = home.path().join("run");
    let mut killed = start(&run);
    assert_eq!(address(&mut killed), Ipv4Addr::new(10, 44, 0, 2));
    let mut living = start(&run);
    assert_eq!(address(&mut living), Ipv4Addr::new(10, 44, 0, 3));
    killed.kill();

    // A sweeper that is killed as well: its drop does not run.
    let leases = Leases::lock_if_any_in(&run).unwrap().expect("something is recorded");
    assert_eq!(leases.bridges().unwrap()[0].dead, [Ipv4Addr::new(10, 44, 0, 2)]);
    leases.dead.take();
    drop(leases);

    let leases = Leases::lock_in(&run).unwrap();
    let bridge = leases.bridges().unwrap().remove(0);
    assert_eq!(bridge.dead, [Ipv4Addr::new(10, 44, 0, 2)]);
    assert_eq!(bridge.members.len(), 1);
    assert_eq!(bridge.members[0].address, Ipv4Addr::new(10, 44, 0, 3));
    // The dead one's address is free again, and its new holder is not swept.
    let lease = leases.take("congo0", bridge.subnet, None, &[]).unwrap();
    assert_eq!(lease.address(), Ipv4Addr::new(10, 44, 0, 2));
    drop(leases);
    let leases = Leases::lock_in(&run).unwrap();
    assert_eq!(leases.bridges().unwrap()[0].members.len(), 2);
    drop((lease, leases));
    living.kill();
    let leases = Leases::lock_in(&run).unwrap();
    let file = leases.bridge_folder("congo0", bridge.subnet).join("10.44.0.3+ports");
    leases.bridges().unwrap();
    assert!(file.exists(), "until whoever was told has done something about it");
    drop(leases);
    assert!(!file.exists(), "the files of the dead go with the leases");
    // Without being told of it first, too.
    let mut killed = start(&run);
    address(&mut killed);
    killed.kill();
    Leases::lock_in(&run).unwrap().forget("congo0").unwrap();
    assert!(!run.exists());
}

#[test]
fn a_new_network_namespace_has_no_records_of_an_ended_one() {
    let (tell, told) = std::sync::mpsc::channel();
    // The kernel gives a free inode to the next namespace, but it ends a namespace only after a while.
    for _ in 0..300 {
        let tell = tell.clone();
        in_network_namespace(move || tell.send(namespace_name().unwrap()).unwrap());
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    drop(tell);
    let names: Vec<_> = told.iter().collect();
    let inodes: BTreeSet<_> = names.iter().filter_map(|name| name.split('-').nth(1)).collect();
    if inodes.len() == names.len() {
        return skipped("each network namespace got an inode of its own, or it needs root");
    }
    assert_eq!(names.iter().collect::<BTreeSet<_>>().len(), names.len(), "{names:?}");
}

#[test]
fn a_lease_that_cannot_be_given_back_is_a_dead_ones() {
    let home = tempfile::tempdir().unwrap();
    let leases = Leases::lock_in(home.path()).unwrap();
    let mut lease = leases.take("congo0", net("10.44.0.0/24"), None, &[]).unwrap();
    lease.leave();
    drop(lease);
    assert_eq!(leases.bridges().unwrap()[0].dead, [Ipv4Addr::new(10, 44, 0, 2)]);
}

#[test]
fn the_successor_of_a_dead_one_keeps_its_file() {
    let home = tempfile::tempdir().unwrap();
    let subnet = net("10.44.0.0/24");
    // Whether the bridge was forgotten between the two, as where nobody else was on it.
    for forgotten in [true, false] {
        let leases = Leases::lock_in(home.path()).unwrap();
        leases.take("congo0", subnet, None, &[]).unwrap().leave();
        assert_eq!(leases.bridges().unwrap()[0].dead.len(), 1);
        if forgotten {
            leases.forget("congo0").unwrap();
        }
        let _successor = leases.take("congo0", subnet, None, &[]).unwrap();
        drop(leases);
        let leases = Leases::lock_in(home.path()).unwrap();
        assert_eq!(leases.bridges().unwrap()[0].members.len(), 1, "forgotten: {forgotten}");
    }
}

#[test]
fn of_many_a_few_are_asked_and_each_dead_one_is_found() {
    let home = tempfile::tempdir().unwrap();
    let leases = Leases::lock_in(home.path()).unwrap();
    let subnet = net("10.44.0.0/24");
    let take = |published: &[Publish]| leases.take("congo0", subnet, None, published).unwrap();
    let mut held: Vec<_> = (0..60).map(|number| take(&ports("80:80")[..number % 20 / 19])).collect();
    assert_eq!(leases.bridges().unwrap()[0].members.len(), 60);
    let told = |leases: &Leases| leases.bridges().unwrap().remove(0).dead;

    // Its rules must go now.
    let address = held[19].address();
    held[19].leave();
    assert_eq!(told(&leases), [address]);
    assert_eq!(take(&[]).address(), address, "what is told to be dead is free, whatever its file's name is");

    let address = held[40].address();
    held[40].leave();
    assert!((0..1000).any(|_| told(&leases) == [address]));
    // Its file goes, so it is told again until then.
    assert!((0..100).all(|_| told(&leases) == [address]));
    // One that ends by itself is told at once.
    let ended = held[41].address();
    leases.end(&mut held[41]);
    assert!((0..100).all(|_| told(&leases) == [address, ended]));
    // Where none lives, this is certain.
    held.iter_mut().for_each(Lease::leave);
    assert_eq!(leases.bridges().unwrap()[0].members, Vec::<Member>::new());
    leases.forget("congo0").unwrap();
}

#[test]
fn in_a_full_network_the_dead_ones_address_is_free() {
    let home = tempfile::tempdir().unwrap();
    let leases = Leases::lock_in(home.path()).unwrap();
    let subnet = net("10.44.0.0/29");
    let mut held: Vec<_> = (0..5).map(|_| leases.take("congo0", subnet, None, &[]).unwrap()).collect();
    held[2].leave();
    let lease = leases.take("congo0", subnet, None, &ports("80:80")).unwrap();
    assert_eq!(lease.address(), held[2].address());
    assert!(leases.take("congo0", subnet, None, &[]).is_err());
    held[3].leave();
    let wanted = Some(held[3].address());
    assert!(leases.take("congo0", subnet, wanted, &[]).is_ok());
}
