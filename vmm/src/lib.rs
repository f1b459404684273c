//! SpaceJMP on KVM: the virtual machine monitor.
//!
//! A library; the command `spacejmp`, the package `spacejmp-cli`, parses its arguments, calls this library
//! and prints the results.
//!
//! 1. Nothing a guest does, with register values, files or page tables, may make us panic or give
//!    access to memory outside its VM or to a file it was not granted.
//! 2. The guest kernel holds what must be fast; everything else is here, in safe Rust.
//! 3. `unsafe` lives in a few modules: `vm`, the lock words of `vas`, and the Linux
//!    calls that hand guest memory to the host kernel.
//!
//! - [`host`]: what this host offers; [`vm`]: KVM, guest memory, vCPUs; [`kernel`]: what the guest
//!   kernel needs from us
//! - [`files`]: the host's files, as far as a program may access them
//! - [`private`]: the program's own address space; [`guest`]: a program's initial image, stack and
//!   vDSO
//! - [`user_memory`]: a program's memory as its faults and system calls access it; [`access`]: the
//!   types of access
//! - [`vas`]: a VM's address spaces and segments; [`store`]: their storage
//! - [`process`]: a program in its VM: start, threads, end; [`process_tree`]: the processes of a run
//! - [`linux`]: Linux system calls; [`call`]: SpaceJMP's own
//! - [`stats`]: counters of a run; [`report`]: summaries and crash reports
//! - [`control`]: a running VM as others see it
//! - [`gdb`]: a debugger's protocol
//! - [`confine`]: what the VMM's threads may ask of the host's kernel
//! - [`cli`]: what the commands have in common; [`error`], [`exit_code`]

pub mod access;
pub mod call;
pub mod cli;
pub mod confine;
pub mod control;
pub mod exit_code;
pub mod gdb;
pub mod guest;
pub mod kernel;
pub mod linux;
pub mod private;
pub mod process;
pub mod process_tree;
pub mod report;
pub mod stats;
pub mod user_memory;
pub mod vas;
pub mod vm;

pub use spacejmp_files as files;
pub use spacejmp_host::{self as host, error};
pub use spacejmp_store as store;
