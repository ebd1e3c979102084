//! One header block of a tar: the fields as GNU tar, libarchive and Go read them if they agree. Pure.
//!
//! The three disagree about damaged headers. Such a header is an error here, so that no archive has one meaning for Silo and another for
//! the program that made or checked it.

/// The size of a header, and the block size of archives.
pub const BLOCK_BYTES: usize = 512;

/// One header block.
pub type Block = [u8; BLOCK_BYTES];

/// Format of a block: the bytes after the magic differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Before POSIX: no prefix field.
    V7,
    /// POSIX, with the prefix of Jörg Schilling's star if its marker is present.
    Ustar,
    /// GNU's old format: sparse map instead of the prefix.
    Gnu,
}

/// The type of an entry, from its type byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tag {
    /// A regular file; the old type byte also allows a directory.
    File {
        /// True if a trailing slash makes it a directory.
        or_dir: bool,
    },
    /// A sparse file in GNU's old format.
    Sparse,
    /// A hard link.
    Link,
    /// A symlink.
    Symlink,
    /// A character device.
    Char,
    /// A block device.
    Block,
    /// A directory.
    Dir,
    /// A pipe.
    Pipe,
    /// Records for the next entry.
    Pax,
    /// Records for all following entries.
    Global,
    /// The next entry's path.
    LongName,
    /// The next entry's link target.
    LongLink,
    /// A type without an agreed meaning.
    Other(u8),
}

/// Returns true if all bytes of a block are zero.
pub fn is_zero(block: &[u8]) -> bool {
    block.iter().all(|byte| *byte == 0)
}

/// Verifies the checksum of a header; old programs added signed bytes.
pub fn is_sound(block: &Block) -> bool {
    let Ok(said) = number(&block[148..156]) else { return false };
    let counted = |at: usize| if (148..156).contains(&at) { b' ' } else { block[at] };
    let unsigned: i64 = (0..BLOCK_BYTES).map(|at| i64::from(counted(at))).sum();
    let signed: i64 = (0..BLOCK_BYTES).map(|at| i64::from(counted(at).cast_signed())).sum();
    said == unsigned || said == signed
}

/// Returns the format of a header.
pub fn form(block: &Block) -> Form {
    match &block[257..265] {
        b"ustar  \0" => Form::Gnu,
        [b'u', b's', b't', b'a', b'r', 0, ..] => Form::Ustar,
        _ => Form::V7,
    }
}

/// Returns the type of a header's entry.
pub fn tag(block: &Block) -> Tag {
    match block[156] {
        0 => Tag::File { or_dir: true },
        b'0' | b'7' => Tag::File { or_dir: false },
        b'1' => Tag::Link,
        b'2' => Tag::Symlink,
        b'3' => Tag::Char,
        b'4' => Tag::Block,
        b'5' => Tag::Dir,
        b'6' => Tag::Pipe,
        b'S' if form(block) == Form::Gnu => Tag::Sparse,
        b'x' | b'X' => Tag::Pax,
        b'g' => Tag::Global,
        b'L' => Tag::LongName,
        b'K' => Tag::LongLink,
        other => Tag::Other(other),
    }
}

/// Returns an entry's path.
pub fn path(block: &Block) -> Vec<u8> {
    let name = text(&block[..100]);
    let prefix = match form(block) {
        Form::Ustar if &block[508..512] == b"tar\0" => text(&block[345..476]),
        Form::Ustar => text(&block[345..500]),
        Form::V7 | Form::Gnu => &[],
    };
    if prefix.is_empty() { name.to_vec() } else { [prefix, b"/", name].concat() }
}

/// Returns a link's target.
pub fn link(block: &Block) -> Vec<u8> {
    text(&block[157..257]).to_vec()
}

/// Returns the permission bits.
pub fn mode(block: &Block) -> Result<i64, &'static str> {
    number(&block[100..108])
}

/// Returns the user id.
pub fn uid(block: &Block) -> Result<i64, &'static str> {
    number(&block[108..116])
}

/// Returns the group id.
pub fn gid(block: &Block) -> Result<i64, &'static str> {
    number(&block[116..124])
}

/// Returns the length of the contents, for types that have any.
pub fn size(block: &Block) -> Result<i64, &'static str> {
    number(&block[124..136])
}

/// Returns the mtime in seconds since 1970.
pub fn mtime(block: &Block) -> Result<i64, &'static str> {
    number(&block[136..148])
}

/// Returns the bytes of a field up to the first zero.
pub fn text(field: &[u8]) -> &[u8] {
    field.split(|byte| *byte == 0).next().unwrap_or_default()
}

/// Parses a number: octal digits, or binary if the first bit is set. Blank is zero.
pub fn number(field: &[u8]) -> Result<i64, &'static str> {
    if field.first().is_some_and(|first| first & 0x80 != 0) {
        return binary(field);
    }
    let start = field.iter().position(|byte| !matches!(byte, b' ' | 0)).unwrap_or(field.len());
    let digits = field[start..].iter().position(|byte| !matches!(byte, b'0'..=b'7')).unwrap_or(field.len() - start);
    if !matches!(field.get(start + digits), None | Some(b' ' | 0)) {
        return Err("a number with characters other than octal digits");
    }
    // Twelve octal digits, the longest field, are 36 bits.
    Ok(field[start..start + digits].iter().fold(0, |value, digit| value << 3 | i64::from(digit - b'0')))
}

/// Parses a two's complement number after the marker bit.
fn binary(field: &[u8]) -> Result<i64, &'static str> {
    let is_negative = field[0] & 0x40 != 0;
    let first = if is_negative { field[0] } else { field[0] & 0x7f };
    let (mut value, fill) = if is_negative { (-1_i128, 0xff) } else { (0, 0) };
    for (at, byte) in std::iter::once(first).chain(field[1..].iter().copied()).enumerate() {
        // Bytes beyond 64 bits may only repeat the sign.
        if at + 9 <= field.len() && byte != fill {
            return Err("a number of more than 64 bits");
        }
        value = value << 8 | i128::from(byte);
    }
    // The value has at most twelve bytes, so the shifts do not overflow.
    i64::try_from(value).map_err(|_| "a number of more than 64 bits")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_as_their_writers_mean_them() {
        for (field, expect) in [
            (&b"0000644\0"[..], Some(0o644)),
            (b"   644 \0", Some(0o644)),
            (b"644\0junk", Some(0o644)),
            (b"\0\0\0\0\0\0\0\0", Some(0)),
            (b"        ", Some(0)),
            (b"\0     7\0", Some(7)),
            (b"77777777", Some(0o7777_7777)),
            (b"777777777777", Some((1 << 36) - 1)),
            (b"0000648\0", None),
            (b"-000001\0", None),
            (b"0x1\0\0\0\0\0", None),
            (b"\x80\0\0\0\0\0\x01\0", Some(256)),
            (b"\xff\xff\xff\xff\xff\xff\xff\xfe", Some(-2)),
            (b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xae\x80", Some(-86400)),
            (b"\x80\0\0\0\x7f\xff\xff\xff\xff\xff\xff\xff", Some(i64::MAX)),
            (b"\x80\0\0\0\xff\xff\xff\xff\xff\xff\xff\xff", None),
            (b"\x80\0\0\x01\0\0\0\0\0\0\0\0", None),
            (b"\xff\xff\xff\xfe\0\0\0\0\0\0\0\0", None),
        ] {
            assert_eq!(number(field).ok(), expect, "{field:?}");
        }
    }
}
