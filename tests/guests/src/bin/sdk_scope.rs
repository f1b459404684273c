//! Collections of the standard library in a VAS, in allocation scopes.
//!
//! `sdk_scope fill N`: makes N lines and an index of their words in scopes, more than fits into the
//! segment's initial size.
//! `sdk_scope read`: prints the content, as another run finds it.
//! `sdk_scope drop`: removes every other line outside any scope, adds one, checks what scopes
//! promise about blocks freed elsewhere, panics and visits to another space. Lines `ok: ...`.

use std::collections::BTreeMap;
use std::mem::ManuallyDrop;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;

use guests::findings::Findings;
use spacejmp::layout::LayoutWriter;
use spacejmp::{Error, In, Inside, ScopedAlloc, Space, Storable, Write, brand, inside};

#[global_allocator]
static ALLOCATOR: ScopedAlloc = ScopedAlloc::new();

#[derive(Default)]
struct Text {
    lines: Vec<String>,
    /// The lines that a word is in.
    index: BTreeMap<String, Vec<u32>>,
}

#[derive(Default)]
struct Root(ManuallyDrop<Text>);

brand! { Library => Root, Other => u64 }

// SAFETY: all of it is allocated in scopes of `Library`; the store of a test is used by this
// program only.
unsafe impl Storable<Library> for Root {
    fn layout(writer: &mut LayoutWriter) {
        writer.describe::<Self>("Text of sdk_scope", |_| {});
    }
}

impl Drop for Root {
    fn drop(&mut self) {
        if inside::<Library>() == Inside::Writable {
            // SAFETY: it is dropped once.
            unsafe { ManuallyDrop::drop(&mut self.0) };
        }
    }
}

fn open() -> Result<Space<Library>, Error> {
    Space::options().open_or_create("library", |_| Ok(Root::default()))
}

fn scope<R>(v: &mut In<Library, Write>, f: impl FnOnce(&mut Text) -> R) -> R {
    // SAFETY: the closures below keep in the root what they allocate, or return what they document.
    unsafe { v.alloc_scope(|v| f(&mut v.root_mut().0.0)) }
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let done = match args.as_slice() {
        ["fill", lines] => fill(lines.parse().expect("a number")),
        ["read"] => read(),
        ["drop"] => return look(),
        _ => panic!("usage: sdk_scope fill N | read | drop"),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("sdk_scope: {error}");
            ExitCode::FAILURE
        }
    }
}

fn fill(lines: u32) -> Result<(), Error> {
    open()?.write(|v| {
        scope(v, |text| {
            for number in 0..lines {
                let line = format!("line {number} of word-{}", number % 100);
                for word in line.split(' ') {
                    text.index.entry(word.to_owned()).or_default().push(number);
                }
                text.lines.push(line);
            }
        });
        Ok::<_, Error>(())
    })?;
    read()
}

fn read() -> Result<(), Error> {
    let (lines, words, bytes, last, found) =
        Space::<Library>::open_read_only("library")?.read(|v| {
            let text = &v.root().0;
            let bytes: usize = text.lines.iter().map(String::len).sum();
            let found = text.index.get("word-42").map_or(0, Vec::len);
            let last = text.lines.last().cloned();
            (text.lines.len(), text.index.len(), bytes, last, found)
        })?;
    println!("{lines} lines, {words} words, {bytes} bytes, {found} with word-42, last {last:?}");
    Ok(())
}

fn look() -> ExitCode {
    let mut f = Findings::new();
    let library = open().expect("it opens");
    let other = Space::<Other>::options().open_or_create("other", |_| Ok(0)).expect("it opens");
    library
        .write(|v| {
            let text = &mut v.root_mut().0.0;
            let mut number = 0;
            text.lines.retain(|_| {
                number += 1;
                number % 2 == 0
            });
            text.lines.shrink_to_fit();
            scope(v, |text| text.lines.push("added".to_owned()));
            Ok::<_, Error>(())
        })
        .expect("inside");

    let of_space = |bytes: &[u8]| bytes.as_ptr().addr() as u64 >= abi::layout::VAS_START.raw();
    let block = library.write(|v| Ok::<_, Error>(scope(v, |_| vec![1_u8; 5000]))).expect("inside");
    f.check("a scope's blocks are the space's", of_space(&block));
    drop(block);
    f.check("freeing one at home does not touch it", true);
    let block = library.write(|v| Ok::<_, Error>(scope(v, |_| vec![1_u8; 5000]))).expect("inside");
    library.read(|_| drop(block)).expect("inside");
    f.check("nor inside to read", true);

    let visited = library.write(|v| {
        let mut there = Vec::new();
        // SAFETY: what is allocated is read inside and freed there.
        unsafe {
            v.alloc_scope(|v| {
                let made = v.read(&other, |_| vec![2_u8; 5000]).expect("inside");
                there.push(of_space(&made));
                there.push(of_space(&vec![3_u8; 5000]));
            });
        }
        let flags = (there[0], there[1]);
        drop(there);
        Ok::<_, Error>(flags)
    });
    f.same("a scope pauses in another space and goes on", visited, Ok((false, true)));

    std::panic::set_hook(Box::new(|_| {}));
    let caught = catch_unwind(AssertUnwindSafe(|| {
        library.write(|v| Ok::<_, Error>(scope(v, |_| std::panic::panic_any("at home ".repeat(3)))))
    }));
    drop(std::panic::take_hook());
    // SAFETY: the closure that panicked had changed nothing.
    f.same("what it changed is put right", unsafe { library.recover(|_| ()) }, Ok(()));
    let text = caught.expect_err("it panics").downcast::<String>().expect("a text");
    f.same("the text of a panic comes home", text.as_str(), "at home at home at home ");
    f.check("and so does the allocator", !of_space(&vec![1_u8; 5000]));
    f.end()
}
