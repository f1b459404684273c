//! Where a trace goes: a file, or somebody who looks.
#![forbid(unsafe_code)]

use std::fs::File;
use std::io::{self, ErrorKind, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::Mutex;

/// What takes the lines of a trace.
#[derive(Debug)]
pub(super) enum Sink {
    /// A file, which should append.
    File(File),
    /// A viewer, for whom no program waits.
    Viewer(UnixStream, Mutex<Backlog>),
}

/// What a viewer has not taken yet.
#[derive(Debug, Default)]
pub(super) struct Backlog {
    /// The rest of the last line.
    rest: Vec<u8>,
    /// Lines after it.
    lost: u64,
}

impl Sink {
    /// Somebody at the other end of a socket that does not wait.
    pub(super) fn viewer(socket: UnixStream) -> Sink {
        Sink::Viewer(socket, Mutex::default())
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        match self {
            Sink::File(file) => file.as_fd(),
            Sink::Viewer(socket, _) => socket.as_fd(),
        }
    }

    /// Writes a line. A viewer who has not taken the ones before does not get it, but is told so later.
    ///
    /// # Errors
    /// The host's; the viewer has gone.
    pub(super) fn tell(&self, line: &str) -> io::Result<()> {
        match self {
            // One call of the host's, so that several processes can share the file.
            Sink::File(file) => {
                let mut file = file;
                file.write_all(line.as_bytes())
            }
            Sink::Viewer(socket, backlog) => {
                let mut backlog = backlog.lock().unwrap_or_else(|poison| poison.into_inner());
                backlog.tell(socket, line)
            }
        }
    }
}

impl Backlog {
    /// An empty line only sends what is left.
    fn tell(&mut self, mut to: impl Write, line: &str) -> io::Result<()> {
        self.send(&mut to)?;
        if !self.rest.is_empty() {
            self.lost += u64::from(!line.is_empty());
            return Ok(());
        }
        if self.lost > 0 {
            let lost = std::mem::take(&mut self.lost);
            let notice =
                format!("... {lost} lines left out, which came faster than they were read\n");
            self.rest.extend_from_slice(notice.as_bytes());
        }
        self.rest.extend_from_slice(line.as_bytes());
        self.send(&mut to)
    }

    fn send(&mut self, to: &mut impl Write) -> io::Result<()> {
        while !self.rest.is_empty() {
            match to.write(&self.rest) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(sent) => drop(self.rest.drain(..sent)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::{self, ErrorKind, Write};

    use super::Backlog;

    /// Takes so many bytes until it is read.
    struct Narrow(Vec<u8>, usize);

    impl Write for Narrow {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let room = self.1 - self.0.len();
            if room == 0 {
                return Err(ErrorKind::WouldBlock.into());
            }
            let taken = bytes.len().min(room);
            self.0.extend_from_slice(&bytes[..taken]);
            Ok(taken)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn who_reads_too_slowly_gets_whole_lines_and_is_told_how_many_are_missing() {
        let (mut backlog, mut to) = (Backlog::default(), Narrow(Vec::new(), 10));
        for line in ["first\n", "second\n", "third\n", "fourth\n"] {
            backlog.tell(&mut to, line).unwrap();
        }
        assert_eq!(to.0, b"first\nseco");
        let mut read = std::mem::take(&mut to.0);
        to.1 = 1000;
        backlog.tell(&mut to, "").unwrap();
        backlog.tell(&mut to, "fifth\n").unwrap();
        read.extend(to.0);
        let text = String::from_utf8(read).unwrap();
        let notice = "... 2 lines left out, which came faster than they were read";
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines, ["first", "second", notice, "fifth"]);
    }
}
