//! A value that several VMs use at the same time.
//!
//! `shared_values keep`: has it open until it is killed; prints `kept`.
//! `shared_values count THREADS N`: each thread adds 1 to the number N times; then as `show`.
//! `shared_values once NUMBER`: sets the number that is set once, unless it is, and prints the one that it is.
//! `shared_values show`: prints `number N, set once: N`.
//! `shared_values errors`: prints the errors of what is none, or another one.
//! `shared_values volatile`: makes a volatile space, or opens it, and prints what is in it.
//! `shared_values nested`: counts from inside a change of a versioned space that is thrown away; then as `show`.

#![forbid(unsafe_code)]

use std::process::ExitCode;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use spacejmp::{Concurrent, Error, Right, Segment, Shared, Space, VOnce, Vas, brand};

#[derive(Concurrent)]
struct Tally {
    number: AtomicU64,
    once: VOnce<[u64; 32]>,
}

#[derive(Concurrent)]
struct Other {
    number: AtomicU32,
}

brand! { Versioned<'v> => u64, Volatile => u64 }

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("shared_values: {error}");
            ExitCode::FAILURE
        }
    }
}

fn show(tally: &Shared<Tally>) -> Result<(), Error> {
    let seen = tally.visit(|it| {
        let once = it.once.get().map(|all| all[0].to_string());
        (it.number.load(Ordering::Relaxed), once.unwrap_or_else(|| "no".to_owned()))
    });
    let (number, once) = seen?;
    println!("number {number}, set once: {once}");
    Ok(())
}

fn run(args: &[&str]) -> Result<(), Error> {
    if args == ["errors"] {
        return errors();
    }
    if args == ["volatile"] {
        let space = Space::<Volatile>::options().lifetime(spacejmp::Lifetime::Volatile);
        let space = space.open_or_create("volatile", |_| Ok(7))?;
        println!("{}", space.read(|v| *v.root())?);
        return Ok(());
    }
    let tally = Shared::<Tally>::open_or_create("tally")?;
    match args {
        ["keep"] => {
            println!("kept");
            loop {
                std::thread::sleep(Duration::from_secs(3600));
            }
        }
        ["count", threads, times] => {
            let (threads, times): (u32, u32) =
                (threads.parse().expect("a number"), times.parse().expect("a number"));
            let count = || {
                for _ in 0..times {
                    tally.visit(|it| it.number.fetch_add(1, Ordering::Relaxed)).expect("there");
                }
            };
            std::thread::scope(|scope| (0..threads).for_each(|_| drop(scope.spawn(count))));
            show(&tally)?;
        }
        ["once", number] => {
            let number = number.parse().expect("a number");
            let all = tally.visit(|it| it.once.get_or_init(|| [number; 32]).copied())?;
            let all = all.expect("a slot");
            assert!(all.iter().all(|one| *one == all[0]), "{all:?}");
            println!("{}", all[0]);
        }
        ["show"] => show(&tally)?,
        ["nested"] => {
            let space = Space::<Versioned<'_>>::open_or_create("versioned", |_| Ok(1))?;
            let thrown_away = space.write(|v| {
                *v.root_mut().0 = 2;
                v.visit(&tally, |it| it.number.fetch_add(5, Ordering::Relaxed))?;
                assert_eq!(*v.root(), 2, "the change goes on");
                Err::<(), _>(Error::NoRoot { space: "on purpose".to_owned() })
            });
            println!("{}", thrown_away.expect_err("as it says"));
            println!("in the space: {}", space.read(|v| *v.root())?);
            show(&tally)?;
        }
        _ => panic!(
            "usage: shared_values keep | count THREADS N | once NUMBER | show | errors | nested"
        ),
    }
    Ok(())
}

fn errors() -> Result<(), Error> {
    let told = |what: &str, opened: Result<Shared<Tally>, Error>| match opened {
        Ok(_) => println!("{what}: opened"),
        Err(error) => println!("{what}: {error}"),
    };
    told("nobody has it", Shared::open("nobody"));
    let _other = Shared::<Other>::open_or_create("other")?;
    told("another type", Shared::open_or_create("other"));
    let volatile = Space::<Volatile>::options().lifetime(spacejmp::Lifetime::Volatile);
    let _space = volatile.create("space", |_| Ok(7))?;
    told("a space", Shared::open_or_create("space"));
    let tally = Shared::<Tally>::open_or_create("tally")?;
    let again = Shared::<Tally>::open("tally")?;
    tally.visit(|it| it.number.store(9, Ordering::Relaxed))?;
    println!("twice in a program: {}", again.visit(|it| it.number.load(Ordering::Relaxed))?);
    let copy = Segment::find("tally")?.clone_as("copy")?;
    Vas::create("copy")?.attach_segment(&copy, Right::Write)?;
    told("a copy", Shared::open("copy"));
    told("inside", tally.visit(|_| Shared::open("tally"))?);
    Ok(())
}
