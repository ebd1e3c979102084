//! Layer entries: each has a path, metadata and a node.

use crate::digest::Digest;
use crate::path::LayerPath;
use std::collections::BTreeMap;

/// Limit of the entries of a layer. Arbitrary: fifty times a full Debian desktop package. It bounds the memory that a hostile archive can
/// use.
pub const MAX_ENTRIES: usize = 1_000_000;

/// Owner, permissions, time and extended attributes of an entry.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Meta {
    /// The twelve permission bits.
    pub mode: u32,
    /// The numeric owner.
    pub uid: u32,
    /// The numeric group.
    pub gid: u32,
    /// Seconds since 1970.
    pub mtime: i64,
    /// Extended attributes by full name.
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

/// The object at a path.
///
/// Device nodes, fifos and sockets cannot be stored: a sandbox gets its devices at start, and the others are useless without their process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Node {
    /// A directory; an opaque one hides all entries of lower layers below its path.
    Dir {
        /// True if entries of lower layers below are hidden.
        opaque: bool,
    },
    /// A regular file.
    File {
        /// Its length in bytes.
        size: u64,
        /// The digest of its bytes.
        digest: Digest,
    },
    /// A symlink.
    Symlink {
        /// The target; any bytes but NUL, never resolved by the store.
        target: Vec<u8>,
    },
    /// A hard link to a file of the same layer.
    Hardlink {
        /// The first name of that file in path order.
        to: LayerPath,
    },
    /// Removes the entry of lower layers at this path.
    Whiteout,
}

/// The kind of a [`Node`], without its data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A directory.
    Dir,
    /// A regular file.
    File,
    /// A symlink.
    Symlink,
    /// A hard link.
    Hardlink,
    /// A deletion.
    Whiteout,
}

/// One entry of a layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The path of the entry.
    pub path: LayerPath,
    /// Its metadata; a hard link has that of its file, a whiteout has constant metadata.
    pub meta: Meta,
    /// The object itself.
    pub node: Node,
}

impl Node {
    /// Returns the kind of the node.
    pub fn kind(&self) -> Kind {
        match self {
            Node::Dir { .. } => Kind::Dir,
            Node::File { .. } => Kind::File,
            Node::Symlink { .. } => Kind::Symlink,
            Node::Hardlink { .. } => Kind::Hardlink,
            Node::Whiteout => Kind::Whiteout,
        }
    }
}
