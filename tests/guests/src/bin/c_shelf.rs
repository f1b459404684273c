//! The Rust side of `c-linked/shelf.c`: a list of books that C and Rust keep together.
//!
//! `c_shelf make`, `add TITLE PAGES`, `list`, `drop` (the first book), `wrong` (opens it as
//! another type), `text` (the description of the type). Errors go to standard output.

use std::process::ExitCode;

use spacejmp::layout::TypeLayout;
use spacejmp::{Error, Space, Storable, VBox, VPtr};

#[derive(Storable)]
#[storable(vas = Books)]
#[repr(C)]
struct Book {
    next: Option<VBox<Book, Books>>,
    like: Option<VPtr<Book, Books>>,
    pages: u32,
    title: [u8; 20],
}

#[derive(Storable)]
#[storable(vas = Books)]
#[repr(C)]
struct Shelf {
    count: u64,
    first: Option<VBox<Book, Books>>,
}

spacejmp::brand! { Books => Shelf, Wrong => [u64; 2] }

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let result = match args[..] {
        ["make"] => Space::<Books>::options()
            .create("shelf", |_| Ok(Shelf { count: 0, first: None }))
            .map(|_| ()),
        ["add", title, pages] => add(title, pages.parse().expect("a number of pages")),
        ["list"] => list(),
        ["drop"] => drop_first(),
        ["wrong"] => Space::<Wrong>::open("shelf").map(|_| ()),
        ["text"] => {
            print!("{}", TypeLayout::of::<Shelf, Books>().text());
            Ok(())
        }
        _ => return ExitCode::from(2),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(err) => {
            println!("{err}");
            ExitCode::FAILURE
        }
    }
}

fn add(name: &str, pages: u32) -> spacejmp::Result<()> {
    let mut title = [0; 20];
    title[..name.len()].copy_from_slice(name.as_bytes());
    Space::<Books>::open("shelf")?.write(|v| {
        let (shelf, at) = v.root_mut();
        let book = Book { next: shelf.first.take(), like: None, pages, title };
        shelf.first = Some(VBox::new(at, book)?);
        shelf.count += 1;
        Ok::<_, Error>(())
    })?;
    Ok(())
}

fn list() -> spacejmp::Result<()> {
    let name = |title: &[u8; 20]| String::from_utf8_lossy(title).trim_end_matches('\0').to_owned();
    Space::<Books>::open_read_only("shelf")?.read(|v| {
        println!("{} books", v.root().count);
        let mut next = v.root().first.as_ref();
        while let Some(book) = next {
            let book = book.get(v);
            print!("{}, {} pages", name(&book.title), book.pages);
            match book.like {
                Some(like) => println!(", like {}", name(&like.get(v).title)),
                None => println!(),
            }
            next = book.next.as_ref();
        }
    })
}

fn drop_first() -> spacejmp::Result<()> {
    Space::<Books>::open("shelf")?.write(|v| {
        let (shelf, at) = v.root_mut();
        let first = shelf.first.take().map(|book| book.into_inner(at));
        shelf.count -= u64::from(first.is_some());
        shelf.first = first.and_then(|book| book.next);
        Ok::<_, Error>(())
    })
}
