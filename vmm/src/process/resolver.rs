//! What a program's own resolver reads, for a program that is granted some of the network: the host's files,
//! and in `/etc/hosts` the names that the user granted, so that a granted name needs no name server.
#![forbid(unsafe_code)]

use std::fs::File;
use std::io::{Seek, Write};

use rustix::fs::MemfdFlags;

use crate::linux::net::NetGrants;

const HOSTS: &str = "/etc/hosts";
/// Few and small, and without secrets.
const FILES: [&str; 7] = [
    HOSTS,
    "/etc/gai.conf",
    "/etc/host.conf",
    "/etc/nsswitch.conf",
    "/etc/protocols",
    "/etc/resolv.conf",
    "/etc/services",
];

/// The files to show, with their paths; those that the host does not have are left out.
pub(super) fn files(net: &NetGrants) -> Vec<(&'static str, File)> {
    if net.is_none() {
        return Vec::new();
    }
    let mut files = Vec::new();
    for path in FILES {
        let file = match path {
            HOSTS => hosts(net),
            path => File::open(path),
        };
        if let Ok(file) = file {
            files.push((path, file));
        }
    }
    files
}

fn hosts(net: &NetGrants) -> std::io::Result<File> {
    let names = names(net);
    if names.is_empty() {
        return File::open(HOSTS);
    }
    let mut file = File::from(rustix::fs::memfd_create("hosts", MemfdFlags::CLOEXEC)?);
    file.write_all(names.as_bytes())?;
    // A host without one has nothing to add.
    file.write_all(&std::fs::read(HOSTS).unwrap_or_default())?;
    file.rewind()?;
    Ok(file)
}

/// The granted names as lines: before the host's, so that they mean what was looked up.
fn names(net: &NetGrants) -> String {
    let named = net.connect.iter().filter_map(|grant| grant.named());
    let lines =
        named.flat_map(|(name, all)| all.iter().map(move |address| format!("{address}\t{name}\n")));
    lines.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn granted_names_are_in_the_file_with_their_addresses() {
        // Not looked up: a machine may have no resolver.
        let mut grant: crate::linux::net::ConnectGrant = "host.test:80".parse().unwrap();
        grant.resolve_to(["10.1.2.3".parse().unwrap()].into_iter());
        let net = NetGrants { connect: vec![grant], ..NetGrants::default() };
        assert_eq!(names(&net), "10.1.2.3\thost.test\n");
        assert!(files(&net).iter().any(|(path, _)| *path == HOSTS));
        assert!(files(&NetGrants::default()).is_empty());
    }
}
