//! What the end-to-end tests share. The tests are in `tests/`; the small programs that they run
//! in VMs are in `guests/`.
//!
//! - [`kvm`]: whether this machine can run VMs, and what a test does when it cannot
//! - [`vm`]: running a program in a VM and natively
//! - [`commands`]: the command on a store of a test's own, and programs that answer by lines
//! - [`fuzz`]: checking one fuzz input; [`fuzz_handover`]: one that VMMs send each other; [`fuzz_snapshot`]: one that a snapshot has
//! - [`fuzz_random`]: random inputs for all of them; [`fuzz_corpus`]: those that libFuzzer has left
//! - [`gdb`]: programs under the distribution's gdb; [`gdb_packets`]: its protocol, spoken by a test
//! - [`pace`]: waiting longer and trying less often on slow machines
//! - [`counts`]: exact counts, compared with `resources/counts.toml`
//! - [`small_disk`]: a disk that fills up quickly
//! - [`web`]: a web server with one page
//! - [`pages`], [`book`]: pages of the book, whose commands are run
//! - [`guests`]: building the programs; [`elf`]: custom ELF files

pub mod book;
pub mod commands;
pub mod counts;
pub mod elf;
pub mod fuzz;
pub mod fuzz_corpus;
pub mod fuzz_handover;
pub mod fuzz_random;
pub mod fuzz_snapshot;
pub mod fuzz_sysv;
pub mod gdb;
pub mod gdb_packets;
pub mod guests;
pub mod kvm;
pub mod pace;
pub mod pages;
pub mod small_disk;
pub mod traced;
pub mod vm;
pub mod web;
