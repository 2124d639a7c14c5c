//! Programs of the host that the runtime starts: where they are.

use std::ffi::OsStr;
use std::path::PathBuf;

/// Where a program is looked for after `PATH`: a user's, which sudo or su may keep, often lacks them.
const SYSTEM: [&str; 3] = ["/usr/sbin", "/sbin", "/usr/local/sbin"];

/// Where the program lies, if it is installed.
pub(crate) fn find(name: &str) -> Option<PathBuf> {
    find_in(name, std::env::var_os("PATH").as_deref(), &SYSTEM)
}

fn find_in(name: &str, path: Option<&OsStr>, system: &[&str]) -> Option<PathBuf> {
    let folders = path.map(std::env::split_paths).into_iter().flatten().filter(|folder| folder.is_absolute());
    folders
        .chain(system.iter().map(PathBuf::from))
        .map(|folder| folder.join(name))
        .find(|file| file.is_file() && nix::unistd::access(file, nix::unistd::AccessFlags::X_OK).is_ok())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn where_it_is_looked_for() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().to_str().unwrap();
        let found = |path: &str, system: &[&str]| find_in("tool", Some(OsStr::new(path)), system);
        assert_eq!(found(path, &[]), None);
        let file = folder.path().join("tool");
        fs::write(&file, "").unwrap();
        fs::set_permissions(&file, PermissionsExt::from_mode(0o755)).unwrap();
        assert_eq!(found(&format!("/none:{path}"), &[]).as_ref(), Some(&file));
        assert_eq!(found("/none", &[path]).as_ref(), Some(&file));
        assert_eq!(find_in("tool", None, &[path]).as_ref(), Some(&file));
        fs::set_permissions(&file, PermissionsExt::from_mode(0o644)).unwrap();
        assert_eq!(found(path, &[]), None);
    }
}
