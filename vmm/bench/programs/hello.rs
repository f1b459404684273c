//! A program that does nothing: what is left is the time a start takes.

fn main() {}
