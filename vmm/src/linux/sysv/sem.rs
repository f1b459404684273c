//! `semget`, `semop`, `semtimedop`, `semctl`.

use std::time::{Duration, Instant};

use abi::Errno;

use super::{after_permissions, ask, ask_and_wait, read_permissions, structure, words};
use crate::linux::task::ThreadCtx;
use crate::linux::{CallResult, value};
use crate::process_tree::sysv::question;
use crate::process_tree::wire::Writer;

/// `SEMOPM`.
const OPERATIONS_MAX: u64 = 500;
/// `struct sembuf`.
const OPERATION_BYTES: usize = 6;
const SEM_STAT: i32 = 18;
const SEM_INFO: i32 = 19;
const SEM_STAT_ANY: i32 = 20;

/// `semget(2)`.
pub(in crate::linux) fn semget(ctx: &mut ThreadCtx<'_>, a: &[u64; 6]) -> CallResult {
    let count = u64::try_from(a[1] as i32).map_err(|_| Errno::EINVAL)?;
    let question = words(&[question::SEM_GET, a[0] as u32 as u64, count, a[2] as u32 as u64]);
    value(ask(ctx, &question)?.value)
}

/// `semop(2)`.
pub(in crate::linux) fn semop(ctx: &mut ThreadCtx<'_>, a: &[u64; 6]) -> CallResult {
    operate(ctx, a, None)
}

/// `semtimedop(2)`.
pub(in crate::linux) fn semtimedop(ctx: &mut ThreadCtx<'_>, a: &[u64; 6]) -> CallResult {
    if a[3] == 0 {
        return operate(ctx, a, None);
    }
    let mut bytes = [0; 16];
    ctx.user().copy_in(a[3], &mut bytes)?;
    let [seconds, nanoseconds] = [0, 8].map(|at| {
        let field = bytes.get(at..).and_then(|rest| rest.first_chunk());
        i64::from_le_bytes(field.copied().unwrap_or_default())
    });
    let seconds = u64::try_from(seconds).map_err(|_| Errno::EINVAL)?;
    let nanoseconds = u32::try_from(nanoseconds).ok().filter(|it| *it < 1_000_000_000);
    operate(ctx, a, Some(Duration::new(seconds, nanoseconds.ok_or(Errno::EINVAL)?)))
}

fn operate(ctx: &mut ThreadCtx<'_>, a: &[u64; 6], time: Option<Duration>) -> CallResult {
    let (id, at, count) = (a[0] as i32, a[1], a[2]);
    if count == 0 || id < 0 {
        return Err(Errno::EINVAL.into());
    }
    if count > OPERATIONS_MAX {
        return Err(Errno::from_raw(libc::E2BIG).into());
    }
    let mut bytes = vec![0; count as usize * OPERATION_BYTES];
    ctx.user().copy_in(at, &mut bytes)?;
    let mut question = Writer::default();
    question.words(&[question::SEM_OPERATE, id as u64, count]);
    for operation in bytes.as_chunks::<OPERATION_BYTES>().0 {
        let [n0, n1, a0, a1, f0, f1] = *operation;
        let number = u16::from_le_bytes([n0, n1]);
        let [add, flags] = [[a0, a1], [f0, f1]].map(i16::from_le_bytes);
        question.words(&[u64::from(number), add as u64, flags as u64]);
    }
    // What does not fit is for ever.
    let limit = time.and_then(|time| Instant::now().checked_add(time));
    ask_and_wait(ctx, &question.finish(), limit)?;
    value(0)
}

/// `semctl(2)`.
pub(in crate::linux) fn semctl(ctx: &mut ThreadCtx<'_>, a: &[u64; 6]) -> CallResult {
    let (id, number, command, argument) = (a[0] as i32, a[1] as i32, a[2] as i32, a[3]);
    if id < 0 {
        return Err(Errno::EINVAL.into());
    }
    let control = |arguments: &[u64]| {
        let mut question = Writer::default();
        question.words(&[question::SEM_CONTROL, id as u64, number as u64, command as u64]);
        question.words(&[arguments.len() as u64]);
        question.words(arguments);
        ask(ctx, &question.finish())
    };
    let answer = match command {
        libc::SETVAL => control(&[argument as i32 as u64])?,
        libc::SETALL => {
            let count = control(&[])?.value;
            let mut bytes = vec![0; count as usize * 2];
            ctx.user().copy_in(argument, &mut bytes)?;
            let values = bytes.as_chunks().0.iter().map(|it| u64::from(u16::from_le_bytes(*it)));
            control(&values.collect::<Vec<_>>())?
        }
        libc::IPC_SET => control(&read_permissions(ctx, argument)?)?,
        _ => control(&[])?,
    };
    let bytes = match command {
        libc::GETALL => answer.words.iter().flat_map(|word| (*word as u16).to_le_bytes()).collect(),
        libc::IPC_STAT | SEM_STAT | SEM_STAT_ANY => {
            structure(104, &answer.words, &after_permissions(&[(48, 8), (64, 8), (80, 8)]))
        }
        libc::IPC_INFO | SEM_INFO => {
            let fields: Vec<_> = (0..10).map(|field| (field * 4, 4)).collect();
            structure(40, &answer.words, &fields)
        }
        _ => Vec::new(),
    };
    ctx.user().copy_out(argument, &bytes)?;
    value(answer.value)
}
