//! One typed space shared by several VMs, without `unsafe` but for `recover`.
//!
//! `sdk_holder count THREADS N`: each thread adds N to the first number, one by one, and to the
//! second; `value A B`.
//! `sdk_holder hold`: enters to write, changes the first number only, prints `holding`, and
//! stays until it is killed.
//! `sdk_holder enter`: prints `entered A B`, or the error.
//! `sdk_holder try`: prints the errors of a try and of a limit of 50 ms.
//! `sdk_holder recover`: sets the second number to the first, then as `enter`.
//! `sdk_holder fill MILLISECONDS`: in the space `filled`, on each visit sets all words of a
//! large root to the same new number; prints `filling` after the first.
//! `sdk_holder reopen`: prints how many words `filled` has, or the error of opening it or of
//! entering to write.
//! `sdk_holder wrong`: opens it as another type and prints the error.

use std::process::ExitCode;
use std::time::Duration;

use spacejmp::{Error, Space, Storable, brand};

#[derive(Storable)]
struct Pair {
    first: u64,
    second: u64,
}

#[derive(Storable)]
struct Triple {
    first: u64,
    second: u32,
    third: u32,
}

/// Words of the large root: 1 MiB, so that a copy takes some time.
const FILLED: usize = 1 << 17;

brand! { Shared => Pair, Wrong => Triple, Filled => [u64; FILLED] }

fn open() -> Result<Space<Shared>, Error> {
    Space::options().open_or_create("shared", |_| Ok(Pair { first: 0, second: 0 }))
}

fn show(space: &Space<Shared>) {
    match space.read(|v| (v.root().first, v.root().second)) {
        Ok((first, second)) => println!("entered {first} {second}"),
        Err(error) => println!("{error}"),
    }
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("sdk_holder: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &[&str]) -> Result<(), Error> {
    match args {
        ["count", threads, times] => {
            let (threads, times): (u32, u32) =
                (threads.parse().expect("a number"), times.parse().expect("a number"));
            let space = open()?;
            let count = || {
                for _ in 0..times {
                    let added = space.write(|v| {
                        let (root, _) = v.root_mut();
                        root.first += 1;
                        root.second += 1;
                        Ok::<_, Error>(())
                    });
                    added.expect("inside");
                }
            };
            std::thread::scope(|scope| (0..threads).for_each(|_| drop(scope.spawn(count))));
            show(&space);
        }
        ["hold"] => open()?.write(|v| -> Result<(), Error> {
            v.root_mut().0.first += 1;
            println!("holding");
            loop {
                std::thread::sleep(Duration::from_secs(3600));
            }
        })?,
        ["enter"] => show(&open()?),
        ["try"] => {
            let space = open()?;
            for result in [
                space.try_read(|_| ()),
                space.try_write(|_| Ok::<_, Error>(())),
                space.read_timeout(Duration::from_millis(50), |_| ()),
            ] {
                println!("{}", result.map_or_else(|err| err.to_string(), |()| "entered".into()));
            }
        }
        ["recover"] => {
            let space = open()?;
            let mend = |v: &mut spacejmp::In<Shared, spacejmp::Write>| {
                let (root, _) = v.root_mut();
                root.second = root.first;
            };
            // SAFETY: the root object is two numbers, of which any value is valid, and the heap
            // is not used by any thread that holds the lock.
            unsafe { space.recover(mend) }?;
            show(&space);
        }
        ["fill", milliseconds] => {
            let limit = Duration::from_millis(milliseconds.parse().expect("a number"));
            let space = Space::<Filled>::options().open_or_create("filled", |_| Ok([0; FILLED]))?;
            let began = std::time::Instant::now();
            let mut round = 0;
            while began.elapsed() < limit {
                round += 1;
                space.write(|v| {
                    v.root_mut().0.fill(round);
                    Ok::<_, Error>(())
                })?;
                if round == 1 {
                    println!("filling");
                }
            }
        }
        ["reopen"] => {
            let space = Space::<Filled>::options().open_or_create("filled", |_| Ok([0; FILLED]));
            match space.and_then(|space| space.write(|v| Ok::<_, Error>(v.root().len()))) {
                Ok(words) => println!("{words} words"),
                Err(error) => println!("{error}"),
            }
        }
        ["wrong"] => match Space::<Wrong>::open("shared") {
            Ok(_) => println!("opened"),
            Err(error) => println!("{error}"),
        },
        _ => panic!(
            "usage: sdk_holder count THREADS N | hold | enter | try | recover | fill MS | reopen | wrong"
        ),
    }
    Ok(())
}
