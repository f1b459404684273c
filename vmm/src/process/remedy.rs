//! A program that could not be started: what its user can do, and the exit status.
#![forbid(unsafe_code)]

use std::io;

use super::StartError;
use crate::error::Remedy;
use crate::exit_code::ExitCode;
use crate::files::{FilesError, NamespaceError};
use crate::guest::elf::ElfError;
use crate::host::{self, Problem};
use crate::vm::{MemoryError, VmError};

impl StartError {
    /// The exit status of a command that failed with this error.
    #[must_use]
    pub fn exit_code(&self) -> ExitCode {
        match self {
            StartError::Open { source, .. } => match source.kind() {
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => ExitCode::NotFound,
                _ => ExitCode::CannotExecute,
            },
            // The file is fine; the VM is too small for it.
            StartError::Elf { source: ElfError::NoRoom { .. }, .. } => ExitCode::OwnFailure,
            StartError::Elf { .. } | StartError::Interpreter { .. } => ExitCode::CannotExecute,
            _ => ExitCode::OwnFailure,
        }
    }
}

impl Remedy for StartError {
    fn remedy(&self) -> Option<String> {
        let text = match self {
            StartError::Open { source, .. } => match source.kind() {
                io::ErrorKind::IsADirectory => {
                    "give the program's file, not the directory it is in"
                }
                io::ErrorKind::PermissionDenied => "the file has to be readable by this user",
                _ => return None,
            },
            StartError::Elf { source, .. } => return source.remedy(),
            StartError::Interpreter { source, .. } => return source.remedy(),
            StartError::Snapshot { source, .. } => return source.remedy(),
            StartError::Vm(source) => return source.remedy(),
            StartError::Memory(source) => return source.remedy(),
            StartError::Events(source)
            | StartError::Random(source)
            | StartError::Starter(source) => return by_errno(source),
            StartError::Confine(_) => {
                "`spacejmp doctor` says what this host offers; --confine off runs the program without"
            }
            StartError::Stack(abi::Errno::E2BIG) => {
                "give fewer or shorter arguments and environment variables"
            }
            StartError::Files(FilesError::Cwd { .. }) => {
                "give a directory the program can see: --cwd takes a path inside, --dir grants one"
            }
            StartError::Namespace(NamespaceError::Store { .. }) => {
                "grant another directory; for a store of its own give --store DIR"
            }
            StartError::Files(FilesError::Store { .. }) => {
                "redirect it elsewhere; `spacejmp vas export` copies what a store has"
            }
            StartError::Files(_) | StartError::Namespace(_) => return None,
            StartError::Stack(_) | StartError::Vdso(_) | StartError::Fork(_) => {
                "give the VM more with --memory"
            }
        };
        Some(text.into())
    }
}

impl Remedy for VmError {
    fn remedy(&self) -> Option<String> {
        match self {
            // KVM's errno alone does not identify the reason: examine the device again.
            VmError::OpenKvm(_) => host::device_problem()?.remedy(),
            VmError::Kvm { source, .. } => Problem::CreateVm(source.errno()).remedy(),
            VmError::Memory(source) => source.remedy(),
            VmError::Unsupported { .. } => {
                Some("`spacejmp doctor` says what this host offers and what to do".into())
            }
            VmError::KernelImage { .. } => Some("build spacejmp again from clean sources".into()),
            VmError::VcpuLimit { .. } => None,
        }
    }
}

impl Remedy for MemoryError {
    fn remedy(&self) -> Option<String> {
        match self {
            MemoryError::Reserve { source, .. } | MemoryError::Host { source, .. } => {
                by_errno(source)
            }
            MemoryError::Memslot { source, .. } => Problem::CreateVm(source.errno()).remedy(),
            MemoryError::OverLimit(_) => Some("give the program more memory (`--memory`)".into()),
            MemoryError::Exhausted { .. } | MemoryError::NotMemory { .. } => None,
        }
    }
}

fn by_errno(error: &io::Error) -> Option<String> {
    match error.raw_os_error()? {
        libc::ENOMEM => {
            Some("free memory on the host, or raise its limits (`ulimit -v`, the cgroup's)".into())
        }
        libc::EMFILE => Some("raise the limit of open files (`ulimit -n`)".into()),
        libc::EAGAIN => Some("raise the limit of processes and threads (`ulimit -u`)".into()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::{ElfError, ExitCode, Remedy, StartError, VmError, io};
    use crate::process::executable::InterpreterError;

    fn open(errno: i32) -> StartError {
        StartError::Open { program: "x".into(), source: io::Error::from_raw_os_error(errno) }
    }

    fn elf(source: ElfError) -> StartError {
        StartError::Elf { program: "x".into(), source }
    }

    #[test]
    fn not_there_and_not_executable_are_told_apart_as_shells_do() {
        assert_eq!(open(libc::ENOENT).exit_code(), ExitCode::NotFound);
        assert_eq!(open(libc::ENOTDIR).exit_code(), ExitCode::NotFound);
        assert_eq!(open(libc::EISDIR).exit_code(), ExitCode::CannotExecute);
        assert_eq!(open(libc::EACCES).exit_code(), ExitCode::CannotExecute);
        assert_eq!(elf(ElfError::NotElf).exit_code(), ExitCode::CannotExecute);
        let no_room = ElfError::NoRoom { at: 0, len_bytes: 1, source: abi::Errno::ENOMEM };
        assert_eq!(elf(no_room).exit_code(), ExitCode::OwnFailure);
        let vm = StartError::Vm(VmError::Unsupported { what: "x" });
        assert_eq!(vm.exit_code(), ExitCode::OwnFailure);
    }

    #[test]
    fn what_the_user_can_change_comes_with_advice() {
        let interpreter = || "/lib64/ld-linux-x86-64.so.2".to_owned();
        let needs = |source| StartError::Interpreter { program: "x".into(), source };
        let withheld = InterpreterError::Withheld { interpreter: interpreter() };
        let withheld = needs(withheld).remedy().unwrap();
        assert!(withheld.contains("crt-static") && withheld.contains("--root"), "{withheld}");
        let hidden = |path: &str| {
            let interpreter = path.to_owned();
            let error = InterpreterError::Open { interpreter, source: abi::Errno::ENOENT };
            needs(error).remedy().unwrap()
        };
        let own = std::env::current_exe().unwrap();
        let folder = own.parent().unwrap().display().to_string();
        assert!(hidden(&own.display().to_string()).contains(&format!("--dir {folder}:ro")));
        assert!(hidden("/none/here").contains("install"));
        assert!(open(libc::EISDIR).remedy().is_some());
        assert!(open(libc::ENOENT).remedy().is_none());
        assert!(StartError::Stack(abi::Errno::E2BIG).remedy().unwrap().contains("arguments"));
        let files = StartError::Events(io::Error::from_raw_os_error(libc::EMFILE));
        assert!(files.remedy().unwrap().contains("ulimit -n"));
    }
}
