//! Reads of genomes in an address space: parsed once, and then only worked on.
//!
//! - [`input`]: files of reads; [`header`], [`record`], [`text`]: what is in them
//! - [`data`]: what is stored; [`sort`], [`index`], [`markdup`]: orders, places and marks, which are stored, too
//! - [`flagstat`], [`stats`], [`depth`], [`region`], [`save`]: what is asked for and written
//! - [`generate`]: reads by chance, to try all of it

#![forbid(unsafe_code)]
#![allow(missing_docs)]

pub mod data;
pub mod depth;
pub mod flagstat;
pub mod generate;
pub mod header;
pub mod index;
pub mod input;
pub mod markdup;
pub mod radix;
pub mod record;
pub mod region;
pub mod save;
pub mod sort;
pub mod stats;
pub mod text;
