//! Provides the parts of the emulated machines: emulators and tools from the distribution's
//! packages, a kernel unpacked from its package (never installed), the assembled boot
//! sector. Kept in `target/machines/`; remove that folder to start afresh.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use super::{Emulator, interpreter_is_needed};
use crate::workspace::{Workspace, output_of, succeed};

pub(super) const BOCHS_BIOS: &str = "/usr/share/bochs/BIOS-bochs-latest";
pub(super) const BOCHS_VGABIOS: &str = "/usr/share/vgabios/vgabios.bin";

/// The kernel is the one this package depends on; of all Debian's kernels it boots the
/// fastest.
const KERNEL_PACKAGE: &str = "linux-image-cloud-amd64";
const BOOT_SECTOR: &str = include_str!("../../../resources/machines/boot.S");

/// Twice the longest time-out.
const LEFT_OVER: Duration = Duration::from_secs(2 * 86_400);

/// Something that must be installed on this computer: how to check for it, and its package.
struct Need {
    /// A program on the PATH, or a file when it begins with `/`.
    file: &'static str,
    package: &'static str,
    /// The emulator that needs it; `None` when both do.
    only: Option<Emulator>,
}

const NEEDS: &[Need] = &[
    Need { file: "bochs", package: "bochs", only: Some(Emulator::Bochs) },
    Need { file: BOCHS_BIOS, package: "bochsbios", only: Some(Emulator::Bochs) },
    Need { file: BOCHS_VGABIOS, package: "vgabios", only: Some(Emulator::Bochs) },
    Need { file: "qemu-system-x86_64", package: "qemu-system-x86", only: Some(Emulator::Qemu) },
    Need {
        file: "/usr/share/seabios/bios-256k.bin",
        package: "seabios",
        only: Some(Emulator::Qemu),
    },
    Need { file: "busybox", package: "busybox-static", only: None },
    Need { file: "objcopy", package: "binutils", only: None },
    Need { file: "xz", package: "xz-utils", only: None },
    Need { file: "cpio", package: "cpio", only: None },
    Need { file: "depmod", package: "kmod", only: None },
    Need { file: "setpriv", package: "util-linux", only: None },
];

/// Everything needed to start machines with one emulator.
pub(super) struct Kit {
    /// The kernel, a bzImage.
    pub(super) kernel: PathBuf,
    /// Folder of the modules, and of the order to load them in for each KVM module.
    pub(super) modules: PathBuf,
    pub(super) busybox: PathBuf,
    /// Folder for what a machine needs only while it runs.
    pub(super) runs: PathBuf,
    cache: PathBuf,
}

/// Sets up everything for all kinds of machine, and says where it is.
///
/// # Errors
/// As [`kit`].
pub(crate) fn all(workspace: &Workspace) -> Result<()> {
    kit(workspace, Emulator::Qemu)?;
    let kit = kit(workspace, Emulator::Bochs)?;
    kit.boot_sector()?;
    println!("machines are set up in {}", kit.cache.display());
    Ok(())
}

/// Sets up what is needed for `emulator`, unless that was done before.
///
/// # Errors
/// When packages are missing and cannot be installed, or the kernel cannot be downloaded;
/// the text says what to do.
pub(super) fn kit(workspace: &Workspace, emulator: Emulator) -> Result<Kit> {
    let cache = workspace.target().join("machines");
    let runs = cache.join("runs");
    fs::create_dir_all(&runs).with_context(|| format!("cannot create {}", runs.display()))?;

    // One set-up at a time, since machines may be started side by side. Unlocked when dropped.
    let lock = cache.join("lock");
    let lock = File::create(&lock).with_context(|| format!("cannot create {}", lock.display()))?;
    lock.lock().context("cannot lock target/machines")?;

    remove_left_over(&runs);
    install_missing(emulator)?;
    let kernel = cache.join("kernel");
    if !kernel.exists() {
        unpack_kernel(&cache, &kernel).context("cannot get a kernel for the machines")?;
    }
    let busybox = on_path("busybox").context("busybox has disappeared")?;
    Ok(Kit {
        kernel: kernel.join("vmlinuz"),
        modules: kernel.join("modules"),
        busybox,
        runs,
        cache,
    })
}

/// Removes folders of runs that were killed. They are older than any run can last.
fn remove_left_over(runs: &Path) {
    let is_old = |path: &Path| {
        let age =
            path.metadata().and_then(|metadata| metadata.modified()).map(|time| time.elapsed());
        age.is_ok_and(|age| age.is_ok_and(|age| age > LEFT_OVER))
    };
    let entries = fs::read_dir(runs).into_iter().flatten().flatten();
    for path in entries.map(|entry| entry.path()).filter(|path| is_old(path)) {
        // What cannot be removed only takes up space.
        let _ = fs::remove_dir_all(path);
    }
}

impl Kit {
    /// The assembled boot sector of `resources/machines/boot.S`.
    ///
    /// # Errors
    /// When it does not assemble.
    pub(super) fn boot_sector(&self) -> Result<Vec<u8>> {
        let mut hasher = DefaultHasher::new();
        BOOT_SECTOR.hash(&mut hasher);
        let cached = self.cache.join(format!("boot-{:016x}.bin", hasher.finish()));
        if !cached.exists() {
            assemble(&self.cache, &cached).context("cannot assemble the boot sector")?;
        }
        fs::read(&cached).with_context(|| format!("cannot read {}", cached.display()))
    }
}

fn assemble(cache: &Path, to: &Path) -> Result<()> {
    let work = tempfile::tempdir_in(cache)?;
    let file = |name: &str| work.path().join(name);
    fs::write(file("boot.S"), BOOT_SECTOR)?;
    output_of(Command::new("as").arg("--32").arg(file("boot.S")).arg("-o").arg(file("boot.o")))?;
    let mut link = Command::new("ld");
    link.args(["-m", "elf_i386", "-Ttext", "0x7c00", "--oformat", "binary"]);
    output_of(link.arg(file("boot.o")).arg("-o").arg(file("boot.bin")))?;
    Ok(fs::rename(file("boot.bin"), to)?)
}

fn install_missing(emulator: Emulator) -> Result<()> {
    let packages = missing(emulator);
    if packages.is_empty() {
        return Ok(());
    }
    let names = packages.join(" ");
    let command = format!("apt-get install --no-install-recommends {names}");
    ensure!(
        on_path("apt-get").is_some(),
        "missing for the emulated machines: {names} (names of Debian packages). This computer \
         has no apt-get; install the same from its own packages"
    );
    ensure!(
        rustix::process::geteuid().is_root(),
        "missing for the emulated machines: {names}. To get them: sudo {command}"
    );
    eprintln!("xtask: {command}");
    let mut install = apt(&["install", "--yes", "--no-install-recommends"]);
    install.args(&packages);
    // A fresh container has no package lists at all.
    if output_of(&mut install).is_err() {
        output_of(&mut apt(&["update"]))?;
        output_of(&mut install)?;
    }
    let still = missing(emulator);
    ensure!(still.is_empty(), "installed, yet something is missing of: {}", still.join(" "));
    Ok(())
}

fn missing(emulator: Emulator) -> Vec<&'static str> {
    let needed = NEEDS.iter().filter(|need| need.only.is_none_or(|only| only == emulator));
    let absent = needed.filter(|need| match need.file {
        "busybox" => !on_path("busybox").is_some_and(|path| is_static(&path)),
        file if file.starts_with('/') => !Path::new(file).exists(),
        program => on_path(program).is_none(),
    });
    absent.map(|need| need.package).collect()
}

fn is_static(path: &Path) -> bool {
    fs::read(path).is_ok_and(|data| interpreter_is_needed(&data) == Some(false))
}

fn on_path(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    // Not every user's PATH contains the folders for administration.
    let more = ["/usr/sbin", "/sbin"].map(PathBuf::from);
    std::env::split_paths(&path)
        .chain(more)
        .map(|folder| folder.join(program))
        .find(|file| file.is_file())
}

fn apt(arguments: &[&str]) -> Command {
    let mut apt = Command::new("apt-get");
    apt.arg("--quiet").args(arguments).env("DEBIAN_FRONTEND", "noninteractive");
    apt
}

/// Creates `vmlinuz` and `modules/` in the folder `to`, completely or not at all.
fn unpack_kernel(cache: &Path, to: &Path) -> Result<()> {
    let work = tempfile::Builder::new().prefix("kernel.").tempdir_in(cache)?;
    let package = match kernel_package() {
        Ok(package) => package,
        Err(error) if !rustix::process::geteuid().is_root() => {
            return Err(error.context("apt knows no such package: sudo apt-get update may help"));
        }
        Err(_) => {
            output_of(&mut apt(&["update"]))?;
            kernel_package()?
        }
    };
    eprintln!("xtask: apt-get download {package} (unpacked in target/machines, not installed)");
    // As root, apt downloads as a separate user, which may not write here.
    output_of(
        apt(&["download", "-o", "APT::Sandbox::User=root", &package]).current_dir(work.path()),
    )?;
    let archive = only_file(work.path(), |name| name.ends_with(".deb"))?;
    let unpacked = work.path().join("unpacked");
    output_of(Command::new("dpkg").arg("-x").arg(&archive).arg(&unpacked))?;

    let ready = work.path().join("ready");
    fs::create_dir_all(ready.join("modules"))?;
    fs::write(ready.join("package"), format!("{package}\n"))?;
    let kernel = only_file(&unpacked.join("boot"), |name| name.starts_with("vmlinuz-"))?;
    fs::copy(kernel, ready.join("vmlinuz"))?;
    // Where kmod looks; a newer package has only the folder that this leads to.
    if !unpacked.join("lib").exists() {
        symlink("usr/lib", unpacked.join("lib"))?;
    }
    for root in ["kvm_intel", "kvm_amd"] {
        let mut order = String::new();
        for (name, path) in load_order(&unpacked, root)? {
            prepare_module(&path, &ready.join("modules").join(format!("{name}.ko")))?;
            order.push_str(&format!("{name}.ko\n"));
        }
        fs::write(ready.join("modules").join(format!("{root}.order")), order)?;
    }
    Ok(fs::rename(ready, to)?)
}

/// The package of a certain version that `KERNEL_PACKAGE` depends on.
fn kernel_package() -> Result<String> {
    let depends = output_of(Command::new("apt-cache").args(["depends", KERNEL_PACKAGE]))?;
    let named = depends.lines().find_map(|line| line.trim().strip_prefix("Depends: "));
    Ok(named.with_context(|| format!("{KERNEL_PACKAGE} depends on nothing"))?.to_owned())
}

/// Names and files of the module `root` and all it depends on, in the order to load them.
fn load_order(unpacked: &Path, root: &str) -> Result<Vec<(String, PathBuf)>> {
    let kernel = only_file(&unpacked.join("lib/modules"), |_| true)?;
    let version = kernel.file_name().unwrap_or_default();
    let tool = |name| on_path(name).map(Command::new).with_context(|| format!("no {name}"));
    output_of(tool("depmod")?.arg("--basedir").arg(unpacked).arg(version))?;
    // Options that this computer gives its own KVM are no part of the machines.
    let mut modprobe = tool("modprobe")?;
    modprobe.args(["--config", "/dev/null", "--show-depends", "--dirname"]).arg(unpacked);
    let commands = output_of(modprobe.arg("--set-version").arg(version).arg(root))?;
    let files = commands.lines().filter_map(|line| line.strip_prefix("insmod "));
    let named = files.map(|line| {
        let path = PathBuf::from(line.split(' ').next().unwrap_or(line));
        // File names may use either character, the kernel uses one.
        let (name, _) = path.file_name()?.to_str()?.split_once(".ko")?;
        Some((name.replace('-', "_"), path.clone()))
    });
    named.collect::<Option<_>>().with_context(|| format!("modprobe said:\n{commands}"))
}

/// Copies a module without what only debuggers and tracers need: it loads ten times faster.
fn prepare_module(from: &Path, to: &Path) -> Result<()> {
    // Copies a file that is not compressed.
    let mut unpack = Command::new("xz");
    unpack.arg("-dcf").arg(from).stdout(File::create(to)?);
    succeed(&mut unpack)?;
    let mut strip = Command::new("objcopy");
    strip.arg("--strip-unneeded");
    for section in [".BTF", "__mcount_loc", ".rela__mcount_loc", ".comment"] {
        strip.args(["-R", section]);
    }
    output_of(strip.arg(to)).map(drop)
}

fn only_file(folder: &Path, wanted: impl Fn(&str) -> bool) -> Result<PathBuf> {
    let entries =
        fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))?;
    let mut found = entries
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .filter(|path| path.file_name().and_then(OsStr::to_str).is_some_and(&wanted));
    match (found.next(), found.next()) {
        (Some(path), None) => Ok(path),
        _ => bail!("{} does not contain exactly one file of the expected kind", folder.display()),
    }
}
