//! Page tables of address spaces: frames, segments' subtrees, instances' roots.

pub(crate) mod frames;
pub(crate) mod instance;
pub(crate) mod subtree;
