//! The calls that the kernel serves without an exit.

use abi::Errno;
use abi::call::CALL_NULL;

/// Serves call `number`, which the entry code has found to be below `CALL_VAS_SWITCH`.
///
/// Runs on the vCPU's call stack or, on trapping hosts, on its exception stack: frames must
/// stay within a few hundred bytes.
pub(crate) extern "sysv64" fn fast_call(_arg0: u64, number: u64) -> u64 {
    match number as u32 {
        CALL_NULL => 0,
        _ => Errno::ENOSYS.as_result(),
    }
}
