//! The content-addressed store of layers. A layer is a file tree, named by the SHA-256 of its canonical tar. Only the commit of a stage
//! makes one.
//!
//! docs/store.md describes the formats. Modules are listed by level, lowest first; a module uses only modules above its own line.
#![forbid(unsafe_code)]

pub mod digest;
pub mod parallel;
pub mod path;
pub mod path_error;

pub mod entry;

pub mod normal;

pub mod archive;
pub mod index;
pub mod manifest;

pub mod difference;

pub mod read_limited;

mod draft;
mod inode;
mod openat;

pub mod system;

pub mod resolve_in_root;
pub mod rewrite;

pub mod dir_fd;
pub mod private;
pub mod removal;

mod durable;

pub mod locked_file;

pub mod layout;

pub mod flock;

pub mod gc_roots;
pub mod layer;
pub mod merge;
pub mod realisation;
pub mod scratch;
pub mod usage;

pub mod stage;

pub mod capture;
pub mod commit;
mod prune;

pub mod compose;
pub mod compression;
pub mod erofs;
pub mod gc;

pub mod import;

pub mod verify;

pub use commit::{CommitError, Committed};
pub use digest::{Digest, LayerId};
pub use entry::{Entry, Kind, Meta, Node};
pub use flock::{BuildLock, ExclusiveLock, ImageLock, SharedLock};
pub use index::Index;
pub use layout::Store;
pub use manifest::{Manifest, Record};
pub use path::LayerPath;
pub use path_error::PathError;
pub use stage::{Stage, StageError};
