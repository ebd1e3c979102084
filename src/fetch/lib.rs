//! Downloads of plain files: their addresses, the connections, and verified, resumable transfers.
//!
//! Every public function is synchronous. The only async runtime starts inside [`transport`] at the first request that leaves the machine. A
//! command with all files present starts no runtime and loads no trust store. No function may be called from within another async runtime.

pub mod error;
pub mod sources;

mod address;
pub mod mirrors;
mod redirects;
pub mod retry;

mod client;
pub mod transport;

pub mod exchange;

mod meter;
mod partial;

pub mod download;
pub mod fetch_small;

pub mod import;

pub mod unpack;

pub mod registry;
