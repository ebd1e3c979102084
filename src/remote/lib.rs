//! A client of the Remote Execution API (v2): runs a command on a worker of an engine that people already have.
//!
//! [`Workers`] is a pool of an engine's workers, and [`SshWorkers`] one of machines that are reached over ssh.
//!
//! [`Remote::run`] uploads the files that the server lacks, executes the command, and returns the names of the files that it wrote;
//! [`Remote::download`] fetches those. Every byte from the server is hashed, and every size is limited before it is fetched.

mod error;
pub mod messages;

mod connection;

mod blobs;

mod execution;

mod action;

mod server;

mod pool;

mod ssh_frames;

mod ssh_session;

mod ssh_pool;
mod ssh_worker;

pub use action::{Action, InputFile};
pub use blobs::{BlobId, Blobs, Source};
pub use connection::Endpoint;
pub use error::Error;
pub use execution::{Limits, Stage};
pub use pool::{PoolSettings, WORD, Workers};
pub use server::{Ran, Remote};
pub use ssh_pool::{SshSettings, SshWorkers};
pub use ssh_session::{SSH_WORD, Way};
pub use ssh_worker::{serve as serve_ssh, sweep};
