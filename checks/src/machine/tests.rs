//! Made-up machines: each way in which something can be missing, and what the doctor says to it.

use super::State::{Limited, Missing, Untried, Works};
use super::*;

/// A laptop of today, asked by its owner through sudo: nothing is missing.
fn laptop() -> Facts {
    let tried = KINDS.into_iter().chain(["overlay", "veth", "bridge", "nft", "user"]);
    let tried = tried.chain(["user, users", "overlay, users", "delegation, users"]);
    Facts {
        as_root: "sudo xtask doctor".into(),
        release: "6.12.5-arch1-1".into(),
        uid: 0,
        root: Ok(()),
        user: Some((1000, "ada".into())),
        first_pid_namespace: true,
        first_user_namespace: true,
        marker: None,
        filtered: false,
        kinds: KINDS.into_iter().chain(["user"]).map(|kind| (kind.into(), Some(15_000))).collect(),
        clone_forbidden: false,
        apparmor_restricts: false,
        tried: tried.map(|name| (name.to_owned(), Ok("made one".into()))).collect(),
        trees: vec![tree("/sys/fs/cgroup", true, &["cpu", "cpuset", "io", "memory", "pids"])],
        lacking: BTreeMap::new(),
        swap: Ok(()),
        programs: vec!["sudo", "nft", "newuidmap", "newgidmap", "pasta", "busybox"],
        subordinate: (true, true),
        seccomp: Ok(()),
        terminal: Ok(()),
        systemd: true,
    }
}

fn tree(point: &str, v2: bool, controllers: &[&str]) -> Tree {
    let controllers = controllers.iter().map(|&name| name.to_owned()).collect();
    Tree { point: point.into(), v2, controllers, ..Tree::default() }
}

fn with(change: impl FnOnce(&mut Facts)) -> Facts {
    let mut facts = laptop();
    change(&mut facts);
    facts
}

impl Facts {
    fn fail(&mut self, attempts: &[&str], why: &str) {
        for &name in attempts {
            assert!(self.tried.insert(name.into(), Err(why.into())).is_some(), "no attempt {name}");
        }
    }

    /// What happens to a user without user namespaces.
    fn fail_for_user(&mut self) {
        self.fail(&["user, users", "overlay, users"], "unshare(CLONE_NEWUSER): EPERM");
    }

    fn line(&self, name: &str) -> Line {
        self.lines().into_iter().find(|line| line.name == name).unwrap_or_else(|| panic!("no line {name}"))
    }

    fn verdict(&self, step: Step) -> Verdict {
        verdicts(&self.lines()).into_iter().find(|verdict| verdict.step == step).unwrap()
    }

    /// The states of the steps, in order, as the first letters of their words.
    fn states(&self) -> String {
        let letter = |verdict: Verdict| format!("{:?}", verdict.state).chars().next().unwrap();
        verdicts(&self.lines()).into_iter().map(letter).collect()
    }
}

#[test]
fn without_busybox_the_lesson_of_step_2_lacks_a_web_server() {
    let facts = with(|it| it.programs.retain(|name| *name != "busybox"));
    says(&facts, "busybox", Limited, "not installed", "install busybox");
    assert_eq!(facts.states(), "WWLWWW");
    says(&laptop(), "busybox", Works, "installed", "");
}

#[track_caller]
fn says(facts: &Facts, name: &str, state: State, fact: &str, remedy: &str) {
    let line = facts.line(name);
    assert_eq!(line.state, state, "{line}");
    assert!(line.fact.contains(fact), "{fact:?} is not in the fact of: {line}");
    assert!(line.remedy.contains(remedy), "{remedy:?} is not in the remedy of: {line}");
}

#[test]
fn where_nothing_is_missing_all_works_and_nothing_is_advised() {
    for line in laptop().lines() {
        assert_eq!((line.state, line.remedy.as_str()), (Works, ""), "{line:?}");
    }
    assert_eq!(laptop().states(), "WWWWWW");
    assert_eq!(laptop().verdict("step 0").to_string(), "✓ step 0: can run");
}

#[test]
fn whatever_is_missing_comes_with_a_remedy() {
    let nothing = with(|it| {
        let names: Vec<_> = it.tried.keys().cloned().collect();
        it.fail(&names.iter().map(String::as_str).collect::<Vec<_>>(), "EPERM");
        it.trees.clear();
        it.lacking.insert("memory", "not mounted".into());
        (it.swap, it.terminal) = (Err("no".into()), Err("no".into()));
        it.root = Err("root, but without CAP_SYS_ADMIN".into());
        (it.programs, it.seccomp, it.subordinate) = (vec![], Err("no filters".into()), (false, false));
    });
    for line in nothing.lines().iter().filter(|line| line.name != "kernel" && line.name != "machine") {
        assert!(line.state > Works && !line.remedy.is_empty(), "{line:?}");
    }
    assert_eq!(nothing.states(), "MMMMMM");
    assert_eq!(
        nothing.verdict("step 0").to_string(),
        "✗ step 0: cannot run: because root: root, but without CAP_SYS_ADMIN → run it on the host, or start \
         the \
         container with --privileged (and 4 more, see ✗ above)"
    );
}

#[test]
fn each_way_to_forbid_user_namespaces_has_its_own_remedy() {
    let name = "user namespace for ordinary users";
    let facts = with(|it| {
        it.fail_for_user();
        it.clone_forbidden = true;
    });
    says(&facts, name, Missing, "userns_clone is 0", "sysctl -w kernel.unprivileged_userns_clone=1");
    // Root may make them all the same.
    assert_eq!(facts.states(), "WWWWMW");
    let verdict = facts.verdict("step 4 as an ordinary user").to_string();
    assert!(
        verdict.starts_with("✗ step 4 as an ordinary user: cannot run: because user namespace"),
        "{verdict}"
    );
    assert_eq!(verdict.matches(" → ").count(), 1, "overlay's lack has the same cause: {verdict}");

    let facts = with(|it| {
        it.fail_for_user();
        it.apparmor_restricts = true;
    });
    let remedy = "sysctl -w kernel.apparmor_restrict_unprivileged_userns=0";
    says(&facts, name, Missing, "apparmor_restrict_unprivileged_userns is 1", remedy);
    assert!(facts.line(name).remedy.contains("profile"));

    let everybody = |change: fn(&mut Facts)| {
        with(|it| {
            it.fail_for_user();
            it.fail(&["user"], "ENOSPC");
            // Lesser causes, too: the remedy is the one without which nothing helps.
            (it.clone_forbidden, it.apparmor_restricts) = (true, true);
            change(it);
        })
    };
    let zero = everybody(|it| _ = it.kinds.insert("user".into(), Some(0)));
    let unknown = everybody(|it| _ = it.kinds.remove("user"));
    for name in [name, "user namespace"] {
        says(&zero, name, Missing, "user.max_user_namespaces is 0", "sysctl -w user.max_user_namespaces=");
        says(&unknown, name, Missing, "no user namespaces", "another kernel");
    }
    assert_eq!((zero.states(), unknown.states()), ("WWWWMM".into(), "WWWWMM".into()));

    let facts = with(|it| {
        it.fail_for_user();
        (it.first_pid_namespace, it.filtered) = (false, true);
    });
    says(&facts, name, Missing, "seccomp filter", "seccomp=unconfined");
    says(&with(Facts::fail_for_user), name, Missing, "EPERM", "chroot");
}

#[test]
fn the_layout_of_cgroups_is_named_with_what_follows() {
    let all = ["cpu", "cpuset", "memory", "pids"];
    let v1 =
        || vec![tree("/cg/cpu", false, &["rw", "cpu", "cpuset"]), tree("/cg/m", false, &["memory", "pids"])];
    let says_of = |trees: Vec<Tree>, state, fact: &str, remedy: &str, states: &str| {
        let facts = with(|it| it.trees = trees);
        says(&facts, "cgroup", state, fact, remedy);
        assert_eq!(facts.states(), states, "{fact}");
    };
    says_of(v1(), Limited, "v1: limits", "systemd.unified_cgroup_hierarchy=1", "WWWWLW");
    let hybrid = |controllers: &[&str]| [v1(), vec![tree("/cg/unified", true, controllers)]].concat();
    says_of(hybrid(&[]), Limited, "hybrid v1, with a v2 at /cg/unified", "unified_cgroup", "WWWWLW");
    says_of(hybrid(&["hugetlb", "io"]), Limited, "hybrid v1", "unified_cgroup", "WWWWLW");
    says_of(vec![], Missing, "no cgroup hierarchy is mounted", "mount -t cgroup2", "MMMMWM");
    says_of(vec![tree("/cg", true, &["hugetlb"])], Missing, "without a controller", "unified", "MMMMWM");
    let inside = |change: fn(&mut Tree)| {
        let mut top = tree("/sys/fs/cgroup", true, &all);
        change(&mut top);
        vec![top]
    };
    let readonly = inside(|it| it.refused = Some("EROFS: Read-only file system".into()));
    says_of(readonly, Missing, "EROFS", "--privileged", "MMMMWM");
    says_of(inside(|it| it.busy = true), Missing, "has processes", "mkdir /sys/fs/cgroup/init", "MMMMWM");

    let facts = with(|it| it.trees = hybrid(&[]));
    says(&facts, "cgroup delegation", Limited, "in v1 there is no delegation", "see cgroup");
    says(&facts, "controllers", Works, "cpu, cpuset, memory, pids in v1", "");
    let facts = with(|it| {
        it.trees = v1();
        it.systemd = false;
    });
    says(&facts, "cgroup", Limited, "v1", "cgroup_no_v1=all");
}

#[test]
fn a_controller_that_is_off_stops_what_needs_it() {
    let without = |name| with(|it| _ = it.lacking.insert(name, "this kernel has none".into()));
    says(&without("memory"), "controller memory", Missing, "none", "cgroup_disable=memory");
    let in_v1 = with(|it| {
        it.lacking.insert("memory", "not mounted".into());
        it.trees = vec![tree("/cg/cpu", false, &["cpu"])];
    });
    says(&in_v1, "controller memory", Missing, "not mounted", "see cgroup");
    assert_eq!(without("memory").states(), "MMMMWM");
    assert_eq!(without("cpuset").states(), "WLLLWL");
    let no_swap = with(|it| it.swap = Err("does not count swap".into()));
    assert_eq!(no_swap.verdict("step 1").to_string(), "! step 1: can run; limited: swap accounting");
}

#[test]
fn a_user_without_a_delegated_cgroup_is_told_how_to_get_one() {
    let name = "cgroup delegation";
    let without = |it: &mut Facts| it.fail(&["delegation, users"], "no cgroup above /a belongs to the user");
    says(&with(without), name, Limited, "/a", "systemd-run --user --scope -p Delegate=yes");
    let facts = with(|it| {
        without(it);
        it.systemd = false;
    });
    says(&facts, name, Limited, "/a", "chown");
    let facts = with(|it| {
        without(it);
        it.user = None;
    });
    says(&facts, name, Limited, "no ordinary user is known", "as that user");
}

#[test]
fn wsl_1_is_no_kernel_and_wsl_2_lacks_nothing() {
    let facts = with(|it| it.release = "4.4.0-19041-Microsoft".into());
    says(&facts, "kernel", Missing, "WSL 1", "wsl --set-version");
    assert_eq!(facts.states(), "MMMMMM");
    let facts = with(|it| {
        it.release = "5.15.153.1-microsoft-standard-WSL2".into();
        it.first_pid_namespace = false;
    });
    says(&facts, "machine", Works, "Windows Subsystem for Linux", "");
    assert_eq!(facts.states(), "WWWWWW");
    let facts = with(|it| {
        it.release = "6.6.87.2-microsoft-standard-WSL2".into();
        it.first_pid_namespace = false;
        it.fail(&["overlay"], "EPERM");
    });
    assert!(!facts.line("overlay").remedy.contains("container"), "{}", facts.line("overlay"));
}

#[test]
fn an_old_kernel_is_refused_and_an_older_one_told_what_it_lacks() {
    let kernel = |release: &str| with(|it| it.release = release.into());
    says(&kernel("5.3.18-lp152"), "kernel", Missing, "older than 5.4", "another kernel");
    says(&kernel("4.19.0-27-amd64"), "kernel", Missing, "older than 5.4", "");
    for (release, lacks, has) in [
        ("5.4.0-216-generic", "5.7 CLONE_INTO_CGROUP", "5.4 "),
        ("5.10.0-32-amd64", "5.11 overlay for ordinary users", "5.7 "),
        ("5.12.1", "5.14 cgroup.kill", "5.12 "),
        ("5.14.0-503.el9.x86_64", "5.19 overlays of id-mapped layers", "5.14 cgroup"),
    ] {
        says(&kernel(release), "kernel", Limited, lacks, "newer kernel");
        assert!(!kernel(release).line("kernel").fact.contains(has), "{release}");
        assert_eq!(kernel(release).states(), "WWWWWW", "{release}");
    }
    says(&kernel("6.1.0-28-amd64"), "kernel", Works, "6.1.0-28", "");
    says(&kernel("7.0"), "kernel", Works, "7.0", "");
    let no_overlay = |release: &str, why: &str| {
        with(|it| {
            it.release = release.into();
            it.fail(&["overlay, users"], why);
        })
    };
    let name = "overlay for ordinary users";
    says(&no_overlay("5.10.0", "EPERM"), name, Missing, "EPERM", "5.11");
    says(&no_overlay("6.1.0", "ENODEV"), name, Missing, "ENODEV", "modprobe overlay");
    says(&no_overlay("6.1.0", "EINVAL"), name, Missing, "EINVAL", "in a chroot, leave it");
    assert_eq!(no_overlay("5.10.0", "EPERM").states(), "WWWWMW");
}

#[test]
fn in_a_container_the_remedy_is_to_leave_it() {
    let inside = |it: &mut Facts| {
        it.first_pid_namespace = false;
        it.marker = Some("/.dockerenv".into());
    };
    says(&with(inside), "machine", Limited, "/.dockerenv", "--privileged");
    let facts = with(|it| {
        inside(it);
        it.root = Err("root, but without CAP_SYS_ADMIN".into());
        it.fail(&["mnt", "overlay"], "EPERM");
    });
    for name in ["root", "mnt namespace", "overlay"] {
        says(&facts, name, Missing, "", "--privileged");
    }
    // A virtual machine that was made of an image is none.
    says(&with(|it| it.marker = Some("/.dockerenv".into())), "machine", Works, "no container", "");
    let facts = with(|it| it.first_user_namespace = false);
    says(&facts, "root", Missing, "root of a user namespace only", "on the host");
    assert_eq!(facts.states(), "MMMMWM");
}

#[test]
fn a_user_is_sent_to_sudo_and_not_told_that_it_worked() {
    let user = |it: &mut Facts| {
        it.uid = 1000;
        it.root = Err("not root: run it with sudo".into());
    };
    says(&with(user), "root", Untried, "user 1000", "sudo xtask doctor");
    says(&with(user), "net namespace", Works, "within a user namespace", "");
    assert_eq!(with(user).states(), "UUUUWU");
    assert_eq!(
        with(user).verdict("step 3").to_string(),
        "! step 3: not tried: root: you are user 1000; sudo is installed → sudo xtask doctor"
    );
    let facts = with(|it| {
        user(it);
        it.programs.retain(|name| *name != "sudo");
    });
    says(&facts, "root", Missing, "sudo is not installed", "su");
    assert_eq!(facts.states(), "MMMMWM");
    // What a user cannot do, root perhaps can.
    let facts = with(|it| {
        user(it);
        it.fail(&["overlay", "net", "overlay, users"], "EPERM");
        it.kinds.insert("ipc".into(), Some(0));
        it.fail(&["ipc"], "ENOSPC");
    });
    says(&facts, "overlay", Untried, "not as a user: EPERM", "sudo xtask doctor");
    says(&facts, "net namespace", Untried, "EPERM", "sudo");
    says(&facts, "ipc namespace", Missing, "user.max_ipc_namespaces is 0", "user.max_ipc_namespaces=");
    assert_eq!(facts.states(), "UUMMMM");
}

#[test]
fn what_networks_need_is_a_limit_and_no_stop() {
    let facts = with(|it| {
        it.programs.retain(|name| *name != "nft" && *name != "pasta");
        it.fail(&["nft"], "the kernel has nf_tables");
        it.fail(&["veth"], "making a veth link: EOPNOTSUPP");
    });
    says(&facts, "nft", Limited, "not installed; the kernel has", "install nftables");
    says(&facts, "veth", Limited, "EOPNOTSUPP", "modprobe veth");
    says(&facts, "network for ordinary users", Limited, "pasta", "install passt");
    assert_eq!(facts.states(), "WWLLLL");
    let facts = with(|it| it.fail(&["nft"], "nft: Operation not supported"));
    says(&facts, "nft", Limited, "not supported", "modprobe -a nf_tables");
}

#[test]
fn ids_of_a_user_are_looked_up_by_program_and_by_file() {
    let name = "subordinate ids";
    says(
        &with(|it| it.subordinate = (false, true)),
        name,
        Limited,
        "for ada in /etc/subuid",
        "--add-subuids 1",
    );
    let both = with(|it| {
        it.subordinate = (false, false);
        it.user = Some((1000, String::new()));
        it.programs.clear();
    });
    says(&both, name, Limited, "for 1000 in /etc/subuid, /etc/subgid", "--add-subgids 100000-165535 1000");
    says(&both, name, Limited, "newuidmap, newgidmap not installed", "install uidmap");
    says(&with(|it| it.user = None), name, Limited, "no ordinary user is known", "as that user");
}

#[test]
fn what_else_a_kernel_can_lack() {
    let facts = with(|it| {
        it.seccomp = Err("no filters".into());
        it.terminal = Err("no devpts is mounted".into());
        it.kinds.remove("time");
        it.fail(&["time"], "EINVAL");
    });
    says(&facts, "seccomp", Missing, "no filters", "another kernel");
    says(&facts, "terminals", Limited, "devpts", "mount -t devpts");
    says(&facts, "time namespace", Limited, "no time namespaces", "");
    assert_eq!(facts.states(), "WWLLMM");
    assert_eq!(facts.verdict("step 4 as root").because.len(), 1, "only the worst is told");
}

#[test]
fn an_attempt_that_is_not_known_is_refused() {
    assert_eq!(crate::attempt::attempt(&["no-such"]), Err("no attempt \"no-such\"".into()));
}
