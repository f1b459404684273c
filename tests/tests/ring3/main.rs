//! What ring 3 can and cannot do, tested with a few bytes of machine code on a bare vCPU.
//!
//! No program, no Linux calls, no run loop: only [`vmm::vm::Vcpu`] and
//! [`vmm::private::PrivateRegion`].

mod bench;
mod calls;
mod counts;
mod exceptions;
mod fences;
mod kicks;
mod preserved;
mod rights;
mod state;
mod switch;
mod switch_locks;
mod tags;
mod windows;
