//! The kernel's panic handler.
//!
//! A panic formats its message once into a fixed buffer and exits to the VMM, which ends the VM and
//! prints it. There is nothing to unwind and nowhere to log to.

use core::cell::UnsafeCell;
use core::fmt::{self, Write};
use core::panic::PanicInfo;
use core::sync::atomic::{AtomicBool, Ordering};

use abi::call::port;
use abi::shared::Epitaph;

/// The kernel's only epitaph; its address is in `KernelInfo`.
pub(crate) static EPITAPH: EpitaphCell =
    EpitaphCell(UnsafeCell::new(Epitaph { len: 0, text: [0; 240] }));

#[repr(transparent)]
pub(crate) struct EpitaphCell(UnsafeCell<Epitaph>);

// SAFETY: only the first panicking vCPU writes (see `DYING`), and nothing in the guest reads.
unsafe impl Sync for EpitaphCell {}

static DYING: AtomicBool = AtomicBool::new(false);

struct Pen<'a>(&'a mut Epitaph);

impl Write for Pen<'_> {
    fn write_str(&mut self, s: &str) -> fmt::Result {
        for &byte in s.as_bytes() {
            let at = self.0.len as usize;
            let Some(slot) = self.0.text.get_mut(at) else { return Ok(()) };
            *slot = byte;
            self.0.len += 1;
        }
        Ok(())
    }
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    if !DYING.swap(true, Ordering::Relaxed) {
        // SAFETY: `DYING` lets exactly one vCPU get here, and only once.
        let epitaph = unsafe { &mut *EPITAPH.0.get() };
        let _ = write!(Pen(epitaph), "{info}");
    }
    loop {
        // SAFETY: exits to the VMM, which does not resume a panicked kernel.
        unsafe {
            core::arch::asm!("out {port}, al", port = const port::PANIC, in("al") 0u8);
        }
    }
}
