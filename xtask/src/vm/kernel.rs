//! Where the lab's kernel comes from, and which of its modules the guest needs.
//!
//! A kernel is the host's own, a package of Debian (fetched by name with apt into Congo's cache and unpacked
//! there: nothing is installed), or what a learner names: an image, an unpacked package or a `.deb`.
//! Modules are loaded in an order computed here, since an unpacked package has no `modules.dep`: that file is
//! written when a package is installed. Man pages: modinfo(8), modules.dep(5), apt-get(8), dpkg-deb(1).

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

/// The versions that `--kernel VERSION` and the matrix know, with the release of Debian that has each.
pub const PACKAGED: [(&str, &str); 3] = [("5.10", "bullseye"), ("6.1", "bookworm"), ("6.12", "trixie")];

/// What is fetched when the host's own kernel cannot be read: the one of Debian 12.
const DEFAULT: &str = "6.1";

/// A kernel that can be booted.
#[derive(Debug, Clone)]
pub struct Kernel {
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
    /// The kernel that the user wants: a packaged version, a path, or the default.
    ///
    /// # Errors
    /// When it is neither, cannot be read, or cannot be fetched; the error says what can be given instead.
    pub fn find(wanted: Option<&str>) -> Result<Kernel> {
        match wanted {
            None => Kernel::of_host().map_or_else(|_| packaged(DEFAULT), Ok),
            Some(version) if PACKAGED.iter().any(|(known, _)| *known == version) => packaged(version),
            Some(path) if Path::new(path).exists() => Kernel::at(Path::new(path)),
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
        Kernel::of_image(image, Path::new("/"))
    }

    fn at(path: &Path) -> Result<Kernel> {
        if path.extension().is_some_and(|extension| extension == "deb") {
            let name = path.file_stem().context("a .deb without a name")?;
            let folder = cache()?.join(name);
            if !folder.exists() {
                unpack(path, &folder)?;
            }
            return Kernel::in_folder(&folder);
        }
        if path.is_dir() {
            return Kernel::in_folder(path);
        }
        let near = path.parent().and_then(Path::parent).unwrap_or(Path::new("/"));
        let kernel = Kernel::of_image(path, near)?;
        if kernel.modules.is_some() { Ok(kernel) } else { Kernel::of_image(path, Path::new("/")) }
    }

    /// The kernel in an unpacked package.
    fn in_folder(folder: &Path) -> Result<Kernel> {
        let boot = folder.join("boot");
        let entries =
            boot.read_dir().with_context(|| format!("looking for a kernel in {}", boot.display()))?;
        let image = entries
            .filter_map(|entry| Some(entry.ok()?.path()))
            .find(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("vmlinuz")));
        Kernel::of_image(&image.with_context(|| format!("no vmlinuz in {}", boot.display()))?, folder)
    }

    fn of_image(image: &Path, root: &Path) -> Result<Kernel> {
        let release = release(image)?;
        let places = [root.join("lib/modules").join(&release), root.join("usr/lib/modules").join(&release)];
        let modules = places.into_iter().find(|place| place.is_dir());
        Ok(Kernel { release, image: image.to_owned(), modules })
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
    let output =
        Command::new(program).arg("-dc").arg(file).stderr(Stdio::inherit()).output().with_context(|| {
            format!("starting {program} to decompress {}: is it installed?", file.display())
        })?;
    ensure!(output.status.success(), "{program} cannot decompress {}", file.display());
    Ok(output.stdout)
}

/// The release that is written in an image: the field `kernel_version` of the boot protocol's header, at
/// 0x20e, is the place of the string, less 0x200. Source: Documentation/arch/x86/boot.rst.
fn release(image: &Path) -> Result<String> {
    let bytes = fs::read(image).with_context(|| format!("reading the kernel {}", image.display()))?;
    let field = bytes.get(0x20e..0x210).filter(|_| bytes.get(0x202..0x206) == Some(b"HdrS".as_slice()));
    let field = field.with_context(|| format!("{} is not a kernel image for x86-64", image.display()))?;
    let at = usize::from(u16::from_le_bytes([field[0], field[1]])) + 0x200;
    let text = bytes.get(at..).unwrap_or_default().split(|&byte| byte == b' ' || byte == 0).next();
    Ok(String::from_utf8_lossy(text.unwrap_or_default()).into_owned())
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
pub fn cached(version: &str) -> Option<Kernel> {
    Kernel::in_folder(&cache().ok()?.join(version)).ok()
}

/// A kernel of Debian, from the cache or fetched into it.
fn packaged(version: &str) -> Result<Kernel> {
    if let Some(kernel) = cached(version) {
        return Ok(kernel);
    }
    let folder = cache()?.join(version);
    fetch(version, &folder).with_context(|| {
        format!(
            "kernel {version} cannot be fetched; give another by --kernel PATH: a vmlinuz, or the .deb of a \
             package \
             linux-image-{version}…-cloud-amd64"
        )
    })?;
    Kernel::in_folder(&folder)
}

/// Fetches a kernel's package and unpacks it.
///
/// apt does so with a state of its own beside the cache: the host's lists and sources stay as they are, and
/// no root is needed. The mirror is the one that the host itself uses.
fn fetch(version: &str, folder: &Path) -> Result<()> {
    let (_, suite) =
        PACKAGED.iter().find(|(known, _)| *known == version).context("not a packaged version")?;
    let mirror = mirror()?;
    fs::create_dir_all(cache()?)?;
    let apt = tempfile::tempdir_in(cache()?)?;
    let path = apt.path().to_str().context("the cache's path is not UTF-8")?;
    fs::create_dir_all(apt.path().join("lists/partial"))?;
    fs::create_dir_all(apt.path().join("archives/partial"))?;
    fs::write(apt.path().join("status"), "")?;
    fs::write(apt.path().join("sources.list"), format!("deb [arch=amd64] {mirror} {suite} main\n"))?;
    let configuration = apt.path().join("apt.conf");
    fs::write(
        &configuration,
        format!(
            "Dir::State \"{path}\";\nDir::State::status \"{path}/status\";\nDir::Cache \"{path}\";\n\
             Dir::Etc::sourcelist \"{path}/sources.list\";\nDir::Etc::sourceparts \"-\";\n\
             Acquire::Languages \"none\";\nAPT::Sandbox::User \"root\";\n\
             #clear APT::Update::Post-Invoke;\n#clear APT::Update::Post-Invoke-Success;\n"
        ),
    )?;
    let run = |program: &str, args: &[&str]| {
        let output = Command::new(program)
            .args(args)
            // Read last: the host's own configuration holds, where it is not set otherwise here.
            .arg("--config-file")
            .arg(&configuration)
            .current_dir(path)
            .stderr(Stdio::inherit())
            .output()
            .with_context(|| format!("starting {program}"))?;
        ensure!(output.status.success(), "{program} {} failed", args.join(" "));
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    };
    eprintln!("xtask: fetching kernel {version} of Debian {suite}, once, into {}", folder.display());
    run("apt-get", &["update", "--quiet=2", "--error-on=any"])?;
    let pattern = format!("^linux-image-{}\\..*-cloud-amd64$", version.replace('.', "\\."));
    let found = run("apt-cache", &["search", "--names-only", &pattern])?;
    let packages = found.lines().filter_map(|line| line.split_whitespace().next());
    let newest =
        packages.max_by_key(|name| numbers(name)).with_context(|| format!("{suite} has no such package"))?;
    run("apt-get", &["download", "--quiet=2", newest])?;
    let file = apt.path().read_dir()?.filter_map(|entry| Some(entry.ok()?.path()));
    let mut files = file.filter(|path| path.extension().is_some_and(|extension| extension == "deb"));
    unpack(&files.next().context("apt-get download left no .deb")?, folder)
}

/// The numbers in a name, so that 6.1.0-100 comes after 6.1.0-99.
fn numbers(name: &str) -> Vec<u64> {
    name.split(|c: char| !c.is_ascii_digit()).filter_map(|number| number.parse().ok()).collect()
}

/// The address from which the host gets its own Debian packages.
fn mirror() -> Result<String> {
    let system = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let field = |key: &str| {
        system.lines().find_map(|line| Some(line.strip_prefix(key)?.strip_prefix('=')?.trim_matches('"')))
    };
    ensure!(
        field("ID") == Some("debian"),
        "this host is not Debian, so it has no mirror of Debian's packages"
    );
    let suite = field("VERSION_CODENAME").context("/etc/os-release does not name the release")?;
    let output = Command::new("apt-get")
        .args(["indextargets", "--format", "$(RELEASE) $(SITE)", "Created-By: Packages"])
        .output()
        .context("starting apt-get")?;
    let targets = String::from_utf8_lossy(&output.stdout).into_owned();
    let site = targets.lines().find_map(|line| line.strip_prefix(suite)?.strip_prefix(' '));
    Ok(site.with_context(|| format!("apt's sources have no entry for {suite}"))?.to_owned())
}

/// Unpacks a package beside its final place and renames it: an interrupted run leaves no half kernel.
fn unpack(package: &Path, folder: &Path) -> Result<()> {
    let parent = folder.parent().context("the cache has no parent")?;
    fs::create_dir_all(parent)?;
    let half = tempfile::tempdir_in(parent)?;
    let status = Command::new("dpkg-deb")
        .arg("-x")
        .args([package, half.path()])
        .status()
        .context("starting dpkg-deb (of the package dpkg)")?;
    ensure!(status.success(), "dpkg-deb cannot unpack {}", package.display());
    if let Err(error) = fs::rename(half.path(), folder) {
        // Somebody else was faster.
        ensure!(folder.exists(), "renaming {}: {error}", half.path().display());
    }
    Ok(())
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
        let error = Kernel::find(file.path().to_str()).unwrap_err();
        assert!(error.to_string().contains("not a kernel image"), "{error:#}");
        let error = Kernel::find(Some("4.1")).unwrap_err().to_string();
        assert!(error.contains("5.10") && error.contains("--kernel 4.1"), "{error}");
    }
}
