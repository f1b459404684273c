//! Sockets: pairs, and what is granted of the network. Loopback only.

use std::io::Write;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tests::vm::Run;
use tests::{guests, skip_without_kvm};
use vmm::control::Control;
use vmm::process::Outcome;

#[test]
fn pairs_of_sockets_carry_bytes_descriptors_and_credentials_as_natively() {
    skip_without_kvm!();
    let ended = Run::new(guests::c("socket_pairs")).same_as_native();
    assert_eq!(ended.outcome, Outcome::Exited(0));
    assert!(ended.out().ends_with("done\n"), "{}", ended.out());
}

#[test]
fn tcp_udp_and_unix_sockets_work_as_natively_with_all_of_the_network() {
    skip_without_kvm!();
    let folder = tempfile::tempdir().expect("a folder");
    let inside = folder.path().to_str().expect("paths of tests are UTF-8");
    let run = Run::new(guests::c("net_calls")).args(&[inside]).dir(inside).net();
    let ended = run.same_as_native();
    assert_eq!(ended.outcome, Outcome::Exited(0));
    assert!(ended.out().ends_with("done\n"), "{}", ended.out());
}

/// A server that says `text` to everybody who connects, and counts them, until this is dropped.
struct Server {
    address: SocketAddr,
    accepted: Arc<AtomicU32>,
}

impl Server {
    fn new(at: &str, text: &'static str) -> Server {
        let listener = TcpListener::bind(at).expect("loopback can be bound");
        let address = listener.local_addr().expect("it is bound");
        let accepted = Arc::new(AtomicU32::new(0));
        let count = accepted.clone();
        // Ends with the test process.
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                count.fetch_add(1, Ordering::SeqCst);
                // A client that has gone is no concern.
                let _ = stream.expect("accepting works").write_all(text.as_bytes());
            }
        });
        Server { address, accepted }
    }

    fn port(&self) -> String {
        self.address.port().to_string()
    }

    fn accepted(&self) -> u32 {
        self.accepted.load(Ordering::SeqCst)
    }
}

fn granted(args: &[&str]) -> Run {
    Run::new(guests::c("net_granted")).args(args)
}

#[test]
fn by_default_there_is_no_network_but_unix_sockets() {
    skip_without_kvm!();
    granted(&["socket"])
        .in_vm()
        .expect(0, "tcp: EACCES\nudp: EACCES\nnetlink: EACCES\nunix: 1\ninterface: EACCES\ndone\n");
}

#[test]
fn a_program_connects_where_it_is_granted_and_nowhere_else() {
    skip_without_kvm!();
    let yes = Server::new("127.0.0.1:0", "yes");
    let no = Server::new("127.0.0.1:0", "no");
    let (y, n) = (yes.port(), no.port());
    let args = [
        "connect",
        "127.0.0.1",
        &y,
        "0.0.0.0",
        &y,
        "::ffff:127.0.0.1",
        &y,
        "::ffff:0.0.0.0",
        &y,
        "127.0.0.1",
        &n,
        "0.0.0.0",
        &n,
        "::ffff:127.0.0.1",
        &n,
        "127.0.0.2",
        &y,
        "::1",
        &y,
        "::",
        &y,
    ];
    let ended = granted(&args).connect(&format!("127.0.0.1:{y}")).in_vm();
    ended.expect(
        0,
        "connect 127.0.0.1: 0\nread yes\nconnect 0.0.0.0: 0\nread yes\n\
         connect ::ffff:127.0.0.1: 0\nread yes\nconnect ::ffff:0.0.0.0: 0\nread yes\n\
         connect 127.0.0.1: EACCES\nconnect 0.0.0.0: EACCES\nconnect ::ffff:127.0.0.1: EACCES\n\
         connect 127.0.0.2: EACCES\nconnect ::1: EACCES\nconnect ::: EACCES\ndone\n",
    );
    assert_eq!((yes.accepted(), no.accepted()), (4, 0));
}

#[test]
fn datagrams_go_where_they_are_granted_by_whichever_call() {
    skip_without_kvm!();
    let receiver = || {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("loopback can be bound");
        socket.set_nonblocking(true).expect("it can be set");
        let port = socket.local_addr().expect("it is bound").port().to_string();
        (socket, port)
    };
    let received = |socket: &UdpSocket| {
        let mut bytes = [0; 8];
        let one = || socket.recv(&mut bytes).ok().map(|len| bytes[..len].to_vec());
        std::iter::from_fn(one).flatten().collect::<Vec<u8>>()
    };
    let ((yes, y), (no, n)) = (receiver(), receiver());
    let args = ["send", "127.0.0.1", &y, "127.0.0.1", &n];
    let ended = granted(&args).connect(&format!("127.0.0.0/8:{y}")).in_vm();
    let sent = "sendto: 1\nsendmsg: 1\nsendmmsg: 1\nwithout a family: 1\nconnect: 0\nsend: 1\n";
    let refused = "sendto: EACCES\nsendmsg: EACCES\nsendmmsg: EACCES\nwithout a family: EACCES\n\
                   connect: EACCES\nsend: EDESTADDRREQ\nfast open: EACCES\ndone\n";
    let out = ended.out();
    assert!(out.starts_with(sent) && out.ends_with(refused), "{ended:?}");
    assert_eq!(received(&yes), b"tmmuc");
    assert_eq!(received(&no), b"");
}

#[test]
fn a_thread_that_changes_an_address_while_it_is_used_reaches_nothing_more() {
    skip_without_kvm!();
    let yes = Server::new("127.0.0.1:0", "yes");
    let no = Server::new("127.0.0.1:0", "no");
    let datagrams = UdpSocket::bind(no.address).expect("the same port is free");
    datagrams.set_nonblocking(true).expect("it can be set");
    let ended =
        granted(&["race", &yes.port(), &no.port()]).connect(&yes.address.to_string()).in_vm();
    ended.expect(0, "allowed 1 refused 1\ndone\n");
    assert!(yes.accepted() > 0, "it connected where it may");
    assert_eq!(no.accepted(), 0);
    assert!(datagrams.recv(&mut [0]).is_err(), "a datagram arrived");
}

#[test]
fn a_program_listens_where_it_is_granted_and_nowhere_else() {
    skip_without_kvm!();
    let free = TcpListener::bind("127.0.0.1:0").expect("loopback can be bound");
    let port = free.local_addr().expect("it is bound").port().to_string();
    drop(free);
    let rest = "listen without an address: EACCES\naccepts 0\nbind datagrams anywhere: 0\nraw: EPERM\n\
                packet: EPERM\nnetlink: EACCES\noptions of IP: ENOPROTOOPT\ntransparent: ENOPROTOOPT\n\
                device: ENOPROTOOPT\ngroup: EACCES\ndone\n";
    let args = [
        "listen",
        "127.0.0.1",
        &port,
        "0.0.0.0",
        &port,
        "::1",
        &port,
        "::",
        &port,
        "127.0.0.2",
        &port,
        "127.0.0.1",
        "0",
    ];
    granted(&args).listen(&port).in_vm().expect(
        0,
        &format!(
            "bind 127.0.0.1: 0\nlisten: 0\nat 127.0.0.1\nbind 0.0.0.0: 0\nlisten: 0\nat 127.0.0.1\n\
             bind ::1: 0\nlisten: 0\nat ::1\nbind ::: 0\nlisten: 0\nat ::ffff:127.0.0.1\n\
             bind 127.0.0.2: EACCES\nbind 127.0.0.1: 0\nlisten: EACCES\nat 127.0.0.1\n{rest}"
        ),
    );
    let args = ["listen", "0.0.0.0", "0", "127.0.0.1", "0", "0.0.0.0", &port];
    granted(&args).listen("0").in_vm().expect(
        0,
        &format!(
            "bind 0.0.0.0: 0\nlisten: 0\nat 127.0.0.1\nbind 127.0.0.1: 0\nlisten: 0\nat 127.0.0.1\n\
             bind 0.0.0.0: EACCES\n{rest}"
        ),
    );
}

#[test]
fn a_server_of_datagrams_answers_those_who_ask() {
    skip_without_kvm!();
    let free = UdpSocket::bind("127.0.0.1:0").expect("loopback can be bound");
    let port = free.local_addr().expect("it is bound").port();
    drop(free);
    let text = port.to_string();
    let mut running = granted(&["answer", &text]).listen(&text).start().expect("it starts");
    running.wait_for_output("ready");
    let client = UdpSocket::bind("127.0.0.1:0").expect("loopback can be bound");
    client.send_to(b"ask", ("127.0.0.1", port)).expect("it is sent");
    let mut bytes = [0; 8];
    let (len, from) = client.recv_from(&mut bytes).expect("there is an answer");
    assert_eq!((&bytes[..len], from.port()), (&b"y"[..], port));
    running.wait(Duration::from_secs(60)).expect(
        0,
        "bind: 0\nready\nrecvfrom: 3\nto a stranger: EACCES\nto who asked: 1\nfrom elsewhere: EACCES\ndone\n",
    );
}

/// A UNIX server in a folder, as [`Server`].
fn unix_server(path: &Path, text: &'static str) -> Arc<AtomicU32> {
    let listener = UnixListener::bind(path).expect("a socket can be bound");
    let accepted = Arc::new(AtomicU32::new(0));
    let count = accepted.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            count.fetch_add(1, Ordering::SeqCst);
            let _ = stream.expect("accepting works").write_all(text.as_bytes());
        }
    });
    accepted
}

#[test]
fn unix_sockets_are_those_of_directories_granted_for_writing() {
    skip_without_kvm!();
    let folder = tempfile::tempdir().expect("a folder");
    let at = |name: &str| folder.path().join(name);
    for name in ["rw", "ro", "secret"] {
        std::fs::create_dir(at(name)).expect("a folder");
    }
    let reached = unix_server(&at("rw/s"), "yes");
    let read_only = unix_server(&at("ro/s"), "no");
    let secret = unix_server(&at("secret/s"), "no");
    std::os::unix::fs::symlink(at("secret/s"), at("rw/link")).expect("a link");
    std::os::unix::fs::symlink("../secret", at("rw/up")).expect("a link");
    std::fs::hard_link(at("rw/s"), at("rw/other-name")).expect("a link");
    let paths = ["/d/s", "/d/other-name", "/d/link", "/d/up/s", "/d/../secret/s", "/ro/s"];
    let secret_path = at("secret/s").to_string_lossy().into_owned();
    let args: Vec<&str> = ["unix"].into_iter().chain(paths).chain([secret_path.as_str()]).collect();
    let ended = granted(&args)
        .dir(format!("{}:/d", at("rw").display()))
        .dir(format!("{}:/ro:ro", at("ro").display()))
        .in_vm();
    let out = ended.out();
    let expected = "connect: 0\nread yes\nbind: EADDRINUSE\nsendto: EPROTOTYPE\n".repeat(2);
    assert!(out.starts_with(&expected), "{ended:?}");
    assert_eq!(out.matches("connect: 0").count(), 2, "{out}");
    assert!(!out.contains("read no") && !out.contains("bind: 0"), "{out}");
    assert!(
        out.ends_with(
            "connect to an abstract name: EACCES\nbind an abstract name: EACCES\n\
             bind any abstract name: EACCES\ndone\n"
        ),
        "{out}"
    );
    let counts = [&reached, &read_only, &secret].map(|count| count.load(Ordering::SeqCst));
    assert_eq!(counts, [2, 0, 0]);
    assert_eq!(std::fs::read_dir(at("secret")).expect("it is there").count(), 1);
}

#[test]
fn no_program_reaches_the_control_sockets_of_vms_whatever_it_is_granted() {
    skip_without_kvm!();
    let _control = Control::listen(None).expect("this process listens");
    let uid = std::fs::metadata("/proc/self").expect("it is there").uid();
    let ours = format!("spacejmp/vm/{uid}/{}", std::process::id());
    let free = format!("spacejmp/vm/{uid}/a-free-name");
    let other = format!("spacejmp-test-{}", std::process::id());
    let ended = granted(&["abstract", &ours, &free, &other]).net().in_vm();
    let refused = "connect: EACCES\nbind: EACCES\nsendto: EACCES\n".repeat(2);
    let allowed = "connect: ECONNREFUSED\nbind: 0\nsendto: 1\ndone\n";
    ended.expect(0, &(refused + allowed));
}

#[test]
fn a_link_that_changes_while_it_is_followed_leads_to_no_other_socket() {
    skip_without_kvm!();
    let folder = tempfile::tempdir().expect("a folder");
    let at = |name: &str| folder.path().join(name);
    for name in ["rw", "rw/in", "secret"] {
        std::fs::create_dir(at(name)).expect("a folder");
    }
    let reached = unix_server(&at("rw/in/s"), "yes");
    let secret = unix_server(&at("secret/s"), "no");
    let outside = at("secret").to_string_lossy().into_owned();
    let ended = granted(&["relink", "/d/l", "in", &outside])
        .dir(format!("{}:/d", at("rw").display()))
        .in_vm();
    ended.expect(0, "reached 1\ndone\n");
    assert!(reached.load(Ordering::SeqCst) > 0);
    assert_eq!(secret.load(Ordering::SeqCst), 0);
    assert_eq!(
        std::fs::read_dir(at("secret")).expect("it is there").count(),
        1,
        "nothing was bound"
    );
}
