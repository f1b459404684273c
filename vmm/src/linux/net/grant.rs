//! What of the network is granted: all of it, or where the program may connect and where it may listen.
#![forbid(unsafe_code)]

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::str::FromStr;
use std::sync::{Mutex, PoisonError};

use thiserror::Error;

use super::address::{canonical, destination};

/// Refusals that are logged; of a program that tries more, the others are not.
const TOLD_MAX: usize = 20;

/// What the user grants of the network; by default nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NetGrants {
    /// All of it.
    pub all: bool,
    /// Where the program may connect and send.
    pub connect: Vec<ConnectGrant>,
    /// Where it may listen.
    pub listen: Vec<ListenGrant>,
}

/// `HOST:PORT`: HOST is an address, a range, `*`, or a name that [`ConnectGrant::resolve`] looks up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectGrant {
    hosts: Hosts,
    /// 0 for any.
    port: u16,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Hosts {
    Any,
    Range(IpAddr, u8),
    Named(String, Vec<IpAddr>),
}

/// `[ADDR:]PORT`; port 0 is one that the host chooses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenGrant {
    hosts: Listen,
    port: u16,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Listen {
    Loopback,
    Any,
    At(IpAddr),
}

/// Why a part of the network cannot be granted.
#[derive(Debug, Error)]
pub enum NetGrantError {
    /// The argument is not `HOST:PORT` or `[ADDR:]PORT`.
    #[error("`{argument}` is not {form}")]
    Form {
        /// The argument as given.
        argument: String,
        /// What was expected.
        form: &'static str,
    },
    /// The name of a host cannot be looked up.
    #[error("cannot look up `{name}`")]
    Lookup {
        /// The name.
        name: String,
        /// The host's error.
        #[source]
        source: std::io::Error,
    },
}

impl NetGrantError {
    /// What the user can do about it.
    #[must_use]
    pub fn help(&self) -> &'static str {
        match self {
            NetGrantError::Form { .. } => {
                "write --connect example.org:443, --connect 10.0.0.0/8:5432, --connect '[::1]:80' or \
                 --connect '*:53', and --listen 8080 or --listen 0.0.0.0:8080; port `*` is any"
            }
            NetGrantError::Lookup { .. } => {
                "give the address itself, or one that can be looked up now"
            }
        }
    }
}

const CONNECT_FORM: &str = "HOST:PORT, with an address, a range, a name or `*` as HOST";
const LISTEN_FORM: &str = "[ADDR:]PORT, with an address or `*` as ADDR";

/// The host and the port of an argument; IPv6 in brackets.
fn split(text: &str) -> Option<(&str, &str)> {
    let (host, port) = text.rsplit_once(':')?;
    match host.strip_prefix('[') {
        Some(inner) => Some((inner.strip_suffix(']')?, port)),
        None if host.contains([':', '[', ']']) => None,
        None => Some((host, port)),
    }
}

impl FromStr for ConnectGrant {
    type Err = NetGrantError;

    fn from_str(text: &str) -> Result<ConnectGrant, NetGrantError> {
        let bad = || NetGrantError::Form { argument: text.to_owned(), form: CONNECT_FORM };
        let (host, port) = split(text).ok_or_else(bad)?;
        let port = match port {
            "*" => 0,
            port => port.parse().ok().filter(|port| *port != 0).ok_or_else(bad)?,
        };
        Ok(ConnectGrant { hosts: hosts(host).ok_or_else(bad)?, port })
    }
}

fn hosts(text: &str) -> Option<Hosts> {
    if text == "*" {
        return Some(Hosts::Any);
    }
    if let Some((address, bits)) = text.split_once('/') {
        let (address, bits): (IpAddr, u8) = (address.parse().ok()?, bits.parse().ok()?);
        return (bits <= width(address)).then_some(Hosts::Range(address, bits));
    }
    if let Ok(address) = text.parse::<IpAddr>() {
        let address = address.to_canonical();
        return Some(Hosts::Range(address, width(address)));
    }
    let is_name = !text.is_empty()
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte))
        // What looks like an address and is none is a mistake.
        && !text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    is_name.then(|| Hosts::Named(text.to_owned(), Vec::new()))
}

fn width(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

fn is_within(address: IpAddr, range: IpAddr, bits: u8) -> bool {
    let (address, range, width) = match (address, range) {
        (IpAddr::V4(a), IpAddr::V4(b)) => (u128::from(a.to_bits()), u128::from(b.to_bits()), 32),
        (IpAddr::V6(a), IpAddr::V6(b)) => (a.to_bits(), b.to_bits(), 128),
        _ => return false,
    };
    let shift = u32::from(width - bits.min(width));
    // A shift by all bits of the type has no value.
    (address ^ range).checked_shr(shift).unwrap_or(0) == 0
}

impl ConnectGrant {
    /// Looks up the addresses of a name.
    ///
    /// # Errors
    /// [`NetGrantError::Lookup`].
    pub fn resolve(&mut self) -> Result<(), NetGrantError> {
        let Hosts::Named(name, _) = &self.hosts else { return Ok(()) };
        let found = (name.as_str(), 0).to_socket_addrs();
        let found = found.map_err(|source| NetGrantError::Lookup { name: name.clone(), source })?;
        self.resolve_to(found.map(|address| address.ip()));
        Ok(())
    }

    /// Takes these as the addresses of its name, if it has one.
    pub(crate) fn resolve_to(&mut self, found: impl Iterator<Item = IpAddr>) {
        let Hosts::Named(_, addresses) = &mut self.hosts else { return };
        *addresses = found.map(|address| address.to_canonical()).collect();
        addresses.sort();
        addresses.dedup();
    }

    /// A name and what it was resolved to.
    #[must_use]
    pub fn named(&self) -> Option<(&str, &[IpAddr])> {
        match &self.hosts {
            Hosts::Named(name, addresses) => Some((name, addresses)),
            Hosts::Any | Hosts::Range(..) => None,
        }
    }

    fn covers(&self, (ip, port): (IpAddr, u16)) -> bool {
        let host = match &self.hosts {
            Hosts::Any => true,
            Hosts::Range(range, bits) => is_within(ip, *range, *bits),
            Hosts::Named(_, addresses) => addresses.contains(&ip),
        };
        host && (self.port == 0 || self.port == port)
    }
}

impl FromStr for ListenGrant {
    type Err = NetGrantError;

    fn from_str(text: &str) -> Result<ListenGrant, NetGrantError> {
        let bad = || NetGrantError::Form { argument: text.to_owned(), form: LISTEN_FORM };
        let (hosts, port) = match split(text) {
            Some((host, port)) => (listen_at(host).ok_or_else(bad)?, port),
            None => (Listen::Loopback, text),
        };
        Ok(ListenGrant { hosts, port: port.parse().map_err(|_| bad())? })
    }
}

fn listen_at(text: &str) -> Option<Listen> {
    if text == "*" {
        return Some(Listen::Any);
    }
    let address = text.parse::<IpAddr>().ok()?.to_canonical();
    Some(if address.is_unspecified() { Listen::Any } else { Listen::At(address) })
}

impl ListenGrant {
    fn covers(&self, (ip, port): (IpAddr, u16)) -> bool {
        let host = match self.hosts {
            Listen::Any => true,
            Listen::Loopback => ip == Ipv4Addr::LOCALHOST || ip == Ipv6Addr::LOCALHOST,
            Listen::At(address) => ip == address,
        };
        host && (self.port == 0 || self.port == port)
    }

    /// The granted address that stands for all addresses of this machine, in the form of `asked`.
    fn narrowed(&self, asked: SocketAddr, only_v6: bool) -> Option<IpAddr> {
        let at = match (self.hosts, asked.is_ipv6() && only_v6) {
            (Listen::Any, _) => return Some(asked.ip()),
            (Listen::Loopback, true) => Ipv6Addr::LOCALHOST.into(),
            (Listen::Loopback, false) => Ipv4Addr::LOCALHOST.into(),
            (Listen::At(at), _) => at,
        };
        match (at, asked.is_ipv6()) {
            (IpAddr::V4(_), true) if only_v6 => None,
            (IpAddr::V4(at), true) => Some(at.to_ipv6_mapped().into()),
            (IpAddr::V6(_), false) => None,
            (at, _) => Some(at),
        }
    }
}

impl NetGrants {
    /// Whether nothing at all is granted.
    #[must_use]
    pub fn is_none(&self) -> bool {
        !self.all && self.connect.is_empty() && self.listen.is_empty()
    }

    /// Whether the program may connect or send there.
    #[must_use]
    pub fn may_connect(&self, to: SocketAddr) -> bool {
        let to = canonical(destination(to));
        self.all || self.connect.iter().any(|grant| grant.covers(to))
    }

    /// Whether the program may listen there, or receive from whoever sends there: an address that a
    /// socket has.
    #[must_use]
    pub fn may_listen(&self, at: SocketAddr) -> bool {
        self.all || self.listen.iter().any(|grant| grant.covers(canonical(at)))
    }

    /// Where a socket is bound that the program binds to `asked`: there, or, if those are all addresses
    /// of this machine, at the one that is granted. `None`: it is not granted.
    #[must_use]
    pub fn to_bind(&self, asked: SocketAddr, how: Binding) -> Option<SocketAddr> {
        let any_port = asked.port() == 0;
        // Sending from a socket that is not bound does the same.
        if self.all || any_port && !how.stream {
            return Some(asked);
        }
        let listen = self.listen.iter().filter(|grant| grant.port == asked.port());
        if !asked.ip().to_canonical().is_unspecified() {
            let mut listen = listen;
            let granted = listen.any(|grant| grant.covers(canonical(asked)));
            // A port that the host chooses does nothing yet: `listen` looks again.
            return (granted || any_port).then_some(asked);
        }
        let mut narrowed = listen.filter_map(|grant| grant.narrowed(asked, how.only_v6));
        let mut bound = asked;
        match narrowed.next() {
            Some(at) => bound.set_ip(at),
            None if any_port => {}
            None => return None,
        }
        Some(bound)
    }
}

/// What is bound.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Binding {
    /// A socket that can listen.
    pub stream: bool,
    /// A socket of IPv6 that has nothing to do with IPv4.
    pub only_v6: bool,
}

/// The grants of a running program, and what it has been told about them.
#[derive(Debug, Default)]
pub struct Network {
    /// The grants.
    pub grants: NetGrants,
    told: Mutex<BTreeSet<String>>,
}

impl Network {
    /// Grants of which nothing has been said yet.
    #[must_use]
    pub fn new(grants: NetGrants) -> Network {
        Network { grants, told: Mutex::default() }
    }

    /// Says once that something is not granted, and by which option it would be.
    pub(super) fn refused(&self, what: impl fmt::Display) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let text = what.to_string();
        if told.len() < TOLD_MAX && told.insert(text.clone()) {
            tracing::warn!("{text}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grants(connect: &[&str], listen: &[&str]) -> NetGrants {
        NetGrants {
            all: false,
            connect: connect.iter().map(|text| text.parse().unwrap()).collect(),
            listen: listen.iter().map(|text| text.parse().unwrap()).collect(),
        }
    }

    fn at(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_connection_needs_a_grant_of_its_host_and_port() {
        let some = grants(&["10.0.0.0/8:5432", "127.0.0.1:80", "*:53"], &[]);
        for yes in [
            "10.255.0.1:5432",
            "[::ffff:10.1.2.3]:5432",
            "127.0.0.1:80",
            "0.0.0.0:80",
            "[::ffff:0.0.0.0]:80",
            "[::1]:53",
        ] {
            assert!(some.may_connect(at(yes)), "{yes}");
        }
        for no in ["11.0.0.1:5432", "10.0.0.1:5433", "[::1]:80", "[::]:80", "127.0.0.2:80"] {
            assert!(!some.may_connect(at(no)), "{no}");
        }
        assert!(!NetGrants::default().may_connect(at("127.0.0.1:80")));
    }

    #[test]
    fn ranges_end_where_their_bits_do() {
        for (range, inside, outside) in [
            ("[2001:db8::/32]:443", "[2001:db8:ffff::1]:443", "[2001:db9::1]:443"),
            ("192.168.1.128/25:1", "192.168.1.129:1", "192.168.1.127:1"),
            ("0.0.0.0/0:1", "1.2.3.4:1", "[::1]:1"),
            ("[::/0]:1", "[::1]:1", "1.2.3.4:1"),
        ] {
            let some = grants(&[range], &[]);
            assert!(some.may_connect(at(inside)), "{range}");
            assert!(!some.may_connect(at(outside)), "{range}");
        }
    }

    #[test]
    fn what_is_no_host_and_port_is_refused() {
        for bad in
            ["", "80", "a", ":80", "a:0", "a:70000", "a:b", "10.0.0.0/33:1", "::1:80", "1.2.3:4"]
        {
            assert!(bad.parse::<ConnectGrant>().is_err(), "{bad}");
        }
        for bad in ["", "x", "example.org:80", "70000", "10.0.0.0/8:1", "[::1:80"] {
            assert!(bad.parse::<ListenGrant>().is_err(), "{bad}");
        }
        assert!("example.org:*".parse::<ConnectGrant>().unwrap().named().is_some());
    }

    #[test]
    fn a_port_alone_is_loopbacks() {
        let some = grants(&[], &["8080", "10.0.0.5:90", "*:70"]);
        for yes in ["127.0.0.1:8080", "[::1]:8080", "10.0.0.5:90", "0.0.0.0:70", "[::]:70"] {
            assert!(some.may_listen(at(yes)), "{yes}");
        }
        for no in ["0.0.0.0:8080", "[::]:8080", "127.0.0.2:8080", "10.0.0.5:8080", "10.0.0.6:90"] {
            assert!(!some.may_listen(at(no)), "{no}");
        }
    }

    #[test]
    fn a_socket_for_all_addresses_is_bound_to_the_granted_one() {
        let some = grants(&[], &["8080", "10.0.0.5:90", "*:70"]);
        let bound =
            |asked: &str, only_v6| some.to_bind(at(asked), Binding { stream: true, only_v6 });
        assert_eq!(bound("0.0.0.0:8080", false), Some(at("127.0.0.1:8080")));
        assert_eq!(bound("[::]:8080", false), Some(at("[::ffff:127.0.0.1]:8080")));
        assert_eq!(bound("[::]:8080", true), Some(at("[::1]:8080")));
        assert_eq!(bound("[::]:90", false), Some(at("[::ffff:10.0.0.5]:90")));
        assert_eq!(bound("[::]:90", true), None);
        assert_eq!(bound("0.0.0.0:70", false), Some(at("0.0.0.0:70")));
        assert_eq!(bound("10.0.0.5:8080", false), None);
        // Nobody is told this port: `listen` decides.
        assert_eq!(bound("0.0.0.0:0", false), Some(at("0.0.0.0:0")));
        assert!(!some.may_listen(at("0.0.0.0:40000")));
    }

    #[test]
    fn a_port_that_the_host_chooses_is_granted_by_0() {
        let some = grants(&[], &["0"]);
        let stream = Binding { stream: true, only_v6: false };
        assert_eq!(some.to_bind(at("0.0.0.0:0"), stream), Some(at("127.0.0.1:0")));
        assert_eq!(
            some.to_bind(at("127.0.0.1:8080"), stream),
            None,
            "that one the program chooses"
        );
        assert!(some.may_listen(at("127.0.0.1:40000")));
        assert!(!some.may_listen(at("0.0.0.0:40000")));
        // Datagrams can be sent without binding, too.
        assert_eq!(some.to_bind(at("0.0.0.0:0"), Binding::default()), Some(at("0.0.0.0:0")));
    }
}
