//! Where the lab's kernel comes from, and which of its modules the guest needs.
//!
//! A kernel is the host's own, a package of Debian (unpacked into Congo's cache), or what a learner names: an
//! image, an unpacked package or a `.deb`. Modules are loaded in an order computed here, since an unpacked
//! package has no `modules.dep`: that file is written when a package is installed. Man pages: modinfo(8),
//! modules.dep(5).

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

use super::apt::{self, Apt};
use super::architecture::Architecture;

/// The versions that `--kernel VERSION` and the matrix know, with the release of Debian that has each.
pub const PACKAGED: [(&str, &str); 3] = [("5.10", "bullseye"), ("6.1", "bookworm"), ("6.12", "trixie")];

/// What is fetched when the host's own kernel cannot be read: the one of Debian 12.
const DEFAULT: &str = "6.1";

/// A kernel that can be booted.
#[derive(Debug, Clone)]
pub struct Kernel {
    /// For which machine it is.
    pub architecture: Architecture,
    /// What `uname -r` says in the guest.
    pub release: String,
    /// The compressed image, as QEMU's `-kernel` takes it.
    pub image: PathBuf,
    /// The folder with the modules of this release; there may be none.
    modules: Option<PathBuf>,
}

/// A kernel module, decompressed.
#[derive(Debug)]
pub struct Module {
    /// With underscores, as lsmod(8) names it.
    pub name: String,
    /// The object file.
    pub bytes: Vec<u8>,
}

impl Kernel {
    /// The kernel that the user wants: a packaged version, a path, or the default. The host's own is the
    /// default of its architecture.
    ///
    /// # Errors
    /// When it is neither, cannot be read, or cannot be fetched; the error says what can be given instead.
    pub fn find(wanted: Option<&str>, architecture: Architecture) -> Result<Kernel> {
        match wanted {
            None if architecture.is_host() => {
                Kernel::of_host().map_or_else(|_| packaged(DEFAULT, architecture), Ok)
            }
            None => packaged(DEFAULT, architecture),
            Some(version) if PACKAGED.iter().any(|(known, _)| *known == version) => {
                packaged(version, architecture)
            }
            Some(path) if Path::new(path).exists() => Kernel::at(Path::new(path), architecture),
            Some(other) => {
                let versions: Vec<_> = PACKAGED.iter().map(|(version, _)| *version).collect();
                bail!(
                    "--kernel {other}: there is no such file, and no such version: accepted are {}, or the \
                     path of a \
                     kernel image (vmlinuz), of a folder with boot/ and lib/modules/, or of a linux-image \
                     .deb",
                    versions.join(", ")
                )
            }
        }
    }

    /// The kernel that the host runs.
    ///
    /// # Errors
    /// When there is no image of it that this user may read.
    pub fn of_host() -> Result<Kernel> {
        let release = fs::read_to_string("/proc/sys/kernel/osrelease")?.trim().to_owned();
        let places = [format!("/boot/vmlinuz-{release}"), format!("/usr/lib/modules/{release}/vmlinuz")];
        let image = places.iter().map(Path::new).find(|image| fs::File::open(image).is_ok());
        let image = image.with_context(|| {
            format!("the host's kernel, {release}, is not under /boot, or may be read by root only")
        })?;
        Kernel::of_image(image, Path::new("/"), Architecture::of_host()?)
    }

    fn at(path: &Path, architecture: Architecture) -> Result<Kernel> {
        if path.extension().is_some_and(|extension| extension == "deb") {
            let name = path.file_stem().context("a .deb without a name")?;
            let folder = cache()?.join(name);
            if !folder.exists() {
                apt::unpack(&[path.to_owned()], &folder)?;
            }
            return Kernel::in_folder(&folder, architecture);
        }
        if path.is_dir() {
            return Kernel::in_folder(path, architecture);
        }
        let near = path.parent().and_then(Path::parent).unwrap_or(Path::new("/"));
        let kernel = Kernel::of_image(path, near, architecture)?;
        if kernel.modules.is_some() {
            Ok(kernel)
        } else {
            Kernel::of_image(path, Path::new("/"), architecture)
        }
    }

    /// The kernel in an unpacked package.
    fn in_folder(folder: &Path, architecture: Architecture) -> Result<Kernel> {
        let boot = folder.join("boot");
        let entries =
            boot.read_dir().with_context(|| format!("looking for a kernel in {}", boot.display()))?;
        let image = entries
            .filter_map(|entry| Some(entry.ok()?.path()))
            .find(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("vmlinuz")));
        let image = image.with_context(|| format!("no vmlinuz in {}", boot.display()))?;
        Kernel::of_image(&image, folder, architecture)
    }

    fn of_image(image: &Path, root: &Path, architecture: Architecture) -> Result<Kernel> {
        let bytes = fs::read(image).with_context(|| format!("reading the kernel {}", image.display()))?;
        let release = match architecture {
            Architecture::X86_64 => release_of_x86_64(&bytes),
            Architecture::Aarch64 if bytes.starts_with(GZIP) => release_of_aarch64(&unzipped(image, "gzip")?),
            Architecture::Aarch64 => release_of_aarch64(&bytes),
        };
        let release = release.with_context(|| {
            format!("{} is not a kernel image for {}", image.display(), architecture.name())
        })?;
        let places = [root.join("lib/modules").join(&release), root.join("usr/lib/modules").join(&release)];
        let modules = places.into_iter().find(|place| place.is_dir());
        Ok(Kernel { architecture, release, image: image.to_owned(), modules })
    }

    /// The modules of these names (between blanks) and all that they depend on, each after what it needs.
    /// What is built into the kernel, or what this kernel does not have, is left out.
    ///
    /// # Errors
    /// When a module cannot be read or decompressed.
    pub fn modules(&self, wanted: &str) -> Result<Vec<Module>> {
        let mut files = HashMap::new();
        if let Some(folder) = &self.modules {
            index(&folder.join("kernel"), &mut files)?;
        }
        let mut loaded = Vec::new();
        for name in wanted.split_whitespace() {
            add(name, &files, &mut loaded)?;
        }
        Ok(loaded)
    }
}

/// Finds every module under a folder, by its name.
fn index(folder: &Path, files: &mut HashMap<String, PathBuf>) -> Result<()> {
    for entry in folder.read_dir().with_context(|| format!("reading {}", folder.display()))? {
        let entry = entry?;
        let file = entry.file_name().to_string_lossy().into_owned();
        if entry.file_type()?.is_dir() {
            index(&entry.path(), files)?;
        } else if let Some((name, _)) = file.split_once(".ko") {
            files.insert(name.replace('-', "_"), entry.path());
        }
    }
    Ok(())
}

/// Adds a module behind what it depends on.
fn add(name: &str, files: &HashMap<String, PathBuf>, loaded: &mut Vec<Module>) -> Result<()> {
    let known = loaded.iter().any(|module| module.name == name);
    let Some(file) = files.get(name).filter(|_| !known) else { return Ok(()) };
    let bytes = decompressed(file)?;
    for needed in depends(&bytes) {
        add(&needed, files, loaded)?;
    }
    loaded.push(Module { name: name.to_owned(), bytes });
    Ok(())
}

/// The names in the `depends=` entry of the section .modinfo: a list of strings, each ended by a zero byte.
fn depends(module: &[u8]) -> Vec<String> {
    const KEY: &[u8] = b"\0depends=";
    let Some(at) = module.windows(KEY.len()).position(|window| window == KEY) else { return Vec::new() };
    let value = module[at + KEY.len()..].split(|&byte| byte == 0).next().unwrap_or_default();
    let names = String::from_utf8_lossy(value);
    names.split(',').filter(|name| !name.is_empty()).map(|name| name.replace('-', "_")).collect()
}

/// A module's object file: distributions compress them, each in its way.
fn decompressed(file: &Path) -> Result<Vec<u8>> {
    let program = match file.extension().and_then(|extension| extension.to_str()) {
        Some("xz") => "xz",
        Some("zst") => "zstd",
        Some("gz") => "gzip",
        _ => return fs::read(file).with_context(|| format!("reading {}", file.display())),
    };
    unzipped(file, program)
}

fn unzipped(file: &Path, program: &str) -> Result<Vec<u8>> {
    let output =
        Command::new(program).arg("-dc").arg(file).stderr(Stdio::inherit()).output().with_context(|| {
            format!("starting {program} to decompress {}: is it installed?", file.display())
        })?;
    ensure!(output.status.success(), "{program} cannot decompress {}", file.display());
    Ok(output.stdout)
}

/// How a file begins that gzip(1) made. Some distributions compress the image of arm64 as a whole, which QEMU
/// undoes.
const GZIP: &[u8] = &[0x1f, 0x8b];

/// The release that is written in an image: the field `kernel_version` of the boot protocol's header, at
/// 0x20e, is the place of the string, less 0x200. Source: Documentation/arch/x86/boot.rst.
fn release_of_x86_64(image: &[u8]) -> Option<String> {
    let field = image.get(0x20e..0x210).filter(|_| image.get(0x202..0x206) == Some(b"HdrS".as_slice()))?;
    word(image.get(usize::from(u16::from_le_bytes([field[0], field[1]])) + 0x200..)?)
}

/// The same for arm64, whose header has no such field: it has a magic number at 0x38. But the image is not
/// compressed, and has somewhere what /proc/version says. Source: Documentation/arch/arm64/booting.rst.
fn release_of_aarch64(image: &[u8]) -> Option<String> {
    const BANNER: &[u8] = b"Linux version ";
    image.get(0x38..0x3c).filter(|magic| magic == b"ARM\x64")?;
    // A format string begins the same.
    let found = image.windows(BANNER.len() + 1);
    let mut found = found.enumerate().filter(|(_, window)| window.starts_with(BANNER));
    let (at, _) = found.find(|(_, window)| window[BANNER.len()].is_ascii_digit())?;
    word(&image[at + BANNER.len()..])
}

/// The text up to a blank or to its end.
fn word(text: &[u8]) -> Option<String> {
    let word = text.split(|&byte| byte == b' ' || byte == 0).next()?;
    Some(String::from_utf8_lossy(word).into_owned())
}

/// Where unpacked kernels are kept: fetching one takes half a minute, and the network.
///
/// # Errors
/// When neither `CONGO_HOME`, `XDG_CACHE_HOME` nor `HOME` is set.
pub fn cache() -> Result<PathBuf> {
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let folder = set("CONGO_HOME")
        .or_else(|| set("XDG_CACHE_HOME").map(|cache| cache.join("congo")))
        .or_else(|| set("HOME").map(|home| home.join(".cache/congo")));
    Ok(folder.context("no folder for kernels: set CONGO_HOME")?.join("kernels"))
}

/// The kernel of a packaged version if it is in the cache.
pub fn cached(version: &str, architecture: Architecture) -> Option<Kernel> {
    Kernel::in_folder(&place(version, architecture).ok()?, architecture).ok()
}

fn place(version: &str, architecture: Architecture) -> Result<PathBuf> {
    Ok(cache()?.join(match architecture {
        Architecture::X86_64 => version.to_owned(),
        other => format!("{version}-{}", other.debian()),
    }))
}

/// A kernel of Debian, from the cache or fetched into it.
fn packaged(version: &str, architecture: Architecture) -> Result<Kernel> {
    if let Some(kernel) = cached(version, architecture) {
        return Ok(kernel);
    }
    let folder = place(version, architecture)?;
    fetch(version, architecture, &folder).with_context(|| {
        format!(
            "kernel {version} cannot be fetched; give another by --kernel PATH: a vmlinuz, or the .deb of a \
             package linux-image-{version}…-cloud-{}",
            architecture.debian()
        )
    })?;
    Kernel::in_folder(&folder, architecture)
}

/// Fetches a kernel's package and unpacks it.
fn fetch(version: &str, architecture: Architecture, folder: &Path) -> Result<()> {
    let (_, suite) =
        PACKAGED.iter().find(|(known, _)| *known == version).context("not a packaged version")?;
    eprintln!(
        "xtask: fetching kernel {version} of Debian {suite} for {}, once, into {}",
        architecture.debian(),
        folder.display()
    );
    let apt = Apt::new(&cache()?, suite, architecture)?;
    let (number, debian) = (version.replace('.', "\\."), architecture.debian());
    let packages = apt.search(&format!("^linux-image-{number}\\..*-cloud-{debian}$"))?;
    let newest = packages.iter().max_by_key(|name| numbers(name));
    apt.unpack(newest.with_context(|| format!("{suite} has no such package"))?, folder)
}

/// The numbers in a name, so that 6.1.0-100 comes after 6.1.0-99.
fn numbers(name: &str) -> Vec<u64> {
    name.split(|c: char| !c.is_ascii_digit()).filter_map(|number| number.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dependencies_are_read_from_modinfo() {
        assert_eq!(
            depends(b"\0license=GPL\0depends=nf-tables,x_tables\0name=y\0"),
            ["nf_tables", "x_tables"]
        );
        assert!(depends(b"\0depends=\0name=y\0").is_empty());
    }

    #[test]
    fn a_module_comes_after_what_it_needs() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("net")).unwrap();
        fs::write(folder.path().join("net/top.ko"), b"\0depends=mid-dle\0").unwrap();
        fs::write(folder.path().join("net/mid-dle.ko"), b"\0depends=base\0").unwrap();
        fs::write(folder.path().join("base.ko"), b"\0depends=\0").unwrap();
        let mut files = HashMap::new();
        index(folder.path(), &mut files).unwrap();
        let mut loaded = Vec::new();
        add("top", &files, &mut loaded).unwrap();
        add("base", &files, &mut loaded).unwrap();
        add("absent", &files, &mut loaded).unwrap();
        let names: Vec<_> = loaded.iter().map(|module| module.name.as_str()).collect();
        assert_eq!(names, ["base", "mid_dle", "top"]);
    }

    #[test]
    fn the_newest_package_is_found_by_numbers() {
        let names = ["linux-image-6.1.0-9-cloud-amd64", "linux-image-6.1.0-47-cloud-amd64"];
        assert_eq!(names.iter().max_by_key(|name| numbers(name)), Some(&names[1]));
    }

    #[test]
    fn what_is_no_kernel_is_refused() {
        let file = tempfile::NamedTempFile::new().unwrap();
        for architecture in [Architecture::X86_64, Architecture::Aarch64] {
            let error = Kernel::find(file.path().to_str(), architecture).unwrap_err();
            assert!(error.to_string().contains("not a kernel image"), "{error:#}");
        }
        let error = Kernel::find(Some("4.1"), Architecture::X86_64).unwrap_err().to_string();
        assert!(error.contains("5.10") && error.contains("--kernel 4.1"), "{error}");
    }

    #[test]
    fn the_release_of_an_arm64_image_is_found_and_that_of_another_machine_is_not() {
        let mut image = vec![0; 0x100];
        image[0x38..0x3c].copy_from_slice(b"ARM\x64");
        image.extend_from_slice(b"Linux version %s\0Linux version 6.1.0-50-cloud-arm64 (debian\0");
        assert_eq!(release_of_aarch64(&image).as_deref(), Some("6.1.0-50-cloud-arm64"));
        assert_eq!(release_of_x86_64(&image), None);
        image[0x38] = 0;
        assert_eq!(release_of_aarch64(&image), None);
    }
}
