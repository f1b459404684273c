//! `sdk_find N`: reads the whole index `shelf` that `sdk_fill N` made, then changes it: notes
//! each visit in a map that was stored empty, removes the notes again, and drops half of the
//! index. Lines `ok: ...`, then `done`.

#![forbid(unsafe_code)]

use std::process::ExitCode;

use guests::findings::Findings;
use guests::shelf::{Index, open, word};
use spacejmp::Error;

fn main() -> ExitCode {
    let count: u32 = std::env::args().nth(1).and_then(|n| n.parse().ok()).expect("a number");
    let mut f = Findings::new();
    let space = open().expect("it opens");
    space
        .read(|v| {
            let Index { title, pages, order, notes } = v.root();
            let pages = pages.at(v);
            f.same("the text is there", title.at(v), "A shelf of words");
            let found =
                |page: u32| pages.get(&word(page)).is_some_and(|list| list.at(v).contains(&page));
            f.check("every word is found", (0..count).all(found));
            f.same("another one is not", pages.get("no such word").is_some(), false);
            f.check("the list is in its order", order.at(v).iter().copied().eq(0..count));
            let all = pages.iter().map(|(_, list)| list.at(v).len()).sum::<usize>();
            f.same("going through it gives all", all, count as usize);
            f.same("what was stored empty is empty", notes.at(v).iter().count(), 0);
            f.same("and is asked in vain", notes.at(v).get(&7), None);
        })
        .expect("inside");
    let changed = space.write(|v| {
        let (Index { pages, notes, .. }, at) = v.root_mut();
        let mut notes = notes.at_mut(at);
        for visit in 0..1000 {
            *notes.entry(visit % 10).or_insert(0)? += 1;
        }
        let most = notes.as_ref().values().copied().max();
        let notes = notes.drain().count();
        let mut pages = pages.at_mut(at);
        let before = pages.len();
        pages.retain(|text, _| text.len() % 2 == 0);
        Ok::<_, Error>((most, notes, pages.len() < before))
    });
    f.same("it is changed by another program", changed, Ok((Some(100), 10, true)));
    f.end()
}
