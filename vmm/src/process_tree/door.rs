//! How the VMMs of a run reach a server that one process of it is: through a socket that all have, each sends one end of
//! a connection of its own. What is asked there is the server's affair.
#![forbid(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::Channel;

/// How long one waits for the other in the middle of a message. A VMM may be stopped at any time.
pub const PATIENCE: Duration = Duration::from_secs(5);

/// What all VMMs of a run have, to reach a server and to be it.
#[derive(Debug)]
pub struct Door {
    bell: Bell,
    server: Mutex<Option<Channel>>,
}

impl Door {
    /// To a server that is not there yet.
    ///
    /// # Errors
    /// The host has no free descriptor.
    pub fn new() -> io::Result<Door> {
        let (knock, server) = Channel::for_descriptors()?;
        Ok(Door { bell: Bell(Arc::new(knock)), server: Mutex::new(Some(server)) })
    }

    /// The descriptor by which the server is reached.
    #[must_use]
    pub fn descriptor(&self) -> RawFd {
        self.bell.0.as_raw_fd()
    }

    /// For the process that is the server, and for all others to let go of it; once.
    #[must_use]
    pub fn take_server(&self) -> Option<Channel> {
        self.server.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// For who asks.
    #[must_use]
    pub fn bell(&self) -> Bell {
        self.bell.clone()
    }
}

/// Connects to the server.
#[derive(Debug, Clone)]
pub struct Bell(Arc<Channel>);

impl Bell {
    /// A connection of its own.
    ///
    /// # Errors
    /// The host has no free descriptor, or the server is gone.
    pub fn connect(&self) -> io::Result<Channel> {
        let (here, there) = Channel::pair()?;
        self.0.send_descriptor(there.as_fd())?;
        Ok(here)
    }
}
