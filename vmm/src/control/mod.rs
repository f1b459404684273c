//! A running VM as others see it: `spacejmp ps`, `stats`, `top`, `gdb`, `stop` and `kill`.
//!
//! Each VM listens on a control socket. Whoever connects asks one question of one line and gets the
//! answer, made at that moment; nothing is gathered while nobody asks. Ending a VM is a signal to its
//! process, as from any other program. One question changes it: whoever may end it may debug it, and the
//! connection is gdb's from then on (`gdb::server`).
//!
//! - [`address`]: the names of VMs and of their sockets
//! - [`report`]: what a VM tells of itself
//! - [`server`]: the VM's side, in its event loop; [`client`]: the other; [`snapshot`]: the same for snapshots

pub mod address;
pub mod client;
pub mod fuzz;
pub mod report;
pub mod server;
pub mod snapshot;

pub use address::{VmName, VmRef};
pub use client::{ControlError, Vm};
pub use report::VmReport;
pub use server::Control;
pub use snapshot::Asked;
