//! Versioned segments in this VM: what a thread inside sees, and how its changes become a version.
//!
//! - [`segment`]: a segment's files, and the windows through which its pages are seen
//! - [`view`]: one version of it as page tables, with a writer's own copies of pages; `leaf`: 2 MiB of
//!   them; `fresh`: pages where nothing exists yet; `gather`: a reader's pages that lie in several files
//! - [`copies`]: the memory of those copies; [`originals`]: what the version has in their place;
//!   [`written`]: which of them may differ from it;
//!   [`spill`]: pages for which there is no memory
//! - [`visits`]: which tables each vCPU runs on; tables are shared by visits that see the same
//!   versions, and kept for the next one; [`suspended`]: visits with others inside of them
//! - [`sync`]: commits that are durable later, and syncs that failed; [`watch`]: versions as a
//!   program asks for them, waits for them and makes them durable
//! - [`follow`]: tables that nobody is in come to show a newer version
//! - [`kernel_views`]: views that the guest kernel enters and leaves by itself; [`kernel_writers`]: writers
//!   that it lets in
//! - [`let_go`]: what nobody sees any more
//! - [`enter`]: a visit begins and ends; [`commit`]: commit, abort, and facts of a version that are
//!   no pages (size, root object); [`compare`]: what was changed; [`append`]: versions come into the logs, of several segments all or none
//!
//! A vCPU keeps its root, and the version it shows, until it leaves. A page-table entry changes
//! from absent to present, and once more when a writer gets its own copy of a page: at that vCPU's
//! own fault at that address, or, when a system call writes there, with the old page's translations
//! dropped (`Window::drop_pages`). A system call looks up each page in the calling thread's view.
//!
//! The kernel serves no switch out of an instance where versioned segments are written: leaving is
//! committing.

mod append;
pub(crate) mod commit;
mod compare;
pub(crate) mod copies;
mod enter;
mod follow;
mod fresh;
mod gather;
pub(crate) mod kernel_views;
mod kernel_writers;
mod leaf;
mod let_go;
mod originals;
pub(crate) mod segment;
mod spill;
pub(crate) mod suspended;
pub(crate) mod sync;
pub(crate) mod view;
pub(crate) mod visits;
mod watch;
#[cfg(test)]
mod world;
mod written;
