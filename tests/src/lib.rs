//! What the end-to-end tests share. The tests are in `tests/`, the small programs they run
//! in VMs in `guests/`.

pub mod guests;
