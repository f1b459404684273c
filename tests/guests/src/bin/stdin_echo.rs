//! Copies standard input to standard output and prints the number of bytes on standard error.
//! Exits with 0.

use std::io::{self, Write};

fn main() -> io::Result<()> {
    let mut out = io::stdout().lock();
    let count = io::copy(&mut io::stdin().lock(), &mut out)?;
    out.flush()?;
    eprintln!("{count} bytes");
    Ok(())
}
