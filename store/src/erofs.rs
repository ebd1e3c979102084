//! Writes a tree as a read-only EROFS image, uncompressed; the same entries give the same bytes.
//!
//! A VM mounts the image as a disk, so its start copies nothing. The kernel's Documentation/filesystems/erofs.rst and `erofs_fs.h` describe
//! the format; docs/store.md lists the parts used here. In short: one block with the superblock, then all inodes in path order. After each
//! inode come its attributes and, if it fits into the block, the last partial block of its data. Then follow the whole blocks of all data,
//! in the same order. The layout is computed before the first byte is written, so the image is written in one pass.
//!
//! A VM's disk has the ownership, permissions and attributes of `tree/`, so that it shows the same as a namespace sandbox. An image for
//! other programs has those of the index: the true owners and modes, and capabilities.

use crate::digest::Digest;
use crate::entry::{Entry, Kind, Meta, Node};
use crate::index::Index;
use crate::normal;
use crate::openat::reached;
use crate::path::LayerPath;
use crate::path_error::{PathError, at};
use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::ops::Range;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Block size: the page size of the machines that mount it.
const BLOCK_BYTES: u64 = 4096;
const SUPERBLOCK_AT: u64 = 1024;
const SUPERBLOCK_BYTES: u64 = 128;
const MAGIC: u32 = 0xe0f5_e1e2;
/// The time in an inode is the mtime.
const COMPATIBLE: u32 = 0x2;
/// An inode number is the inode's offset in units of this.
const SLOT_BYTES: u64 = 32;
const INODE_BYTES: u64 = 64;
/// The format of an extended inode; the data layout is added, shifted by one.
const LONG_INODE: u16 = 1;
const WHOLE_BLOCKS: u16 = 0;
const BROKEN_BLOCK_BEHIND_INODE: u16 = 2;
const DIRENT_BYTES: usize = 12;
const XATTR_HEADER_BYTES: usize = 12;
/// Name prefixes that attributes store as a number.
const PREFIXES: [(&[u8], u8); 3] = [(b"user.", 1), (b"trusted.", 4), (b"security.", 6)];
const NO_BLOCK: u32 = u32::MAX;

/// Reason why an image cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum ErofsError {
    /// A file of the tree could not be read.
    #[error(transparent)]
    File(#[from] PathError),
    /// The length of a file in the tree differs from the index.
    #[error("{} is not as long as its index says", path.display())]
    Length {
        /// The file.
        path: PathBuf,
    },
    /// A count exceeds a limit of the format.
    #[error("too many {what} for an EROFS image")]
    TooMuch {
        /// The things there are too many of.
        what: &'static str,
    },
    /// The image could not be written.
    #[error("the image cannot be written")]
    Write(#[source] io::Error),
}

/// Source of the metadata in the image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum View {
    /// The metadata of `tree/` on disk: all owners are 0:0, and another owner is an attribute.
    Tree,
    /// The metadata of the index, for programs other than Silo.
    True,
}

/// An inode to be written.
struct Inode<'a> {
    meta: Meta,
    /// The file type and permissions.
    mode: u16,
    links: u32,
    data: Data<'a>,
    size: u64,
    xattrs: Vec<u8>,
    /// Its offset in bytes.
    at: u64,
    /// The number of its first whole block.
    block: u32,
    /// True if its last partial block follows the inode.
    is_inline: bool,
}

/// The data of an inode.
enum Data<'a> {
    /// The contents of the tree's file at this path.
    File(&'a LayerPath),
    /// Child names with their numbers in the inode list, and the parent's number.
    Dir(BTreeMap<&'a [u8], usize>, usize),
    /// The target of a symlink.
    Link(&'a [u8]),
    /// Nothing: a whiteout.
    None,
}

/// Writes the tree that `index` describes and `tree` holds; returns the number of bytes.
pub fn write(index: &Index, tree: &Path, view: View, out: &mut dyn Write) -> Result<u64, ErofsError> {
    let mut inodes = inodes(index, view)?;
    let blocks = lay_out(&mut inodes)?;
    let mut to = Counted { out, written: 0 };
    to.put(&first_block_start(&inodes, blocks, index))?;
    for inode in &inodes {
        to.pad_to(inode.at)?;
        to.put(&inode_bytes(inode))?;
        to.put(&inode.xattrs)?;
        if inode.is_inline {
            let rest = inode.size % BLOCK_BYTES;
            copy(inode, &inodes, tree, inode.size - rest..inode.size, &mut to)?;
        }
    }
    for inode in inodes.iter().filter(|inode| inode.block != NO_BLOCK) {
        to.pad_to(u64::from(inode.block) * BLOCK_BYTES)?;
        let rest = if inode.is_inline { inode.size % BLOCK_BYTES } else { 0 };
        copy(inode, &inodes, tree, 0..inode.size - rest, &mut to)?;
    }
    to.pad_to(u64::from(blocks) * BLOCK_BYTES)?;
    Ok(to.written)
}

/// Lists the inodes: the root first, the others in the order of their first paths.
fn inodes(index: &Index, view: View) -> Result<Vec<Inode<'_>>, ErofsError> {
    let mut inodes = vec![dir(normal::implied_dir(), 0, view)];
    let mut by_path: BTreeMap<&[u8], usize> = BTreeMap::from([(&b""[..], 0)]);
    for entry in index.entries() {
        let path = entry.path.as_bytes();
        let parent = parent_of(&mut inodes, &mut by_path, path, view);
        let number = match &entry.node {
            Node::Hardlink { to } => {
                let number = by_path.get(to.as_bytes()).copied().unwrap_or_default();
                inodes[number].links += 1;
                number
            }
            _ => {
                inodes.push(inode(entry, parent, view));
                inodes.len() - 1
            }
        };
        by_path.insert(path, number);
        enter(&mut inodes, parent, entry.path.name(), number);
    }
    for inode in &mut inodes {
        inode.size = match &inode.data {
            Data::Dir(names, _) => dir_size(names),
            Data::Link(target) => target.len() as u64,
            Data::File(_) | Data::None => inode.size,
        };
        inode.xattrs = xattr_bytes(&inode.meta.xattrs)?;
    }
    Ok(inodes)
}

/// Returns the inode number of a path's parent; adds implied directories that have no entry.
fn parent_of<'a>(inodes: &mut Vec<Inode<'a>>, by_path: &mut BTreeMap<&'a [u8], usize>, path: &'a [u8], view: View) -> usize {
    let Some(slash) = path.iter().rposition(|byte| *byte == b'/') else { return 0 };
    if let Some(known) = by_path.get(&path[..slash]) {
        return *known;
    }
    let above = parent_of(inodes, by_path, &path[..slash], view);
    let number = inodes.len();
    inodes.push(dir(normal::implied_dir(), above, view));
    by_path.insert(&path[..slash], number);
    let name = path[..slash].rsplit(|byte| *byte == b'/').next().unwrap_or_default();
    enter(inodes, above, name, number);
    number
}

fn enter<'a>(inodes: &mut [Inode<'a>], parent: usize, name: &'a [u8], number: usize) {
    let is_dir = matches!(inodes[number].data, Data::Dir(..));
    if let Data::Dir(names, _) = &mut inodes[parent].data {
        names.insert(name, number);
    }
    inodes[parent].links += u32::from(is_dir);
}

fn dir<'a>(meta: Meta, parent: usize, view: View) -> Inode<'a> {
    let names = BTreeMap::from([(&b"."[..], 0), (&b".."[..], 0)]);
    let mut inode = bare(Kind::Dir, meta, 0o040_000, Data::Dir(names, parent), view);
    inode.links = 2;
    inode
}

fn inode(entry: &Entry, parent: usize, view: View) -> Inode<'_> {
    let meta = entry.meta.clone();
    match &entry.node {
        Node::Dir { opaque } => {
            let mut inode = dir(meta, parent, view);
            if *opaque {
                inode.meta.xattrs.insert(b"user.overlay.opaque".to_vec(), b"y".to_vec());
            }
            inode
        }
        Node::File { size, .. } => Inode { size: *size, ..bare(Kind::File, meta, 0o100_000, Data::File(&entry.path), view) },
        Node::Symlink { target } => bare(Kind::Symlink, meta, 0o120_000, Data::Link(target), view),
        // Overlayfs reads a character device 0:0 as a whiteout.
        Node::Whiteout | Node::Hardlink { .. } => bare(Kind::Whiteout, meta, 0o020_000, Data::None, view),
    }
}

/// Returns an inode with the metadata of the view.
fn bare<'a>(kind: Kind, mut meta: Meta, file_type: u16, data: Data<'a>, view: View) -> Inode<'a> {
    let mut mode = meta.mode;
    if view == View::Tree {
        let has_attributes = matches!(kind, Kind::Dir | Kind::File);
        let owner = normal::owner_text(&meta).filter(|_| has_attributes);
        meta.xattrs.retain(|name, _| name.starts_with(b"user."));
        meta.xattrs.extend(owner.map(|text| (normal::OWNER_XATTR.as_bytes().to_vec(), text.into_bytes())));
        // Files belong to the user that runs Silo, as in `tree/`; a VM has one user.
        (meta.uid, meta.gid) = (0, 0);
        if has_attributes {
            mode = normal::disk_mode(kind, mode);
        }
    }
    let mode = file_type | (mode & 0o7777) as u16;
    Inode { meta, mode, links: 1, data, size: 0, xattrs: Vec::new(), at: 0, block: NO_BLOCK, is_inline: false }
}

/// Assigns offsets to all inodes and their data; returns the number of blocks.
fn lay_out(inodes: &mut [Inode<'_>]) -> Result<u32, ErofsError> {
    let mut at = SUPERBLOCK_AT + SUPERBLOCK_BYTES;
    for inode in inodes.iter_mut() {
        let fixed = INODE_BYTES + inode.xattrs.len() as u64;
        let rest = inode.size % BLOCK_BYTES;
        inode.is_inline = rest > 0 && fixed + rest <= BLOCK_BYTES;
        let together = if inode.is_inline { fixed + rest } else { INODE_BYTES };
        at = at.next_multiple_of(SLOT_BYTES);
        // An inode and its inline data must not cross a block boundary.
        if at % BLOCK_BYTES + together > BLOCK_BYTES {
            at = at.next_multiple_of(BLOCK_BYTES);
        }
        inode.at = at;
        at += fixed + if inode.is_inline { rest } else { 0 };
    }
    let mut block = at.div_ceil(BLOCK_BYTES);
    for inode in inodes.iter_mut() {
        let blocks = if inode.is_inline { inode.size / BLOCK_BYTES } else { inode.size.div_ceil(BLOCK_BYTES) };
        if blocks > 0 {
            inode.block = u32::try_from(block).map_err(|_| ErofsError::TooMuch { what: "blocks" })?;
            block += blocks;
        }
    }
    u32::try_from(block).ok().filter(|blocks| *blocks < NO_BLOCK).ok_or(ErofsError::TooMuch { what: "blocks" })
}

/// Returns the first block up to the first inode.
fn first_block_start(inodes: &[Inode<'_>], blocks: u32, index: &Index) -> Vec<u8> {
    let name = Digest::of(&index.to_text());
    let mut block = vec![0; SUPERBLOCK_AT as usize];
    let mut put = |bytes: &[u8]| block.extend_from_slice(bytes);
    put(&MAGIC.to_le_bytes());
    put(&0u32.to_le_bytes());
    put(&COMPATIBLE.to_le_bytes());
    put(&[BLOCK_BYTES.trailing_zeros() as u8, 0]);
    put(&number_of(&inodes[0]).to_le_bytes()[..2]);
    put(&(inodes.len() as u64).to_le_bytes());
    put(&[0; 12]);
    put(&blocks.to_le_bytes());
    // Block addresses of inodes and shared attributes: from the first block.
    put(&[0; 8]);
    put(&name.as_bytes()[..16]);
    put(&[0; 16]);
    // No incompatible features.
    put(&[0; 48]);
    block
}

fn number_of(inode: &Inode<'_>) -> u64 {
    inode.at / SLOT_BYTES
}

fn inode_bytes(inode: &Inode<'_>) -> Vec<u8> {
    let layout = if inode.is_inline { BROKEN_BLOCK_BEHIND_INODE } else { WHOLE_BLOCKS };
    let attributes = match inode.xattrs.len() {
        0 => 0,
        length => (length - XATTR_HEADER_BYTES) / 4 + 1,
    };
    // For a device, this field holds the device number instead of the first block.
    let place = if matches!(inode.data, Data::None) { 0 } else { inode.block };
    let mut bytes = Vec::with_capacity(INODE_BYTES as usize);
    bytes.extend((LONG_INODE | layout << 1).to_le_bytes());
    bytes.extend((attributes as u16).to_le_bytes());
    bytes.extend(inode.mode.to_le_bytes());
    bytes.extend(0u16.to_le_bytes());
    bytes.extend(inode.size.to_le_bytes());
    bytes.extend(place.to_le_bytes());
    // The 32-bit inode number for stat(2); any unique one will do.
    bytes.extend((number_of(inode) as u32).to_le_bytes());
    bytes.extend(inode.meta.uid.to_le_bytes());
    bytes.extend(inode.meta.gid.to_le_bytes());
    bytes.extend(inode.meta.mtime.to_le_bytes());
    bytes.extend(0u32.to_le_bytes());
    bytes.extend(inode.links.to_le_bytes());
    bytes.extend([0; 16]);
    bytes
}

fn xattr_bytes(xattrs: &BTreeMap<Vec<u8>, Vec<u8>>) -> Result<Vec<u8>, ErofsError> {
    let known = xattrs.iter().filter_map(|(name, value)| {
        let (prefix, number) = PREFIXES.iter().find(|(prefix, _)| name.starts_with(prefix))?;
        Some((*number, &name[prefix.len()..], value))
    });
    let mut bytes = vec![0; XATTR_HEADER_BYTES];
    for (prefix, name, value) in known {
        let too_much = ErofsError::TooMuch { what: "attributes of an entry" };
        let (Ok(name_len), Ok(value_len)) = (u8::try_from(name.len()), u16::try_from(value.len())) else { return Err(too_much) };
        bytes.extend([name_len, prefix]);
        bytes.extend(value_len.to_le_bytes());
        bytes.extend(name);
        bytes.extend(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
    }
    match bytes.len() {
        XATTR_HEADER_BYTES => Ok(Vec::new()),
        length if length / 4 < usize::from(u16::MAX) => Ok(bytes),
        _ => Err(ErofsError::TooMuch { what: "attributes of an entry" }),
    }
}

/// Splits sorted names into directory blocks.
fn dir_blocks<'n>(names: &'n BTreeMap<&[u8], usize>) -> Vec<Vec<(&'n [u8], usize)>> {
    let mut blocks: Vec<Vec<(&[u8], usize)>> = vec![Vec::new()];
    let mut used = 0;
    for (name, number) in names {
        let needed = DIRENT_BYTES + name.len();
        if used + needed > BLOCK_BYTES as usize {
            blocks.push(Vec::new());
            used = 0;
        }
        used += needed;
        if let Some(last) = blocks.last_mut() {
            last.push((name, *number));
        }
    }
    blocks
}

/// Returns the size of a directory: full blocks, except that the last ends after its last name.
fn dir_size(names: &BTreeMap<&[u8], usize>) -> u64 {
    let blocks = dir_blocks(names);
    let last: usize = blocks.last().into_iter().flatten().map(|(name, _)| DIRENT_BYTES + name.len()).sum();
    (blocks.len() as u64 - 1) * BLOCK_BYTES + last as u64
}

fn dir_bytes(inodes: &[Inode<'_>], own: &Inode<'_>, names: &BTreeMap<&[u8], usize>, parent: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    for block in dir_blocks(names) {
        bytes.resize(bytes.len().next_multiple_of(BLOCK_BYTES as usize), 0);
        let mut name_at = block.len() * DIRENT_BYTES;
        for (name, number) in &block {
            let named = match *name {
                b"." => own,
                b".." => &inodes[parent],
                _ => &inodes[*number],
            };
            bytes.extend(number_of(named).to_le_bytes());
            bytes.extend((name_at as u16).to_le_bytes());
            bytes.extend([file_type(named), 0]);
            name_at += name.len();
        }
        block.iter().for_each(|(name, _)| bytes.extend_from_slice(name));
    }
    bytes
}

fn file_type(inode: &Inode<'_>) -> u8 {
    match inode.data {
        Data::File(_) => 1,
        Data::Dir(..) => 2,
        Data::None => 3,
        Data::Link(_) => 7,
    }
}

/// Writes a part of an inode's data.
fn copy(inode: &Inode<'_>, inodes: &[Inode<'_>], tree: &Path, range: Range<u64>, to: &mut Counted<'_>) -> Result<(), ErofsError> {
    let part = |bytes: &[u8], to: &mut Counted<'_>| to.put(&bytes[range.start as usize..range.end as usize]);
    match &inode.data {
        Data::Dir(names, parent) => part(&dir_bytes(inodes, inode, names, *parent), to),
        Data::Link(target) => part(target, to),
        Data::File(path) => {
            let mut long = None;
            let named = tree.join(path.as_path());
            copy_file(&reached(tree, path, &mut long).map_err(at("open", &named))?, inode.size, range, to)
        }
        Data::None => Ok(()),
    }
}

fn copy_file(path: &Path, size: u64, range: Range<u64>, to: &mut Counted<'_>) -> Result<(), ErofsError> {
    let length = range.end - range.start;
    // Do not follow a symlink that replaced the file.
    let no_follow = rustix::fs::OFlags::NOFOLLOW.bits() as i32;
    let file = std::fs::OpenOptions::new().read(true).custom_flags(no_follow).open(path).map_err(at("open", path))?;
    let found = file.metadata().map_err(at("inspect", path))?;
    if !found.is_file() || found.len() != size {
        return Err(ErofsError::Length { path: path.to_owned() });
    }
    let mut piece = vec![0; usize::try_from(length.min(1 << 20)).unwrap_or(1 << 20)];
    let mut done = 0;
    while done < length {
        let wanted = usize::try_from(length - done).unwrap_or(usize::MAX).min(piece.len());
        file.read_exact_at(&mut piece[..wanted], range.start + done).map_err(at("read", path))?;
        to.put(&piece[..wanted])?;
        done += wanted as u64;
    }
    Ok(())
}

/// A writer that counts its bytes.
struct Counted<'a> {
    out: &'a mut dyn Write,
    written: u64,
}

impl Counted<'_> {
    fn put(&mut self, bytes: &[u8]) -> Result<(), ErofsError> {
        self.out.write_all(bytes).map_err(ErofsError::Write)?;
        self.written += bytes.len() as u64;
        Ok(())
    }

    fn pad_to(&mut self, to: u64) -> Result<(), ErofsError> {
        io::copy(&mut io::repeat(0).take(to.saturating_sub(self.written)), self.out).map_err(ErofsError::Write)?;
        self.written = self.written.max(to);
        Ok(())
    }
}
