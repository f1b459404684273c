//! Whole-store tests.
