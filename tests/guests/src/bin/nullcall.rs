//! SpaceJMP's own calls from an ordinary program: the two that do nothing, and one that does
//! not exist. Exit status 3 outside a VM.

use spacejmp::sys::CallPage;

fn main() {
    let page = match CallPage::find() {
        Ok(page) => page,
        Err(error) => {
            println!("{error}");
            std::process::exit(3);
        }
    };
    // Values that must live through the calls in registers and in memory.
    let mut sum = 0.5f64;
    for round in 0..1000u32 {
        assert_eq!(page.null(), Ok(0));
        sum += f64::from(round);
    }
    for _ in 0..100 {
        assert_eq!(page.hyper_null(), Ok(0));
    }
    println!("calls: {sum}, missing: {:?}", page.call(0x534a_ffff, [1, 2, 3]));
}
