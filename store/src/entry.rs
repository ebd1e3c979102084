//! What a layer is made of: entries, each a path, its metadata and a node.

use crate::digest::Digest;
use crate::path::LayerPath;
use std::collections::BTreeMap;

/// The most entries one layer may hold. Arbitrary: fifty times a full Debian desktop package;
/// it bounds what a hostile archive can make us remember.
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

/// What stands at a path.
///
/// Device nodes, fifos and sockets are not storable: a sandbox gets its devices at start, and
/// the others mean nothing without the process behind them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Node {
    /// A directory; an opaque one hides whatever lower layers hold below this path.
    Dir {
        /// Whether lower layers' children are hidden.
        opaque: bool,
    },
    /// A regular file.
    File {
        /// Its length in bytes.
        size: u64,
        /// The digest of its bytes.
        digest: Digest,
    },
    /// A symbolic link.
    Symlink {
        /// Where it points; any bytes but NUL, never resolved by the store.
        target: Vec<u8>,
    },
    /// Another name of a file of the same layer.
    Hardlink {
        /// The first name of that file in path order.
        to: LayerPath,
    },
    /// Nothing stands here any more, whatever lower layers hold.
    Whiteout,
}

/// The kinds of entry, where only the kind matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A directory.
    Dir,
    /// A regular file.
    File,
    /// A symbolic link.
    Symlink,
    /// Another name of a file.
    Hardlink,
    /// A deletion.
    Whiteout,
}

/// One entry of a layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Where it stands.
    pub path: LayerPath,
    /// Its metadata; that of a hard link is its file's, that of a whiteout is constant.
    pub meta: Meta,
    /// What it is.
    pub node: Node,
}

impl Node {
    /// Returns the kind.
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
