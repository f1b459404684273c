//! Collections whose memory is a VAS's: what `Vec`, `String` and the maps are at home.
//!
//! - `key`: what may be the key of a map
//! - `btree`: an ordered map

pub mod btree;
mod key;

pub use btree::VBTreeMap;
pub use key::VKey;
