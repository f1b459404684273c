//! Messages from one VMM to another, on any bytes: refused, or written back as they were.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::{Arc, LazyLock};

use vmm::files::{Files, HandedOver, MemoryAccount, Namespace, OffLimits};
use vmm::linux::children::{ForkedProcess, NewProgram};
use vmm::linux::proc::text_files;
use vmm::private::fork::RegionCopy;
use vmm::process_tree::wire::{Reader, Writer};
use vmm::vas::attach::again::ForChild;
use vmm::vm::MemoryLedger;

fn null() -> OwnedFd {
    let null = File::options().read(true).write(true).open("/dev/null");
    null.expect("every host has it").into()
}

/// Files in the name space that both VMMs have.
static BASE: LazyLock<Files> = LazyLock::new(|| {
    let off_limits = OffLimits::stores([], &[]);
    let namespace = Namespace::new(&[], off_limits, text_files()).expect("an empty name space");
    let standard = std::array::from_fn(|_| null());
    let mut files = Files::new(namespace, standard, Path::new("/"), 0).expect("standard streams");
    files.keep_base();
    files
});

fn account() -> Arc<dyn MemoryAccount> {
    Arc::new(MemoryLedger::default())
}

/// What a message about a copied process begins with: registers, limits, actions for signals, names.
fn beginning() -> Vec<u8> {
    let mut out = Writer::default();
    // 18 registers, bases and mask, the alternate stack, two addresses of the thread's number.
    out.words(&[0; 26]);
    out.bytes(b"name");
    out.bytes(&[0; 4096]);
    // 16 limits, 64 actions.
    out.words(&[0; 32]);
    out.words(&[0; 4 * 64]);
    out.words(&[0, 0, 0]);
    out.bytes(b"/program");
    out.bytes(b"program");
    out.words(&[0; 5]);
    out.bytes(b"auxiliary");
    out.finish()
}

/// Decodes what one VMM sends to another, of any bytes and so many descriptors. Returns how much of it was
/// accepted.
///
/// # Panics
/// When what was accepted is not written back as it was.
pub fn handover(bytes: &[u8], descriptors: u8) -> u32 {
    let fds = || (0..descriptors % 8).map(|_| null());
    let mut accepted = 0;
    let mut input = Reader(bytes);
    let region = RegionCopy::decode(&mut input, &mut fds().map(File::from), &account());
    if let Ok(region) = region {
        accepted += 1;
        let mut out = Writer::default();
        region.encode(&mut out, &mut Vec::new());
        let read = bytes.len() - input.0.len();
        assert_eq!(out.finish(), bytes[..read]);
    }
    let mut input = Reader(bytes);
    if let Some(attached) = ForChild::decode(&mut input) {
        accepted += 1;
        let mut out = Writer::default();
        ForChild::encode(&attached, &mut out);
        assert_eq!(ForChild::decode(&mut Reader(&out.finish())).as_ref(), Some(&attached));
    }
    let handed = HandedOver { bytes: bytes.to_vec(), fds: fds().collect() };
    accepted += u32::from(BASE.taken_over(handed, account()).is_ok());
    let program = NewProgram::decode(bytes, fds().collect(), &BASE, account());
    accepted += u32::from(program.is_ok());
    for message in [bytes.to_vec(), [&beginning(), bytes].concat()] {
        let copy = ForkedProcess::decode(&message, fds().collect(), &BASE, account());
        accepted += u32::from(copy.is_ok());
    }
    accepted
}
