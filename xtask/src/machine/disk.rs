//! The hard disk of an Intel machine: boot sector, then what the boot sector copies into
//! memory before it enters Linux (`resources/machines/boot.S` is the other half). Pure:
//! bytes in, bytes out. Field offsets are those of the x86 boot protocol
//! (`Documentation/arch/x86/boot.rst` in Linux).

use anyhow::{Context, Result, bail, ensure};

const SECTOR: usize = 512;
/// 16 heads of 63 sectors: a disk is a whole number of cylinders.
const CYLINDER: usize = 16 * 63 * SECTOR;
/// Where the table of extents is in the boot sector.
const TABLE: usize = 0x1b0;
const MIB: u64 = 1 << 20;

/// Addresses in memory; `boot.S` also has that of the real-mode code.
const REAL_MODE: usize = 0x9_0000;
const COMMAND_LINE: usize = 0x8_f000;
const PROTECTED_MODE: u32 = 0x10_0000;

/// A disk to be given to the emulator.
#[derive(Debug)]
pub(super) struct Disk {
    pub(super) bytes: Vec<u8>,
    pub(super) cylinders: usize,
}

/// The parts of the disk; `memory_mib` is the memory of the machine.
pub(super) struct Parts<'a> {
    pub(super) boot_sector: &'a [u8],
    pub(super) kernel: &'a [u8],
    pub(super) initramfs: &'a [u8],
    pub(super) command_line: &'a str,
    pub(super) memory_mib: u32,
}

/// Lays out a disk that boots `parts.kernel`.
///
/// # Errors
/// An invalid boot sector or kernel, a command line that is too long, an initramfs that
/// does not fit into the machine's memory next to the kernel.
pub(super) fn lay_out(parts: &Parts<'_>) -> Result<Disk> {
    ensure!(
        parts.boot_sector.len() == SECTOR && parts.boot_sector.ends_with(&[0x55, 0xaa]),
        "the boot sector is not one"
    );
    let (real_mode, protected_mode) = split_kernel(parts.kernel)?;
    let initramfs_at = place_initramfs(parts, real_mode)?;

    let mut low = parts.command_line.as_bytes().to_vec();
    ensure!(
        low.len() < REAL_MODE - COMMAND_LINE,
        "the kernel command line has {} bytes, too many",
        low.len()
    );
    low.resize(REAL_MODE - COMMAND_LINE, 0);
    low.extend_from_slice(&prepare(real_mode, initramfs_at, parts.initramfs.len())?);

    let mut bytes = parts.boot_sector.to_vec();
    let extents = [
        (low.as_slice(), u32::try_from(COMMAND_LINE)?),
        (protected_mode, PROTECTED_MODE),
        (parts.initramfs, initramfs_at),
    ];
    for (number, (data, address)) in extents.into_iter().enumerate() {
        let first = u32::try_from(bytes.len() / SECTOR)?;
        let sectors = u32::try_from(data.len().div_ceil(SECTOR))?;
        for (field, value) in [first, sectors, address].into_iter().enumerate() {
            put(&mut bytes, TABLE + 12 * number + 4 * field, &value.to_le_bytes());
        }
        bytes.extend_from_slice(data);
        bytes.resize(bytes.len().next_multiple_of(SECTOR), 0);
    }
    bytes.resize(bytes.len().next_multiple_of(CYLINDER), 0);
    Ok(Disk { cylinders: bytes.len() / CYLINDER, bytes })
}

/// The part of a bzImage that runs in 16-bit mode, and the rest.
fn split_kernel(kernel: &[u8]) -> Result<(&[u8], &[u8])> {
    ensure!(kernel.get(0x202..0x206) == Some(b"HdrS"), "the kernel is not a bzImage");
    let sectors = match kernel[0x1f1] {
        0 => 4,
        sectors => usize::from(sectors),
    };
    kernel.split_at_checked((sectors + 1) * SECTOR).context("the kernel image is truncated")
}

/// As high as memory and the kernel allow: the kernel unpacks itself below.
fn place_initramfs(parts: &Parts<'_>, real_mode: &[u8]) -> Result<u32> {
    // Bochs and its BIOS keep tables at the top of memory.
    let memory_end = (u64::from(parts.memory_mib) * MIB).saturating_sub(2 * MIB);
    let kernel_limit = u64::from(get_u32(real_mode, 0x22c)) + 1;
    let needed = parts.initramfs.len().next_multiple_of(SECTOR) as u64;
    let kernel_end = u64::from(PROTECTED_MODE) + u64::from(get_u32(real_mode, 0x260));
    let at = memory_end.min(kernel_limit).checked_sub(needed).map(|at| at & !0xfff);
    match at {
        Some(at) if at >= kernel_end => Ok(u32::try_from(at)?),
        _ => bail!(
            "an initramfs of {} MiB does not fit into {} MiB of memory: more --memory or less --add",
            needed.div_ceil(MIB),
            parts.memory_mib
        ),
    }
}

/// The real-mode code with the fields a boot loader has to fill in.
fn prepare(real_mode: &[u8], initramfs_at: u32, initramfs_size: usize) -> Result<Vec<u8>> {
    let mut code = real_mode.to_vec();
    put(&mut code, 0x1fa, &0xffff_u16.to_le_bytes()); // vid_mode: as it is
    put(&mut code, 0x210, &[0xff]); // type_of_loader: none of the known
    code[0x211] |= 0x80; // loadflags: CAN_USE_HEAP
    put(&mut code, 0x224, &0xde00_u16.to_le_bytes()); // heap_end_ptr: below boot.S's stack
    put(&mut code, 0x218, &initramfs_at.to_le_bytes()); // ramdisk_image
    put(&mut code, 0x21c, &u32::try_from(initramfs_size)?.to_le_bytes()); // ramdisk_size
    put(&mut code, 0x228, &u32::try_from(COMMAND_LINE)?.to_le_bytes()); // cmd_line_ptr
    Ok(code)
}

fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    bytes[at..at + value.len()].copy_from_slice(value);
}

fn get_u32(bytes: &[u8], at: usize) -> u32 {
    let field = bytes[at..].first_chunk().expect("split_kernel returns at least two sectors");
    u32::from_le_bytes(*field)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn boot_sector() -> Vec<u8> {
        let mut sector = vec![0; SECTOR];
        put(&mut sector, 510, &[0x55, 0xaa]);
        sector
    }

    /// One sector and four of real-mode code, then `body`.
    fn kernel(body: &[u8]) -> Vec<u8> {
        let mut kernel = vec![0; 5 * SECTOR];
        put(&mut kernel, 0x202, b"HdrS");
        put(&mut kernel, 0x22c, &0x7fff_ffff_u32.to_le_bytes());
        put(&mut kernel, 0x260, &(16_u32 << 20).to_le_bytes());
        kernel.extend_from_slice(body);
        kernel
    }

    fn laid_out(kernel: &[u8], initramfs: &[u8], memory_mib: u32) -> Result<Disk> {
        let command_line = "quiet";
        lay_out(&Parts { boot_sector: &boot_sector(), kernel, initramfs, command_line, memory_mib })
    }

    /// Does what boot.S does: returns the bytes that each extent loads into memory, and
    /// where.
    fn loaded(disk: &Disk) -> Vec<(u32, &[u8])> {
        let field = |n: usize, f: usize| get_u32(&disk.bytes, TABLE + 12 * n + 4 * f) as usize;
        (0..3)
            .map(|n| {
                (field(n, 2) as u32, &disk.bytes[field(n, 0) * SECTOR..][..field(n, 1) * SECTOR])
            })
            .collect()
    }

    #[test]
    fn the_boot_sector_finds_everything_where_linux_expects_it() {
        let disk = laid_out(&kernel(b"protected"), b"initramfs", 64).expect("a good layout");
        assert_eq!(disk.bytes.len(), disk.cylinders * CYLINDER);
        let [(low_at, low), (kernel_at, code), (initramfs_at, initramfs)] = loaded(&disk)[..]
        else {
            panic!("three extents");
        };
        assert_eq!(low_at as usize, COMMAND_LINE);
        assert!(low.starts_with(b"quiet\0"));
        let real_mode = &low[REAL_MODE - COMMAND_LINE..];
        assert_eq!(get_u32(real_mode, 0x218), initramfs_at);
        assert_eq!(get_u32(real_mode, 0x21c), 9);
        assert_eq!(get_u32(real_mode, 0x228) as usize, COMMAND_LINE);
        assert_eq!(kernel_at, PROTECTED_MODE);
        assert!(code.starts_with(b"protected\0"));
        assert_eq!(initramfs_at, (62 << 20) - 4096);
        assert!(initramfs.starts_with(b"initramfs\0"));
    }

    #[test]
    fn much_memory_does_not_put_the_initramfs_out_of_the_kernels_reach() {
        let disk = laid_out(&kernel(b""), &[1; 8192], 4096).expect("a good layout");
        assert_eq!(loaded(&disk)[2].0, 0x8000_0000 - 8192);
    }

    #[test]
    fn what_does_not_fit_or_is_no_kernel_is_refused() {
        let told = |result: Result<Disk>| result.expect_err("refused").to_string();
        assert!(told(laid_out(&kernel(b""), &[0; 2 << 20], 20)).contains("--memory"));
        assert!(told(laid_out(b"\x7fELF", b"", 64)).contains("bzImage"));
        assert!(told(laid_out(&kernel(b"")[..1024], b"", 64)).contains("truncated"));
        let long = "x".repeat(5000);
        let parts = Parts {
            boot_sector: &boot_sector(),
            kernel: &kernel(b""),
            initramfs: b"",
            command_line: &long,
            memory_mib: 64,
        };
        assert!(told(lay_out(&parts)).contains("5000 bytes"));
    }
}
