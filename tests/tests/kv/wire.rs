//! Servers under test, and connections to them that show replies byte by byte.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tests::guests::{Profile, program};
use tests::{kvm, pace};

const LIMIT: Duration = Duration::from_secs(60);

/// `spacejmp run`, with its store in a folder.
pub(crate) fn spacejmp(folder: &Path) -> Command {
    let mut command = Command::new(program("spacejmp-cli", "spacejmp", Profile::Dev));
    command.env_remove("SPACEJMP_LOG").args(["run", "--timeout", "300", "--store"]);
    command.arg(folder.join("store"));
    command
}

/// The program.
pub(crate) fn kv() -> PathBuf {
    program("kv", "kv", Profile::Dev)
}

/// A server that ends with the test.
pub(crate) struct Server {
    child: Child,
    pub(crate) socket: PathBuf,
}

impl Server {
    /// `kv serve`, with its socket and its store in a folder.
    pub(crate) fn kv(folder: &Path, options: &[&str]) -> Server {
        let socket = folder.join("kv.sock");
        let mut command = spacejmp(folder);
        command.arg("--dir").arg(folder).arg(kv());
        command.args(["serve", "--port", "0", "--unix"]).arg(&socket).args(options);
        Server::started(command, socket)
    }

    /// The same with its store on a file system of 24 MiB at `disk`, which only it sees. None where none can be
    /// mounted, which is reported for `test`.
    pub(crate) fn kv_on_a_small_disk(test: &str, folder: &Path, disk: &Path) -> Option<Server> {
        let script = "mount -t tmpfs -o size=24m tmpfs \"$0\" && exec \"$@\"";
        let mut private = Command::new("unshare");
        private.args(["--mount", "sh", "-c", script]).arg(disk);
        let possible = Command::new("unshare")
            .args(["--mount", "sh", "-c", script])
            .arg(disk)
            .arg("true")
            .status();
        if !possible.is_ok_and(|status| status.success()) {
            kvm::skip(test, "cannot mount a small file system");
            return None;
        }
        let socket = folder.join("kv.sock");
        let command = spacejmp(disk);
        private
            .arg(command.get_program())
            .args(command.get_args())
            .arg("--dir")
            .arg(folder)
            .arg(kv());
        private.args(["serve", "--port", "0", "--unix"]).arg(&socket);
        Some(Server::started(private, socket))
    }

    /// The distribution's `redis-server`; none where it is not installed, which is reported for `test`.
    pub(crate) fn redis(test: &str, folder: &Path) -> Option<Server> {
        if Command::new("redis-server").arg("--version").stdout(Stdio::null()).status().is_err() {
            kvm::other_kind_of_host(test, "there is no redis-server");
            return None;
        }
        let socket = folder.join("redis.sock");
        let mut command = Command::new("redis-server");
        command.args(["--port", "0", "--save", "", "--appendonly", "no", "--unixsocket"]);
        command.arg(&socket).current_dir(folder);
        Some(Server::started(command, socket))
    }

    fn started(mut command: Command, socket: PathBuf) -> Server {
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn();
        let mut server = Server { child: child.expect("the server starts"), socket };
        let began = Instant::now();
        while UnixStream::connect(&server.socket).is_err() {
            let ended = server.child.try_wait().expect("it can be asked for");
            assert!(ended.is_none(), "the server has ended: {ended:?}");
            assert!(began.elapsed() < pace::limit(LIMIT), "the server does not listen");
            std::thread::sleep(Duration::from_millis(10));
        }
        server
    }

    pub(crate) fn connect(&self) -> Wire {
        let stream = UnixStream::connect(&self.socket).expect("it listens");
        stream.set_read_timeout(Some(pace::limit(LIMIT))).expect("a limit");
        Wire { stream, bytes: Vec::new() }
    }

    /// SIGKILL.
    pub(crate) fn kill(&mut self) {
        self.child.kill().expect("it is ours");
        self.child.wait().expect("it has ended");
    }

    /// SIGTERM, and how it has ended.
    pub(crate) fn terminate(&mut self) -> std::process::ExitStatus {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("it is ours");
        self.child.wait().expect("it has ended")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A connection.
pub(crate) struct Wire {
    stream: UnixStream,
    bytes: Vec<u8>,
}

/// A request.
pub(crate) fn encoded(words: &[&[u8]]) -> Vec<u8> {
    let mut bytes = format!("*{}\r\n", words.len()).into_bytes();
    for word in words {
        bytes.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
        bytes.extend_from_slice(word);
        bytes.extend_from_slice(b"\r\n");
    }
    bytes
}

impl Wire {
    pub(crate) fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).expect("it reads");
    }

    /// The next reply, byte by byte as it came.
    pub(crate) fn reply(&mut self) -> Vec<u8> {
        loop {
            if let Some(length) = length(&self.bytes) {
                return self.bytes.drain(..length).collect();
            }
            let mut piece = [0; 65536];
            let read = match self.stream.read(&mut piece) {
                // VMs of other tests are in this process, and kicked by signals.
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                read => read.expect("it answers"),
            };
            assert!(
                read > 0,
                "the connection ended after {:?}",
                self.bytes.escape_ascii().to_string()
            );
            self.bytes.extend_from_slice(&piece[..read]);
        }
    }

    /// Everything up to the end of the connection.
    pub(crate) fn rest(&mut self) -> Vec<u8> {
        self.stream.read_to_end(&mut self.bytes).expect("it ends");
        std::mem::take(&mut self.bytes)
    }

    pub(crate) fn ask(&mut self, words: &[&[u8]]) -> Vec<u8> {
        self.send(&encoded(words));
        self.reply()
    }

    /// Words without blanks, and the reply as text.
    pub(crate) fn say(&mut self, words: &str) -> String {
        let words: Vec<&[u8]> = words.split(' ').map(str::as_bytes).collect();
        String::from_utf8_lossy(&self.ask(&words)).into_owned()
    }
}

/// How long the first reply is, if it is whole.
fn length(bytes: &[u8]) -> Option<usize> {
    let end = bytes.windows(2).position(|pair| pair == b"\r\n")?;
    let number = || std::str::from_utf8(&bytes[1..end]).ok()?.parse::<i64>().ok();
    let count = match bytes[0] {
        b'$' => {
            let whole = usize::try_from(number()?).map_or(end + 2, |length| end + 2 + length + 2);
            return (bytes.len() >= whole).then_some(whole);
        }
        b'*' | b'~' | b'>' => number()?.max(0),
        b'%' => number()?.max(0) * 2,
        _ => 0,
    };
    let mut at = end + 2;
    for _ in 0..count {
        at += length(&bytes[at..])?;
    }
    Some(at)
}

/// The replies of a list, each byte by byte.
pub(crate) fn elements(reply: &[u8]) -> Vec<&[u8]> {
    let mut at = reply.windows(2).position(|pair| pair == b"\r\n").map_or(0, |end| end + 2);
    let mut all = Vec::new();
    while let Some(length) = reply.get(at..).filter(|rest| !rest.is_empty()).and_then(length) {
        all.push(&reply[at..at + length]);
        at += length;
    }
    all
}
