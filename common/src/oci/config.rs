//! How an image wants its command to be run: the part `config` of its config.
//!
//! Source: OCI image specification, config.md, "Properties"; the names are those of Docker's.

use std::ffi::OsString;
use std::path::{Component, Path, PathBuf};

use super::model::{Execution, ImageConfig};
use crate::run::process::SignalNumber;
use crate::sys::error::tell;
use crate::values;

/// How an image wants its command to be run. The user's command line wins over it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Config {
    /// The environment: names and values.
    pub env: Vec<(OsString, OsString)>,
    /// The program, and its first arguments.
    pub entrypoint: Vec<OsString>,
    /// The other arguments, in whose place come those of the command line; or the command, without an
    /// entrypoint.
    pub cmd: Vec<OsString>,
    /// Where the command starts: absolute.
    pub working_dir: Option<PathBuf>,
    /// The user of the command: `USER[:GROUP]`, names or numbers.
    pub user: Option<String>,
    /// Where it wants a volume each: absolute.
    pub volumes: Vec<PathBuf>,
    /// What ends it, where that is not SIGTERM.
    pub stop_signal: Option<SignalNumber>,
}

impl Config {
    /// Says on stderr that the command runs as root, if the image names another user: for the steps without
    /// users.
    pub fn tell_other_user(&self) {
        let root = ["0", "root", "0:0", "root:root"];
        if let Some(user) = self.user.as_deref().filter(|user| !root.contains(user)) {
            tell(format_args!("congo: the image wants to run as {user}; until step 4 it runs as root"));
        }
    }

    /// Reads the part `config`, and says on stderr what in it cannot be followed.
    pub(super) fn new(image: &ImageConfig) -> Config {
        let default = Execution::default();
        let said = image.config.as_ref().unwrap_or(&default);
        let words = |list: &Option<Vec<String>>| list.iter().flatten().map(OsString::from).collect();
        let not_empty = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
        let absolute = |path: &str| Path::new("/").join(path);
        let pair = |text: &String| text.split_once('=').map(|(name, value)| (name.into(), value.into()));
        Config {
            env: said.env.iter().flatten().filter_map(pair).collect(),
            // `ENTRYPOINT [""]` takes away that of the image below.
            entrypoint: words(&said.entrypoint.clone().filter(|words| *words != [""])),
            cmd: words(&said.cmd),
            working_dir: not_empty(&said.working_dir).map(|path| absolute(&path)),
            user: not_empty(&said.user),
            volumes: said.volumes.iter().flatten().map(|(path, _)| without_dots(&absolute(path))).collect(),
            stop_signal: not_empty(&said.stop_signal).and_then(|text| stop_signal(&text)),
        }
    }
}

/// An absolute path without `.` and `..`, by its text alone.
fn without_dots(path: &Path) -> PathBuf {
    path.components().fold(PathBuf::new(), |mut real, part| {
        match part {
            Component::ParentDir => drop(real.pop()),
            Component::CurDir => {}
            part => real.push(part),
        }
        real
    })
}

/// A signal, written as for `--stop-signal`.
fn stop_signal(text: &str) -> Option<SignalNumber> {
    let signal = values::signal(text).ok();
    if signal.is_none() {
        tell(format_args!(
            "congo: the image's StopSignal {text:?} is no signal that can be sent; SIGTERM stays"
        ));
    }
    signal
}

#[cfg(test)]
mod tests {
    use nix::sys::signal::Signal;

    use super::*;

    #[test]
    fn signals() {
        assert_eq!(stop_signal("SIGQUIT"), Some(Signal::SIGQUIT.into()));
        assert_eq!(stop_signal("RTMIN+3"), SignalNumber::real_time(3));
        for text in ["SIGRTMIN+99", "0", "x", "-1"] {
            assert_eq!(stop_signal(text), None);
        }
    }

    #[test]
    fn what_is_null_or_missing_is_empty() {
        let read = |text: &str| Config::new(&serde_json::from_str(text).unwrap());
        let rootfs = r#""rootfs":{"type":"layers","diff_ids":[]}"#;
        assert_eq!(read(&format!("{{{rootfs}}}")), Config::default());
        let nulls = r#""Env":null,"Entrypoint":null,"Cmd":null,"WorkingDir":"","User":"","Volumes":null"#;
        assert_eq!(read(&format!(r#"{{{rootfs},"config":{{{nulls}}}}}"#)), Config::default());
        let some = r#""Env":["A=b=c"],"Cmd":["x"],"WorkingDir":"srv","Entrypoint":[""],
            "Volumes":{"/x/.././v":{}},"StopSignal":"SIGINT""#;
        let config = read(&format!(r#"{{{rootfs},"config":{{{some}}}}}"#));
        assert_eq!(config.env, [("A".into(), "b=c".into())]);
        assert_eq!((config.working_dir, config.volumes), (Some("/srv".into()), vec!["/v".into()]));
        assert_eq!(config.entrypoint, Vec::<OsString>::new());
        assert_eq!((config.cmd, config.stop_signal), (vec!["x".into()], Some(Signal::SIGINT.into())));
    }
}
