//! What only a process of the container can do: the checks' own executable goes into its root, and does it
//! there.
//!
//! Called with [`ASKED`], an executable of the checks acts on a request instead of doing its own work.
//! [`install`] copies it with the libraries that it needs, since the root may have others.
//!
//! Kernel objects: the controlling terminal, the root directory. Man pages: TIOCSTI(2const), chroot(2),
//! proc_pid_maps(5).

mod acts;
pub mod files;
mod look;

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::symlink;
use std::path::Path;

use common::fs::rootfs::libraries;
use common::sys::attack;
use nix::mount::{MsFlags, mount};
use nix::unistd::{chdir, chroot};

use crate::Failure;
pub use look::{Figures, MASKED, READ_ONLY};

/// The first argument of an executable that is to act inside.
pub const ASKED: &str = "--inside-a-container";

/// The second one of an executable that is to climb out, and read the file that the third one names.
pub const ESCAPE: &str = "escape";

/// The second one of an executable that is to mount something at the path that the third one names, and to
/// wait.
pub const MOUNT: &str = "mount";

pub use acts::{CALL, CALL_32_BIT, FIND_KEY, MAP_IDS, SIGNAL, STATUS, TRACE};
/// The second one of an executable that is to print, as JSON, what it finds out about the container.
pub const LOOK: &str = "look";

/// Its name in the container's root.
const NAME: &str = "congo-checks-inside";

/// Acts, and ends the process, if the command line asks for it. First thing in the `main` of each executable
/// from which checks are run.
pub fn run_if_asked() {
    let mut arguments = std::env::args().skip(1);
    if arguments.next().as_deref() != Some(ASKED) {
        return;
    }
    let text = arguments.next().unwrap_or_default();
    if text == ESCAPE {
        let content = climb(&arguments.next().unwrap_or_default());
        // Any failure is one: the check looks for the content.
        println!("climbed={}", content.unwrap_or_else(|_| "nothing".into()));
        std::process::exit(0);
    }
    if text == LOOK {
        match look::look() {
            Ok(figures) => println!("{}", serde_json::json!(figures)),
            Err(error) => eprintln!("looking around: {error}"),
        }
        std::process::exit(0);
    }
    if text == MOUNT {
        let at = arguments.next().unwrap_or_default();
        match mount(Some("tmpfs"), at.as_str(), Some("tmpfs"), MsFlags::empty(), Some("size=64k")) {
            Ok(()) => println!("mounted"),
            Err(error) => println!("refused: {error}"),
        }
        let _ = io::stdin().read_line(&mut String::new());
        std::process::exit(0);
    }
    let arguments: Vec<_> = arguments.collect();
    if let Some(found) = files::act(&text, &mut arguments.iter().cloned()) {
        println!("{found}");
        std::process::exit(0);
    }
    if acts::act(&text, &arguments) {
        std::process::exit(0);
    }
    // The check looks for this line to know that it was tried at all.
    match push(&text) {
        Ok(()) => println!("pushed=all"),
        Err(error) => println!("pushed={error}"),
    }
    std::process::exit(0);
}

/// Types the text into the terminal at stdin, as if a user had done it.
fn push(text: &str) -> io::Result<()> {
    let terminal = File::open("/proc/self/fd/0")?;
    text.bytes().try_for_each(|character| Ok(attack::push_character(&terminal, character)?))
}

/// Leaves the root by a second chroot, if there is anything above it, and reads a file there.
fn climb(path: &str) -> io::Result<String> {
    let folder = "/climbing";
    fs::create_dir(folder)?;
    // The working directory stays where it is: outside the new root, so that `..` does not stop there.
    let entered = chroot(folder);
    fs::remove_dir(Path::new("climbing"))?;
    entered?;
    for _ in 0..64 {
        chdir("..")?;
    }
    chroot(".")?;
    fs::read_to_string(path)
}

/// Puts this executable into a root, and returns its path there.
///
/// # Errors
/// When it cannot be copied.
pub fn install(root: &Path) -> Result<String, Failure> {
    let inside = root.join(NAME);
    if !inside.exists() {
        let this = fs::read_link("/proc/self/exe")?;
        let needs = libraries(Path::new("/"), &this).map_err(io::Error::other)?;
        let at = |path: &Path| root.join(path.strip_prefix("/").unwrap_or(path));
        for file in &needs.files {
            let copy = at(file);
            if !copy.exists() {
                fs::create_dir_all(copy.parent().unwrap_or(root))?;
                fs::copy(file, copy)?;
            }
        }
        for (link, to) in &needs.links {
            let copy = at(link);
            if fs::symlink_metadata(&copy).is_err() {
                fs::create_dir_all(copy.parent().unwrap_or(root))?;
                symlink(to, copy)?;
            }
        }
        fs::copy("/proc/self/exe", &inside)?;
    }
    Ok(format!("/{NAME}"))
}
