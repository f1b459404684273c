//! Macros that work against `#[derive(Storable)]`, as written to store what must not be stored.
//! `tests/ui/changed_behind_the_derive.rs` uses them.

use std::sync::atomic::{AtomicUsize, Ordering};

use proc_macro::{Delimiter, Group, TokenStream, TokenTree};

/// Behind the derive, a struct with braces gets another field, a reference.
#[proc_macro_attribute]
pub fn add_a_field(_arguments: TokenStream, item: TokenStream) -> TokenStream {
    let added: TokenStream = "added: &'static str,".parse().expect("a field");
    let grown = |token| match token {
        TokenTree::Group(group) if group.delimiter() == Delimiter::Brace => {
            let fields = group.stream().into_iter().chain(added.clone()).collect();
            TokenTree::Group(Group::new(Delimiter::Brace, fields))
        }
        other => other,
    };
    item.into_iter().map(grown).collect()
}

/// In the place of a type: a reference the first time, a number whenever it is looked at again.
#[proc_macro]
pub fn another_each_time(_arguments: TokenStream) -> TokenStream {
    static TIMES: AtomicUsize = AtomicUsize::new(0);
    let first = TIMES.fetch_add(1, Ordering::Relaxed) == 0;
    if first { "&'static u64" } else { "u64" }.parse().expect("a type")
}
