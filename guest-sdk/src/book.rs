//! The Rust that the book and README show: each block is a test of the documentation, compiled with the lines that the page hides, and
//! run unless it needs a VM (`no_run`). That no page with such a block is missing here, `tests/tests/book_code.rs` sees to.

#[doc = include_str!("../../README.md")]
struct Readme;

#[doc = include_str!("../../docs/src/allocation-scopes.md")]
struct AllocationScopes;

#[doc = include_str!("../../docs/src/changing-types.md")]
struct ChangingTypes;

#[doc = include_str!("../../docs/src/faq.md")]
struct Faq;

#[doc = include_str!("../../docs/src/first-hour.md")]
struct FirstHour;

#[doc = include_str!("../../docs/src/getting-started.md")]
struct GettingStarted;

#[doc = include_str!("../../docs/src/porting.md")]
struct Porting;

#[doc = include_str!("../../docs/src/several-spaces.md")]
struct SeveralSpaces;

#[doc = include_str!("../../docs/src/stored-types.md")]
struct StoredTypes;

#[doc = include_str!("../../docs/src/tutorial.md")]
struct Tutorial;

#[doc = include_str!("../../docs/src/versioned.md")]
struct Versioned;
