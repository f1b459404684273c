//! Programs of a distribution that use the network, by loopback: `python3` and `curl`, with what each needs
//! granted. Skipped, and listed as skipped, where they are not installed.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use tests::guests::{self, Profile};
use tests::{kvm, pace, skip_without_kvm, web};

const PYTHON: &str = "/usr/bin/python3";
const CURL: &str = "/usr/bin/curl";

/// Skips the test if `program` is not there.
fn is_missing(test: &str, program: &str) -> bool {
    let is_missing = !Path::new(program).exists();
    if is_missing {
        kvm::other_kind_of_host(test, &format!("there is no {program}"));
    }
    is_missing
}

fn command(words: &[&str]) -> Command {
    let limit = pace::limit(Duration::from_secs(60)).as_secs().to_string();
    let mut command = Command::new(guests::program("spacejmp-cli", "spacejmp", Profile::Dev));
    command.env_remove("SPACEJMP_LOG").args(["run", "--no-store", "--root", "/"]);
    command.args(["--timeout", &limit]).args(words).stdin(Stdio::null());
    command
}

fn run(words: &[&str]) -> Output {
    command(words).output().expect("the command starts")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[track_caller]
fn says(output: &Output, expected: &str) {
    let said = (text(&output.stdout), output.status.code());
    assert_eq!((said.0.as_str(), said.1), (expected, Some(0)), "{}", text(&output.stderr));
}

#[test]
fn curl_gets_a_page_from_where_it_may_and_is_told_what_is_missing() {
    skip_without_kvm!();
    if is_missing("curl_gets_a_page_from_where_it_may_and_is_told_what_is_missing", CURL) {
        return;
    }
    let port = web::one_page();
    let page = format!("http://127.0.0.1:{port}/");
    says(&run(&["--connect", &format!("127.0.0.1:{port}"), CURL, "-sS", &page]), "page\n");
    says(&run(&["--net", CURL, "-sS", &page]), "page\n");
    // A name that is granted is known to the program.
    let page = format!("http://localhost:{port}/");
    says(&run(&["--connect", &format!("localhost:{port}"), CURL, "-sS", &page]), "page\n");
    let refused = run(&[CURL, "-sS", &page]);
    let said = text(&refused.stderr);
    assert_ne!(refused.status.code(), Some(0), "{said}");
    assert!(said.contains("--net") && said.contains("--connect"), "{said}");
    let refused =
        run(&["--connect", "127.0.0.1:1", CURL, "-sS", &format!("http://127.0.0.1:{port}/")]);
    let said = text(&refused.stderr);
    assert!(said.contains(&format!("--connect 127.0.0.1:{port}")), "{said}");
}

const PAIRS: &str = r#"
import asyncio, selectors, signal, socket, os
async def main():
    async def echo(reader, writer):
        writer.write((await reader.readline()).upper())
        await writer.drain()
        writer.close()
    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async def ask(i):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"line %d\n" % i)
        answer = await reader.readline()
        writer.close()
        return answer
    print(await asyncio.gather(*(ask(i) for i in range(5))))
    loop = asyncio.get_running_loop()
    came = asyncio.Event()
    loop.add_signal_handler(signal.SIGUSR1, came.set)
    os.kill(os.getpid(), signal.SIGUSR1)
    await asyncio.wait_for(came.wait(), 30)
    print("signal")
asyncio.run(main())
a, b = socket.socketpair()
socket.send_fds(a, [b"x"], [0])
data, fds, flags, address = socket.recv_fds(b, 10, 4)
print(data, len(fds), os.fstat(fds[0]).st_mode == os.fstat(0).st_mode)
"#;

#[test]
fn pythons_event_loop_serves_and_asks_itself() {
    skip_without_kvm!();
    if is_missing("pythons_event_loop_serves_and_asks_itself", PYTHON) {
        return;
    }
    let native = Command::new(PYTHON).args(["-c", PAIRS]).stdin(Stdio::null()).output();
    let native = text(&native.expect("python3 starts").stdout);
    assert!(native.ends_with("True\n"), "{native}");
    says(&run(&["--net", PYTHON, "-c", PAIRS]), &native);
    let parts = ["--listen", "0", "--connect", "127.0.0.1:*", PYTHON, "-c", PAIRS];
    says(&run(&parts), &native);
}

/// Ends a server when the test does.
struct Ends(Child);

impl Drop for Ends {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn pythons_web_server_is_reached_from_outside_at_the_granted_port() {
    skip_without_kvm!();
    if is_missing("pythons_web_server_is_reached_from_outside_at_the_granted_port", PYTHON) {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("page"), "served\n").expect("writable");
    let free = TcpListener::bind("127.0.0.1:0").expect("loopback can be bound");
    let port = free.local_addr().expect("it is bound").port();
    drop(free);
    let (text_port, shown) = (port.to_string(), format!("{}:/d:ro", folder.path().display()));
    let words =
        ["--listen", &text_port, "--dir", &shown, "--cwd", "/d", PYTHON, "-m", "http.server"];
    let server = command(&words).arg(&text_port).stdout(Stdio::null()).spawn();
    let mut server = Ends(server.expect("the command starts"));
    let began = Instant::now();
    let mut stream = loop {
        match TcpStream::connect(("127.0.0.1", port)) {
            Ok(stream) => break stream,
            Err(error) => {
                let ended = server.0.try_wait().expect("it can be asked for");
                assert!(ended.is_none(), "the server has ended: {ended:?}");
                let limit = pace::limit(Duration::from_secs(60));
                assert!(began.elapsed() < limit, "nobody listens: {error}");
                std::thread::sleep(Duration::from_millis(20));
            }
        }
    };
    stream.write_all(b"GET /page HTTP/1.0\r\n\r\n").expect("it listens");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("it answers");
    assert!(answer.ends_with("\r\n\r\nserved\n"), "{answer}");
}
