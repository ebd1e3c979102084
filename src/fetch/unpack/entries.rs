//! Walks through the entries of a foreign tar: the only place that reads archives not written by Silo.
//!
//! An entry is read as GNU tar, libarchive and Go read it. Where they differ, or an archive is damaged, it is an error: an archive must not
//! have one meaning here and another for its author. docs/store.md lists the exceptions, where one of the readers is followed. The `tar`
//! crate is not used for reading: it ignores the holes of pax sparse files, treats the size of an entry without contents as contents, and
//! cannot represent times before 1970.

use std::collections::BTreeMap;
use std::io::{self, Read};

use super::header::{self, BLOCK_BYTES, Block, Tag};
use super::pax::{self, Records};
use super::sparse::{self, Map, SparseInfo, SparseReader, invalid};

/// Limit of the data before an entry's contents: headers, their records, and sparse maps. Paths are at most 4 KiB.
const MAX_HEADER_BYTES: u64 = 1 << 20;
/// Limit of an entry's size, with holes: more than any file system supports.
const MAX_ENTRY_BYTES: u64 = 1 << 60;

/// The type of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A regular file.
    File,
    /// A directory.
    Dir,
    /// A symlink.
    Symlink,
    /// A hard link.
    Link,
    /// A character device.
    Char,
    /// A block device.
    Block,
    /// A pipe.
    Pipe,
}

/// One entry; it reads as its contents, with holes as zeros.
pub struct Entry<'a> {
    /// Its path, unescaped as in the archive.
    pub path: Vec<u8>,
    /// Its type.
    pub kind: Kind,
    /// The target of a link, unescaped as in the archive.
    pub link: Vec<u8>,
    /// The permission bits.
    pub mode: u32,
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// The mtime in seconds since 1970.
    pub mtime: i64,
    /// Length of the contents in bytes.
    pub size: u64,
    /// Extended attributes by name.
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    /// True if a global pax header applies to it. POSIX and GNU tar apply such a header; Go and libarchive do not.
    pub by_global: bool,
    contents: Box<dyn Read + 'a>,
}

impl Read for Entry<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.contents.read(buffer)
    }
}

/// Passes each entry of a tar to `act`; `failed` wraps read errors. The caller limits the contents it reads.
///
/// The last entry may lack the padding of its block, and the archive its final zero blocks: umoci omits both, and other readers accept
/// that. The contents of an entry must be complete.
pub fn each<E>(tar: &mut dyn Read, failed: impl Fn(io::Error) -> E, mut act: impl FnMut(&mut Entry<'_>) -> Result<(), E>) -> Result<(), E> {
    let mut all = Records::default();
    while let Some(head) = head(tar, &mut all).map_err(&failed)? {
        let stored = head.stored;
        let mut data = tar.take(stored);
        act(&mut head.entry(&mut data))?;
        io::copy(&mut data, &mut io::sink()).map_err(&failed)?;
        if data.limit() > 0 {
            return Err(failed(cut_short()));
        }
        if !pad(tar, stored).map_err(&failed)? {
            return Ok(());
        }
    }
    Ok(())
}

/// Reads the padding after the last entry.
pub fn padding(tar: &mut dyn Read) -> io::Result<()> {
    match io::copy(&mut tar.take(MAX_HEADER_BYTES + 1), &mut io::sink())? {
        count if count > MAX_HEADER_BYTES => Err(invalid(&format!("more than {MAX_HEADER_BYTES} bytes after its end"))),
        _ => Ok(()),
    }
}

/// Normalises a path relative to the root: empty components and `.` are dropped, and `..` removes the name before it. `None` is the root
/// itself; a path that leaves the root is an error.
pub fn plain(spelled: &[u8]) -> Result<Option<Vec<u8>>, &'static str> {
    let mut parts: Vec<&[u8]> = Vec::new();
    for part in spelled.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." if parts.pop().is_none() => return Err("a path that leaves the root by .."),
            b".." => {}
            part => parts.push(part),
        }
    }
    Ok((!parts.is_empty()).then(|| parts.join(&b'/')))
}

/// An entry before its contents are read.
struct Head {
    block: Block,
    tag: Tag,
    /// Its pax records, including the global ones.
    records: Records,
    path: Vec<u8>,
    link: Vec<u8>,
    kind: Kind,
    uid: u32,
    gid: u32,
    mode: u32,
    mtime: i64,
    /// True if a global pax header applies to it.
    by_global: bool,
    /// Length of the contents in the archive.
    stored: u64,
    map: Option<Map>,
}

impl Head {
    fn entry<'a>(self, data: &'a mut dyn Read) -> Entry<'a> {
        let size = self.map.as_ref().map_or(self.stored, |map| map.size);
        let contents: Box<dyn Read + 'a> = match self.map {
            Some(map) => Box::new(SparseReader::new(data, map)),
            None => Box::new(data),
        };
        let Head { path, kind, link, mode, uid, gid, mtime, records, by_global, .. } = self;
        Entry { path, kind, link, mode, uid, gid, mtime, size, xattrs: records.xattrs, by_global, contents }
    }
}

/// Reads the headers up to the next entry's contents; `None` at the end of the archive.
fn head(tar: &mut dyn Read, all: &mut Records) -> io::Result<Option<Head>> {
    let mut left = Allowance(MAX_HEADER_BYTES);
    let (mut own, mut long_name, mut long_link) = (None, None, None);
    loop {
        let Some(block) = block(tar, &mut left)? else {
            return match (&own, &long_name, &long_link) {
                (None, None, None) => Ok(None),
                _ => Err(cut_short()),
            };
        };
        let tag = header::tag(&block);
        match tag {
            Tag::Pax => set(&mut own, pax::parse(&body(tar, &block, &mut left)?).map_err(invalid)?)?,
            Tag::LongName => set(&mut long_name, header::text(&body(tar, &block, &mut left)?).to_vec())?,
            Tag::LongLink => set(&mut long_link, header::text(&body(tar, &block, &mut left)?).to_vec())?,
            Tag::Global => {
                let records = pax::parse(&body(tar, &block, &mut left)?).map_err(invalid)?;
                if records.is_of_one_entry() {
                    return Err(invalid("a global pax header with a path, a size or a map, which tar readers interpret differently"));
                }
                *all = all.over(records);
            }
            _ => {
                let own = all.over(own.unwrap_or_default());
                let head = whole(tar, block, tag, (own, long_name, long_link), &mut left)?;
                return Ok(Some(Head { by_global: !all.is_empty(), ..head }));
            }
        }
    }
}

/// Stores the value of an extended header. A second one is an error: readers disagree on which to use.
fn set<T>(place: &mut Option<T>, value: T) -> io::Result<()> {
    match place.replace(value) {
        None => Ok(()),
        Some(_) => Err(invalid("two extended headers of one type before one entry")),
    }
}

type Before = (Records, Option<Vec<u8>>, Option<Vec<u8>>);

/// Combines the extended headers before an entry with its own header.
fn whole(tar: &mut dyn Read, block: Block, tag: Tag, before: Before, left: &mut Allowance) -> io::Result<Head> {
    let (mut records, long_name, long_link) = before;
    let path = records.path.take().or(long_name).unwrap_or_else(|| header::path(&block));
    let link = records.link.take().or(long_link).unwrap_or_else(|| header::link(&block));
    let wrong = |what: &str| invalid(&format!("{}: {what}", shown(&path)));
    let number = |value: Result<i64, &'static str>| value.map_err(wrong);
    let id = |said: Option<i64>, value: Result<i64, &'static str>| -> io::Result<u32> {
        u32::try_from(said.map_or_else(|| number(value), Ok)?).map_err(|_| wrong("an owner number out of range"))
    };
    let size = match records.size {
        Some(size) => size,
        None => u64::try_from(number(header::size(&block))?).map_err(|_| wrong("a negative size"))?,
    };
    let ends_with_slash = path.ends_with(b"/");
    let kind = match tag {
        Tag::File { or_dir: true } if ends_with_slash && size == 0 => Kind::Dir,
        Tag::File { .. } | Tag::Sparse if ends_with_slash => {
            return Err(wrong("a file with a trailing slash in its name, which tar readers interpret differently"));
        }
        Tag::File { .. } | Tag::Sparse => Kind::File,
        Tag::Dir => Kind::Dir,
        Tag::Symlink => Kind::Symlink,
        Tag::Link => Kind::Link,
        Tag::Char => Kind::Char,
        Tag::Block => Kind::Block,
        Tag::Pipe => Kind::Pipe,
        Tag::Other(tag) => return Err(wrong(&format!("an entry of unsupported type \"{}\"", char::from(tag).escape_debug()))),
        Tag::Pax | Tag::Global | Tag::LongName | Tag::LongLink => return Err(wrong("a header without an entry")),
    };
    // An entry without contents may still have a size: some writers repeat a file's size in its hard links. In POSIX and Go no data follows
    // then.
    let stored = if kind == Kind::File { size } else { 0 };
    let mode = number(header::mode(&block))?;
    let mut head = Head {
        uid: id(records.uid, header::uid(&block))?,
        gid: id(records.gid, header::gid(&block))?,
        mode: u32::try_from(mode & 0o7777).map_err(|_| wrong("a mode out of range"))?,
        mtime: records.mtime.map_or_else(|| number(header::mtime(&block)), Ok)?,
        block,
        tag,
        records,
        link,
        kind,
        by_global: false,
        stored,
        map: None,
        path: path.clone(),
    };
    holes(tar, &mut head, left)
        .map_err(|error| if error.kind() == io::ErrorKind::InvalidData { wrong(&error.to_string()) } else { error })?;
    if head.stored.max(head.map.as_ref().map_or(0, |map| map.size)) > MAX_ENTRY_BYTES {
        return Err(wrong("a size out of range"));
    }
    Ok(head)
}

/// Reads a file's sparse map, if it has one.
fn holes(tar: &mut dyn Read, head: &mut Head, left: &mut Allowance) -> io::Result<()> {
    let said = sparse::said(&head.records).map_err(invalid)?;
    if head.kind != Kind::File && said != SparseInfo::Nothing {
        return Err(invalid("holes in an entry that is not a file"));
    }
    let map = match said {
        SparseInfo::Nothing if head.tag == Tag::Sparse => {
            let (mut pieces, size) = (Vec::new(), sparse::old_size(&head.block).map_err(invalid)?);
            let mut goes_on = sparse::of_header(&head.block, &mut pieces).map_err(invalid)?;
            while goes_on {
                let block = raw(tar, left)?.ok_or_else(cut_short)?;
                goes_on = sparse::of_block(&block, &mut pieces).map_err(invalid)?;
            }
            Map { pieces, size }
        }
        SparseInfo::Nothing => return Ok(()),
        SparseInfo::Map(..) | SparseInfo::Size(..) if head.tag == Tag::Sparse => return Err(invalid("a sparse file in two formats")),
        SparseInfo::Map(map, name) => {
            head.path = name.unwrap_or_else(|| std::mem::take(&mut head.path));
            map
        }
        SparseInfo::Size(size, name) => {
            head.path = name.unwrap_or_else(|| std::mem::take(&mut head.path));
            sparse::leading(&mut Limited { inner: tar, left }, &mut head.stored, size)?
        }
    };
    map.check(head.stored).map_err(invalid)?;
    head.map = Some(map);
    Ok(())
}

/// Bytes that may still be read before an entry's contents.
struct Allowance(u64);

impl Allowance {
    fn take(&mut self, count: u64) -> io::Result<()> {
        self.0 = self.0.checked_sub(count).ok_or_else(|| invalid(&format!("a header of more than {MAX_HEADER_BYTES} bytes")))?;
        Ok(())
    }
}

struct Limited<'a> {
    inner: &'a mut dyn Read,
    left: &'a mut Allowance,
}

impl Read for Limited<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.left.take(count as u64)?;
        Ok(count)
    }
}

/// Reads the next header; `None` at the end of the archive, with or without its final zero blocks.
fn block(tar: &mut dyn Read, left: &mut Allowance) -> io::Result<Option<Block>> {
    let Some(block) = raw(tar, left)? else { return Ok(None) };
    if !header::is_zero(&block) {
        return if header::is_sound(&block) { Ok(Some(block)) } else { Err(invalid("a damaged header: wrong checksum")) };
    }
    let mut next = [0; BLOCK_BYTES];
    let count = fill(tar, &mut next)?;
    match header::is_zero(&next[..count]) {
        true => Ok(None),
        false => Err(invalid("a block of zeros between entries, at which some readers stop")),
    }
}

fn raw(tar: &mut dyn Read, left: &mut Allowance) -> io::Result<Option<Block>> {
    let mut block = [0; BLOCK_BYTES];
    left.take(BLOCK_BYTES as u64)?;
    match fill(tar, &mut block)? {
        0 => Ok(None),
        BLOCK_BYTES => Ok(Some(block)),
        _ => Err(cut_short()),
    }
}

/// Reads the contents of an extended header.
fn body(tar: &mut dyn Read, block: &Block, left: &mut Allowance) -> io::Result<Vec<u8>> {
    let size = header::size(block).ok().and_then(|size| u64::try_from(size).ok()).ok_or_else(|| invalid("a malformed size"))?;
    left.take(size.max(1).saturating_add(BLOCK_BYTES as u64 - 1))?;
    let mut body = vec![0; usize::try_from(size).map_err(|_| invalid("a malformed size"))?];
    tar.read_exact(&mut body)?;
    match pad(tar, size)? {
        true => Ok(body),
        false => Err(cut_short()),
    }
}

/// Reads the padding after `size` bytes; returns false at the end of the input.
fn pad(tar: &mut dyn Read, size: u64) -> io::Result<bool> {
    let length = (size.wrapping_neg() % BLOCK_BYTES as u64) as usize;
    match fill(tar, &mut [0; BLOCK_BYTES][..length])? {
        count if count == length => Ok(true),
        0 => Ok(false),
        _ => Err(cut_short()),
    }
}

/// Reads until the buffer is full or the input ends.
fn fill(tar: &mut dyn Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut count = 0;
    while count < buffer.len() {
        match tar.read(&mut buffer[count..]) {
            Ok(0) => break,
            Ok(more) => count += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(count)
}

fn cut_short() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "the archive is cut short")
}

/// Escapes and shortens a path for a message.
pub fn shown(path: &[u8]) -> String {
    /// Limit of a name in a message, in bytes.
    const MOST: usize = 300;
    let cut = if path.len() > MOST { "…" } else { "" };
    format!("{}{cut}", String::from_utf8_lossy(&path[..path.len().min(MOST)]).escape_debug())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn contents(mut bytes: &[u8]) -> io::Result<Vec<String>> {
        let mut all = Vec::new();
        each(
            &mut bytes,
            |error| error,
            |entry| {
                let mut text = String::new();
                entry.read_to_string(&mut text)?;
                all.push(text);
                Ok(())
            },
        )?;
        Ok(all)
    }

    #[test]
    fn an_archive_may_end_with_its_last_byte_and_not_before() {
        let mut builder = tar::Builder::new(Vec::new());
        for (name, text) in [("a", "first"), ("b", "the last")] {
            let mut header = tar::Header::new_ustar();
            header.set_size(text.len() as u64);
            header.set_mode(0o644);
            builder.append_data(&mut header, name, text.as_bytes()).expect("memory takes it");
        }
        let whole = builder.into_inner().expect("memory takes it");
        let end = 512 + 512 + 512 + "the last".len();
        for length in [whole.len(), whole.len() - 512, 2048, end] {
            assert_eq!(contents(&whole[..length]).expect("it is whole"), ["first", "the last"], "{length}");
        }
        for length in [end - 1, end + 1, 1536 + 1, 1536 - 1, 1024 + 1, 600, 512 + 3, 1] {
            contents(&whole[..length]).expect_err("something is missing");
        }
        // Entries after a block of zeros: some readers see them, others do not.
        let hidden = [&whole[..1024], &[0; 512], &whole[1024..]].concat();
        assert!(contents(&hidden).expect_err("it is hidden").to_string().contains("some readers stop"));
    }

    #[test]
    fn paths_are_the_same_however_they_are_spelled() {
        for spelled in ["a/b", "./a/b", "/a/b", "//a//b/", "a/./b/.", "a/c/../b", "././/a/b"] {
            assert_eq!(plain(spelled.as_bytes()).expect(spelled).as_deref(), Some(&b"a/b"[..]), "{spelled}");
        }
        for root in ["", "/", ".", "./", "a/.."] {
            assert_eq!(plain(root.as_bytes()), Ok(None), "{root}");
        }
        for outside in ["..", "../a", "a/../../b", "/.."] {
            plain(outside.as_bytes()).expect_err(outside);
        }
    }
}
