//! Collections whose memory is a VAS's: what `Vec`, `String` and the maps are at home.
//!
//! - `key`: what may be the key of a map

mod key;

pub use key::VKey;
