//! What a user can ask for.

use std::ffi::OsString;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

use clap::builder::{OsStringValueParser, TypedValueParser};
use clap::{Args, Parser};
use common::Result;
use common::oci::{self, Reference};
use common::values::{self, Cpus, Cpuset, IpcMode, Limit, NetworkMode, Publish, Published, Ulimit, Variable};
use common::values::{ExtraHost, Ipv4Net, Mount, Tmpfs, Volume};

/// Runs a command in a container, as `docker run` does, without a daemon.
#[derive(Debug, Parser)]
#[command(version, about, args_override_self = true)]
pub struct Cli {
    /// Tell every action on the kernel, in order, with its man page.
    #[arg(long)]
    pub explain: bool,

    /// What the container finds: its root, its name, its variables.
    #[command(flatten)]
    pub world: World,

    /// What the container may use.
    #[command(flatten)]
    pub limits: Limits,

    /// What network it is in.
    #[command(flatten)]
    pub network: Network,

    /// With whom it shares memory and messages.
    #[command(flatten)]
    pub ipc: Ipc,

    /// Its terminal and its PID 1.
    #[command(flatten)]
    pub session: Session,

    /// Of which layers its root is.
    #[command(flatten)]
    pub root: Root,

    /// What is mounted in it.
    #[command(flatten)]
    pub volumes: Volumes,

    /// The command to run, with its arguments [default: the image's, else /bin/sh].
    #[arg(value_name = "COMMAND", trailing_var_arg = true, help_heading = "Arguments")]
    pub command: Vec<OsString>,
}

/// What the container finds.
#[derive(Debug, Args)]
#[command(next_help_heading = "The container's world (since step 1)")]
pub struct World {
    /// The directory to use as the root [default: one that Congo makes from this host's programs].
    #[arg(long, value_name = "DIR", value_parser = OsStringValueParser::new().try_map(values::directory))]
    pub rootfs: Option<PathBuf>,

    /// The host name inside.
    #[arg(long, value_name = "NAME", default_value = "congo", allow_hyphen_values = true, value_parser = values::hostname)]
    pub hostname: String,

    /// The working directory, absolute; made if it is missing [default: the image's, else /].
    #[arg(
        short,
        long,
        value_name = "DIR", allow_hyphen_values = true,
        value_parser = OsStringValueParser::new().try_map(values::workdir)
    )]
    pub workdir: Option<PathBuf>,

    /// Set a variable, or pass on the host's; repeatable.
    #[arg(
        short,
        long,
        value_name = "NAME[=VALUE]", allow_hyphen_values = true,
        value_parser = OsStringValueParser::new().try_map(values::env)
    )]
    pub env: Vec<Variable>,

    /// Set the variables that a file has, one a line; repeatable.
    #[arg(long, value_name = "FILE")]
    pub env_file: Vec<PathBuf>,
}

/// What the container may use at the most. The defaults are what was fixed in step 0.
#[derive(Debug, Args)]
#[command(next_help_heading = "Limits (since step 1)")]
pub struct Limits {
    /// Memory: bytes, or with a unit, such as 64m, 1.5g, "128 MiB".
    #[arg(
        short,
        long,
        value_name = "SIZE", default_value = "128m", allow_hyphen_values = true,
        value_parser = values::memory
    )]
    pub memory: u64,

    /// Memory and swap together, or -1 for unlimited swap [default: twice the memory].
    #[arg(long, value_name = "SIZE", allow_hyphen_values = true, value_parser = values::memory_swap)]
    pub memory_swap: Option<Limit>,

    /// CPU time, as a number of CPUs.
    #[arg(long, value_name = "NUMBER", default_value = "0.5", allow_hyphen_values = true, value_parser = values::cpus)]
    pub cpus: Cpus,

    /// The share of CPU time when CPUs are scarce, from 2 to 262144, where others have 1024.
    #[arg(short, long, value_name = "WEIGHT", allow_hyphen_values = true, value_parser = values::cpu_shares)]
    pub cpu_shares: Option<u64>,

    /// The CPUs to run on, such as 0-2,4.
    #[arg(long, value_name = "LIST", allow_hyphen_values = true, value_parser = values::cpuset)]
    pub cpuset_cpus: Option<Cpuset>,

    /// Processes and threads, or -1 for unlimited.
    #[arg(
        long, value_name = "NUMBER", default_value = "64", allow_hyphen_values = true,
        value_parser = values::pids_limit
    )]
    pub pids_limit: Limit,

    /// A resource limit of the command and each of its children; repeatable.
    #[arg(long = "ulimit", value_name = "NAME=SOFT[:HARD]", allow_hyphen_values = true, value_parser = values::ulimit)]
    pub ulimits: Vec<Ulimit>,
}

/// The bridge to join, where none is named.
const BRIDGE: &str = "congo0";

/// The network of that bridge: private addresses, of which not many others make use.
const SUBNET: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(10, 44, 0, 0), 16);

/// What network the container is in.
#[derive(Debug, Args)]
#[command(next_help_heading = "Network (since step 2)")]
pub struct Network {
    /// none, host, bridge, or container:PID to join another container's.
    #[arg(
        long, alias = "net",
        value_name = "MODE", default_value = "none", allow_hyphen_values = true,
        value_parser = values::network_mode
    )]
    pub network: NetworkMode,

    /// The bridge to join, made if it is missing [default: congo0].
    #[arg(long, value_name = "NAME", allow_hyphen_values = true, value_parser = values::bridge_name)]
    bridge: Option<String>,

    /// The bridge's IPv4 network; its first address is the host's [default: 10.44.0.0/16].
    #[arg(long, value_name = "CIDR", allow_hyphen_values = true, value_parser = values::subnet)]
    subnet: Option<Ipv4Net>,

    /// The container's address on the bridge [default: the lowest free one].
    #[arg(long, value_name = "ADDRESS", allow_hyphen_values = true, value_parser = values::ip)]
    pub ip: Option<Ipv4Addr>,

    /// Let a port of the host lead to one of the container's; ranges A-B too; repeatable.
    #[arg(
        short, long,
        value_name = "[IP:]HOST:CONTAINER[/tcp|udp]", allow_hyphen_values = true,
        value_parser = values::publish
    )]
    publish: Vec<Published>,

    /// A nameserver; repeatable [default: the host's].
    #[arg(long, value_name = "ADDRESS", allow_hyphen_values = true, value_parser = values::dns)]
    pub dns: Vec<IpAddr>,

    /// A line for /etc/hosts; host-gateway is the host's address on the bridge; repeatable.
    #[arg(long, value_name = "NAME:ADDRESS", allow_hyphen_values = true, value_parser = values::add_host)]
    pub add_host: Vec<ExtraHost>,
}

impl Network {
    /// Refuses what makes sense on a bridge only.
    pub fn check(&self) -> Result<()> {
        let options = [
            ("--bridge", self.bridge.is_some()),
            ("--subnet", self.subnet.is_some()),
            ("--ip", self.ip.is_some()),
            ("--publish", !self.publish.is_empty()),
        ];
        values::check_bridge_options(self.network, &options)?;
        values::check_ports(&self.ports())?;
        self.ip.map_or(Ok(()), |ip| values::check_ip(ip, self.subnet()))
    }

    /// The bridge's name.
    pub fn bridge(&self) -> &str {
        self.bridge.as_deref().unwrap_or(BRIDGE)
    }

    /// The bridge's network.
    pub fn subnet(&self) -> Ipv4Net {
        self.subnet.unwrap_or(SUBNET)
    }

    /// The ports to publish, one by one.
    pub fn ports(&self) -> Vec<Publish> {
        self.publish.iter().flat_map(Published::ports).collect()
    }
}

/// With whom the container shares memory and messages.
#[derive(Debug, Args)]
#[command(next_help_heading = "IPC (since step 2)")]
pub struct Ipc {
    /// private, host, or container:PID to share another container's.
    #[arg(
        long,
        value_name = "MODE", default_value = "private", allow_hyphen_values = true,
        value_parser = values::ipc_mode
    )]
    pub ipc: IpcMode,

    /// The size of /dev/shm: bytes, or with a unit.
    #[arg(long, value_name = "SIZE", default_value = "64m", allow_hyphen_values = true, value_parser = values::shm_size)]
    pub shm_size: u64,
}

/// The container's terminal and its PID 1.
#[derive(Debug, Args)]
#[command(next_help_heading = "Terminal and PID 1 (since step 2)")]
pub struct Session {
    /// Pass keys on even if the output goes elsewhere.
    #[arg(short, long)]
    pub interactive: bool,

    /// A terminal for all three streams [default: for those that are one].
    #[arg(short, long)]
    pub tty: bool,

    /// Let a small init be PID 1, which reaps orphans and forwards signals.
    #[arg(long)]
    pub init: bool,
}

/// Of which layers the root is made.
#[derive(Debug, Args)]
#[command(next_help_heading = "Root and layers (since step 3)")]
pub struct Root {
    /// An OCI layout folder, an OCI archive or a docker save archive, and perhaps :TAG.
    #[arg(
        long,
        value_name = "PATH[:TAG]", allow_hyphen_values = true, conflicts_with = "rootfs",
        value_parser = OsStringValueParser::new().try_map(oci::reference)
    )]
    pub image: Option<Reference>,

    /// A folder to put on top of the root, read-only; repeatable, lowest first.
    #[arg(long = "layer", value_name = "DIR", value_parser = OsStringValueParser::new().try_map(values::directory))]
    pub layers: Vec<PathBuf>,

    /// Keep the writable layer under this name, and go on with it next time.
    #[arg(long, value_name = "NAME", allow_hyphen_values = true, value_parser = values::keep_name)]
    pub keep: Option<String>,

    /// Run this in the place of the image's Entrypoint; "" for none.
    #[arg(long, value_name = "COMMAND", allow_hyphen_values = true)]
    pub entrypoint: Option<OsString>,

    /// Afterwards, list what the container added, changed and deleted, on stderr.
    #[arg(long)]
    pub changes: bool,

    /// Afterwards, make an image of it: a layout folder, or an archive if the path ends in .tar.
    #[arg(
        long,
        value_name = "PATH[:TAG]", allow_hyphen_values = true,
        value_parser = OsStringValueParser::new().try_map(oci::target)
    )]
    pub commit: Option<Reference>,

    /// Mount the root read-only.
    #[arg(long)]
    pub read_only: bool,
}

/// What is mounted in the root.
#[derive(Debug, Args)]
#[command(next_help_heading = "Volumes (since step 3)")]
pub struct Volumes {
    /// A host's folder or file, or a volume by name, to mount at a path; repeatable.
    #[arg(
        short, long = "volume",
        value_name = "[SOURCE:]TARGET[:OPTIONS]", allow_hyphen_values = true,
        value_parser = OsStringValueParser::new().try_map(values::volume)
    )]
    volumes: Vec<Volume>,

    /// The same by keys: type=bind|volume|tmpfs,source=…,target=…,readonly; repeatable.
    #[arg(
        long = "mount",
        value_name = "KEY=VALUE,…", allow_hyphen_values = true,
        value_parser = OsStringValueParser::new().try_map(values::mount)
    )]
    mounts: Vec<Mount>,

    /// A filesystem in memory at this path; repeatable.
    #[arg(
        long = "tmpfs",
        value_name = "TARGET[:OPTIONS]", allow_hyphen_values = true,
        value_parser = OsStringValueParser::new().try_map(values::tmpfs)
    )]
    tmpfs: Vec<Tmpfs>,
}

impl Volumes {
    /// Refuses two for one place, and a source that is missing and not to be made.
    pub fn check(&self) -> Result<()> {
        let all = self.all();
        values::check_targets(all.iter().map(Mount::target))?;
        values::check_sources(&all)
    }

    /// All of them.
    pub fn all(&self) -> Vec<Mount> {
        let volumes = self.volumes.iter().cloned().map(Mount::Volume);
        let tmpfs = self.tmpfs.iter().cloned().map(Mount::Tmpfs);
        volumes.chain(self.mounts.iter().cloned()).chain(tmpfs).collect()
    }
}
