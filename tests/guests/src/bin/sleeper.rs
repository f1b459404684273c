//! Prints "sleeping" and sleeps for 1000 seconds, then exits with 0: to be interrupted.

fn main() {
    println!("sleeping");
    std::thread::sleep(std::time::Duration::from_secs(1000));
}
