//! Which users of the host the container's users are, and as which one its command runs.

use clap::Args;
use nix::unistd::geteuid;

use crate::ids::idmap::{IdMaps, check_shared, subordinate_of};
use crate::sys::error::{Error, Result};
use crate::values::{self, IdRange, User, UsernsMode};

/// Which users of the host the container's users are, and as which one its command runs.
#[derive(Debug, Args)]
#[command(next_help_heading = "Users (since step 4)")]
pub struct Users {
    /// auto for host ids of its own, host for none, keep-id to be yourself inside [default: auto].
    #[arg(long, value_name = "MODE", allow_hyphen_values = true, value_parser = values::userns_mode)]
    pub userns: Option<UsernsMode>,

    /// Which users of the host those of the container are; repeatable.
    #[arg(
        long = "uidmap",
        value_name = "CONTAINER:HOST:SIZE", allow_hyphen_values = true, conflicts_with = "userns",
        value_parser = values::id_range
    )]
    pub uid_map: Vec<IdRange>,

    /// The same for groups [default: as the users].
    #[arg(
        long = "gidmap",
        value_name = "CONTAINER:HOST:SIZE", allow_hyphen_values = true, requires = "uid_map",
        conflicts_with_all = ["userns", "subordinate"],
        value_parser = values::id_range
    )]
    pub gid_map: Vec<IdRange>,

    /// Take the subordinate ids of this user, as /etc/subuid and /etc/subgid have them.
    #[arg(
        long = "subuidname",
        value_name = "USER", allow_hyphen_values = true, conflicts_with_all = ["userns", "uid_map"],
        value_parser = values::subid_name
    )]
    pub subordinate: Option<String>,

    /// The user to run as, and perhaps the group, as the container knows them [default: the image's, else
    /// root].
    #[arg(
        short, long,
        value_name = "NAME|UID[:GROUP|GID]", allow_hyphen_values = true,
        value_parser = values::user
    )]
    pub user: Option<User>,
}

impl Users {
    /// Refuses ids that the caller cannot have. The containers in `shared` each come with the option that
    /// says that this container shares something with them.
    ///
    /// # Errors
    /// - Root wants to keep its ids.
    /// - An ordinary user chooses ids (`--uidmap`, `--gidmap`, `--subuidname`), or the host's ids.
    /// - The ids do not agree with those of the containers in `shared`.
    pub fn check(&self, shared: &[(i32, String)]) -> Result<()> {
        let (what, hint) = match (geteuid().is_root(), self.userns) {
            (true, Some(UsernsMode::KeepId)) => (
                "--userns keep-id: the caller is root, whose own ids are the host's root's",
                "expected auto or host from root",
            ),
            (false, Some(UsernsMode::Host)) => {
                ("--userns host: the caller is not root", "expected auto or keep-id from an ordinary user")
            }
            (false, _) if !self.uid_map.is_empty() || self.subordinate.is_some() => (
                "--uidmap, --gidmap and --subuidname are for root",
                "an ordinary user has the ids that /etc/subuid and /etc/subgid give it",
            ),
            _ => {
                check_shared(self.userns, self.ids_chosen(), shared)?;
                return self.chosen()?.map_or(Ok(()), |maps| maps.root().map(drop));
            }
        };
        Err(Error::new(what).hint(hint))
    }

    /// The maps of `--uidmap` and `--gidmap`, or of the user that `--subuidname` names, if root gives one of
    /// them.
    ///
    /// # Errors
    /// Ranges that overlap; a user without subordinate ids.
    pub fn chosen(&self) -> Result<Option<IdMaps>> {
        match (&self.subordinate, self.uid_map.as_slice()) {
            (Some(user), _) => subordinate_of(user).map(Some),
            (None, []) => Ok(None),
            (None, users) => IdMaps::given(users, &self.gid_map).map(Some),
        }
    }

    /// Whether the container gets ids that nobody on the host has: Congo's choice for root, where the
    /// container shares nothing with those in `shared`.
    pub fn are_unused(&self, shared: &[(i32, String)]) -> bool {
        let chosen = self.ids_chosen() && self.userns != Some(UsernsMode::Auto);
        geteuid().is_root() && !chosen && shared.is_empty()
    }

    /// Whether an option says which ids of the host the container has.
    pub fn ids_chosen(&self) -> bool {
        self.userns.is_some() || self.subordinate.is_some() || !self.uid_map.is_empty()
    }
}
