//! The network edge for plain files: where they are, how to reach them, and how to get them whole.
//!
//! Every public function is synchronous. The one async runtime is made inside [`transport`] at the first request that
//! really leaves the machine, so a command that finds everything in place pays neither for it nor for the trust store.
//! For the same reason nothing here may be called from within another async runtime.

pub mod error;
pub mod sources;

mod address;
pub mod mirrors;
pub mod patience;

pub mod transport;

mod meter;
mod partial;

pub mod download;
pub mod text;

pub mod deposit;

pub mod unpack;

pub mod registry;
