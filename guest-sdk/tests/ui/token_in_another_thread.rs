// A token is sent to, or shared with, another thread.
use spacejmp::{In, Read};

spacejmp::brand! { One => u64 }

// Asks for what `std::thread::Scope::spawn` asks for. The compiler would print its source where that
// is installed, and the message would depend on it.
fn on_another_thread(_work: impl FnOnce() -> u64 + Send) {}

fn shared(v: &In<One, Read>) {
    on_another_thread(|| *v.root());
}

fn sent(v: &mut In<One, Read>) {
    on_another_thread(move || *v.root());
}

fn main() {}
