//! SpaceJMP's own calls: their numbers and how they are made.
//!
//! A program puts the number in RAX and the arguments in RDI, RSI, RDX, R10, R8, R9, as for a Linux
//! call, and calls the call page (`layout::CALL_PAGE`, found through the auxiliary vector entry
//! [`AT_SPACEJMP`]). The result is in RAX, an error as a negated errno. Unlike Linux's calls, ours
//! may change every caller-saved register, which saves the kernel's fast path twelve instructions.
//!
//! Structures and flags that the arguments point to or hold are in `objects.rs`.

/// Auxiliary vector entry whose value is the address of the call page. Above Linux's range.
pub const AT_SPACEJMP: u64 = 0x534a_0001;

/// First number of our range: "SJ" in the upper half, far above Linux's table.
pub const CALL_BASE: u32 = 0x534a_0000;
/// With this bit set in the number, the VMM serves the call even if the kernel could: every call
/// can be made as a hypercall, so that both paths can be compared.
pub const CALL_HYPER: u32 = 0x8000;
/// One past the last number that the kernel may serve itself.
pub const CALL_FAST_END: u32 = CALL_BASE + 2;

/// Writes the table of calls once: constants, and the names by number.
macro_rules! calls {
    ($($(#[$doc:meta])* $name:ident = $offset:literal, $text:literal;)*) => {
        $($(#[$doc])* pub const $name: u32 = CALL_BASE + $offset;)*

        /// The call's name in C and in the documentation; the hypercall bit is ignored.
        #[must_use]
        pub const fn name(number: u32) -> Option<&'static str> {
            match number & !CALL_HYPER {
                $($name => Some($text),)*
                _ => None,
            }
        }

        /// All calls, in order of their numbers.
        pub const ALL: &[(u32, &str)] = &[$(($name, $text),)*];
    };
}

calls! {
    /// Does nothing, in the kernel: the baseline against which every other call is measured.
    CALL_NULL = 0x00, "null";
    /// `(vh)`: the calling thread enters instance `vh` and acquires its locks.
    CALL_VAS_SWITCH = 0x01, "vas_switch";
    /// Does nothing, in the VMM: the cost of a hypercall.
    CALL_HYPER_NULL = 0x02, "hyper_null";
    /// `(vh)`: as `vas_switch`, but fails with `EAGAIN` instead of waiting.
    CALL_VAS_TRY_SWITCH = 0x03, "vas_try_switch";
    /// `(vh, nanoseconds)`: as `vas_switch`, but fails with `ETIMEDOUT` after that time.
    CALL_VAS_SWITCH_TIMEOUT = 0x04, "vas_switch_timeout";
    /// `()`: the handle of the instance the thread is in; 0 is home.
    CALL_VAS_CURRENT = 0x05, "vas_current";
    /// `()`: what the calling thread has changed in versioned segments is a version, as if it left.
    CALL_VAS_COMMIT = 0x06, "vas_commit";
    /// `()`: throws away what it has changed in versioned segments since it entered or committed.
    CALL_VAS_ABORT = 0x07, "vas_abort";
    /// `(vh)`: all that was published of the instance's versioned segments survives a power cut;
    /// returns its version, as `vas_version`.
    CALL_VAS_SYNC = 0x08, "vas_sync";
    /// `(vh)`: the newest version that a visit would see: of one versioned segment its number, of
    /// several the sum of their numbers.
    CALL_VAS_VERSION = 0x09, "vas_version";
    /// `(vh, after, nanoseconds)`: waits until `vas_version` is more than `after`, and returns it.
    CALL_VAS_WAIT = 0x0a, "vas_wait";
    /// `(vh, nanoseconds)`: the calling thread enters instance `vh` in a nested visit: the one it is in is
    /// suspended, with its locks, its view and its changes. Waits that long for locks; 0: not at all.
    CALL_VAS_NEST = 0x0b, "vas_nest";
    /// `()`: leaves the nested visit, and goes on with the one that was suspended; returns its `vh`.
    CALL_VAS_RETURN = 0x0c, "vas_return";
    /// `(text, text_len)`: what the next version that the calling thread's visit makes says that it is for.
    CALL_VAS_MESSAGE = 0x0d, "vas_message";
    /// `()`: the program is where copies of it are to begin. Returns 0, and in a copy the bytes that
    /// `ready_arguments` needs.
    CALL_READY = 0x0e, "ready";
    /// `(buffer, bytes)`: what a copy was started with, as `ready::bytes` makes it; returns its bytes.
    CALL_READY_ARGUMENTS = 0x0f, "ready_arguments";

    /// `(name, name_len, mode)`: creates an empty VAS; returns its `vid`.
    CALL_VAS_CREATE = 0x10, "vas_create";
    /// `(name, name_len)`: the `vid` of the VAS with this name.
    CALL_VAS_FIND = 0x11, "vas_find";
    /// `(vid, name, name_len, flags)`: creates a new VAS with the same segments, or with copies of
    /// them; returns its `vid`.
    CALL_VAS_CLONE = 0x12, "vas_clone";
    /// `(vid, flags)`: creates an instance for this process; returns its `vh`.
    CALL_VAS_ATTACH = 0x13, "vas_attach";
    /// `(vh)`: drops the instance.
    CALL_VAS_DETACH = 0x14, "vas_detach";
    /// `(cmd, vid, arg)`: see `objects::vas_ctl`. For tag commands the second argument is a `vh`.
    CALL_VAS_CTL = 0x15, "vas_ctl";
    /// `(vid)`: deletes the VAS, not its segments.
    CALL_VAS_DELETE = 0x16, "vas_delete";
    /// `(buffer, bytes, cursor)`: `VasStat`s of VASes, in order of their names, starting at number
    /// `cursor`; returns how many were written.
    CALL_VAS_LIST = 0x17, "vas_list";
    /// `(vid, buffer, bytes)`: fills one `VasStat`.
    CALL_VAS_STAT = 0x18, "vas_stat";
    /// `(vid, buffer, bytes, cursor)`: `Attachment`s of a VAS, starting at number `cursor`; returns
    /// how many were written.
    CALL_VAS_SEGMENTS = 0x19, "vas_segments";
    /// `(vid, tag, tag_len)`: keeps what was committed last to the versioned segments of the VAS, of one
    /// moment, as the VAS `NAME@TAG`, which is only read; returns its `vid`.
    CALL_VAS_TAG = 0x1a, "vas_tag";

    /// `(name, name_len, params, params_len)`: creates a segment as `SegParams` specifies; returns
    /// its `sid`.
    CALL_SEG_ALLOC = 0x20, "seg_alloc";
    /// `(name, name_len)`: the `sid` of the segment with this name.
    CALL_SEG_FIND = 0x21, "seg_find";
    /// `(sid, name, name_len)`: copies the segment under a new name; returns the copy's `sid`.
    CALL_SEG_CLONE = 0x22, "seg_clone";
    /// `(vid, sid, right)`: adds the segment to the VAS, for every process that has it attached.
    CALL_SEG_ATTACH = 0x23, "seg_attach";
    /// `(vh, sid, right)`: adds the segment to this process's instance only.
    CALL_SEG_ATTACH_LOCAL = 0x24, "seg_attach_local";
    /// `(vid, sid)`: removes the segment from the VAS, for every process that has it attached.
    CALL_SEG_DETACH = 0x25, "seg_detach";
    /// `(vh, sid)`: removes the segment from this process's instance.
    CALL_SEG_DETACH_LOCAL = 0x26, "seg_detach_local";
    /// `(sid, cmd, arg)`: see `objects::seg_ctl`.
    CALL_SEG_CTL = 0x27, "seg_ctl";
    /// `(sid)`: deletes the segment and its contents.
    CALL_SEG_DELETE = 0x28, "seg_delete";
    /// `(buffer, bytes, cursor)`: `SegStat`s of segments, as `vas_list`.
    CALL_SEG_LIST = 0x29, "seg_list";
    /// `(sid, buffer, bytes)`: fills one `SegStat`.
    CALL_SEG_STAT = 0x2a, "seg_stat";
    /// `(sid, bytes)`: grows the segment in place to `bytes`.
    CALL_SEG_GROW = 0x2b, "seg_grow";
    /// `(sid)`: everything written is on stable storage when the call returns.
    CALL_SEG_SYNC = 0x2c, "seg_sync";
    /// `(sid, buffer)`: fills a `SegRoot`.
    CALL_SEG_ROOT_GET = 0x2d, "seg_root_get";
    /// `(sid, buffer)`: sets the root object from a `SegRoot`.
    CALL_SEG_ROOT_SET = 0x2e, "seg_root_set";
    /// `(sid, offset, bytes)`: allocates storage for a range, so that writing to it needs no more.
    CALL_SEG_RESERVE = 0x2f, "seg_reserve";
}

/// Ports of the kernel's only `OUT` (design section 5): the port says why the kernel exited.
pub mod port {
    /// An exception with vector `v` exits through `EXCEPTION + v`, `v` below 32.
    pub const EXCEPTION: u16 = 0x40;
    /// A Linux system call the kernel does not serve.
    pub const SYSCALL: u16 = 0x60;
    /// A SpaceJMP call the kernel does not serve.
    pub const CALL: u16 = 0x61;
    /// As [`CALL`], but the program came through the call page's UD2: its state is in the exception
    /// frame, whose instruction pointer is already past the UD2.
    pub const CALL_TRAPPED: u16 = 0x63;
    /// The kernel panicked; the epitaph has the message.
    pub const PANIC: u16 = 0x62;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_ascend_and_leave_the_hypercall_bit_free() {
        assert!(ALL.is_sorted_by(|a, b| a.0 < b.0));
        for &(number, text) in ALL {
            assert_eq!(number & CALL_HYPER, 0, "{text}");
            assert_eq!(name(number | CALL_HYPER), Some(text));
        }
        assert_eq!(name(CALL_BASE + 0x7fff), None);
    }
}
