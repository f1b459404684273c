//! Address spaces and segments end to end: real programs in real VMs, one after another and
//! at the same time, that succeed, fail, or are killed.
//!
//! - [`world`]: a separate store for each test, and VMs as child processes that can be killed
//! - [`every_program`]: each guest program once; [`persistence`]: what the next VM finds
//! - [`model`]: random calls against a model of the whole system
//! - [`together`]: two concurrent VMs; [`death`]: VMs that are killed; [`ends`]: that end inside
//! - [`durable`]: when commits of versioned segments survive a power cut; disks that fail
//! - [`crowd`]: many VMs at the same time
//! - [`endless`]: one VM that goes in and out for very long
//! - [`full`]: limits of files and disks
//! - [`changes`]: changes that one VM makes to a VAS, seen by another
//! - [`changing`]: types that have changed since their values were stored
//! - [`power_cut`]: raw segments that an earlier boot of the host left dirty
//! - [`damage`]: damaged files; [`users`]: other users' files
//! - [`sdk`]: the safe API of the crate `spacejmp`, in one VM and in several; [`sound`]: attacks on it
//! - [`versions`]: versioned segments: whole changes or none
//! - [`nested`]: visits inside of visits
//! - [`space`]: what versioned segments take on the disk
//! - [`spill`]: changes of more than fits into memory
//! - [`several`]: several segments that are changed as one, and segments in several VASes
//! - [`tags`]: versions that are kept, gone back to and copied; [`rollback`]: of a VAS as a whole
//! - [`unwritable`]: readers on full disks and read-only file systems
//! - [`watched`]: the command line while VMs are running
//!
//! Single calls, and the files of the store, are tested next to their code.

mod changes;
mod changing;
mod copies;
mod crowd;
mod damage;
mod death;
mod durable;
mod endless;
mod ends;
mod every_program;
mod full;
mod model;
mod nested;
mod numbers;
mod persistence;
mod power_cut;
mod readers;
mod rollback;
mod sdk;
mod several;
mod shared;
mod sound;
mod space;
mod spill;
mod tags;
mod together;
mod unwritable;
mod users;
mod versions;
mod watched;
mod world;
mod written;
