//! A tour of `std`: `std_tour DIR` with `TOUR=1` in the environment. Prints "tour: ..."
//! lines that do not vary and exits with 7.

use std::collections::HashMap;
use std::fs;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, RwLock, mpsc};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

static DROPPED: AtomicUsize = AtomicUsize::new(0);

struct Counted;

impl Drop for Counted {
    fn drop(&mut self) {
        DROPPED.fetch_add(1, Ordering::SeqCst);
    }
}

fn main() {
    let args: Vec<String> = std::env::args().collect();
    println!("tour: {} argument(s), TOUR={:?}", args.len() - 1, std::env::var("TOUR"));

    let total = Arc::new(Mutex::new(0_u64));
    let workers: Vec<_> = (0..8)
        .map(|n| {
            let total = Arc::clone(&total);
            thread::spawn(move || (0..1000).for_each(|i| *total.lock().unwrap() += n * i))
        })
        .collect();
    workers.into_iter().for_each(|worker| worker.join().unwrap());
    println!("tour: mutex {}", total.lock().unwrap());

    let (sender, receiver) = mpsc::sync_channel(2);
    let producer = thread::spawn(move || (0..100_u64).for_each(|n| sender.send(n).unwrap()));
    println!("tour: channel {}", receiver.iter().sum::<u64>());
    producer.join().unwrap();

    let pair = (Mutex::new(false), Condvar::new());
    thread::scope(|scope| {
        scope.spawn(|| {
            *pair.0.lock().unwrap() = true;
            pair.1.notify_one();
        });
        let ready = pair.1.wait_while(pair.0.lock().unwrap(), |ready| !*ready).unwrap();
        println!("tour: condvar {ready}");
    });
    let late = pair.1.wait_timeout(pair.0.lock().unwrap(), Duration::from_millis(5)).unwrap();
    println!("tour: timed out {}", late.1.timed_out());
    let lock = RwLock::new(1);
    *lock.write().unwrap() += 1;
    println!("tour: rwlock {}", lock.read().unwrap());

    let map: HashMap<u32, u32> = (0..1000).map(|n| (n, n * n)).collect();
    println!("tour: map {}", map.values().map(|n| u64::from(*n)).sum::<u64>());

    let start = Instant::now();
    thread::sleep(Duration::from_millis(20));
    println!("tour: slept {}", start.elapsed() >= Duration::from_millis(20));
    let year_2020 = SystemTime::UNIX_EPOCH + Duration::from_secs(1_577_836_800);
    println!("tour: after 2020 {}", SystemTime::now() > year_2020);

    let dir = std::path::Path::new(&args[1]).join("std_tour");
    fs::create_dir(&dir).unwrap();
    fs::write(dir.join("a"), "some text").unwrap();
    fs::rename(dir.join("a"), dir.join("b")).unwrap();
    println!("tour: file {:?}", fs::read_to_string(dir.join("b")).unwrap());
    println!("tour: missing {:?}", fs::read(dir.join("a")).unwrap_err().kind());
    fs::remove_dir_all(&dir).unwrap();

    let caught = std::panic::catch_unwind(|| {
        let _counted = Counted;
        panic!("on purpose");
    });
    println!("tour: caught {}, dropped {}", caught.is_err(), DROPPED.load(Ordering::SeqCst));
    let joined = thread::spawn(|| panic!("in a thread")).join();
    println!("tour: thread panicked {}", joined.is_err());
    std::process::exit(7);
}
