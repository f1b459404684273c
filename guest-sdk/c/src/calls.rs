//! One function for each call, as `spacejmp.h` declares them.

use std::ffi::{c_char, c_int};
use std::mem::MaybeUninit;

use abi::Errno;
use abi::call::{
    CALL_HYPER_NULL, CALL_NULL, CALL_READY_ARGUMENTS, CALL_SEG_ALLOC, CALL_SEG_ATTACH,
    CALL_SEG_ATTACH_LOCAL, CALL_SEG_CLONE, CALL_SEG_CTL, CALL_SEG_DELETE, CALL_SEG_DETACH,
    CALL_SEG_DETACH_LOCAL, CALL_SEG_FIND, CALL_SEG_GROW, CALL_SEG_LIST, CALL_SEG_RESERVE,
    CALL_SEG_ROOT_GET, CALL_SEG_ROOT_SET, CALL_SEG_STAT, CALL_SEG_SYNC, CALL_VAS_ABORT,
    CALL_VAS_ATTACH, CALL_VAS_CLONE, CALL_VAS_COMMIT, CALL_VAS_CREATE, CALL_VAS_CTL,
    CALL_VAS_CURRENT, CALL_VAS_DELETE, CALL_VAS_DETACH, CALL_VAS_FIND, CALL_VAS_LIST,
    CALL_VAS_MESSAGE, CALL_VAS_NEST, CALL_VAS_RETURN, CALL_VAS_SEGMENTS, CALL_VAS_STAT,
    CALL_VAS_SWITCH, CALL_VAS_SWITCH_TIMEOUT, CALL_VAS_SYNC, CALL_VAS_TAG, CALL_VAS_TRY_SWITCH,
    CALL_VAS_VERSION, CALL_VAS_WAIT,
};
use abi::objects::{Attachment, SegParams, SegRoot, SegStat, VasStat};
use sdk::{CallPage, sys};

use crate::errors::{id, number, status};
use crate::here;

/// Makes a call.
///
/// # Safety
/// Addresses among `args` are of memory that the call may read or write, as `spacejmp.h` says of
/// the function that makes it.
unsafe fn call<const N: usize>(number: u32, args: [u64; N]) -> Result<u64, Errno> {
    let mut all = [0; 6];
    all[..N].copy_from_slice(&args);
    let page = CallPage::find().map_err(|_| Errno::ENOSYS)?;
    // SAFETY: the caller's promise.
    unsafe { page.call(number, all) }
}

/// Address and length of a name.
///
/// # Safety
/// `name` is NULL or a string with a 0 at its end.
unsafe fn text(name: *const c_char) -> [u64; 2] {
    if name.is_null() {
        // No name: the call says EINVAL.
        return [0, 0];
    }
    // SAFETY: the caller's promise.
    [name as u64, unsafe { libc::strlen(name) } as u64]
}

/// Bytes of that many `T`.
fn bytes<T>(count: usize) -> u64 {
    count.saturating_mul(size_of::<T>()) as u64
}

/// `result` function(arguments) of type = call number [strings among the arguments] [registers], and
/// what the library notes if the call ended in a certain way.
macro_rules! calls {
    ($($result:ident $name:ident($($arg:ident: $type:ty),*) -> $returns:ty
        = $number:ident [$($text:ident)?] [$($value:expr),*] $(if $end:pat => $note:expr)?;)*) => {$(
        #[unsafe(no_mangle)]
        unsafe extern "C" fn $name($($arg: $type),*) -> $returns {
            $(
                // SAFETY: `spacejmp.h` asks for a string.
                let $text = unsafe { text($text) };
            )?
            // SAFETY: `spacejmp.h` asks for structures that the call may read or write.
            let result = unsafe { call($number, [$($value),*]) };
            $(
                if let $end = result {
                    $note;
                }
            )?
            $result(result)
        }
    )*};
}

calls! {
    status sj_null() -> c_int = CALL_NULL [] [];
    status sj_hyper_null() -> c_int = CALL_HYPER_NULL [] [];
    number vas_current() -> i64 = CALL_VAS_CURRENT [] [];
    status vas_commit() -> c_int = CALL_VAS_COMMIT [] [];
    status vas_abort() -> c_int = CALL_VAS_ABORT [] [];
    status vas_message(text: *const c_char) -> c_int
        = CALL_VAS_MESSAGE [text] [text[0], text[1]];
    number vas_sync(vh: i64) -> i64 = CALL_VAS_SYNC [] [vh as u64];
    number vas_version(vh: i64) -> i64 = CALL_VAS_VERSION [] [vh as u64];
    number vas_wait(vh: i64, after: u64, nanoseconds: u64) -> i64
        = CALL_VAS_WAIT [] [vh as u64, after, nanoseconds];
    number sj_ready_arguments(buffer: *mut u8, size: usize) -> i64
        = CALL_READY_ARGUMENTS [] [buffer as u64, size as u64];
    id vas_create(name: *const c_char, mode: u32) -> u64
        = CALL_VAS_CREATE [name] [name[0], name[1], mode.into()];
    id vas_find(name: *const c_char) -> u64 = CALL_VAS_FIND [name] [name[0], name[1]];
    id vas_clone(vid: u64, name: *const c_char, flags: u64) -> u64
        = CALL_VAS_CLONE [name] [vid, name[0], name[1], flags];
    id vas_tag(vid: u64, tag: *const c_char) -> u64 = CALL_VAS_TAG [tag] [vid, tag[0], tag[1]];
    number vas_attach(vid: u64, flags: u64) -> i64
        = CALL_VAS_ATTACH [] [vid, flags] if Ok(vh) => here::attached(vh as i64, vid, flags);
    status vas_detach(vh: i64) -> c_int
        = CALL_VAS_DETACH [] [vh as u64] if Ok(_) => here::detached(vh);
    status vas_ctl(cmd: u64, object: u64, arg: u64) -> c_int = CALL_VAS_CTL [] [cmd, object, arg];
    // With the lock of a dead holder the thread is inside, too.
    status vas_switch(vh: i64) -> c_int
        = CALL_VAS_SWITCH [] [vh as u64]
        if Ok(_) | Err(Errno::EOWNERDEAD) => here::enter(vh);
    status vas_try_switch(vh: i64) -> c_int
        = CALL_VAS_TRY_SWITCH [] [vh as u64]
        if Ok(_) | Err(Errno::EOWNERDEAD) => here::enter(vh);
    status vas_switch_timeout(vh: i64, nanoseconds: u64) -> c_int
        = CALL_VAS_SWITCH_TIMEOUT [] [vh as u64, nanoseconds]
        if Ok(_) | Err(Errno::EOWNERDEAD) => here::enter(vh);
    status vas_nest(vh: i64, nanoseconds: u64) -> c_int
        = CALL_VAS_NEST [] [vh as u64, nanoseconds]
        if Ok(_) | Err(Errno::EOWNERDEAD) => here::enter(vh);
    number vas_return() -> i64 = CALL_VAS_RETURN [] [] if Ok(vh) => here::enter(vh as i64);
    status vas_delete(vid: u64) -> c_int = CALL_VAS_DELETE [] [vid];
    number vas_list(buffer: *mut VasStat, count: usize, cursor: u64) -> i64
        = CALL_VAS_LIST [] [buffer as u64, bytes::<VasStat>(count), cursor];
    status vas_stat(vid: u64, stat: *mut VasStat) -> c_int
        = CALL_VAS_STAT [] [vid, stat as u64, bytes::<VasStat>(1)];
    number vas_segments(vid: u64, buffer: *mut Attachment, count: usize, cursor: u64) -> i64
        = CALL_VAS_SEGMENTS [] [vid, buffer as u64, bytes::<Attachment>(count), cursor];
    id seg_alloc_params(name: *const c_char, params: *const SegParams) -> u64
        = CALL_SEG_ALLOC [name] [name[0], name[1], params as u64, bytes::<SegParams>(1)];
    id seg_find(name: *const c_char) -> u64 = CALL_SEG_FIND [name] [name[0], name[1]];
    id seg_clone(sid: u64, name: *const c_char) -> u64
        = CALL_SEG_CLONE [name] [sid, name[0], name[1]];
    status seg_attach(vid: u64, sid: u64, right: u64) -> c_int
        = CALL_SEG_ATTACH [] [vid, sid, right];
    status seg_detach(vid: u64, sid: u64) -> c_int = CALL_SEG_DETACH [] [vid, sid];
    status seg_attach_local(vh: i64, sid: u64, right: u64) -> c_int
        = CALL_SEG_ATTACH_LOCAL [] [vh as u64, sid, right]
        if Ok(_) => here::attached_local(vh, sid, right);
    status seg_detach_local(vh: i64, sid: u64) -> c_int
        = CALL_SEG_DETACH_LOCAL [] [vh as u64, sid] if Ok(_) => here::detached_local(vh, sid);
    status seg_ctl(sid: u64, cmd: u64, arg: u64) -> c_int = CALL_SEG_CTL [] [sid, cmd, arg];
    status seg_delete(sid: u64) -> c_int = CALL_SEG_DELETE [] [sid];
    number seg_list(buffer: *mut SegStat, count: usize, cursor: u64) -> i64
        = CALL_SEG_LIST [] [buffer as u64, bytes::<SegStat>(count), cursor];
    status seg_stat(sid: u64, stat: *mut SegStat) -> c_int
        = CALL_SEG_STAT [] [sid, stat as u64, bytes::<SegStat>(1)];
    status seg_grow(sid: u64, size: u64) -> c_int = CALL_SEG_GROW [] [sid, size];
    status seg_reserve(sid: u64, offset: u64, size: u64) -> c_int
        = CALL_SEG_RESERVE [] [sid, offset, size];
    status seg_sync(sid: u64) -> c_int = CALL_SEG_SYNC [] [sid];
    status seg_root_get(sid: u64, root: *mut SegRoot) -> c_int
        = CALL_SEG_ROOT_GET [] [sid, root as u64];
    status seg_root_set(sid: u64, root: *const SegRoot) -> c_int
        = CALL_SEG_ROOT_SET [] [sid, root as u64];
}

/// The paper's call.
#[unsafe(no_mangle)]
unsafe extern "C" fn seg_alloc(name: *const c_char, base: u64, size_bytes: u64, mode: u32) -> u64 {
    let params = SegParams { base, size_bytes, mode, ..SegParams::default() };
    // SAFETY: the name is the caller's, the structure ours.
    unsafe { seg_alloc_params(name, &raw const params) }
}

/// A place that a C program may leave out.
type Place<'a, T> = Option<&'a mut MaybeUninit<T>>;

/// Who comes back: 0, the program; 1, a copy, with what it was started with.
#[unsafe(no_mangle)]
extern "C" fn sj_ready(
    argc: Place<'_, c_int>,
    argv: Place<'_, *mut *mut c_char>,
    envp: Place<'_, *mut *mut c_char>,
) -> c_int {
    let result = match sys::ready() {
        Ok(0) => return 0,
        Ok(bytes) => give_arguments(bytes, argc, argv, envp),
        Err(errno) => Err(errno),
    };
    match result {
        Ok(()) => 1,
        failed => status(failed),
    }
}

/// Has the copy's arguments written to memory that stays, with lists of them as `main` gets them.
fn give_arguments(
    bytes: u64,
    argc: Place<'_, c_int>,
    argv: Place<'_, *mut *mut c_char>,
    envp: Place<'_, *mut *mut c_char>,
) -> Result<(), Errno> {
    let mut buffer = vec![0_u8; bytes as usize].into_boxed_slice();
    sys::ready_arguments(&mut buffer)?;
    let (counts, texts) = buffer.split_at_mut_checked(16).ok_or(Errno::EIO)?;
    let [args, vars] = counts.as_chunks::<8>().0 else { return Err(Errno::EIO) };
    let [args, vars] = [args, vars].map(|count| u64::from_le_bytes(*count) as usize);
    let texts = texts.split_inclusive_mut(|byte| *byte == 0);
    let mut list: Vec<*mut c_char> = texts.map(|text| text.as_mut_ptr().cast()).collect();
    if list.len() != args + vars {
        return Err(Errno::EIO);
    }
    list.insert(args, std::ptr::null_mut());
    list.push(std::ptr::null_mut());
    // As those of `main`, they are there until the program ends.
    Box::leak(buffer);
    let (arguments, variables) = Box::leak(list.into_boxed_slice()).split_at_mut(args + 1);
    argc.map(|place| place.write(args as c_int));
    argv.map(|place| place.write(arguments.as_mut_ptr()));
    envp.map(|place| place.write(variables.as_mut_ptr()));
    Ok(())
}

/// The result register of any call, unchanged.
#[unsafe(no_mangle)]
unsafe extern "C" fn sj_call(
    number: u32,
    a1: u64,
    a2: u64,
    a3: u64,
    a4: u64,
    a5: u64,
    a6: u64,
) -> i64 {
    // SAFETY: `spacejmp.h` asks for what the call needs.
    let result = unsafe { call(number, [a1, a2, a3, a4, a5, a6]) };
    // It may have been a switch, and perhaps one without effect because the thread was there
    // already.
    here::forget();
    result.map_or_else(|errno| -i64::from(errno.raw()), |value| value as i64)
}
