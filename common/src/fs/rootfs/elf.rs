//! What an ELF program needs in order to run: its loader, its libraries, and theirs.
//!
//! Read from the files themselves, as the loader would: `PT_INTERP`, `DT_NEEDED`, `DT_RPATH`, `DT_RUNPATH`,
//! then the loader's configuration, then its built-in directories. Not asked from ldd(1): it runs the
//! program's loader, and knows only the host it runs on.
//!
//! Why not the crate `lddtree` (0.3)? It ignores the DT_RUNPATH of libraries. It follows links out of the
//! host's root, and does not tell which links it has followed. It knows musl's rules only on a machine that
//! has musl.
//!
//! Sources: elf(5), ld.so(8), ldconfig(8), the gABI chapter "Dynamic Linking", musl's manual.

use std::collections::{HashMap, HashSet};
use std::ffi::{CStr, OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use goblin::container::Ctx;
use goblin::elf::dynamic::{DT_NEEDED, DT_RPATH, DT_RUNPATH};
use goblin::elf::header::{self, ET_DYN, ET_EXEC};
use goblin::elf::program_header::{PT_INTERP, PT_LOAD};
use goblin::elf::{Dynamic, Elf, ProgramHeader};

use super::host::{Found, Host};
use crate::sys::folder::names_in;

/// glibc's built-in directories of every distribution; a library of the wrong kind in one of them is passed
/// over.
/// `{}` is Debian's name of the architecture.
const GLIBC_DIRS: [&str; 8] =
    ["/lib/{}", "/usr/lib/{}", "/lib64", "/usr/lib64", "/lib", "/usr/lib", "/lib32", "/usr/lib32"];
/// musl's built-in directories, unless `/etc/ld-musl-ARCH.path` names others.
const MUSL_DIRS: &str = "/lib:/usr/local/lib:/usr/lib";
/// musl's loader is all of these libraries itself, whatever follows in the name.
const MUSL_ITSELF: [&str; 8] =
    ["libc.", "libpthread.", "librt.", "libm.", "libdl.", "libcrypt.", "libutil.", "libxnet."];

/// Libraries that no program names, because libc itself loads them. A glibc older than 2.34 loads its name
/// service: without that, `id` and `ls -l` know no names. `pthread_cancel` needs the last one.
const LOADED_BY_LIBC: [&str; 4] = ["libnss_files.so.2", "libnss_dns.so.2", "libresolv.so.2", "libgcc_s.so.1"];

/// For which machine an ELF file is. A program can only load libraries of its own kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Kind {
    machine: u16,
    class: u8,
    byte_order: u8,
}

/// What the loader reads of an ELF file.
#[derive(Debug, Clone)]
pub(super) struct Object {
    kind: Kind,
    /// `PT_INTERP`: the loader; none for a static program and for most libraries.
    pub(super) interpreter: Option<PathBuf>,
    needed: Vec<OsString>,
    rpath: Vec<OsString>,
    runpath: Vec<OsString>,
}

impl Object {
    /// Reads an executable or a library; none if it is neither, or broken.
    pub(super) fn parse(bytes: &[u8]) -> Option<Object> {
        let header = Elf::parse_header(bytes).ok()?;
        if !matches!(header.e_type, ET_EXEC | ET_DYN) {
            return None;
        }
        let context = Ctx::new(header.container().ok()?, header.endianness().ok()?);
        let offset = usize::try_from(header.e_phoff).ok()?;
        let segments = ProgramHeader::parse(bytes, offset, header.e_phnum.into(), context).ok()?;
        let is_cut_off = |segment: &ProgramHeader| {
            segment.p_type == PT_LOAD
                && segment.p_offset.checked_add(segment.p_filesz).is_none_or(|end| end > bytes.len() as u64)
        };
        if segments.is_empty() || segments.iter().any(is_cut_off) {
            return None;
        }
        let mut object = Object {
            kind: Kind {
                machine: header.e_machine,
                class: header.e_ident[header::EI_CLASS],
                byte_order: header.e_ident[header::EI_DATA],
            },
            interpreter: None,
            needed: Vec::new(),
            rpath: Vec::new(),
            runpath: Vec::new(),
        };
        if let Some(segment) = segments.iter().find(|segment| segment.p_type == PT_INTERP) {
            object.interpreter = Some(string(bytes, segment.p_offset)?.into());
        }
        if let Some(dynamic) = Dynamic::parse(bytes, &segments, context).ok()? {
            for entry in &dynamic.dyns {
                let list = match entry.d_tag {
                    DT_NEEDED => &mut object.needed,
                    DT_RPATH => &mut object.rpath,
                    DT_RUNPATH => &mut object.runpath,
                    _ => continue,
                };
                let text = string(bytes, (dynamic.info.strtab as u64).checked_add(entry.d_val)?)?;
                match entry.d_tag {
                    DT_NEEDED => list.push(text.to_owned()),
                    _ => list.extend(split(text)),
                }
            }
        }
        Some(object)
    }

    /// The same program, had it been linked with the library `name` alone.
    fn needing(&self, name: &str) -> Rc<Object> {
        Rc::new(Object { needed: vec![name.into()], ..self.clone() })
    }

    /// Is this a program of musl's loader? The two loaders search by different rules.
    fn is_musl(&self) -> bool {
        let name = self.interpreter.as_deref().and_then(Path::file_name);
        name.is_some_and(|name| name.as_bytes().starts_with(b"ld-musl-"))
    }
}

/// The string that ends with a NUL byte, from `offset` on.
fn string(bytes: &[u8], offset: u64) -> Option<&OsStr> {
    let rest = bytes.get(usize::try_from(offset).ok()?..)?;
    Some(OsStr::from_bytes(CStr::from_bytes_until_nul(rest).ok()?.to_bytes()))
}

/// The elements of a search path.
fn split(path: &OsStr) -> impl Iterator<Item = OsString> {
    path.as_bytes().split(|&byte| byte == b':').map(|part| OsStr::from_bytes(part).to_owned())
}

/// A file that the loader has put into the process, and because of which other one.
struct Loaded {
    object: Rc<Object>,
    origin: PathBuf,
    loader: Option<usize>,
}

/// The loader's work on one host: from a name to a library.
pub(super) struct Loader<'a> {
    host: &'a Host<'a>,
    /// The directories that `/etc/ld.so.conf` names.
    configured: Vec<PathBuf>,
    objects: HashMap<PathBuf, Option<Rc<Object>>>,
    /// What the system's directories had, as most programs need the same few libraries.
    known: HashMap<(OsString, Kind, bool), Option<Found>>,
}

impl<'a> Loader<'a> {
    pub(super) fn new(host: &'a Host<'a>) -> Self {
        let mut configured = Vec::new();
        read_configuration(host, Path::new("/etc/ld.so.conf"), 0, &mut configured);
        Loader { host, configured, objects: HashMap::new(), known: HashMap::new() }
    }

    /// The ELF file at a path without links; none if it is no ELF file, or broken, or not readable.
    pub(super) fn object(&mut self, real: &Path) -> Option<Rc<Object>> {
        if let Some(known) = self.objects.get(real) {
            return known.clone();
        }
        let object = self.host.read(real).ok().and_then(|bytes| Object::parse(&bytes)).map(Rc::new);
        self.objects.insert(real.to_owned(), object.clone());
        object
    }

    /// Every file that the program at `real` needs besides itself, or why it cannot run.
    pub(super) fn needs(&mut self, real: &Path, program: &Rc<Object>) -> Result<Vec<Found>, String> {
        let Some(interpreter) = &program.interpreter else {
            // A static program, static-pie too.
            return if program.needed.is_empty() { Ok(Vec::new()) } else { Err("it names no loader".into()) };
        };
        let missing = |name: &OsStr| format!("{} is missing", Path::new(name).display());
        let found = self.host.resolve(interpreter).ok_or_else(|| missing(interpreter.as_os_str()))?;
        if self.object(&found.real).is_none_or(|object| object.kind != program.kind) {
            return Err(missing(interpreter.as_os_str()));
        }
        let musl = program.is_musl();
        // The loader is there already, so a library that names it gets it without a search.
        let mut names: HashSet<OsString> = interpreter.file_name().map(OsStr::to_owned).into_iter().collect();
        let mut needs = vec![found];
        let mut loaded = vec![Loaded { object: program.clone(), origin: parent(real), loader: None }];
        let mut next = 0;
        // The list grows while it is walked: this is the breadth-first order of the loader.
        while next < loaded.len() {
            for name in loaded[next].object.needed.clone() {
                let itself = MUSL_ITSELF.iter().any(|start| name.as_bytes().starts_with(start.as_bytes()));
                if (musl && itself) || !names.insert(name.clone()) {
                    continue;
                }
                let found = self.library(&name, &loaded, next, musl).ok_or_else(|| missing(&name))?;
                let object = self.object(&found.real).ok_or_else(|| missing(&name))?;
                loaded.push(Loaded { object, origin: parent(&found.real), loader: Some(next) });
                needs.push(found);
            }
            next += 1;
        }
        Ok(needs)
    }

    /// What libc may load into the program at `real`, as far as the host has it.
    pub(super) fn loaded_by_libc(&mut self, real: &Path, program: &Rc<Object>) -> Vec<Found> {
        // As if the program needed it too: so it is of its kind, and found where it finds.
        let found = LOADED_BY_LIBC.iter().filter_map(|name| self.needs(real, &program.needing(name)).ok());
        found.flatten().collect()
    }

    /// Finds a library that the file `by` of `loaded` needs, in the order of ld.so(8).
    fn library(&mut self, name: &OsStr, loaded: &[Loaded], by: usize, musl: bool) -> Option<Found> {
        let kind = loaded[0].object.kind;
        if name.as_bytes().contains(&b'/') {
            return expand(name, &loaded[by].origin, kind)
                .into_iter()
                .find_map(|path| self.fits(&path, kind));
        }
        let own = &loaded[by].object;
        let mut directories = Vec::new();
        // glibc: a DT_RPATH counts for its file and for all libraries that are loaded because of that file.
        // But if the file that needs the library has a DT_RUNPATH, that alone counts. musl: both are
        // inherited.
        let mut user = Some(by).filter(|_| musl || own.runpath.is_empty());
        while let Some(index) = user {
            let Loaded { object, origin, loader } = &loaded[index];
            let path = match (object.runpath.is_empty(), musl) {
                (true, _) => &object.rpath,
                (false, true) => &object.runpath,
                (false, false) => &Vec::new(),
            };
            directories.extend(path.iter().flat_map(|part| expand(part, origin, kind)));
            user = *loader;
        }
        if !musl {
            directories.extend(own.runpath.iter().flat_map(|part| expand(part, &loaded[by].origin, kind)));
        }
        if let Some(found) = directories.iter().find_map(|directory| self.fits(&directory.join(name), kind)) {
            return Some(found);
        }
        let key = (name.to_owned(), kind, musl);
        if let Some(known) = self.known.get(&key) {
            return known.clone();
        }
        let found = if musl {
            let paths = self.musl_directories(loaded[0].object.interpreter.as_deref()?);
            paths.iter().find_map(|directory| self.fits(&directory.join(name), kind))
        } else {
            self.glibc_library(name, kind)
        };
        self.known.insert(key, found.clone());
        found
    }

    fn glibc_library(&mut self, name: &OsStr, kind: Kind) -> Option<Found> {
        let triplet = triplet(kind);
        let built_in = GLIBC_DIRS.map(|directory| PathBuf::from(directory.replace("{}", triplet)));
        for directory in self.configured.clone() {
            let Some(mut found) = self.fits(&directory.join(name), kind) else { continue };
            if !built_in.contains(&directory) {
                // The host's loader knows this directory from /etc/ld.so.cache, which the new root has not.
                // So the library is also put where libc itself is, which is always a built-in directory.
                if let Some(libc) = built_in.iter().find_map(|at| self.fits(&at.join("libc.so.6"), kind)) {
                    found.links.push((parent(&libc.real).join(name), found.real.clone()));
                }
            }
            return Some(found);
        }
        built_in.iter().find_map(|directory| self.fits(&directory.join(name), kind))
    }

    fn musl_directories(&self, interpreter: &Path) -> Vec<PathBuf> {
        let text = musl_path_file(interpreter).map(|file| self.host.read_text(&file)).unwrap_or_default();
        let text = if text.is_empty() { MUSL_DIRS } else { &text };
        text.split([':', '\n']).filter(|part| part.starts_with('/')).map(PathBuf::from).collect()
    }

    /// The library at `path`, if it is one for this kind of program.
    fn fits(&mut self, path: &Path, kind: Kind) -> Option<Found> {
        let found = self.host.resolve(path)?;
        self.object(&found.real).filter(|object| object.kind == kind).map(|_| found)
    }
}

/// Where musl's loader reads its directories: `/lib/ld-musl-x86_64.so.1` in `/etc/ld-musl-x86_64.path`.
pub(super) fn musl_path_file(interpreter: &Path) -> Option<String> {
    let name = interpreter.file_name()?.to_str()?;
    Some(format!("/etc/{}.path", name.strip_suffix(".so.1").filter(|name| name.starts_with("ld-musl-"))?))
}

/// The directories that an element of DT_RPATH or DT_RUNPATH names. None for a relative one: it would depend
/// on the working directory of whoever runs the program.
fn expand(part: &OsStr, origin: &Path, kind: Kind) -> Vec<PathBuf> {
    let Some(part) = part.to_str() else { return Vec::new() };
    let origin = origin.to_string_lossy();
    let part = part.replace("${", "$").replace("ORIGIN}", "ORIGIN").replace("LIB}", "LIB");
    let part = part.replace("$ORIGIN", &origin);
    let multiarch = format!("lib/{}", triplet(kind));
    // What $LIB means is built into each distribution's loader.
    let meanings: &[&str] = if part.contains("$LIB") { &[&multiarch, "lib64", "lib"] } else { &[""] };
    let paths = meanings.iter().map(|meaning| PathBuf::from(part.replace("$LIB", meaning)));
    paths.filter(|path| path.is_absolute()).collect()
}

/// Debian's name of the directory of an architecture; empty where there is none, which names `/lib` again.
fn triplet(kind: Kind) -> &'static str {
    match (kind.machine, kind.class) {
        (header::EM_X86_64, header::ELFCLASS64) => "x86_64-linux-gnu",
        (header::EM_X86_64, _) => "x86_64-linux-gnux32",
        (header::EM_386, _) => "i386-linux-gnu",
        (header::EM_AARCH64, _) => "aarch64-linux-gnu",
        (header::EM_ARM, _) => "arm-linux-gnueabihf",
        (header::EM_RISCV, _) => "riscv64-linux-gnu",
        (header::EM_PPC64, _) => "powerpc64le-linux-gnu",
        (header::EM_S390, _) => "s390x-linux-gnu",
        (header::EM_LOONGARCH, _) => "loongarch64-linux-gnu",
        _ => "",
    }
}

/// Reads the directories of an `ld.so.conf` and of the files that it includes.
fn read_configuration(host: &Host, file: &Path, depth: usize, directories: &mut Vec<PathBuf>) {
    // A file that includes itself would go on for ever.
    if depth > 8 {
        return;
    }
    for line in host.read_text(&file.to_string_lossy()).lines() {
        let line = line.split('#').next().unwrap_or_default().trim();
        if let Some(pattern) = line.strip_prefix("include").filter(|rest| rest.starts_with([' ', '\t'])) {
            for pattern in pattern.split_whitespace() {
                for included in matching(host, &parent(file).join(pattern)) {
                    read_configuration(host, &included, depth + 1, directories);
                }
            }
        } else if line.starts_with('/') {
            directories.push(line.split('=').next().unwrap_or_default().trim_end().into());
        }
    }
}

/// The files that a pattern names, sorted, with at most one `*`, in the last part: what ld.so.conf is written
/// with.
fn matching(host: &Host, pattern: &Path) -> Vec<PathBuf> {
    let name = pattern.file_name().unwrap_or_default().to_string_lossy();
    let Some((start, end)) = name.split_once('*') else { return vec![pattern.to_owned()] };
    let directory = parent(pattern);
    let Some(found) = host.resolve(&directory) else { return Vec::new() };
    let names = names_in(host.path(&found.real)).unwrap_or_default().into_iter();
    let names = names.filter_map(|name| name.into_string().ok());
    let fits = |name: &String| {
        name.len() >= start.len() + end.len() && name.starts_with(start) && name.ends_with(end)
    };
    let mut files: Vec<_> = names.filter(fits).map(|name| directory.join(name)).collect();
    files.sort();
    files
}

/// The directory in which an absolute path stands.
pub(super) fn parent(path: &Path) -> PathBuf {
    path.parent().unwrap_or(Path::new("/")).to_owned()
}
