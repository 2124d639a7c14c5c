//! The files that one program of a host needs besides itself, on a machine that has nothing of the kind.
//!
//! The rules are those by which a root's programs get their libraries: `elf` has them. Touches no kernel
//! object but the files that it reads. Man pages: ld.so(8), elf(5).

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::elf::{Loader, musl_path_file};
use super::host::Host;
use crate::sys::error::{Error, Result};

/// The files without which a program does not start. All paths are the host's, absolute, and without links in
/// their directories: a copy of each at its own path will do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Libraries {
    /// The loader, and the libraries that it loads.
    pub files: BTreeSet<PathBuf>,
    /// The symbolic links on the way to them: where each stands, and what it says.
    pub links: BTreeMap<PathBuf, PathBuf>,
}

/// The files that the program at the absolute path `program` needs. All paths are those of a host whose root
/// directory is `host`, in general `/`.
///
/// Nothing, if the program is linked statically, or is no ELF file: a script's interpreter is not looked for.
///
/// # Errors
///
/// When there is no such program, or when a library or the loader is missing, so that it cannot run on the
/// host either.
pub fn libraries(host: &Path, program: &Path) -> Result<Libraries> {
    let cannot = |why: &str| Error::new(format!("take {} with its libraries: {why}", program.display()));
    let host = Host { root: host };
    let mut loader = Loader::new(&host);
    let real = host.resolve(program).ok_or_else(|| cannot("there is no such file"))?.real;
    let dynamic = loader.object(&real).filter(|object| object.interpreter.is_some());
    let Some(object) = dynamic else { return Ok(Libraries::default()) };
    let mut found = loader.needs(&real, &object).map_err(|missing| cannot(&missing))?;
    found.extend(loader.loaded_by_libc(&real, &object));
    let directories = object.interpreter.as_deref().and_then(musl_path_file);
    found.extend(directories.and_then(|file| host.resolve(Path::new(&file))));
    let files: BTreeSet<_> = found.iter().map(|found| found.real.clone()).collect();
    let links = found.into_iter().flat_map(|found| found.links);
    let links = links.filter(|(at, _)| !files.contains(at)).collect();
    Ok(Libraries { files, links })
}
