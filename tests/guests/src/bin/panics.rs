//! Panics and does not catch it: prints "before", a message on standard error, exits 101.

struct Loud;

impl Drop for Loud {
    fn drop(&mut self) {
        println!("dropped");
    }
}

fn main() {
    let _loud = Loud;
    println!("before");
    let none: Option<u32> = std::env::args().nth(99).and_then(|arg| arg.parse().ok());
    println!("never {}", none.expect("the panic that was asked for"));
}
