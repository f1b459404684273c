//! Sending and receiving: `sendto`, `sendmsg`, `sendmmsg`, `recvfrom`, `recvmsg`, `recvmmsg`.
//!
//! The bytes go directly between guest memory and the host. Names and control messages are copies of
//! ours; what is said to the host kernel (netlink) is, too.

use std::sync::Arc;
use std::time::Instant;

use abi::Errno;

use super::address::{self, Address};
use super::control::{self, CONTROL_MAX, Control};
use super::endpoint::{Checked, check_destination, inside, is_stream, read_name};
use super::host::{self, Incoming, Outgoing};
use super::{Args, Ctx, in_program, netlink, never_waits, put_name, socket};
use crate::files::{FileKind, OpenFile};
use crate::linux::task::ThreadCtx;
use crate::linux::time::deadline_at;
use crate::linux::transfer::{Buffers, DRAIN, FILL, buffers_of, check_range, parts};
use crate::linux::{CallResult, Fail, signal, value};

/// What the host is told of the program's flags. Not among them: sending from the program's pages
/// without copying.
const SEND_FLAGS: i32 = libc::MSG_OOB
    | libc::MSG_DONTROUTE
    | libc::MSG_DONTWAIT
    | libc::MSG_EOR
    | libc::MSG_CONFIRM
    | libc::MSG_MORE
    | libc::MSG_FASTOPEN;
const RECEIVE_FLAGS: i32 = libc::MSG_OOB
    | libc::MSG_PEEK
    | libc::MSG_TRUNC
    | libc::MSG_DONTWAIT
    | libc::MSG_WAITALL
    | libc::MSG_ERRQUEUE;
/// Messages of one call, and parts of one message (UIO_MAXIOV).
const MANY_MAX: u64 = 1024;
/// Bytes of a question to the host kernel.
const QUERY_MAX: u64 = 1 << 16;
/// Bytes of a `struct msghdr`, and of one with the length of what was moved.
const HEADER_BYTES: u64 = 56;
const MANY_BYTES: u64 = 64;

/// A `struct msghdr` as the program gave it.
#[derive(Debug, Default)]
struct Header {
    name: u64,
    name_len: i32,
    parts: Vec<[u64; 2]>,
    control: u64,
    control_len: u64,
}

fn header(ctx: &ThreadCtx<'_>, at: u64) -> Result<Header, Errno> {
    let [name, name_len, iov, count, control, control_len, _] = ctx.user().read_words(at)?;
    if count > MANY_MAX {
        return Err(Errno::from_raw(libc::EMSGSIZE));
    }
    let name_len = if name == 0 { 0 } else { name_len as i32 };
    if name_len < 0 {
        return Err(Errno::EINVAL);
    }
    Ok(Header {
        name,
        name_len: name_len.min(host::NAME_MAX as i32),
        parts: parts(ctx, iov, count)?,
        control,
        control_len: if control == 0 { 0 } else { control_len },
    })
}

/// `sendto(2)`.
pub(in crate::linux) fn sendto(ctx: Ctx<'_, '_>, a: Args<'_>) -> CallResult {
    let file = socket(ctx, a[0])?;
    check_range(a[1], a[2])?;
    let name = if a[4] == 0 { Vec::new() } else { read_name(ctx, a[4], a[5])? };
    let to_send = ToSend { name, parts: vec![[a[1], a[2].min(MOST_BYTES)]], control: Vec::new() };
    value(send(ctx, &file, &to_send, a[3] as i32)?)
}

/// Most bytes one call moves (Linux's MAX_RW_COUNT).
const MOST_BYTES: u64 = 0x7fff_f000;

/// `sendmsg(2)`.
pub(in crate::linux) fn sendmsg(ctx: Ctx<'_, '_>, a: Args<'_>) -> CallResult {
    let file = socket(ctx, a[0])?;
    value(send_header(ctx, &file, a[1], a[2] as i32)?)
}

/// `sendmmsg(2)`: an error is told only if nothing was sent.
pub(in crate::linux) fn sendmmsg(ctx: Ctx<'_, '_>, a: Args<'_>) -> CallResult {
    let file = socket(ctx, a[0])?;
    let many = u64::from(a[2] as u32).min(MANY_MAX);
    let mut done = 0;
    while done < many {
        let at = a[1].wrapping_add(done * MANY_BYTES);
        let sent = send_header(ctx, &file, at, a[3] as i32).and_then(|sent| {
            Ok(ctx.user().copy_out(at.wrapping_add(HEADER_BYTES), &(sent as u32).to_ne_bytes())?)
        });
        match sent {
            Ok(()) => done += 1,
            Err(fail) if done == 0 => return Err(fail),
            Err(_) => break,
        }
    }
    value(done)
}

fn send_header(
    ctx: &ThreadCtx<'_>,
    file: &Arc<OpenFile>,
    at: u64,
    flags: i32,
) -> Result<u64, Fail> {
    let header = header(ctx, at)?;
    let mut name = vec![0; header.name_len as usize];
    ctx.user().copy_in(header.name, &mut name)?;
    if header.control_len > CONTROL_MAX as u64 {
        return Err(Errno::from_raw(libc::ENOBUFS).into());
    }
    let mut control = vec![0; header.control_len as usize];
    ctx.user().copy_in(header.control, &mut control)?;
    send(ctx, file, &ToSend { name, parts: header.parts, control }, flags)
}

/// A message as the program gave it: copies, but for the bytes themselves.
#[derive(Debug)]
struct ToSend {
    name: Vec<u8>,
    parts: Vec<[u64; 2]>,
    control: Vec<u8>,
}

/// Sends it: all of it, if the program waits and it is a stream.
fn send(ctx: &ThreadCtx<'_>, file: &OpenFile, message: &ToSend, flags: i32) -> Result<u64, Fail> {
    // Kept until the host has the message: what the names and the numbers in it mean.
    let to = match &message.name[..] {
        [] => Checked::default(),
        name => check_destination(ctx, file, name)?,
    };
    let (control, _passed) = outgoing_control(ctx, file, &message.control)?;
    if file.kind() == FileKind::Netlink {
        return query(ctx, file, message, &to, flags);
    }
    let flags = if never_waits(file) { flags | libc::MSG_DONTWAIT } else { flags };
    let waits = !file.nonblocking() && flags & libc::MSG_DONTWAIT == 0;
    let mut outgoing = Outgoing {
        name: &to.name,
        control: &control,
        flags: flags & SEND_FLAGS | libc::MSG_NOSIGNAL,
    };
    let mut buffers = buffers_of(ctx, &message.parts, DRAIN)?;
    let mut sent = 0;
    loop {
        if ctx.is_interrupted() {
            return if sent > 0 { Ok(sent) } else { Err(Fail::Restart) };
        }
        let withheld = ctx.process.machine.mem.withheld();
        match host::send(file.host_fd(), &buffers.iov, &outgoing) {
            Ok(more) => {
                sent += more as u64;
                skip(&mut buffers, more);
                if buffers.iov.is_empty() || !waits || !is_stream(file) {
                    return Ok(sent);
                }
                // They went with the first bytes.
                outgoing.control = &[];
            }
            Err(Errno::EINTR) => {}
            // Another thread was just changing the memory's protection.
            Err(Errno::EFAULT) if ctx.process.machine.mem.withheld().may_have_hit(withheld) => {}
            Err(_) if sent > 0 => return Ok(sent),
            Err(Errno::EPIPE) => {
                if flags & libc::MSG_NOSIGNAL == 0 && is_stream(file) {
                    signal::broken_pipe(ctx);
                }
                return Err(Errno::EPIPE.into());
            }
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// Takes `count` bytes off the front.
fn skip(buffers: &mut Buffers<'_>, count: usize) {
    let mut left = count;
    buffers.iov.retain_mut(|part| {
        let taken = left.min(part.iov_len);
        left -= taken;
        part.iov_base = part.iov_base.wrapping_byte_add(taken);
        part.iov_len -= taken;
        part.iov_len > 0
    });
}

/// A question to the host kernel, copied whole before it is looked at.
fn query(
    ctx: &ThreadCtx<'_>,
    file: &OpenFile,
    message: &ToSend,
    to: &Checked,
    flags: i32,
) -> Result<u64, Fail> {
    let len: u64 = message.parts.iter().map(|[_, len]| len).sum();
    if len > QUERY_MAX {
        return Err(Errno::from_raw(libc::EMSGSIZE).into());
    }
    let mut bytes = Vec::new();
    for &[base, len] in &message.parts {
        let mut piece = vec![0; len as usize];
        ctx.user().copy_in(base, &mut piece)?;
        bytes.append(&mut piece);
    }
    if !netlink::is_query(&bytes) {
        return Err(Errno::EPERM.into());
    }
    let iov = [libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() }];
    let flags = flags & SEND_FLAGS | libc::MSG_NOSIGNAL;
    let outgoing = Outgoing { name: &to.name, control: &[], flags };
    let sent = super::waiting(ctx, || host::send(file.host_fd(), &iov, &outgoing))?;
    Ok(sent as u64)
}

/// The control messages for the host, and the files whose descriptors are in them.
fn outgoing_control(
    ctx: &ThreadCtx<'_>,
    file: &OpenFile,
    bytes: &[u8],
) -> Result<(Vec<u8>, Vec<Arc<OpenFile>>), Errno> {
    let (mut out, mut passed) = (Vec::new(), Vec::new());
    for message in control::decode(bytes)? {
        if !control::may_be_sent(&message) || file.kind() == FileKind::Netlink {
            return Err(Errno::EINVAL);
        }
        let message = match message {
            Control::Rights(fds) => {
                let files = fds.iter().map(|fd| ctx.files().to_pass(*fd));
                let files = files.collect::<Result<Vec<_>, _>>()?;
                let numbers = files.iter().map(|file| {
                    use std::os::fd::AsRawFd;
                    file.host_fd().as_raw_fd()
                });
                let numbers = numbers.collect();
                passed.extend(files);
                Control::Rights(numbers)
            }
            Control::Credentials([pid, uid, gid]) if pid.cast_signed() == ctx.process.pid() => {
                Control::Credentials([std::process::id(), uid, gid])
            }
            // Another process's, whichever user runs the VMM.
            Control::Credentials(_) => return Err(Errno::EPERM),
            other => other,
        };
        control::encode(&message, &mut out);
    }
    Ok((out, passed))
}

/// `recvfrom(2)`.
pub(in crate::linux) fn recvfrom(ctx: Ctx<'_, '_>, a: Args<'_>) -> CallResult {
    let file = socket(ctx, a[0])?;
    check_range(a[1], a[2])?;
    let to = [[a[1], a[2].min(MOST_BYTES)]];
    let got = receive(ctx, &file, &to, 0, a[3] as i32)?;
    if a[4] != 0 {
        put_name(ctx, a[4], a[5], &got.name)?;
    }
    value(got.bytes as u64)
}

/// `recvmsg(2)`.
pub(in crate::linux) fn recvmsg(ctx: Ctx<'_, '_>, a: Args<'_>) -> CallResult {
    let file = socket(ctx, a[0])?;
    value(receive_header(ctx, &file, a[1], a[2] as i32)?)
}

/// `recvmmsg(2)`: the time is looked at after each message, as on Linux.
pub(in crate::linux) fn recvmmsg(ctx: Ctx<'_, '_>, a: Args<'_>) -> CallResult {
    let file = socket(ctx, a[0])?;
    let deadline = deadline_at(ctx, a[4])?;
    let many = u64::from(a[2] as u32).min(MANY_MAX);
    let mut flags = a[3] as i32;
    let mut done = 0;
    while done < many {
        let at = a[1].wrapping_add(done * MANY_BYTES);
        let got = receive_header(ctx, &file, at, flags & !libc::MSG_WAITFORONE).and_then(|got| {
            Ok(ctx.user().copy_out(at.wrapping_add(HEADER_BYTES), &(got as u32).to_ne_bytes())?)
        });
        match got {
            Ok(()) => done += 1,
            Err(fail) if done == 0 => return Err(fail),
            Err(_) => break,
        }
        if flags & libc::MSG_WAITFORONE != 0 {
            flags |= libc::MSG_DONTWAIT;
        }
        if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
            break;
        }
    }
    if let Some(deadline) = deadline {
        let left = deadline.saturating_duration_since(Instant::now());
        ctx.user().write_words(a[4], [left.as_secs(), u64::from(left.subsec_nanos())])?;
    }
    value(done)
}

fn receive_header(ctx: &ThreadCtx<'_>, file: &OpenFile, at: u64, flags: i32) -> Result<u64, Fail> {
    /// Where in the structure the results are.
    const NAME_LEN: u64 = 8;
    const CONTROL_LEN: u64 = 40;
    const FLAGS: u64 = 48;
    let header = header(ctx, at)?;
    let room = header.control_len.min(CONTROL_MAX as u64) as usize;
    let got = receive(ctx, file, &header.parts, room, flags)?;
    let put = |offset: u64, bytes: &[u8]| ctx.user().copy_out(at.wrapping_add(offset), bytes);
    if header.name != 0 {
        let room = (header.name_len as usize).min(got.name.len());
        ctx.user().copy_out(header.name, got.name.get(..room).unwrap_or_default())?;
        put(NAME_LEN, &(got.name.len() as u32).to_ne_bytes())?;
    }
    ctx.user().copy_out(header.control, &got.control)?;
    put(CONTROL_LEN, &(got.control.len() as u64).to_ne_bytes())?;
    put(FLAGS, &got.flags.to_ne_bytes())?;
    Ok(got.bytes as u64)
}

/// Receives a message, with `room` for control messages. All but the bytes comes back in the program's
/// terms.
fn receive(
    ctx: &ThreadCtx<'_>,
    file: &OpenFile,
    to: &[[u64; 2]],
    room: usize,
    flags: i32,
) -> Result<Incoming, Fail> {
    let buffers = buffers_of(ctx, to, FILL)?;
    let flags = if never_waits(file) { flags | libc::MSG_DONTWAIT } else { flags };
    let mut got = loop {
        if ctx.is_interrupted() {
            return Err(Fail::Restart);
        }
        let withheld = ctx.process.machine.mem.withheld();
        match host::receive(file.host_fd(), &buffers.iov, room, flags & RECEIVE_FLAGS) {
            Ok(got) => break got,
            Err(Errno::EINTR) => {}
            // Another thread was just changing the memory's protection.
            Err(Errno::EFAULT) if ctx.process.machine.mem.withheld().may_have_hit(withheld) => {}
            Err(errno) => return Err(errno.into()),
        }
    };
    let cloexec = flags & libc::MSG_CMSG_CLOEXEC;
    got.flags = got.flags & !libc::MSG_CMSG_CLOEXEC | cloexec;
    incoming_control(ctx, &mut got, room, cloexec != 0)?;
    note_peer(ctx, file, &got.name);
    if !got.name.is_empty() {
        got.name = inside(ctx, &got.name);
    }
    Ok(got)
}

/// Remembers who sent to a server, which may answer.
fn note_peer(ctx: &ThreadCtx<'_>, file: &OpenFile, name: &[u8]) {
    let grants = &ctx.process.network.grants;
    if grants.all || grants.listen.is_empty() {
        return;
    }
    if let Ok(Address::Internet(from)) = address::decode(name, libc::AF_UNSPEC) {
        file.peers().note(from);
    }
}

/// Gives the program the descriptors in what arrived. Those for which it has no number are closed, which
/// it is told as a truncation.
fn incoming_control(
    ctx: &ThreadCtx<'_>,
    got: &mut Incoming,
    room: usize,
    cloexec: bool,
) -> Result<(), Errno> {
    let mut out = Vec::new();
    for message in control::decode(&got.control)? {
        let message = match message {
            Control::Rights(numbers) => {
                let all: Vec<_> = numbers.into_iter().map(host::arrived).collect();
                let mut given = Vec::new();
                for fd in all {
                    match fd.and_then(|fd| ctx.files().receive(fd, cloexec)) {
                        Ok(fd) => given.push(fd),
                        Err(_) => got.flags |= libc::MSG_CTRUNC,
                    }
                }
                if given.is_empty() {
                    continue;
                }
                Control::Rights(given)
            }
            Control::Credentials([pid, uid, gid]) => {
                let pid = in_program(ctx, pid.cast_signed()).cast_unsigned();
                Control::Credentials([pid, uid, gid])
            }
            other => other,
        };
        control::encode(&message, &mut out);
    }
    out.truncate(room);
    got.control = out;
    Ok(())
}
