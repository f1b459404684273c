//! Scenarios that need a whole store.

mod book;
mod collect;
mod concurrent;
mod copies;
mod damage;
mod durable;
mod kept;
mod leases;
mod objects;
mod permissions;
mod versioned;
mod volatile;
