//! The calls on extended attributes: registers and guest memory on one side,
//! [`crate::files::Files`] on the other. That module decides which attributes exist.

use abi::Errno;

use super::{CallResult, value};
use crate::files::{XATTR_MAX, XattrOf};
use crate::linux::task::ThreadCtx;

type Ctx<'a, 'b> = &'a mut ThreadCtx<'b>;
type Args<'a> = &'a [u64; 6];

/// Which of the three forms of a call: the register that names the file means something
/// else in each.
#[derive(Clone, Copy)]
pub(super) enum Form {
    /// `getxattr`: a path, links followed.
    Follow,
    /// `lgetxattr`: a path, the link itself.
    NoFollow,
    /// `fgetxattr`: a descriptor.
    Descriptor,
}

fn with<T>(
    ctx: &ThreadCtx<'_>,
    form: Form,
    file: u64,
    call: impl FnOnce(XattrOf<'_>) -> Result<T, Errno>,
) -> Result<T, Errno> {
    match form {
        Form::Follow => call(XattrOf::Path(&ctx.user().read_path(file)?)),
        Form::NoFollow => call(XattrOf::Link(&ctx.user().read_path(file)?)),
        Form::Descriptor => call(XattrOf::Descriptor(file as i32)),
    }
}

/// An attribute's name; one that is too long gives `ERANGE`, unlike a path.
fn name(ctx: &ThreadCtx<'_>, at: u64) -> Result<Vec<u8>, Errno> {
    match ctx.user().read_path(at) {
        Err(Errno::ENAMETOOLONG) => Err(Errno::ERANGE),
        other => other,
    }
}

/// Copies `bytes` to the program if they fit; with a capacity of 0, returns their number.
fn answer(ctx: &ThreadCtx<'_>, at: u64, capacity: u64, bytes: &[u8]) -> CallResult {
    if capacity != 0 {
        if bytes.len() as u64 > capacity {
            return Err(Errno::ERANGE.into());
        }
        ctx.user().copy_out(at, bytes)?;
    }
    value(bytes.len() as u64)
}

pub(super) fn get(ctx: Ctx<'_, '_>, a: Args<'_>, form: Form) -> CallResult {
    let [file, name_at, at, capacity, ..] = *a;
    let name = name(ctx, name_at)?;
    let files = ctx.files();
    if capacity == 0 {
        return value(with(ctx, form, file, |of| files.xattr_len(of, &name))? as u64);
    }
    let capacity = capacity.min(XATTR_MAX as u64);
    let found = with(ctx, form, file, |of| files.getxattr(of, &name, capacity as usize))?;
    answer(ctx, at, capacity, &found)
}

pub(super) fn set(ctx: Ctx<'_, '_>, a: Args<'_>, form: Form) -> CallResult {
    let [file, name_at, at, len, flags, _] = *a;
    if flags as u32 & !(libc::XATTR_CREATE | libc::XATTR_REPLACE) as u32 != 0 {
        return Err(Errno::EINVAL.into());
    }
    let name = name(ctx, name_at)?;
    if len > XATTR_MAX as u64 {
        return Err(Errno::E2BIG.into());
    }
    let mut bytes = vec![0; len as usize];
    ctx.user().copy_in(at, &mut bytes)?;
    let files = ctx.files();
    with(ctx, form, file, |of| files.setxattr(of, &name, &bytes, flags as u32))?;
    value(0)
}

pub(super) fn list(ctx: Ctx<'_, '_>, a: Args<'_>, form: Form) -> CallResult {
    let [file, at, capacity, ..] = *a;
    let found = with(ctx, form, file, |of| ctx.files().listxattr(of))?;
    answer(ctx, at, capacity, &found)
}

pub(super) fn remove(ctx: Ctx<'_, '_>, a: Args<'_>, form: Form) -> CallResult {
    let name = name(ctx, a[1])?;
    with(ctx, form, a[0], |of| ctx.files().removexattr(of, &name))?;
    value(0)
}
