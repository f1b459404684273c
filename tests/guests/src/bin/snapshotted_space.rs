//! A space by the safe API, in a program that does what it is told, a line each: `add N` inserts N, `count` says how many
//! there are, `stay` enters to read and says so for each line until `leave`, `end` ends.

use std::io::BufRead;

use spacejmp::collections::VBTreeMap;
use spacejmp::{Error, In, Read, Space};

type Map<'v> = VBTreeMap<u64, u64, Numbers<'v>>;

spacejmp::brand! {
    Numbers<'v> => Map<'v>,
}

fn line() -> String {
    let mut line = String::new();
    std::io::stdin().lock().read_line(&mut line).expect("text");
    line.trim_end().to_owned()
}

fn count(v: &In<Numbers<'_>, Read>) -> usize {
    v.root().at(v).iter().filter(|(key, value)| **value == **key * 7).count()
}

fn main() -> Result<(), Error> {
    let name = std::env::args().nth(1).expect("a name");
    let space = Space::<Numbers<'_>>::options().open_or_create(&name, |_| Ok(VBTreeMap::new()))?;
    println!("ready");
    loop {
        let told = line();
        match told.split_once(' ') {
            Some(("add", number)) => {
                let number: u64 = number.parse().expect("a number");
                space.write(|v| {
                    let (root, at) = v.root_mut();
                    root.at_mut(at).insert(number, number * 7)?;
                    Ok::<_, Error>(())
                })?;
                println!("added");
            }
            None if told == "count" => println!("{} are right", space.read(|v| count(v))?),
            None if told == "stay" => space.read(|v| {
                println!("{} are right", count(v));
                while line() != "leave" {
                    println!("{} are right", count(v));
                }
                println!("left");
            })?,
            _ => std::process::exit(5),
        }
    }
}
