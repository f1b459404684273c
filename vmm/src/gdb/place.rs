//! Where gdb connects: a UNIX socket that only the user can open, or a port of this machine.
#![forbid(unsafe_code)]

use std::fmt;
use std::fs::{self, DirBuilder};
use std::io;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use crate::linux::net::peer;

/// How long gdb may leave an answer unread.
const PATIENCE: Duration = Duration::from_secs(10);

/// What `--gdb` names.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Place {
    /// A socket in a directory of its own, which is removed at the end.
    Own,
    /// A socket there.
    Path(PathBuf),
    /// A port of this machine, 0 for one that is free.
    Port(u16),
}

impl FromStr for Place {
    type Err = String;

    fn from_str(text: &str) -> Result<Place, String> {
        match text {
            "" => Ok(Place::Own),
            _ if text.bytes().all(|byte| byte.is_ascii_digit()) => {
                let port = text.parse().map_err(|_| format!("{text} is no port: 0 to 65535"))?;
                Ok(Place::Port(port))
            }
            _ => Ok(Place::Path(PathBuf::from(text))),
        }
    }
}

#[derive(Debug)]
enum Socket {
    Unix(UnixListener),
    Tcp(TcpListener),
}

/// Listens for gdb. What it has made is removed when it is dropped.
#[derive(Debug)]
pub struct Listener {
    socket: Socket,
    path: Option<PathBuf>,
    /// Who may connect. Not asked for later: its thread may not.
    user: u32,
    /// Its own directory.
    folder: Option<PathBuf>,
}

/// A connection to gdb.
pub(super) enum Connection {
    Unix(UnixStream),
    Tcp(TcpStream),
}

impl Listener {
    /// Listens at `place`.
    ///
    /// # Errors
    /// The host's: a file that is there already, a port that is taken, a path that is too long.
    pub fn at(place: &Place) -> io::Result<Listener> {
        match place {
            Place::Own => {
                let folder = own_folder()?;
                let path = folder.join("gdb");
                let listener = Listener::listen(path, Some(folder.clone()));
                if listener.is_err() {
                    let _ = fs::remove_dir(&folder);
                }
                listener
            }
            Place::Path(path) => Listener::listen(std::path::absolute(path)?, None),
            Place::Port(port) => {
                let socket = TcpListener::bind((Ipv4Addr::LOCALHOST, *port))?;
                socket.set_nonblocking(true)?;
                Ok(Listener {
                    socket: Socket::Tcp(socket),
                    path: None,
                    user: own_user(),
                    folder: None,
                })
            }
        }
    }

    fn listen(path: PathBuf, folder: Option<PathBuf>) -> io::Result<Listener> {
        // Nobody else may connect, from its first moment on.
        let before = rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o177));
        let socket = UnixListener::bind(&path);
        rustix::process::umask(before);
        let socket = socket?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
        socket.set_nonblocking(true)?;
        Ok(Listener { socket: Socket::Unix(socket), path: Some(path), user: own_user(), folder })
    }

    /// Its own directory, if it has one.
    #[must_use]
    pub fn folder(&self) -> Option<&Path> {
        self.folder.as_deref()
    }

    /// The socket, where the user has said.
    #[must_use]
    pub fn socket(&self) -> Option<&Path> {
        if self.folder.is_some() { None } else { self.path.as_deref() }
    }

    /// The next connection that waits, if it is the same user's.
    pub(super) fn accept(&self) -> Option<Connection> {
        match &self.socket {
            Socket::Unix(socket) => {
                let (stream, _) = socket.accept().ok()?;
                let is_allowed = peer(&stream).is_ok_and(|(_, uid)| uid == self.user || uid == 0);
                let connection = Connection::given(stream).ok()?;
                is_allowed.then_some(connection)
            }
            Socket::Tcp(socket) => {
                let (stream, _) = socket.accept().ok()?;
                stream.set_nonblocking(false).ok()?;
                stream.set_write_timeout(Some(PATIENCE)).ok()?;
                stream.set_nodelay(true).ok()?;
                Some(Connection::Tcp(stream))
            }
        }
    }
}

/// What gdb's `target remote` takes.
impl fmt::Display for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.socket, &self.path) {
            (_, Some(path)) => path.display().fmt(f),
            (Socket::Tcp(socket), None) => match socket.local_addr() {
                Ok(address) => write!(f, "localhost:{}", address.port()),
                Err(_) => f.write_str("localhost"),
            },
            (Socket::Unix(_), None) => f.write_str("?"),
        }
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.socket {
            Socket::Unix(socket) => socket.as_fd(),
            Socket::Tcp(socket) => socket.as_fd(),
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        // Somebody else may have removed them.
        if let Some(path) = &self.path {
            let _ = fs::remove_file(path);
        }
        if let Some(folder) = &self.folder {
            let _ = fs::remove_dir(folder);
        }
    }
}

fn own_user() -> u32 {
    rustix::process::geteuid().as_raw()
}

/// A new directory of the user's, with a path that is short enough for a socket's address.
fn own_folder() -> io::Result<PathBuf> {
    let runtime = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
    let runtime = runtime.filter(|path| path.is_absolute() && path.as_os_str().len() < 64);
    let mut error = None;
    for parent in runtime.into_iter().chain([std::env::temp_dir(), PathBuf::from("/tmp")]) {
        for number in 0..100 {
            let path = parent.join(format!("spacejmp-gdb-{}-{number}", std::process::id()));
            match DirBuilder::new().mode(0o700).create(&path) {
                Ok(()) => return Ok(path),
                Err(failed) => {
                    let is_taken = failed.kind() == io::ErrorKind::AlreadyExists;
                    error = Some(failed);
                    if !is_taken {
                        break;
                    }
                }
            }
        }
    }
    Err(error.unwrap_or_else(|| io::Error::from(io::ErrorKind::NotFound)))
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Connection::Unix(stream) => stream.as_fd(),
            Connection::Tcp(stream) => stream.as_fd(),
        }
    }
}

impl Connection {
    /// One that somebody has made who may.
    pub(super) fn given(stream: UnixStream) -> io::Result<Connection> {
        stream.set_nonblocking(false)?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Connection::Unix(stream))
    }

    /// Reads what there is.
    pub(super) fn read(&self, bytes: &mut [u8]) -> io::Result<usize> {
        use std::io::Read;
        match self {
            Connection::Unix(stream) => (&mut &*stream).read(bytes),
            Connection::Tcp(stream) => (&mut &*stream).read(bytes),
        }
    }

    /// Writes all of it.
    pub(super) fn write(&self, bytes: &[u8]) -> io::Result<()> {
        use std::io::Write;
        match self {
            Connection::Unix(stream) => (&mut &*stream).write_all(bytes),
            Connection::Tcp(stream) => (&mut &*stream).write_all(bytes),
        }
    }

    /// Says that nothing more comes.
    pub(super) fn finish(&self) {
        let _ = match self {
            Connection::Unix(stream) => stream.shutdown(std::net::Shutdown::Write),
            Connection::Tcp(stream) => stream.shutdown(std::net::Shutdown::Write),
        };
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::net::UnixStream;

    use super::{Connection, Listener, Place};

    #[test]
    fn a_number_is_a_port_and_everything_else_a_path() {
        assert_eq!("".parse(), Ok(Place::Own));
        assert_eq!("1234".parse(), Ok(Place::Port(1234)));
        assert_eq!("./1234".parse(), Ok(Place::Path("./1234".into())));
        assert!("65536".parse::<Place>().is_err());
    }

    #[test]
    fn a_socket_is_its_users_alone_and_goes_with_its_listener() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let listener = Listener::at(&Place::Path(path.clone())).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(listener.accept().is_none(), "nobody is there");
        let _other = UnixStream::connect(&path).unwrap();
        assert!(matches!(listener.accept(), Some(Connection::Unix(_))));
        assert!(Listener::at(&Place::Path(path.clone())).is_err(), "it is taken");
        drop(listener);
        assert!(!path.exists());
        let own = Listener::at(&Place::Own).unwrap();
        let made = own.folder().unwrap().to_owned();
        assert_eq!(std::fs::metadata(&made).unwrap().permissions().mode() & 0o777, 0o700);
        assert!(own.to_string().len() < 108);
        drop(own);
        assert!(!made.exists());
    }

    #[test]
    fn a_port_is_of_this_machine_only() {
        let listener = Listener::at(&Place::Port(0)).unwrap();
        let text = listener.to_string();
        let port: u16 = text.strip_prefix("localhost:").unwrap().parse().unwrap();
        let _other = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
        let accepted = std::iter::repeat_with(|| listener.accept()).flatten().next();
        assert!(matches!(accepted, Some(Connection::Tcp(_))));
    }
}
