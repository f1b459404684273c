//! `fork`, and `clone` without `CLONE_VM`: a child with a copy of its parent's memory, in a VM of its
//! own from the first instruction.
//!
//! The starter makes the child's host process, which prepares its VM while this one copies what the
//! child inherits. Then that is sent, and the parent goes on.

use std::os::fd::AsFd;

use abi::addr::LOWER_HALF_END;
use abi::{Errno, GuestVirt};
use rustix::event::{PollFd, PollFlags, poll};

use super::forked::{self, ForkedThread, Rest};
use super::vfork::{ForkArgs, order};
use super::{Made, locked};
use crate::linux::survivor::Survivor;
use crate::linux::task::ThreadCtx;
use crate::linux::{CallResult, thread, value};
use crate::vas;

/// Starts the child.
pub(in crate::linux) fn fork(ctx: &mut ThreadCtx<'_>, args: ForkArgs) -> CallResult {
    if ctx.process.children.member().is_none() {
        return thread::no_processes(ctx, libc::SYS_fork as u64);
    }
    if ctx.vcpu.instance() != vas::HOME {
        // The child could not go on where it is: the visit, its locks and its changes are this thread's.
        tracing::warn!("the program forks inside an address space, which it must leave before");
        return Err(Errno::EBUSY.into());
    }
    let made = ctx.process.children.make(ctx.process)?;
    let pid = made.pid;
    match send_copy(ctx, &args, &made) {
        Ok(()) => {}
        Err(errno) => {
            ctx.process.children.abandon(pid);
            return Err(errno.into());
        }
    }
    if let Some(at) = args.parent_tid {
        let _ = ctx.user().copy_out(at, &pid.to_le_bytes());
    }
    if args.waits {
        wait_until_let_go(ctx, &made);
    }
    value(u64::from(pid.cast_unsigned()))
}

/// Copies what the child inherits, and sends it.
fn send_copy(ctx: &ThreadCtx<'_>, args: &ForkArgs, made: &Made) -> Result<(), Errno> {
    let _span = tracing::debug_span!("fork", child = made.pid).entered();
    let process = ctx.process;
    // It may begin.
    let waits = i32::from(args.waits).to_le_bytes();
    let gone = |error: std::io::Error| tracing::debug!(%error, "a child has ended before it began");
    if let Err(error) = made.channel.send(&[&[order::FORK], waits.as_slice()].concat(), &[]) {
        // It was killed: its status says so.
        gone(error);
        return Ok(());
    }
    let thread = copy_thread(ctx, args)?;
    let files = process.files.for_child().hand_over()?;
    if !process.sysv.is_empty()
        && let Some(client) = process.children.sysv()
    {
        client.forked(made.pid)?;
    }
    let region = process.private.copy(&made.member)?;
    if region.has_shared() {
        // Each of the two may hold locks there that the other one waits for.
        Survivor::make(process);
    }
    let actions = process.signals.copy(args.clear_handlers);
    let attached = process.vases.instances_for_child();
    let rest = Rest { process, thread: &thread, actions: &actions, attached: &attached };
    let (bytes, fds) = forked::encode(&region, files, &rest);
    let fds: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
    if let Err(error) = made.channel.send(&bytes, &fds) {
        gone(error);
    } else if !attached.is_empty() {
        // Until the child has attached them: what is volatile is gone when nobody has it any more. Whether
        // that succeeded is told to the user by the child.
        let _ = made.channel.receive();
    }
    Ok(())
}

/// The calling thread as it goes on in the child.
fn copy_thread(ctx: &ThreadCtx<'_>, args: &ForkArgs) -> Result<ForkedThread, Errno> {
    let base = |raw: u64| match GuestVirt::new(raw) {
        Ok(base) if raw < LOWER_HALF_END => Ok(base),
        _ => Err(Errno::EPERM),
    };
    let fpu = ctx.vcpu.fpu_state().map_err(|error| {
        tracing::warn!(error = %crate::error::chain(&error), "no new process for the program");
        Errno::EAGAIN
    })?;
    let mut regs = ctx.vcpu.regs;
    regs.rax = 0;
    if args.stack_top != 0 {
        regs.rsp = args.stack_top;
    }
    Ok(ForkedThread {
        regs,
        fs_base: base(args.tls.unwrap_or(ctx.vcpu.fs_base()))?,
        gs_base: GuestVirt::new(ctx.vcpu.gs_base()).map_err(|_| Errno::EPERM)?,
        fpu: Box::new(fpu),
        mask: ctx.thread.signals.mask(),
        alt: ctx.thread.signals.alt_stack(),
        name: ctx.thread.name(),
        set_tid: args.child_tid.unwrap_or(0),
        clear_tid: args.clear_tid.unwrap_or(0),
    })
}

/// `CLONE_VFORK`: waits until the child runs another program or has ended. Signals do not end that, as on
/// Linux.
fn wait_until_let_go(ctx: &ThreadCtx<'_>, made: &Made) {
    while !ctx.process.is_stopping() {
        // Acknowledges a kick.
        let _ = ctx.is_interrupted();
        let mut fds = [PollFd::new(&made.channel, PollFlags::IN)];
        match poll(&mut fds, None) {
            Err(rustix::io::Errno::INTR) => {}
            // The child says nothing: it is the end of the connection.
            _ => break,
        }
    }
}

impl super::Children {
    /// Gives up a child that was not told what to do. Without the other end of its channel it ends;
    /// the event loop waits for it.
    fn abandon(&self, pid: i32) {
        locked(&self.pids).remove(&pid);
    }
}
