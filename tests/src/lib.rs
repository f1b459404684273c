//! What the end-to-end tests share. The tests are in `tests/`, the small programs they run
//! in VMs in `guests/`.
//!
//! - [`kvm`]: whether there are VMs here, and what a test does when there are none
//! - [`vm`]: running a program in a VM and outside of one
//! - [`fuzz`]: one fuzz input, judged
//! - [`pace`]: waiting longer and trying less often on slow machines
//! - [`counts`]: exact counts, compared with `resources/counts.toml`
//! - [`small_disk`]: a disk that is soon full
//! - [`guests`]: building the programs; [`elf`]: programs that never were

pub mod counts;
pub mod elf;
pub mod fuzz;
pub mod guests;
pub mod kvm;
pub mod pace;
pub mod small_disk;
pub mod vm;
