//! The names by which running VMs are found, and the addresses of their control sockets.
//!
//! Sockets have abstract names, which end with their VM, however that ends. Files beside the lease were
//! the alternative: a VM that uses no store has no lease, killed ones leave their files, and the path of
//! a store may be longer than a socket's address (108 bytes). An abstract name can be taken and connected
//! to by anybody in the network namespace, so both sides ask the host who the other is, and talk to
//! the same user only.
#![forbid(unsafe_code)]

use std::fmt;
use std::fs;
use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::str::FromStr;

use crate::linux::net::peer;

/// What the addresses of all control sockets begin with. No program in a VM may use these.
pub use crate::linux::net::CONTROL_PREFIX;

/// Bytes of a VM's name at most.
const NAME_MAX: usize = 64;

/// The name given to a VM by `run --name`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct VmName(String);

/// A text is no name of a VM.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error(
    "a VM's name is 1 to {NAME_MAX} letters, digits, `.`, `_` and `-`, begins with none of these signs, \
     and is not a number"
)]
pub struct BadName;

impl FromStr for VmName {
    type Err = BadName;

    fn from_str(text: &str) -> Result<VmName, BadName> {
        let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        let is_good = text.len() <= NAME_MAX
            && text.bytes().all(is_allowed)
            && text.as_bytes().first().is_some_and(u8::is_ascii_alphanumeric)
            && !text.bytes().all(|byte| byte.is_ascii_digit());
        if is_good { Ok(VmName(text.to_owned())) } else { Err(BadName) }
    }
}

impl fmt::Display for VmName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A VM as a user names it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum VmRef {
    /// By the number of its process.
    Pid(i32),
    /// By the name that it was given.
    Name(VmName),
}

impl FromStr for VmRef {
    type Err = BadName;

    fn from_str(text: &str) -> Result<VmRef, BadName> {
        match text.parse() {
            Ok(pid @ 1..) => Ok(VmRef::Pid(pid)),
            _ => text.parse().map(VmRef::Name),
        }
    }
}

impl fmt::Display for VmRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            VmRef::Pid(pid) => pid.fmt(f),
            VmRef::Name(name) => name.fmt(f),
        }
    }
}

/// The user whose VMs are meant: who runs this process.
pub(super) fn own_uid() -> u32 {
    rustix::process::geteuid().as_raw()
}

fn address(uid: u32, vm: &VmRef) -> io::Result<SocketAddr> {
    SocketAddr::from_abstract_name(format!("{CONTROL_PREFIX}{uid}/{vm}"))
}

/// Listens as `vm`, which ends with the socket.
pub(super) fn listen(vm: &VmRef) -> io::Result<UnixListener> {
    let listener = UnixListener::bind_addr(&address(own_uid(), vm)?)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Connects to `vm`, if it is this user's. Also returns the number of its process, 0 if that is in
/// another PID namespace.
pub(super) fn connect(vm: &VmRef) -> io::Result<(UnixStream, i32)> {
    let stream = UnixStream::connect_addr(&address(own_uid(), vm)?)?;
    let (pid, uid) = peer(&stream)?;
    if uid != own_uid() {
        let what = "its control socket belongs to another user";
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, what));
    }
    Ok((stream, pid))
}

/// All control sockets of this network namespace: whose, and which VM.
pub(super) fn all() -> io::Result<Vec<(u32, VmRef)>> {
    Ok(parse(&fs::read_to_string("/proc/net/unix")?))
}

/// A name may be anything, also what looks like ours: `connect` asks whose it is.
fn parse(table: &str) -> Vec<(u32, VmRef)> {
    let vm = |line: &str| {
        let name = line.split_whitespace().nth(7)?.strip_prefix('@')?;
        let (uid, vm) = name.strip_prefix(CONTROL_PREFIX)?.split_once('/')?;
        Some((uid.parse().ok()?, vm.parse().ok()?))
    };
    let mut all: Vec<(u32, VmRef)> = table.lines().filter_map(vm).collect();
    // A connection that was accepted has the name of who listens.
    all.dedup();
    let mut seen = Vec::with_capacity(all.len());
    all.retain(|entry| {
        let is_new = !seen.contains(entry);
        if is_new {
            seen.push(entry.clone());
        }
        is_new
    });
    all
}

#[cfg(test)]
mod tests {
    use super::{VmName, VmRef, parse};

    #[test]
    fn a_name_is_no_number_and_has_no_separator() {
        for good in ["web", "a", "7b", "build.2-x_y"] {
            assert_eq!(good.parse::<VmName>().unwrap().to_string(), good);
        }
        for bad in ["", "12", "-x", ".x", "a/b", "a b", "é", &"x".repeat(65)] {
            assert!(bad.parse::<VmName>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_number_is_a_process_and_everything_else_a_name() {
        assert_eq!("12".parse(), Ok(VmRef::Pid(12)));
        assert!(matches!("web".parse(), Ok(VmRef::Name(_))));
        for bad in ["0", "-3", "99999999999"] {
            assert!(bad.parse::<VmRef>().is_err(), "{bad}");
        }
    }

    #[test]
    fn only_control_sockets_are_found_each_once() {
        let line = |name: &str| format!("0: 00000002 00000000 00010000 0001 01 7 {name}\n");
        let table = "Num RefCount Protocol Flags Type St Inode Path\n".to_owned()
            + &line("@spacejmp/vm/1000/12")
            + &line("@spacejmp/vm/0/web")
            + &line("@spacejmp/vm/1000/12")
            + &line("@spacejmp/vm/x/12")
            + &line("@spacejmp/vm/1000/a/b")
            + &line("/run/dbus")
            + "0: 00000002 00000000 00010000 0001 01 7\n";
        let web = "web".parse().unwrap();
        assert_eq!(parse(&table), [(1000, VmRef::Pid(12)), (0, VmRef::Name(web))]);
    }
}
