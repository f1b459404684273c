//! The tour's steps, and what it says about each.

use std::io::{self, StdoutLock};
use std::thread;
use std::time::{Duration, Instant};

use vmm::exit_code::ExitCode;
use vmm::host as machine;

use super::natively::{self, Times};
use super::program::{NAME, Step};
use super::stage::{DemoError, Said, Stage, host};
use crate::errors::{self, Failure};

const COUNT: u64 = 1_000_000;
const AMOUNT: u64 = 1_000;
/// The version that step 2 made, as it is kept.
const MORNING: &str = "bank@morning";
/// How many programs are killed.
const KILLS: u64 = 10;
/// How long others read while one writes.
const BESIDE: Duration = Duration::from_secs(2);

const FILL: &str =
    "Space::options().lifetime(Lifetime::Versioned).create(\"bank\", |at| Accounts::new(at))?;";
const FIND: &str = "let space = Space::<Bank>::open_read_only(\"bank\")?;
       space.read(|v| v.root().balances.at(v).get(&500_000).copied())?";
const MOVE: &str = "space.write(|v| {
           let (accounts, at) = v.root_mut();
           *accounts.balance(at, from) -= 1;
           thread::sleep(Duration::from_millis(1));     // most kills come here
           *accounts.balance(at, to) += 1;
           Ok::<_, Error>(())
       })?";
const SUM: &str = "space.read(|v| v.root().balances.at(v).values().sum::<u64>())?";

/// What the tour prints to.
struct Tour<'a> {
    out: StdoutLock<'a>,
    stage: Stage,
}

pub(super) fn run() -> Result<ExitCode, Failure> {
    let stage = Stage::set().map_err(cannot_show)?;
    let mut tour = Tour { out: io::stdout().lock(), stage };
    tour.say("spacejmp demo: data that programs share as they are, and that no kill divides\n\n")?;
    tour.say("1. This machine\n")?;
    tour.say(&format!("   {}\n\n", machine::summary(&machine::probe())))?;
    let times = natively::measure(tour.stage.folder(), COUNT, AMOUNT);
    let times = times.map_err(host("keep accounts in a file")).map_err(cannot_show)?;
    tour.fill(&times)?;
    tour.find(&times)?;
    tour.kill(&times)?;
    tour.share()?;
    tour.versions()?;
    tour.say(
        "Next: `spacejmp new diary --sdk CHECKOUT` for a program of your own, `spacejmp run ./program`\n      \
         for one that you have, `spacejmp doctor` for this machine.\n",
    )
}

impl Tour<'_> {
    fn say(&mut self, text: &str) -> Result<ExitCode, Failure> {
        errors::write_all(&mut self.out, text.as_bytes())
    }

    fn step(&mut self, title: &str, what: &str, code: &str) -> Result<ExitCode, Failure> {
        self.say(&format!("{title}\n   {what}\n\n       {code}\n\n"))
    }

    fn fill(&mut self, natively: &Times) -> Result<(), Failure> {
        self.step(
            "2. A program fills an address space",
            "It is ordinary Rust, in a virtual machine of its own. A B-tree is the data: nothing is\n   \
             serialised. All of it is one change, and durable when it is done.",
            FILL,
        )?;
        let said =
            self.stage.run(Step::Fill { count: COUNT, amount: AMOUNT }).map_err(cannot_show)?;
        self.told(&said)?;
        self.stage.spacejmp(&["vas", "tag", NAME, "morning"]).map_err(cannot_show)?;
        self.natively("to make the same and write it to a file of text", natively.fill, said.time)
    }

    fn find(&mut self, natively: &Times) -> Result<(), Failure> {
        self.step(
            "3. Another finds it there",
            "The first has ended. The second attaches the address space: nothing is read or parsed\n   \
             but the pages that it touches.",
            FIND,
        )?;
        let said = self.stage.run(Step::Find { account: COUNT / 2 }).map_err(cannot_show)?;
        self.told(&said)?;
        self.natively("to read and parse that file first", natively.find, said.time)
    }

    fn kill(&mut self, natively: &Times) -> Result<(), Failure> {
        self.step(
            &format!("4. {KILLS} are killed in the middle of a change"),
            "Each moves money until SIGKILL ends it. A visit to write is a change: it has happened\n   \
             as a whole, or not at all. Half of one is never to be seen.",
            MOVE,
        )?;
        let mut moves = 0;
        for seed in 1..=KILLS {
            let mover = self.stage.begin(Step::Move { seed }).map_err(cannot_show)?;
            // Some kills come early, some late.
            thread::sleep(Duration::from_millis(200 + 37 * (seed % 7)));
            mover.kill().map_err(cannot_show)?;
            moves = self.sum(Duration::ZERO).map_err(cannot_show)?.moves;
        }
        let sum = COUNT * AMOUNT;
        self.say(&format!(
            "   | {moves} moves were made; the sum was {sum} after each of {KILLS} kills\n"
        ))?;
        self.say(&format!(
            "   natively: {} for each move, to write the file anew\n\n",
            pretty(natively.change)
        ))?;
        Ok(())
    }

    fn share(&mut self) -> Result<(), Failure> {
        self.step(
            "5. One writes while two read",
            "Three virtual machines. A reader sees the newest version of the moment at which it\n   \
             enters, and waits for nobody; what it sees does not move while it is inside.",
            SUM,
        )?;
        let (moves, time, sums) = self.beside().map_err(cannot_show)?;
        let each = pretty(time / u32::try_from(moves.max(1)).unwrap_or(u32::MAX));
        self.say(&format!(
            "   | the writer: {moves} moves, {each} each, with the millisecond in it\n"
        ))?;
        for Sum { moves, visits, versions } in sums {
            self.say(&format!(
                "   | a reader: {visits} sums in {versions} versions, all right; the last after move {moves}\n"
            ))?;
        }
        self.say("\n").map(drop)
    }

    /// How many moves the writer made in which time, and what the readers saw.
    fn beside(&self) -> Result<(u64, Duration, [Sum; 2]), DemoError> {
        let before = self.sum(Duration::ZERO)?.moves;
        let began = Instant::now();
        let writer = self.stage.begin(Step::Move { seed: 99 })?;
        let read = Step::Sum { milliseconds: BESIDE.as_millis() as u64 };
        let (first, second) = (self.stage.begin(read)?, self.stage.begin(read)?);
        let sums = [Sum::of(first.said()?)?, Sum::of(second.said()?)?];
        writer.kill()?;
        let time = began.elapsed();
        Ok((self.sum(Duration::ZERO)?.moves - before, time, sums))
    }

    fn versions(&mut self) -> Result<(), Failure> {
        self.step(
            "6. Versions",
            "Each change is a version, with a number, a time and a program. The one after step 2 was\n   \
             kept under a name; a copy of it and the way back to it cost no copying.",
            "$ spacejmp vas tag bank morning",
        )?;
        let log = self.stage.spacejmp(&["seg", "log", NAME]).map_err(cannot_show)?;
        for line in log.lines().take(4) {
            self.say(&format!("   | {line}\n"))?;
        }
        for args in [&["vas", "clone", MORNING, "trial"][..], &["vas", "rollback", NAME, "morning"]]
        {
            let began = Instant::now();
            self.stage.spacejmp(args).map_err(cannot_show)?;
            let took = pretty(began.elapsed());
            self.say(&format!("\n       $ spacejmp {}\n   | {took}\n", args.join(" ")))?;
        }
        let Sum { moves, .. } = self.sum(Duration::ZERO).map_err(cannot_show)?;
        self.say(&format!("   | {moves} moves were made\n\n")).map(drop)
    }

    fn told(&mut self, said: &Said) -> Result<(), Failure> {
        self.say(&format!("   | {}: {}\n", said.words, pretty(said.time))).map(drop)
    }

    fn natively(&mut self, doing: &str, time: Duration, ours: Duration) -> Result<(), Failure> {
        let times = time.as_secs_f64() / ours.as_secs_f64();
        self.say(&format!("   natively: {} {doing} ({times:.1} times as long)\n\n", pretty(time)))
            .map(drop)
    }

    fn sum(&self, time: Duration) -> Result<Sum, DemoError> {
        Sum::of(self.stage.run(Step::Sum { milliseconds: time.as_millis() as u64 })?)
    }
}

/// What a reader has seen.
struct Sum {
    moves: u64,
    visits: u64,
    versions: u64,
}

impl Sum {
    fn of(said: Said) -> Result<Sum, DemoError> {
        let numbers: Result<Vec<u64>, _> = said.words.split(' ').map(str::parse).collect();
        let expected = COUNT * AMOUNT;
        match numbers.as_deref() {
            Ok(&[sum, moves, visits, versions]) if sum == expected => {
                Ok(Sum { moves, visits, versions })
            }
            Ok(&[found, ..]) => Err(DemoError::Sum { expected, found }),
            _ => Err(DemoError::Said { command: "sum".to_owned(), said: said.words }),
        }
    }
}

fn cannot_show(error: DemoError) -> Failure {
    Failure::new("show the demo", error)
}

/// Milliseconds, with as many digits as say something.
fn pretty(time: Duration) -> String {
    let ms = time.as_secs_f64() * 1e3;
    if ms < 10.0 { format!("{ms:.1} ms") } else { format!("{ms:.0} ms") }
}
