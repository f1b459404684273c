//! How many instructions a request of a client of `examples/kv` takes, guest kernel included, where the
//! time-stamp counter counts instructions, as an emulated processor's does: a line for each kind of request, or
//! `time` if the counter counts something else. `kv_counts get VAS`: GETs of a store in a VAS. `kv_counts set`: SETs of
//! one in memory, as each visit to write ends with an exit, and what the host does then is no part of it.
//! Status 0, or 101 with a message.

use std::arch::asm;
use std::arch::x86_64::{_mm_lfence, _rdtsc};

use kv::{Client, Store};
use spacejmp::Durability;

/// Attempts of each: what else the processor does meanwhile only adds.
const ATTEMPTS: u32 = 60;
/// How many requests more are handed over for what one more takes.
const MORE: u64 = 10;

fn counter() -> u64 {
    // SAFETY: every x86-64 processor has these instructions, and they change nothing.
    unsafe {
        _mm_lfence();
        _rdtsc()
    }
}

/// What the counter says of something, at the least.
fn least(mut run: impl FnMut()) -> u64 {
    let took = (0..ATTEMPTS).map(|_| {
        let before = counter();
        run();
        counter() - before
    });
    took.min().expect("it is tried")
}

/// Two instructions for each round, and one.
fn rounds(count: u64) {
    // SAFETY: a register is counted down.
    unsafe { asm!("2: dec {0}", "jnz 2b", inout(reg) count => _, options(nomem, nostack)) }
}

fn words(words: &[&[u8]]) -> Vec<Vec<u8>> {
    words.iter().map(|word| word.to_vec()).collect()
}

/// What so many of one request take, handed over at once.
fn together(client: &mut Client<'_>, request: &[&[u8]], count: u64) -> u64 {
    least(|| {
        let requests = (0..count).map(|_| words(request)).collect();
        let replies = client.call_all(requests).expect("the store can be used");
        assert_eq!(replies.len() as u64, count);
    })
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let (few, many) = (least(|| rounds(1000)), least(|| rounds(3000)));
    if many - few != 4000 {
        println!("time");
        return;
    }
    let (get, set): ([&[u8]; 2], [&[u8]; 3]) =
        ([b"GET", b"key:000000000001"], [b"SET", b"key:000000000001", b"vvvv"]);
    let more = |client: &mut Client<'_>, request: &[&[u8]]| {
        let few = together(client, request, MORE);
        (together(client, request, 2 * MORE) - few) / MORE
    };
    match args[..] {
        ["get", vas] => {
            let store = Store::open_or_create(vas, Durability::Manual, None);
            let store = store.expect("the store opens");
            let mut client = store.client();
            client.call(&set).expect("it is stored");
            let one = least(|| drop(client.call(&get).expect("the store can be read")));
            println!("GET {one}\nGET-more {}", more(&mut client, &get));
        }
        ["set"] => {
            let store = Store::in_memory(1 << 20).expect("there is memory");
            println!("SET-more {}", more(&mut store.client(), &set));
        }
        _ => panic!("kv_counts get VAS, or kv_counts set"),
    }
}
