//! Scenarios that need a whole store.

mod archived;
mod book;
mod collect;
mod concurrent;
mod copies;
mod damage;
mod diff;
mod durable;
mod kept;
mod leases;
mod links;
mod nameless;
mod objects;
mod permissions;
mod versioned;
mod volatile;
