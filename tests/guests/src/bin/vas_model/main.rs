//! Makes calls on request, one after the other, for a test that has a model of the system:
//! `vas_model THREADS`. Each line of standard input is `THREAD CALL ARGUMENTS...`; thread
//! `THREAD` makes the call, and one line comes back: `= VALUE...` or `! ERRNO`. Ids, handles,
//! addresses and all other numbers are decimal. `exit` in the place of `THREAD` ends the
//! program immediately, wherever its threads are; so does the end of the input. Status 0.
//!
//! The calls are in `calls.rs`. The main thread stays at home and only passes lines on.

mod calls;

use std::io::BufRead;
use std::process::ExitCode;
use std::sync::mpsc;
use std::thread;

use guests::findings::require_vm;

fn main() -> ExitCode {
    require_vm();
    let threads: usize = std::env::args().nth(1).and_then(|n| n.parse().ok()).unwrap_or(1);
    guests::touch::prepare(0..0);
    let (reply, replies) = mpsc::channel();
    let workers: Vec<mpsc::Sender<String>> = (0..threads)
        .map(|_| {
            let (send, lines) = mpsc::channel::<String>();
            let reply = reply.clone();
            thread::spawn(move || {
                for line in lines {
                    // Refused only when the main thread has ended, and the program with it.
                    let _ = reply.send(calls::make(&line));
                }
            });
            send
        })
        .collect();
    println!("ready");
    for line in std::io::stdin().lock().lines() {
        let line = line.expect("standard input can be read");
        let (thread, call) = line.split_once(' ').unwrap_or((&line, ""));
        if thread == "exit" {
            break;
        }
        let worker = thread.parse().ok().and_then(|n: usize| workers.get(n));
        let worker = worker.unwrap_or_else(|| panic!("no thread in {line:?}"));
        worker.send(call.to_owned()).expect("the thread lives");
        println!("{}", replies.recv().expect("a thread lives"));
    }
    // Not a return from `main` with threads that are joined: they may be inside a VAS.
    std::process::exit(0)
}
