//! A versioned space for each month, all of one brand and open at once. `sdk_months COUNT`: opens or makes as many, adds an
//! entry to each, moves one from each month to the next as a copy, and has owners of one month dropped in visits of the next.
//! Prints how many entries each month has, and the sum of all. Status 0, or 101 with a message.

use spacejmp::{At, Error, Mode, Space, Storable, VBTreeMap, VString, Write, brand};

#[derive(Storable)]
#[storable(vas = Month<'v>)]
struct Book<'v> {
    entries: VBTreeMap<u64, VString<Month<'v>>, Month<'v>>,
}

brand! { Month<'v> => Book<'v> }

fn add<'v>(book: &mut Book<'v>, at: &At<Month<'v>, Write>, text: &str) -> Result<(), Error> {
    let number = book.entries.len() as u64;
    book.entries.at_mut(at).insert(number, VString::new(at, text)?)?;
    Ok(())
}

fn bytes<'v, M: Mode>(book: &Book<'v>, at: &At<Month<'v>, M>) -> usize {
    book.entries.at(at).values().map(VString::len).sum()
}

fn main() -> Result<(), Error> {
    let count = std::env::args().nth(1).and_then(|count| count.parse().ok());
    let count: usize = count.expect("sdk_months COUNT");
    let open = |number| {
        Space::<Month<'_>>::open_or_create(&format!("month-{number}"), |_| {
            Ok(Book { entries: VBTreeMap::new() })
        })
    };
    let months = (0..count).map(open).collect::<Result<Vec<_>, _>>()?;
    for (number, month) in months.iter().enumerate() {
        month.write(|v| {
            let (book, at) = v.root_mut();
            add(book, at, &format!("an entry of month {number}"))
        })?;
    }
    for pair in months.windows(2) {
        let [from, to] = pair else { unreachable!("windows of two") };
        // One visit within the other: what is found in the outer one is text of the program's there.
        from.write(|v| {
            let (book, at) = v.root_mut();
            let text =
                book.entries.at(at).first_key_value().map(|(_, text)| text.at(at).to_owned());
            let taken = book.entries.at_mut(at).remove(&0).expect("an entry");
            let again = VString::new(at, taken.at(at))?;
            book.entries.at_mut(at).insert(0, again)?;
            v.write(to, |w| {
                // Of the other month: it frees nothing here.
                drop(taken);
                let (book, at) = w.root_mut();
                add(book, at, &text.expect("an entry"))
            })
        })?;
    }
    let mut sum = 0;
    for month in &months {
        let (entries, bytes) = month.read(|v| (v.root().entries.len(), bytes(v.root(), v)))?;
        print!("{entries} ");
        sum += bytes;
    }
    println!("{sum}");
    Ok(())
}
