//! `--net`, `--connect` and `--listen`: from the command line to what is granted.
#![forbid(unsafe_code)]

use std::ffi::OsStr;

use vmm::linux::net::{ConnectGrant, ListenGrant, NetGrantError, NetGrants};

use crate::errors::Failure;

/// A `--connect`.
pub(crate) fn parse_connect(text: &str) -> Result<ConnectGrant, String> {
    text.parse().map_err(with_help)
}

/// A `--listen`.
pub(crate) fn parse_listen(text: &str) -> Result<ListenGrant, String> {
    text.parse().map_err(with_help)
}

fn with_help(error: NetGrantError) -> String {
    format!("{error}: {}", error.help())
}

/// What is granted, with the addresses that names have now.
pub(crate) fn grants(
    all: bool,
    mut connect: Vec<ConnectGrant>,
    listen: Vec<ListenGrant>,
) -> Result<NetGrants, NetGrantError> {
    connect.iter_mut().try_for_each(ConnectGrant::resolve)?;
    Ok(NetGrants { all, connect, listen })
}

/// The failure of a run that could not be granted what was asked for.
pub(crate) fn failure(program: &OsStr, error: NetGrantError) -> Failure {
    let help = Some(error.help().to_owned());
    Failure::new(format!("run {}", program.display()), error).help(help)
}
