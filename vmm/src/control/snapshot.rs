//! Asking a VM for a snapshot: the other side of `linux::snapshot`.
//!
//! What the VM sends is not trusted more than its program: it may have been taken over. So it names no file that is
//! opened later, but sends its executable's descriptor, which it can only have of what it may read.
#![forbid(unsafe_code)]

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use super::address::connect;
use super::client::{ControlError, PATIENCE, Vm};
use super::server::Question;
use crate::files::identity_of;
use crate::linux::snapshot::head::{Head, KeptExecutable};
use crate::linux::snapshot::{answer, readable_path};
use crate::process_tree::Channel;
use crate::process_tree::channel::Message;

/// How long a VM may take to write its memory. Meanwhile it does nothing else.
const WHILE_WRITING: Duration = Duration::from_secs(3600);

/// A VM whose thread waits for the memory's file.
#[derive(Debug)]
pub struct Asked<'v> {
    vm: &'v Vm,
    to: Channel,
}

impl Vm {
    /// Asks for a snapshot, and waits until the VM is at a place where one can be made. Its program waits from then on,
    /// for two seconds at most.
    ///
    /// # Errors
    /// [`ControlError::Gone`], [`ControlError::Stopped`], [`ControlError::Refused`], [`ControlError::NoPlace`], and the
    /// host's.
    pub fn ask_for_snapshot(&self) -> Result<Asked<'_>, ControlError> {
        if self.is_stopped() {
            return Err(ControlError::Stopped { vm: self.vm.clone() });
        }
        let failed = |error| self.failed(error);
        let (mut stream, _) = connect(&self.vm).map_err(failed)?;
        stream.write_all(format!("{}\n", Question::Snapshot.line()).as_bytes()).map_err(failed)?;
        let to = Channel::from_fd(OwnedFd::from(stream));
        to.limit(PATIENCE).map_err(failed)?;
        match self.told(to.receive())? {
            (answer::READY, _) => Ok(Asked { vm: self, to }),
            _ => Err(self.failed(io::ErrorKind::InvalidData.into())),
        }
    }

    /// What a message of it says, but for a refusal.
    fn told(&self, received: io::Result<Option<Message>>) -> Result<(u8, Message), ControlError> {
        let mut message = match received {
            Ok(Some(message)) => message,
            // It ends the connection when it makes one for somebody else.
            Ok(None) => return Err(ControlError::NoPlace { vm: self.vm.clone() }),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                return Err(ControlError::NoPlace { vm: self.vm.clone() });
            }
            Err(error) => return Err(self.failed(error)),
        };
        if message.bytes.is_empty() {
            return Err(self.failed(io::ErrorKind::InvalidData.into()));
        }
        let rest = message.bytes.split_off(1);
        let kind = std::mem::replace(&mut message.bytes, rest).first().copied().unwrap_or_default();
        if kind == answer::REFUSED {
            let text = String::from_utf8_lossy(&message.bytes);
            let why = text.chars().filter(|c| !c.is_control()).take(1000).collect();
            return Err(ControlError::Refused { vm: self.vm.clone(), why });
        }
        Ok((kind, message))
    }
}

impl Asked<'_> {
    /// Has the VM write its memory to a file, which is open to be written and empty; returns what else there is, with the
    /// executable's path on the host. The program goes on.
    ///
    /// # Errors
    /// [`ControlError::Refused`], and what the host, or a VM that was taken over, makes go wrong.
    pub fn write_to(self, memory: &File) -> Result<Head, ControlError> {
        let Asked { vm, to } = self;
        let failed = |error| vm.failed(error);
        to.limit(WHILE_WRITING).map_err(failed)?;
        to.send(&[], &[memory.as_fd()]).map_err(failed)?;
        let (kind, message) = match vm.told(to.receive()) {
            // While it writes, the end of the connection is its own.
            Err(ControlError::NoPlace { vm }) => return Err(ControlError::Gone { vm }),
            told => told?,
        };
        let wrong = |what: &'static str| failed(io::Error::new(io::ErrorKind::InvalidData, what));
        if kind != answer::DONE {
            return Err(wrong("it has not said that it is done"));
        }
        let head = Head::decode(&message.bytes).map_err(|error| failed(io::Error::other(error)))?;
        let sent = message.fds.into_iter().next();
        let file = sent.map(File::from).ok_or_else(|| wrong("it has sent no executable"))?;
        let host = readable_path(file.as_fd()).map_err(failed)?;
        let identity = identity_of(&file);
        let identity =
            identity.map_err(|errno| failed(io::Error::from_raw_os_error(errno.raw())))?;
        let executable = KeptExecutable { host, identity, ..head.executable };
        // It was asked from outside, wherever the program was.
        Ok(Head { executable, ready: None, ..head })
    }
}
