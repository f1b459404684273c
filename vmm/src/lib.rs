//! SpaceJMP on KVM: the virtual machine monitor.
//!
//! A library first; the `spacejmp` command in `bin/` parses, calls in here and prints.
//! What lives where: `host` is what this machine offers, `report` is what we tell people
//! (statistics, crash reports), `linux` is the system calls a program makes.

pub mod error;
pub mod exit_code;
pub mod host;
pub mod linux;
pub mod report;
