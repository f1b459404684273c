//! SpaceJMP's own calls from an ordinary program: the two that do nothing, and one that does
//! not exist. Exit status 3 outside a VM.

use spacejmp::CallPage;
use spacejmp::sys::{hyper_null, null};

fn main() {
    let page = match CallPage::find() {
        Ok(page) => page,
        Err(error) => {
            println!("{error}");
            std::process::exit(3);
        }
    };
    // Values that must survive the calls in registers and in memory.
    let mut sum = 0.5f64;
    for round in 0..1000u32 {
        assert_eq!(null(), Ok(()));
        sum += f64::from(round);
    }
    for _ in 0..100 {
        assert_eq!(hyper_null(), Ok(()));
    }
    // SAFETY: there is no such call, so nothing happens.
    let missing = unsafe { page.call(0x534a_ffff, [1, 2, 3, 4, 5, 6]) };
    println!("calls: {sum}, missing: {missing:?}");
}
