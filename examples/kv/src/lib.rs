//! A key-value store in an address space: the commands and replies of Redis, and no server in between.
//!
//! Every client is a program of its own that enters the address space and does the work itself
//! ([`Store`]); `serve` does it for those who come over a socket.
//!
//! - `data`: what is stored
//! - `command`: the commands; `session`: a client's choices, transactions; `store`: visits
//! - [`request`], [`reply`]: the protocol; [`shown`]: replies for people; [`glob`], [`number`]: patterns, numbers
//! - sockets: [`mod@serve`]

#![forbid(unsafe_code)]

mod command;
mod data;
pub mod glob;
pub mod number;
pub mod reply;
pub mod request;
pub mod serve;
mod session;
pub mod shown;
mod store;

pub use store::{Client, Store, served};
