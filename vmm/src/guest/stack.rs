//! The first thread's stack as Linux lays it out: arguments, environment, auxiliary vector.
//!
//! ```text
//!  STACK_TOP   strings: program path, environment, arguments; 16 random bytes
//!              auxiliary vector, ending with AT_NULL
//!              NULL, environment pointers
//!              NULL, argument pointers
//!  RSP ->      argument count                    (16-byte aligned, System V ABI 3.4.1)
//! ```

use std::ops::Range;

use abi::Errno;
use abi::layout::STACK_TOP;

use crate::private::{PrivateRegion, Prot, stack};

/// What goes onto the stack.
#[derive(Debug, Default)]
pub struct StackContents<'a> {
    /// Arguments, the program's name first.
    pub args: &'a [Vec<u8>],
    /// `KEY=value` strings.
    pub env: &'a [Vec<u8>],
    /// The program's path as the program sees it.
    pub exec_path: &'a [u8],
    /// Auxiliary vector without `AT_RANDOM`, `AT_PLATFORM`, `AT_EXECFN` and `AT_NULL`, which are added
    /// here.
    pub aux: Vec<(u64, u64)>,
    /// For stack protectors and pointer guards.
    pub random: [u8; 16],
}

/// Addresses in a stack that has been built.
#[derive(Debug)]
pub struct Built {
    /// The first stack pointer.
    pub rsp: u64,
    /// The arguments' strings, one after the other.
    pub args: Range<u64>,
    /// The environment's strings, which follow them.
    pub env: Range<u64>,
    /// The auxiliary vector as stored, including its end.
    pub auxv: Vec<u64>,
}

/// Maps the stack, which may grow to `limit` bytes (`RLIMIT_STACK`), and fills it.
///
/// # Errors
/// `E2BIG` when arguments and environment exceed the part of the stack that Linux allows, or the
/// region's error.
pub fn build(
    private: &PrivateRegion,
    contents: &StackContents<'_>,
    exec: bool,
    limit: u64,
) -> Result<Built, Errno> {
    let prot = if exec { Prot::from_bits(7) } else { Some(Prot::READ_WRITE) };
    private.map_stack(limit, prot.unwrap_or_default())?;

    let mut image = Image { base: STACK_TOP.raw(), strings: Vec::new() };
    image.push(&[0; 8]);
    let exec_path = image.push_str(contents.exec_path);
    // In ascending order in memory, arguments before environment, as on Linux: programs that
    // overwrite their arguments to show their status rely on it.
    let strings_end = image.low();
    let env = image.push_all(contents.env);
    let args_end = image.low();
    let args = image.push_all(contents.args);
    let args_start = image.low();
    let random = image.push(&contents.random);
    // What `$PLATFORM` in a library's path stands for.
    let platform = image.push_str(b"x86_64");

    let mut words = vec![args.len() as u64];
    words.extend(args);
    words.push(0);
    words.extend(env);
    words.push(0);
    let mut auxv: Vec<u64> = contents.aux.iter().flat_map(|&(key, value)| [key, value]).collect();
    auxv.extend([libc::AT_RANDOM, random, libc::AT_PLATFORM, platform]);
    auxv.extend([libc::AT_EXECFN, exec_path, libc::AT_NULL, 0]);
    words.extend(&auxv);

    let low = image.low();
    let rsp = low.checked_sub(words.len() as u64 * 8).ok_or(Errno::E2BIG)? & !15;
    if STACK_TOP.raw() - rsp > stack::argument_bytes(limit) {
        return Err(Errno::E2BIG);
    }
    let bytes: Vec<u8> = words.iter().flat_map(|w| w.to_le_bytes()).collect();
    private.copy_out(rsp, &bytes)?;
    image.strings.reverse();
    private.copy_out(low, &image.strings)?;
    Ok(Built { rsp, args: args_start..args_end, env: args_end..strings_end, auxv })
}

/// Bytes below `base`, collected from high to low addresses, and so in reverse.
struct Image {
    base: u64,
    strings: Vec<u8>,
}

impl Image {
    /// Address of the lowest byte.
    fn low(&self) -> u64 {
        self.base - self.strings.len() as u64
    }

    /// Pushes the strings, so that the first one lies lowest; returns their addresses.
    fn push_all(&mut self, strings: &[Vec<u8>]) -> Vec<u64> {
        let mut at: Vec<u64> = strings.iter().rev().map(|s| self.push_str(s)).collect();
        at.reverse();
        at
    }

    fn push(&mut self, bytes: &[u8]) -> u64 {
        self.strings.extend(bytes.iter().rev());
        self.low()
    }

    fn push_str(&mut self, text: &[u8]) -> u64 {
        self.push(&[0]);
        self.push(text)
    }
}
