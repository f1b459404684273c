//! A walk that believes nothing.
