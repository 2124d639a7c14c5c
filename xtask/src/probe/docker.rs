//! What Docker asks of an OCI runtime for `docker run` without options: its capabilities, mounts, paths and
//! profile.
//!
//! Sources: Docker's documentation of `docker run` and of seccomp; the OCI runtime specification,
//! config-linux.md.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use checks::inside::{MASKED, READ_ONLY};
use serde_json::{Value, json};

/// Docker's fourteen.
pub(crate) const CAPABILITIES: [&str; 14] = [
    "CAP_AUDIT_WRITE",
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_MKNOD",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_RAW",
    "CAP_SETFCAP",
    "CAP_SETGID",
    "CAP_SETPCAP",
    "CAP_SETUID",
    "CAP_SYS_CHROOT",
];

/// The bundle's config.json.
pub(crate) fn config(root: &Path, command: &[&str], seccomp: &Value) -> Value {
    let mount = |destination: &str, kind: &str, options: &str| {
        let options: Vec<_> = options.split(',').collect();
        json!({ "destination": destination, "type": kind, "source": kind, "options": options })
    };
    let namespaces = ["cgroup", "ipc", "mount", "network", "pid", "uts"].map(|kind| json!({ "type": kind }));
    json!({
        "ociVersion": "1.0.2",
        "process": {
            "user": { "uid": 0, "gid": 0 },
            "args": command,
            "cwd": "/",
            "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root"],
            "noNewPrivileges": false,
            // None are inheritable, since CVE-2022-24769.
            "capabilities": {
                "bounding": CAPABILITIES, "effective": CAPABILITIES, "permitted": CAPABILITIES,
                "inheritable": [], "ambient": [],
            },
        },
        "root": { "path": root },
        "hostname": "docker",
        "mounts": [
            mount("/proc", "proc", "nosuid,noexec,nodev"),
            mount("/dev", "tmpfs", "nosuid,strictatime,mode=755,size=65536k"),
            mount("/dev/pts", "devpts", "nosuid,noexec,newinstance,ptmxmode=0666,mode=0620,gid=5"),
            mount("/sys", "sysfs", "nosuid,noexec,nodev,ro"),
            // Without the cgroup's: crun is to know of no cgroup at all.
            mount("/dev/mqueue", "mqueue", "nosuid,noexec,nodev"),
            mount("/dev/shm", "tmpfs", "nosuid,noexec,nodev,mode=1777,size=67108864"),
        ],
        "linux": {
            "namespaces": namespaces,
            "maskedPaths": MASKED,
            "readonlyPaths": READ_ONLY,
            "seccomp": seccomp,
        },
    })
}

/// Docker's profiles say which rules hold for which capabilities, machines and kernels; an OCI runtime gets
/// those that hold.
pub(super) fn seccomp(profile: &Path) -> Result<Value> {
    let text = fs::read(profile).with_context(|| profile.display().to_string())?;
    let profile: Value = serde_json::from_slice(&text).with_context(|| profile.display().to_string())?;
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease")?;
    Ok(for_this_machine(&profile, version(&kernel)))
}

fn for_this_machine(profile: &Value, kernel: (u32, u32)) -> Value {
    let (machine, go) = match std::env::consts::ARCH {
        "aarch64" => ("SCMP_ARCH_AARCH64", "arm64"),
        _ => ("SCMP_ARCH_X86_64", "amd64"),
    };
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let has = |value: &Value, wanted: &str| list(value).iter().any(|it| it == wanted);
    let holds = |rule: &&Value| {
        let (only, not) = (&rule["includes"], &rule["excludes"]);
        let caps = list(&only["caps"]);
        let enough = caps.iter().all(|cap| CAPABILITIES.iter().any(|own| cap == own));
        let too_many = CAPABILITIES.iter().any(|own| has(&not["caps"], own));
        let here = only["arches"].is_null() || has(&only["arches"], go);
        let old = only["minKernel"].as_str().is_some_and(|least| kernel < version(least));
        enough && !too_many && here && !has(&not["arches"], go) && !old
    };
    let rules: Vec<_> = list(&profile["syscalls"])
        .iter()
        .filter(holds)
        .map(|rule| {
            let names = match &rule["name"] {
                Value::String(name) => json!([name]),
                _ => rule["names"].clone(),
            };
            let mut plain = json!({ "names": names, "action": rule["action"] });
            for key in ["args", "errnoRet"] {
                if !rule[key].is_null() {
                    plain[key] = rule[key].clone();
                }
            }
            plain
        })
        .collect();
    let others = list(&profile["archMap"]).into_iter().find(|map| map["architecture"] == machine);
    let others = others.map(|map| list(&map["subArchitectures"])).unwrap_or_default();
    let machines: Vec<_> = [json!(machine)].into_iter().chain(others).collect();
    let mut seccomp =
        json!({ "defaultAction": profile["defaultAction"], "architectures": machines, "syscalls": rules });
    if !profile["defaultErrnoRet"].is_null() {
        seccomp["defaultErrnoRet"] = profile["defaultErrnoRet"].clone();
    }
    seccomp
}

/// `(6, 12)` for `6.12.3-amd64`.
fn version(text: &str) -> (u32, u32) {
    let mut numbers = text.split(|it: char| !it.is_ascii_digit()).map(|it| it.parse().unwrap_or_default());
    (numbers.next().unwrap_or_default(), numbers.next().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_rules_that_hold_here_are_passed_on() {
        fn rule(name: &str, includes: Value, excludes: Value) -> Value {
            let action = "SCMP_ACT_ALLOW";
            json!({ "names": [name], "action": action, "includes": includes, "excludes": excludes })
        }
        let profile = json!({ "defaultAction": "SCMP_ACT_ERRNO", "syscalls": [
            rule("always", json!({}), json!({})),
            rule("chroot", json!({ "caps": ["CAP_SYS_CHROOT"] }), json!({})),
            rule("bpf", json!({ "caps": ["CAP_SYS_ADMIN"] }), json!({})),
            rule("clone", json!({}), json!({ "caps": ["CAP_SYS_ADMIN"] })),
            rule("kill", json!({}), json!({ "caps": ["CAP_KILL"] })),
            rule("elsewhere", json!({ "arches": ["s390x"] }), json!({})),
            rule("new", json!({ "minKernel": "4.8" }), json!({})),
            rule("newer", json!({ "minKernel": "9.0" }), json!({})),
        ] });
        let passed = for_this_machine(&profile, (5, 4));
        let names: Vec<_> = passed["syscalls"]
            .as_array()
            .unwrap()
            .iter()
            .map(|rule| rule["names"][0].as_str().unwrap())
            .collect();
        assert_eq!(names, ["always", "chroot", "clone", "new"]);
    }
}
