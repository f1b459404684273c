//! `sdk_model BEFORE AFTER`: compares the ledger `books` with a model that has made BEFORE steps,
//! makes steps up to AFTER, and compares again; once more as a reader. Lines `ok: ...`, then
//! `done`.

#![forbid(unsafe_code)]

use std::process::ExitCode;

use guests::findings::Findings;
use guests::ledger::{Model, open};
use spacejmp::Error;

fn main() -> ExitCode {
    let number = |n| std::env::args().nth(n).and_then(|n| n.parse::<u64>().ok());
    let (before, after) = number(1).zip(number(2)).expect("two numbers");
    let mut f = Findings::new();
    let mut model = Model::default();
    (0..before).for_each(|step| model.take(step));
    let space = open().expect("it opens");
    let changed = space.write(|v| {
        let (ledger, at) = v.root_mut();
        f.same("so many steps were taken before", ledger.steps, before);
        f.same("it is what they left", ledger.differences(at, &model), Vec::new());
        for step in before..after {
            ledger.step(at)?;
            model.take(step);
        }
        f.same("it is what the next steps make", ledger.differences(at, &model), Vec::new());
        Ok::<_, Error>(())
    });
    f.same("there was room", changed, Ok(()));
    let read = space.read(|v| v.root().differences(v, &model));
    f.same("a reader sees the same", read, Ok(Vec::new()));
    f.check("there is something to see", model.entries.len() > 100 && model.ring.len() > 100);
    f.check("and something was taken out", model.gone > 100);
    f.end()
}
