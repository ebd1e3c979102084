//! The canonical tar. The SHA-256 of its bytes is the LayerId.
//!
//! One list of entries has exactly one archive: ustar headers, entries in index order, numeric owners without names, hard links to the
//! first name, OCI whiteouts, two zero blocks at the end. A PAX header only holds values that do not fit into ustar. A path longer than 100
//! bytes always goes into a PAX record; the ustar prefix field is never used, so each path has one encoding.
//!
//! The reader accepts only such archives: it re-encodes each parsed header and compares the bytes.

use crate::digest::{Digest, Hasher};
use crate::entry::{Entry, Meta, Node};
use crate::normal;
use crate::path::{LayerPath, LayerPathError};
use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use tar::{EntryType, Header};

const BLOCK_BYTES: usize = 512;
/// Buffer size for reads and hashing: large enough that system calls do not matter, small enough to stay in the CPU cache between the two
/// hashes.
pub(crate) const CHUNK_BYTES: usize = 128 * 1024;
/// Limit of a PAX header. It has room for a path, a link target and all extended attributes that Linux allows on an inode, many times over,
/// and bounds the allocation for a broken archive.
const MAX_PAX_BYTES: u64 = 4 << 20;
const MAX_OCTAL_ID: u32 = 0o7_777_777;
const MAX_OCTAL_SIZE: u64 = 0o77_777_777_777;
const PAX_NAME: &[u8] = b"PaxHeaders/silo";
const WHITEOUT: &[u8] = b".wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";

/// Reason why bytes are not a canonical archive.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// Reading failed, or the archive ends early.
    #[error("cannot read the archive")]
    Read(#[from] io::Error),
    /// A header differs from its canonical encoding.
    #[error("archive entry {number}: {why}")]
    NotCanonical {
        /// The number of the entry; the first is 1.
        number: u64,
        /// The fault.
        why: &'static str,
    },
    /// An entry has a path that layers do not allow.
    #[error(transparent)]
    Path(#[from] LayerPathError),
}

/// An archive entry: sizes are known, digests are not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Item {
    /// A directory.
    Dir(LayerPath, Meta),
    /// The directory at this path, an earlier entry, is opaque.
    Opaque(LayerPath),
    /// A file and its length; its bytes follow.
    File(LayerPath, Meta, u64),
    /// A symlink and its target.
    Symlink(LayerPath, Meta, Vec<u8>),
    /// A hard link and the path of its file.
    Hardlink(LayerPath, Meta, LayerPath),
    /// A whiteout.
    Whiteout(LayerPath),
}

/// Writes the archive of `entries`, which must be those of an index, to `out`.
///
/// `contents` is called once for each file, in order, and must write exactly its size. The digests of file entries are not used, so they
/// may be unknown.
pub fn write<W: Write, E: From<io::Error>>(
    entries: &[Entry],
    out: &mut W,
    contents: &mut dyn FnMut(usize, &mut W) -> Result<(), E>,
) -> Result<(), E> {
    let mut header = Vec::with_capacity(4 * BLOCK_BYTES);
    for (at, entry) in entries.iter().enumerate() {
        let path = entry.path.clone();
        let meta = entry.meta.clone();
        header.clear();
        let mut file = None;
        match &entry.node {
            Node::Dir { opaque } => {
                write_header(&mut header, &Item::Dir(path.clone(), meta));
                if *opaque {
                    write_header(&mut header, &Item::Opaque(path));
                }
            }
            Node::File { size, .. } => {
                file = Some(*size);
                write_header(&mut header, &Item::File(path, meta, *size));
            }
            Node::Symlink { target } => write_header(&mut header, &Item::Symlink(path, meta, target.clone())),
            Node::Hardlink { to } => write_header(&mut header, &Item::Hardlink(path, meta, to.clone())),
            Node::Whiteout => write_header(&mut header, &Item::Whiteout(path)),
        }
        out.write_all(&header)?;
        if let Some(size) = file {
            contents(at, out)?;
            out.write_all(&[0; BLOCK_BYTES][..padding(size)])?;
        }
    }
    out.write_all(&[0; 2 * BLOCK_BYTES])?;
    Ok(())
}

/// Returns the length of the archive of `entries`.
pub fn length(entries: &[Entry]) -> u64 {
    struct Counter(u64);
    impl Write for Counter {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0 += bytes.len() as u64;
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let mut counter = Counter(0);
    let written: io::Result<()> = write(entries, &mut counter, &mut |at, counter: &mut Counter| {
        if let Node::File { size, .. } = entries[at].node {
            counter.0 += size;
        }
        Ok(())
    });
    written.expect("a counter takes all bytes");
    counter.0
}

/// Returns the digest of the archive of `entries` without the bytes of its files.
pub fn outline(entries: &[Entry]) -> Digest {
    let mut hasher = Hasher::new();
    let written: io::Result<()> = write(entries, &mut hasher, &mut |_, _| Ok(()));
    written.expect("a hasher takes all bytes");
    hasher.finish()
}

/// Reads an archive and passes each entry to `sink` with a reader of its bytes. Returns the digest of the rest, see [`outline`].
///
/// The sink must read a file to its end. Order and references are not checked here; building the index of the items checks them.
pub fn read<E: From<ArchiveError>>(input: &mut dyn Read, sink: &mut dyn FnMut(Item, &mut dyn Read) -> Result<(), E>) -> Result<Digest, E> {
    let mut number = 0;
    let mut outline = Hasher::new();
    let mut header = Vec::with_capacity(4 * BLOCK_BYTES);
    loop {
        number += 1;
        let item = read_header(input, number, &mut header)?;
        outline.update(&header);
        let Some(item) = item else {
            return Ok(outline.finish());
        };
        let size = match &item {
            Item::File(_, _, size) => *size,
            Item::Dir(..) | Item::Opaque(_) | Item::Symlink(..) | Item::Hardlink(..) | Item::Whiteout(_) => 0,
        };
        let mut body = (&mut *input).take(size);
        sink(item, &mut body)?;
        if body.limit() > 0 {
            return Err(ArchiveError::NotCanonical { number, why: "ends inside a file" }.into());
        }
        let mut pad = [0; BLOCK_BYTES];
        let pad = &mut pad[..padding(size)];
        input.read_exact(pad).map_err(ArchiveError::Read)?;
        if pad.iter().any(|byte| *byte != 0) {
            return Err(ArchiveError::NotCanonical { number, why: "has padding that is not zero" }.into());
        }
        outline.update(pad);
    }
}

fn padding(size: u64) -> usize {
    (size.wrapping_neg() % BLOCK_BYTES as u64) as usize
}

/// Appends the header blocks of one item.
fn write_header(out: &mut Vec<u8>, item: &Item) {
    let (kind, mut name, meta, size, link) = match item {
        Item::Dir(path, meta) => (EntryType::Directory, path.as_bytes().to_vec(), meta, 0, None),
        Item::Opaque(path) => {
            let name = [path.as_bytes(), b"/", OPAQUE].concat();
            (EntryType::Regular, name, &normal::whiteout(), 0, None)
        }
        Item::File(path, meta, size) => (EntryType::Regular, path.as_bytes().to_vec(), meta, *size, None),
        Item::Symlink(path, meta, target) => (EntryType::Symlink, path.as_bytes().to_vec(), meta, 0, Some(target.as_slice())),
        Item::Hardlink(path, meta, to) => (EntryType::Link, path.as_bytes().to_vec(), meta, 0, Some(to.as_bytes())),
        Item::Whiteout(path) => {
            let mut name = path.as_bytes().to_vec();
            let at = name.len() - path.name().len();
            name.splice(at..at, WHITEOUT.iter().copied());
            (EntryType::Regular, name, &normal::whiteout(), 0, None)
        }
    };
    if kind == EntryType::Directory {
        name.push(b'/');
    }
    let mut pax: BTreeMap<Vec<u8>, Vec<u8>> = BTreeMap::new();
    let mut header = plain_header(kind, meta.mode, meta.mtime as u64);
    let fields = header.as_old_mut();
    if !put(&mut fields.name, &name) {
        pax.insert(b"path".to_vec(), name);
    }
    if let Some(link) = link
        && !put(&mut fields.linkname, link)
    {
        pax.insert(b"linkpath".to_vec(), link.to_vec());
    }
    for (key, id) in [("uid", meta.uid), ("gid", meta.gid)] {
        if id > MAX_OCTAL_ID {
            pax.insert(key.into(), id.to_string().into());
        }
    }
    if size > MAX_OCTAL_SIZE {
        pax.insert(b"size".to_vec(), size.to_string().into());
    }
    // A hard link shares its file's extended attributes; only the file's header has them.
    if kind != EntryType::Link {
        for (name, value) in &meta.xattrs {
            pax.insert([b"SCHILY.xattr.", name.as_slice()].concat(), value.clone());
        }
    }
    header.set_uid(u64::from(if meta.uid > MAX_OCTAL_ID { 0 } else { meta.uid }));
    header.set_gid(u64::from(if meta.gid > MAX_OCTAL_ID { 0 } else { meta.gid }));
    header.set_size(if size > MAX_OCTAL_SIZE { 0 } else { size });
    header.set_cksum();
    write_pax(out, &pax);
    out.extend_from_slice(header.as_bytes());
}

fn plain_header(kind: EntryType, mode: u32, mtime: u64) -> Header {
    let mut header = Header::new_ustar();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(mtime);
    if let Some(ustar) = header.as_ustar_mut() {
        ustar.set_device_major(0);
        ustar.set_device_minor(0);
    }
    header
}

fn write_pax(out: &mut Vec<u8>, records: &BTreeMap<Vec<u8>, Vec<u8>>) {
    if records.is_empty() {
        return;
    }
    let mut body = Vec::new();
    for (key, value) in records {
        // The length includes " ", "=", "
        // " and its own digits.
        let rest = key.len() + value.len() + 3;
        let mut length = rest + 1;
        while rest + length.to_string().len() != length {
            length = rest + length.to_string().len();
        }
        body.extend_from_slice(length.to_string().as_bytes());
        body.push(b' ');
        body.extend_from_slice(key);
        body.push(b'=');
        body.extend_from_slice(value);
        body.push(b'\n');
    }
    let mut header = plain_header(EntryType::XHeader, 0o644, 0);
    put(&mut header.as_old_mut().name, PAX_NAME);
    header.set_size(body.len() as u64);
    header.set_cksum();
    out.extend_from_slice(header.as_bytes());
    let pad = padding(body.len() as u64);
    out.append(&mut body);
    out.resize(out.len() + pad, 0);
}

/// Copies `bytes` into a header field if they fit; returns whether they did.
fn put(field: &mut [u8; 100], bytes: &[u8]) -> bool {
    let fits = bytes.len() <= field.len();
    if fits {
        field[..bytes.len()].copy_from_slice(bytes);
    }
    fits
}

/// Reads the header blocks of one item into `raw`; returns `None` at the end of the archive.
fn read_header(input: &mut dyn Read, number: u64, raw: &mut Vec<u8>) -> Result<Option<Item>, ArchiveError> {
    let bad = |why| ArchiveError::NotCanonical { number, why };
    raw.clear();
    raw.resize(BLOCK_BYTES, 0);
    input.read_exact(raw)?;
    if raw.iter().all(|byte| *byte == 0) {
        raw.resize(2 * BLOCK_BYTES, 0);
        input.read_exact(&mut raw[BLOCK_BYTES..])?;
        let ends = raw.iter().all(|byte| *byte == 0) && input.read(&mut [0])? == 0;
        return if ends { Ok(None) } else { Err(bad("does not end after two zero blocks")) };
    }
    let mut pax = BTreeMap::new();
    if header_of(raw, 0).entry_type() == EntryType::XHeader {
        let size = header_of(raw, 0).entry_size().unwrap_or(u64::MAX);
        if size > MAX_PAX_BYTES {
            return Err(bad("has a PAX header that is too large"));
        }
        let padded = size as usize + padding(size);
        raw.resize(BLOCK_BYTES + padded + BLOCK_BYTES, 0);
        input.read_exact(&mut raw[BLOCK_BYTES..])?;
        pax = read_pax(&raw[BLOCK_BYTES..][..size as usize]).ok_or_else(|| bad("has a malformed PAX header"))?;
    }
    let item = item_of(&header_of(raw, raw.len() - BLOCK_BYTES), pax, number)?;
    let mut again = Vec::with_capacity(raw.len());
    write_header(&mut again, &item);
    if again != *raw {
        return Err(bad("is not in canonical form"));
    }
    Ok(Some(item))
}

fn header_of(raw: &[u8], at: usize) -> Header {
    let mut header = Header::new_ustar();
    header.as_mut_bytes().copy_from_slice(&raw[at..at + BLOCK_BYTES]);
    header
}

fn item_of(header: &Header, mut pax: BTreeMap<Vec<u8>, Vec<u8>>, number: u64) -> Result<Item, ArchiveError> {
    let bad = |why| ArchiveError::NotCanonical { number, why };
    let text = |field: &[u8]| field.split(|byte| *byte == 0).next().unwrap_or_default().to_vec();
    let name = pax.remove(&b"path"[..]).unwrap_or_else(|| text(&header.as_old().name));
    let link = pax.remove(&b"linkpath"[..]).unwrap_or_else(|| text(&header.as_old().linkname));
    let mut decimal = |key: &[u8], plain: io::Result<u64>| match pax.remove(key) {
        Some(value) => std::str::from_utf8(&value).ok().and_then(|text| text.parse().ok()),
        None => plain.ok(),
    };
    let id = |value: Option<u64>| value.and_then(|id| u32::try_from(id).ok());
    let uid = id(decimal(b"uid", header.uid())).ok_or_else(|| bad("has a malformed uid"))?;
    let gid = id(decimal(b"gid", header.gid())).ok_or_else(|| bad("has a malformed gid"))?;
    let size = decimal(b"size", header.entry_size()).ok_or_else(|| bad("has a malformed size"))?;
    let mut meta = Meta {
        mode: header.mode().map_err(|_| bad("has a malformed mode"))? & 0o7777,
        uid,
        gid,
        mtime: header.mtime().ok().and_then(|t| i64::try_from(t).ok()).ok_or_else(|| bad("has a malformed mtime"))?,
        xattrs: BTreeMap::new(),
    };
    for (key, value) in pax {
        let name = key.strip_prefix(b"SCHILY.xattr.").ok_or_else(|| bad("has an unknown PAX record"))?;
        meta.xattrs.insert(name.to_vec(), value);
    }
    let path = |bytes: &[u8]| LayerPath::parse(bytes);
    let (dir, last) = match name.iter().rposition(|byte| *byte == b'/') {
        Some(at) => name.split_at(at + 1),
        None => (&b""[..], name.as_slice()),
    };
    Ok(match header.entry_type() {
        EntryType::Directory => Item::Dir(path(name.strip_suffix(b"/").unwrap_or(&name))?, meta),
        EntryType::Symlink => Item::Symlink(path(&name)?, meta, link),
        EntryType::Link => Item::Hardlink(path(&name)?, meta, path(&link)?),
        EntryType::Regular if last == OPAQUE => Item::Opaque(path(dir.strip_suffix(b"/").unwrap_or(dir))?),
        EntryType::Regular => match last.strip_prefix(WHITEOUT) {
            Some(hidden) => Item::Whiteout(path(&[dir, hidden].concat())?),
            None => Item::File(path(&name)?, meta, size),
        },
        _ => return Err(bad("has a type that layers do not allow")),
    })
}

fn read_pax(body: &[u8]) -> Option<BTreeMap<Vec<u8>, Vec<u8>>> {
    let mut records = BTreeMap::new();
    let mut rest = body;
    while !rest.is_empty() {
        let space = rest.iter().position(|byte| *byte == b' ')?;
        let length: usize = std::str::from_utf8(&rest[..space]).ok()?.parse().ok()?;
        let record = rest.get(space + 1..length)?.strip_suffix(b"\n")?;
        let equals = record.iter().position(|byte| *byte == b'=')?;
        records.insert(record[..equals].to_vec(), record[equals + 1..].to_vec());
        rest = &rest[length..];
    }
    Some(records)
}

/// Placeholder for a digest that is not computed yet.
pub(crate) fn unknown_digest() -> Digest {
    Digest::from_bytes([0; 32])
}
