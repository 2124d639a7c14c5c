//! `--sysctl`: the settings of the kernel that a container has for itself.
//!
//! Each network namespace has its own `net.*`, and each IPC namespace its own limits for memory and messages.
//! All other settings exist once, so a container that changed one would change the host.
//! Source: Docker's list. Man pages: sysctl(8), proc_sys_net(5), proc_sys_kernel(5), mq_overview(7).

use std::fmt;

use super::Invalid;

/// Those of `kernel.*` that belong to an IPC namespace.
const OF_IPC: [&str; 8] = [
    "kernel/msgmax",
    "kernel/msgmnb",
    "kernel/msgmni",
    "kernel/sem",
    "kernel/shm_rmid_forced",
    "kernel/shmall",
    "kernel/shmmax",
    "kernel/shmmni",
];

const ACCEPTED: &str = "expected NAME=VALUE with a setting that each container has for itself: net.*, \
                        fs.mqueue.*, kernel.msgmax, kernel.msgmnb, kernel.msgmni, kernel.sem, \
                        kernel.shm_rmid_forced, kernel.shmall, kernel.shmmax or kernel.shmmni";

/// A setting of one namespace, and its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sysctl {
    /// Its path beneath `/proc/sys`: names with `/` between them, none of them `.` or `..`.
    path: String,
    value: String,
}

impl Sysctl {
    /// Its path beneath `/proc/sys`.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The value to write there.
    pub fn value(&self) -> &str {
        &self.value
    }

    /// As sysctl(8) takes it.
    pub fn assignment(&self) -> String {
        format!("{}={}", swapped(&self.path), self.value)
    }

    /// Whether it belongs to a network namespace; if not, it belongs to an IPC namespace.
    pub fn is_of_network(&self) -> bool {
        self.path.starts_with("net/")
    }
}

/// As the user may have written it.
impl fmt::Display for Sysctl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "--sysctl {}", self.assignment())
    }
}

/// Reads a value of `--sysctl`: `net.ipv4.ip_forward=1`, or with slashes as `net/ipv4/ip_forward=1`. As in
/// sysctl(8), the first of the two characters separates the parts of the name. The other one is a dot in a
/// part: `net.ipv4.conf.eth0/7.forwarding`.
///
/// # Errors
/// The setting is the host's, or its name is no path beneath `/proc/sys`. There is no value, or it has a
/// newline, at which the kernel would stop.
pub fn sysctl(text: &str) -> Result<Sysctl, Invalid> {
    let (name, value) = text.split_once('=').ok_or(ACCEPTED)?;
    let value = value.trim();
    if value.is_empty() || value.contains(|character: char| character.is_control() && character != '\t') {
        return Err("expected a value in one line after the =, such as net.ipv4.ip_forward=1".into());
    }
    let path = match name.find(['.', '/']).map(|at| &name[at..=at]) {
        Some("/") => name.to_owned(),
        _ => swapped(name),
    };
    // `..` would lead to another setting than the name says.
    let is_name = |part: &str| {
        !["", ".", ".."].contains(&part) && part.chars().all(|it| it.is_ascii_graphic() && it != '\\')
    };
    let own = path.starts_with("net/") || path.starts_with("fs/mqueue/") || OF_IPC.contains(&&*path);
    if !own || !path.split('/').all(is_name) {
        return Err(ACCEPTED.into());
    }
    Ok(Sysctl { path, value: value.to_owned() })
}

/// With dots in the place of slashes, and slashes in the place of dots.
fn swapped(name: &str) -> String {
    let swap = |character| match character {
        '.' => '/',
        '/' => '.',
        other => other,
    };
    name.chars().map(swap).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::values::testing::refused;

    #[test]
    fn names_with_dots_or_slashes() {
        let read = |text: &str| sysctl(text).map(|it| (it.path().to_owned(), it.value().to_owned()));
        let pair = |path: &str, value: &str| Ok((path.to_owned(), value.to_owned()));
        assert_eq!(read("net.ipv4.ip_forward=1"), pair("net/ipv4/ip_forward", "1"));
        assert_eq!(read("net/ipv4/ip_forward=1"), pair("net/ipv4/ip_forward", "1"));
        // A link with a dot in its name.
        for name in ["net.ipv4.conf.a/7.forwarding", "net/ipv4/conf/a.7/forwarding"] {
            assert_eq!(read(&format!("{name}=0")), pair("net/ipv4/conf/a.7/forwarding", "0"));
        }
        assert_eq!(read("kernel.sem=250 32000\t32 128"), pair("kernel/sem", "250 32000\t32 128"));
        assert_eq!(read("fs.mqueue.msg_max= 5 "), pair("fs/mqueue/msg_max", "5"));
        assert_eq!(sysctl("net/core/somaxconn=9").unwrap().to_string(), "--sysctl net.core.somaxconn=9");
    }

    #[test]
    fn what_belongs_to_which_namespace() {
        assert!(sysctl("net.core.somaxconn=1").unwrap().is_of_network());
        for name in OF_IPC.into_iter().chain(["fs/mqueue/queues_max"]) {
            assert!(!sysctl(&format!("{name}=1")).unwrap().is_of_network());
        }
    }

    #[test]
    fn settings_of_the_host() {
        let of_host = [
            "kernel.core_pattern=x",
            "vm.swappiness=1",
            "fs.file-max=9",
            "kernel.hostname=x",
            "kernel.msgmax2=1",
            "kernel.msgmax.x=1",
            "fs.mqueue=1",
            "net=1",
            "network.x=1",
            "",
            "=1",
            ".=1",
        ];
        refused(sysctl, "expected NAME=VALUE with a setting", &of_host);
        let elsewhere = [
            "net/../kernel/core_pattern=x",
            "net.//.kernel.core_pattern=x",
            "/net/ipv4/ip_forward=1",
            "net//ipv4=1",
            "net/./ipv4=1",
            "net.ipv4./=1",
            "net/=1",
            "net.=1",
            "net.a b=1",
            "../net/x=1",
            "kernel/../net/x=1",
            "net.ipv4/../../kernel.sysrq=1",
            "net.ipv4.\u{1}=1",
            "net.é=1",
        ];
        refused(sysctl, "expected NAME=VALUE with a setting", &elsewhere);
        refused(sysctl, "expected NAME=VALUE", &["net.ipv4.ip_forward", "net.ipv4.ip_forward:1"]);
        refused(sysctl, "expected a value in one line", &["net.x=", "net.x= ", "net.x=1\n2", "net.x=\u{7f}"]);
    }
}
