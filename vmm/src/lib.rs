//! SpaceJMP on KVM: the virtual machine monitor.
//!
//! A library first; the `spacejmp` command in `bin/` parses, calls in here and prints.
//!
//! 1. Nothing a guest does, no register value, file or page table, may panic us, reach memory
//!    outside its VM or a file it was not granted.
//! 2. The guest kernel holds what must be fast; everything else is here, in safe Rust.
//! 3. `unsafe` lives in a few modules: `vm`, the lock words of `vas`, and the Linux
//!    calls that hand guest memory to the host kernel.
//!
//! - [`host`]: what this machine offers; [`vm`]: KVM, guest memory, vCPUs; [`kernel`]: what the
//!   guest kernel needs of us
//! - [`files`]: the host's files as far as a program may reach them
//! - [`private`]: the program's own address space; [`guest`]: what a program starts with
//! - [`user_memory`]: a program's memory as its faults and system calls reach it; [`access`]: in
//!   which ways
//! - [`vas`]: address spaces and segments as a VM has them; [`store`]: as they are kept
//! - [`process`]: a program in its VM: start, threads, end
//! - [`linux`]: the system calls it makes; [`call`]: SpaceJMP's own
//! - [`stats`]: what a run did, counted; [`report`]: that in words, and crash reports
//! - [`cli`]: what the commands have in common; [`error`], [`exit_code`]

pub mod access;
pub mod call;
pub mod cli;
pub mod exit_code;
pub mod guest;
pub mod kernel;
pub mod linux;
pub mod private;
pub mod process;
pub mod report;
pub mod stats;
pub mod user_memory;
pub mod vas;
pub mod vm;

pub use spacejmp_files as files;
pub use spacejmp_host::{self as host, error};
pub use spacejmp_store as store;
