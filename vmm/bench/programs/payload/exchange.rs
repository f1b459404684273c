//! `rpc`: getting bytes that another party has: by switching to them, by asking over a polled
//! channel, by asking over a UNIX socket.
//!
//! Each exchange is timed by itself in time-stamp cycles and the median reported; sizes
//! alternate, so that a disturbance of the machine affects all of them. All bytes of the last
//! exchange of each size are compared with what the other party has.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::time::Duration;

use abi::objects::Lifetime;
use spacejmp::sys::{self, PagePolicy, VasHandle, attach};

use crate::channel::{CHANNEL_BYTES, End};
use crate::gups::table::Words;
use crate::json::Object;
use crate::mapping::Mapping;
use crate::random::Random;
use crate::space::{cycles, enter, make, median, sized, tell, unmake};

/// Sizes, as in the paper's figure.
const SIZES: [usize; 12] =
    [4, 16, 64, 128, 256, 512, 1 << 10, 2 << 10, 4 << 10, 16 << 10, 64 << 10, 256 << 10];
const MOST: usize = SIZES[SIZES.len() - 1];
/// Asks the other party to end.
const END: u32 = 0;

/// What the other party has.
fn data() -> Vec<u8> {
    let mut random = Random::new(42);
    (0..MOST / 8).flat_map(|_| random.next().to_le_bytes()).collect()
}

/// Measures the exchange called `kind`, `count` times each size.
pub(crate) fn run(kind: &str, count: u64) -> Result<Object, String> {
    match kind {
        "switch" => by_switch(count),
        "polled" => by_channel(count),
        "socket" => by_socket(count),
        _ => Err(format!("no exchange is called {kind:?}")),
    }
}

/// Times `get`, which fills the buffer it is given, and checks the result.
fn measure(
    count: u64,
    mut get: impl FnMut(&mut [u8]) -> Result<(), String>,
) -> Result<Object, String> {
    let mut samples = SIZES.map(|_| Vec::new());
    let mut buffer = vec![0; MOST];
    let expected = data();
    // The first round warms up and is left out.
    for round in 0..=count {
        for (size, samples) in SIZES.into_iter().zip(&mut samples) {
            let began = cycles();
            get(&mut buffer[..size])?;
            let spent = cycles() - began;
            if round > 0 {
                samples.push(spent);
            }
        }
    }
    for size in SIZES {
        buffer.fill(0);
        get(&mut buffer[..size])?;
        if buffer[..size] != expected[..size] || buffer[size..].iter().any(|&byte| byte != 0) {
            return Err(format!("{size} bytes arrived changed"));
        }
    }
    let mut object = Object::new("rpc").number("count", count).truth("same", true);
    for (size, samples) in SIZES.into_iter().zip(samples) {
        object = object.number(&format!("b{size}"), median(samples));
    }
    Ok(object)
}

/// In a VM: the bytes are in a segment of another address space; switch there, copy, switch
/// back.
fn by_switch(count: u64) -> Result<Object, String> {
    let lifetime = Lifetime::Volatile as u8;
    let params = sys::SegParams { lifetime, ..sized(MOST as u64, PagePolicy::Largest) };
    let (vid, sids) = make("party", 1, &params)?;
    let vh = tell("vas_attach", sys::vas_attach(vid, attach::POPULATE))?;
    let base = tell("seg_stat", sys::seg_stat(sids[0]))?.base;
    let words = Words::in_vas(base, MOST as u64)?;
    let data = data();
    tell("vas_switch", enter(vh))?;
    words.copy_in(&data);
    tell("vas_switch home", enter(VasHandle::HOME))?;
    let object = measure(count, |buffer| {
        tell("vas_switch", enter(vh))?;
        words.copy_out(buffer);
        tell("vas_switch home", enter(VasHandle::HOME))
    })?;
    tell("vas_detach", sys::vas_detach(vh))?;
    unmake(vid, sids)?;
    Ok(object)
}

/// Between two threads, each on its own processor if there are two.
fn by_channel(count: u64) -> Result<Object, String> {
    let memory = Mapping::shared_memory(2 * CHANNEL_BYTES)?.kept();
    let ends = || (End::new(memory, 0), End::new(memory, CHANNEL_BYTES));
    let server = std::thread::spawn(move || {
        let (mut questions, mut answers) = ends();
        let data = data();
        let mut question = [0; 4];
        loop {
            questions.receive(&mut question)?;
            match u32::from_le_bytes(question) {
                END => return Ok::<_, String>(()),
                bytes => answers.send(data.get(..bytes as usize).ok_or("a wrong question")?),
            }
        }
    });
    let (mut questions, mut answers) = ends();
    // The host has time to give the new thread its own processor before both poll.
    std::thread::sleep(Duration::from_millis(5));
    let object = measure(count, |buffer| {
        questions.send(&(buffer.len() as u32).to_le_bytes());
        answers.receive(buffer)
    });
    questions.send(&END.to_le_bytes());
    server.join().map_err(|_| "the other party failed")??;
    object
}

/// Between two native processes.
fn by_socket(count: u64) -> Result<Object, String> {
    let told = |err: io::Error| format!("socket: {err}");
    let (mut socket, other) = UnixStream::pair().map_err(told)?;
    let mut command = Command::new("/proc/self/exe");
    command.arg("rpc-party").stdin(Stdio::from(OwnedFd::from(other))).stdout(Stdio::null());
    let mut party = command.spawn().map_err(told)?;
    // It also holds the other end, and would never see ours close.
    drop(command);
    let object = measure(count, |buffer| {
        socket.write_all(&(buffer.len() as u32).to_le_bytes()).map_err(told)?;
        socket.read_exact(buffer).map_err(told)
    });
    drop(socket);
    party.wait().map_err(told)?;
    object
}

/// The other process: answers on its standard input until that ends.
pub(crate) fn party() -> Result<(), String> {
    let told = |err: io::Error| format!("socket: {err}");
    let mut socket = UnixStream::from(io::stdin().as_fd().try_clone_to_owned().map_err(told)?);
    let data = data();
    let mut question = [0; 4];
    while socket.read_exact(&mut question).is_ok() {
        let bytes = u32::from_le_bytes(question) as usize;
        socket.write_all(data.get(..bytes).ok_or("a wrong question")?).map_err(told)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_channel_brings_what_the_other_party_has() {
        assert!(by_channel(2).unwrap().to_string().contains("\"same\":true"));
    }

    #[test]
    fn changed_and_surplus_bytes_are_noticed() {
        let right = data();
        let fill = |buffer: &mut [u8]| buffer.copy_from_slice(&right[..buffer.len()]);
        assert!(
            measure(1, |buffer| {
                fill(buffer);
                Ok(())
            })
            .is_ok()
        );
        let wrong = measure(1, |buffer| {
            fill(buffer);
            let last = buffer.len() - 1;
            buffer[last] ^= 1;
            Ok(())
        });
        assert_eq!(wrong.unwrap_err(), "4 bytes arrived changed");
    }
}
