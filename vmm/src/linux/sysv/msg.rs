//! `msgget`, `msgsnd`, `msgrcv`, `msgctl`.

use abi::Errno;

use super::{after_permissions, ask, ask_and_wait, read_permissions, structure, words};
use crate::linux::task::ThreadCtx;
use crate::linux::{CallResult, value};
use crate::process_tree::sysv::question;
use crate::process_tree::wire::Writer;

/// `MSGMAX`.
const BYTES_MAX: u64 = 8192;
/// Where `msg_qbytes` is in `struct msqid64_ds`.
const LIMIT_AT: u64 = 88;
const MSG_STAT: i32 = 11;
const MSG_INFO: i32 = 12;
const MSG_STAT_ANY: i32 = 13;

/// `msgget(2)`.
pub(in crate::linux) fn msgget(ctx: &mut ThreadCtx<'_>, a: &[u64; 6]) -> CallResult {
    let question = words(&[question::MSG_GET, a[0] as u32 as u64, a[1] as u32 as u64]);
    value(ask(ctx, &question)?.value)
}

/// `msgsnd(2)`.
pub(in crate::linux) fn msgsnd(ctx: &mut ThreadCtx<'_>, a: &[u64; 6]) -> CallResult {
    let (id, at, bytes, flags) = (a[0] as i32, a[1], a[2], a[3] as u32);
    let mut kind = [0; 8];
    ctx.user().copy_in(at, &mut kind)?;
    if id < 0 || bytes > BYTES_MAX || i64::from_le_bytes(kind) < 1 {
        return Err(Errno::EINVAL.into());
    }
    let mut content = vec![0; bytes as usize];
    ctx.user().copy_in(at.checked_add(8).ok_or(Errno::EFAULT)?, &mut content)?;
    let mut question = Writer::default();
    let kind = u64::from_le_bytes(kind);
    question.words(&[question::MSG_SEND, id as u64, kind, u64::from(flags)]);
    question.bytes(&content);
    ask_and_wait(ctx, &question.finish(), None)?;
    value(0)
}

/// `msgrcv(2)`.
pub(in crate::linux) fn msgrcv(ctx: &mut ThreadCtx<'_>, a: &[u64; 6]) -> CallResult {
    let (id, at, bytes, kind, flags) = (a[0] as i32, a[1], a[2], a[3], a[4] as u32);
    if id < 0 || bytes > i64::MAX as u64 {
        return Err(Errno::EINVAL.into());
    }
    let question = words(&[question::MSG_RECEIVE, id as u64, bytes, kind, u64::from(flags)]);
    let (answer, content) = ask_and_wait(ctx, &question, None)?;
    // As on Linux, a message for which there is no place is lost.
    ctx.user().copy_out(at, &[answer.value.to_le_bytes().as_slice(), &content].concat())?;
    value(content.len() as u64)
}

/// `msgctl(2)`.
pub(in crate::linux) fn msgctl(ctx: &mut ThreadCtx<'_>, a: &[u64; 6]) -> CallResult {
    let (id, command, at) = (a[0] as i32, a[1] as i32, a[2]);
    if id < 0 || command < 0 {
        return Err(Errno::EINVAL.into());
    }
    let mut limit = [0; 8];
    let [uid, gid, mode] = match command {
        libc::IPC_SET => {
            ctx.user().copy_in(at.checked_add(LIMIT_AT).ok_or(Errno::EFAULT)?, &mut limit)?;
            read_permissions(ctx, at)?
        }
        _ => [0; 3],
    };
    let limit = u64::from_le_bytes(limit);
    let question = [question::MSG_CONTROL, id as u64, command as u64, uid, gid, mode, limit];
    let answer = ask(ctx, &words(&question))?;
    let bytes = match command {
        libc::IPC_STAT | MSG_STAT | MSG_STAT_ANY => {
            let rest = [(48, 8), (56, 8), (64, 8), (72, 8), (80, 8), (88, 8), (96, 4), (100, 4)];
            structure(120, &answer.words, &after_permissions(&rest))
        }
        libc::IPC_INFO | MSG_INFO => {
            let mut fields: Vec<_> = (0..7).map(|field| (field * 4, 4)).collect();
            fields.push((28, 2));
            structure(32, &answer.words, &fields)
        }
        _ => Vec::new(),
    };
    ctx.user().copy_out(at, &bytes)?;
    value(answer.value)
}
