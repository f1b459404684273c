//! `execve` and `execveat`: what is to run is read, looked up and opened here, once; a call that
//! fails has changed nothing. Then it runs in the place of this program, in this process, or in
//! another one that the call was made for.
//!
//! This process's VM ends and another one is made in it (`process::run`), rather than the VMM
//! starting itself anew: the number, the children and the open files stay what they are, no thread
//! that serves a program ever needs the host's `execve`, and it takes no longer.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use abi::Errno;

use super::strings::read_strings;
use crate::files::{Files, HandedOver, MemoryAccount, Sent};
use crate::linux::limits::Limits;
use crate::linux::signal::KeptSignals;
use crate::linux::task::ThreadCtx;
use crate::linux::{CWD, CallResult, Done};
use crate::private::stack::argument_bytes;
use crate::process_tree::wire::{Reader, Writer};

/// A program that is about to run, with everything that it takes over.
#[derive(Debug)]
pub struct NewProgram {
    /// Its path, as it was given.
    pub path: Vec<u8>,
    /// Its arguments, its name first; a script's interpreter has more than were given.
    pub args: Vec<Vec<u8>>,
    /// Its environment.
    pub env: Vec<Vec<u8>>,
    /// Its files; they know its executable.
    pub files: Files,
    /// Its dynamic loader.
    pub loader: Option<Arc<File>>,
    /// The signals that its thread blocks.
    pub mask: u64,
    /// The signals that it ignores.
    pub ignored: u64,
    /// Its limits.
    pub limits: Limits,
    /// What of signals and timers stays: nothing in a new process.
    pub kept: KeptSignals,
}

/// What `execve` was asked for.
#[derive(Debug)]
pub struct Wanted {
    /// Where a relative path begins.
    pub dirfd: i32,
    /// The program's path.
    pub path: Vec<u8>,
    /// Whether a link at its end is followed.
    pub follow: bool,
    /// Its arguments.
    pub args: Vec<Vec<u8>>,
}

/// What was found.
#[derive(Debug)]
pub struct ChosenProgram {
    /// The arguments, changed for a script.
    pub args: Vec<Vec<u8>>,
    /// The dynamic loader.
    pub loader: Option<Arc<File>>,
}

/// Looks up and opens what is to run, among what the calling program may see, and makes it the
/// executable of the files that the new one will have. The layer above decides that for the first
/// program, too.
pub type ChooseProgram = fn(Wanted, &Files, &mut Files) -> Result<ChosenProgram, Errno>;

/// `execve(2)`.
pub(in crate::linux) fn execve(ctx: &mut ThreadCtx<'_>, a: &[u64; 6]) -> CallResult {
    let [path, argv, envp, ..] = *a;
    let path = ctx.user().read_path(path)?;
    exec(ctx, (CWD, path, true), [argv, envp])
}

/// `execveat(2)`. What a descriptor alone refers to (`AT_EMPTY_PATH`) is named as Linux names it.
pub(in crate::linux) fn execveat(ctx: &mut ThreadCtx<'_>, a: &[u64; 6]) -> CallResult {
    let [dirfd, path, argv, envp, flags, _] = *a;
    let dirfd = dirfd as i32;
    let known = (libc::AT_EMPTY_PATH | libc::AT_SYMLINK_NOFOLLOW) as u64;
    if flags & !known != 0 {
        return Err(Errno::EINVAL.into());
    }
    let path = ctx.user().read_path(path)?;
    let follow = flags & libc::AT_SYMLINK_NOFOLLOW as u64 == 0;
    let wanted = match path.is_empty() && flags & libc::AT_EMPTY_PATH as u64 != 0 {
        false => (dirfd, path, follow),
        // The current directory.
        true if dirfd == CWD => return Err(Errno::EACCES.into()),
        true => {
            ctx.files().get(dirfd)?;
            (CWD, format!("/dev/fd/{dirfd}").into_bytes(), true)
        }
    };
    exec(ctx, wanted, [argv, envp])
}

fn exec(
    ctx: &mut ThreadCtx<'_>,
    (dirfd, path, follow): (i32, Vec<u8>, bool),
    [argv, envp]: [u64; 2],
) -> CallResult {
    if ctx.process.children.member().is_none() {
        return super::super::thread::no_processes(ctx, libc::SYS_execve as u64);
    }
    let user = ctx.user();
    let read = |at: u64, into: &mut [u8]| user.copy_in(at, into);
    let mut budget = argument_bytes(ctx.limits().soft(libc::RLIMIT_STACK));
    let mut args = read_strings(&read, argv, &mut budget)?;
    let env = read_strings(&read, envp, &mut budget)?;
    if args.is_empty() {
        // As Linux does since 5.18: no program has to expect that it has no name.
        args.push(Vec::new());
    }
    let mut files = ctx.files().for_exec()?;
    let wanted = Wanted { dirfd, path: path.clone(), follow, args };
    let ChosenProgram { args, loader } =
        (ctx.process.choose_program)(wanted, ctx.files(), &mut files)?;
    let new = NewProgram {
        path,
        args,
        env,
        files,
        loader,
        mask: ctx.mask(),
        ignored: ctx.actions().ignored_set(),
        limits: ctx.limits().copy(),
        kept: KeptSignals::default(),
    };
    match ctx.child {
        Some(_) => super::vfork::start_program(ctx, &new),
        None => {
            ctx.process.stop_for(new, ctx.thread.clone());
            Ok(Done::Stop)
        }
    }
}

/// What [`NewProgram::encode`] wrote is not what is read.
const BAD: Errno = Errno::from_raw(libc::EPROTO);

impl NewProgram {
    /// The same for another VMM; its files' descriptors come last.
    pub(super) fn encode(&self) -> Result<(Vec<u8>, Vec<Sent>), Errno> {
        let handed = self.files.hand_over()?;
        let mut out = Writer::default();
        out.words(&[self.mask, self.ignored, u64::from(self.loader.is_some())]);
        out.words(self.limits.all().as_flattened());
        out.words(&[self.args.len() as u64, self.env.len() as u64]);
        let strings = [&self.path].into_iter().chain(&self.args).chain(&self.env);
        for string in strings.chain([&handed.bytes]) {
            out.bytes(string);
        }
        let mut fds = Vec::new();
        if let Some(loader) = &self.loader {
            fds.push(Sent::File(loader.clone()));
        }
        fds.extend(handed.fds);
        Ok((out.finish(), fds))
    }

    /// What another VMM has encoded; `base` are files in the same name space.
    ///
    /// # Errors
    /// `EPROTO` for what no VMM sends, and the host's.
    pub fn decode(
        bytes: &[u8],
        fds: Vec<OwnedFd>,
        base: &Files,
        account: Arc<dyn MemoryAccount>,
    ) -> Result<NewProgram, Errno> {
        let mut input = Reader(bytes);
        let mut fds = fds.into_iter();
        let [mask, ignored, has_loader] = input.words().ok_or(BAD)?;
        let limits = Limits::of(input.words::<32>().ok_or(BAD)?.as_chunks().0).ok_or(BAD)?;
        let [args, env] = input.words().ok_or(BAD)?;
        let path = input.bytes().ok_or(BAD)?.to_vec();
        let mut strings = |count: u64| {
            let string = |_| input.bytes().map(<[u8]>::to_vec).ok_or(BAD);
            (0..count).map(string).collect::<Result<Vec<_>, _>>()
        };
        let (args, env) = (strings(args)?, strings(env)?);
        let loader = match has_loader {
            0 => None,
            _ => Some(Arc::new(File::from(fds.next().ok_or(BAD)?))),
        };
        let handed = HandedOver { bytes: input.bytes().ok_or(BAD)?.to_vec(), fds: fds.collect() };
        let files = base.taken_over(handed, account)?;
        let kept = KeptSignals::default();
        Ok(NewProgram { path, args, env, files, loader, mask, ignored, limits, kept })
    }
}
