//! What the guest kernel needs of the VMM, and the tables that both use.

pub(crate) mod boot;
pub(crate) mod call_pages;
pub mod instances;
pub mod lock_code;
pub mod switch_tables;
#[cfg(test)]
mod tests;
