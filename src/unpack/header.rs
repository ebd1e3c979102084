//! One header block of a tar: its fields, as GNU tar, libarchive and Go read them where those agree. Pure.
//!
//! The three disagree about damaged headers. Such a header is an error here, so that no archive means one thing to Silo and
//! another to the program that made or checked it.

/// The size of a header, and the unit in which an archive is written.
pub const BLOCK_BYTES: usize = 512;

/// One header block.
pub type Block = [u8; BLOCK_BYTES];

/// Which writer's rules the block follows: the three differ in the bytes behind the magic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Before POSIX: no prefix of names.
    V7,
    /// POSIX, with the prefix of Jörg Schilling's star where its mark is there.
    Ustar,
    /// GNU's older form: holes of files instead of the prefix.
    Gnu,
}

/// What follows a header, as its type byte says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tag {
    /// A regular file; the older tag leaves open whether it is a directory.
    File {
        /// Whether a slash at the end of the name makes it a directory.
        or_dir: bool,
    },
    /// A regular file with holes, as GNU's older form writes it.
    Sparse,
    /// A hard link.
    Link,
    /// A symbolic link.
    Symlink,
    /// A character device.
    Char,
    /// A block device.
    Block,
    /// A directory.
    Dir,
    /// A pipe.
    Pipe,
    /// Records about the next entry.
    Pax,
    /// Records about all entries that follow.
    Global,
    /// The next entry's path.
    LongName,
    /// The next entry's link target.
    LongLink,
    /// Something that no reader agrees on.
    Other(u8),
}

/// Returns whether a block holds nothing but zeros.
pub fn is_zero(block: &[u8]) -> bool {
    block.iter().all(|byte| *byte == 0)
}

/// Checks the sum of a header's bytes; older programs summed them as signed ones.
pub fn is_sound(block: &Block) -> bool {
    let Ok(said) = number(&block[148..156]) else { return false };
    let counted = |at: usize| if (148..156).contains(&at) { b' ' } else { block[at] };
    let unsigned: i64 = (0..BLOCK_BYTES).map(|at| i64::from(counted(at))).sum();
    let signed: i64 = (0..BLOCK_BYTES).map(|at| i64::from(counted(at).cast_signed())).sum();
    said == unsigned || said == signed
}

/// Returns whose rules a header follows.
pub fn form(block: &Block) -> Form {
    match &block[257..265] {
        b"ustar  \0" => Form::Gnu,
        [b'u', b's', b't', b'a', b'r', 0, ..] => Form::Ustar,
        _ => Form::V7,
    }
}

/// Returns what kind of entry a header announces.
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

/// Returns the owner's number.
pub fn uid(block: &Block) -> Result<i64, &'static str> {
    number(&block[108..116])
}

/// Returns the group's number.
pub fn gid(block: &Block) -> Result<i64, &'static str> {
    number(&block[116..124])
}

/// Returns how many bytes follow, where the kind has any.
pub fn size(block: &Block) -> Result<i64, &'static str> {
    number(&block[124..136])
}

/// Returns the time of the last change, in seconds since 1970.
pub fn mtime(block: &Block) -> Result<i64, &'static str> {
    number(&block[136..148])
}

/// Returns the bytes of a field up to the first zero.
pub fn text(field: &[u8]) -> &[u8] {
    field.split(|byte| *byte == 0).next().unwrap_or_default()
}

/// Reads a number: octal digits, or the bytes themselves where the first bit says so. Blank is zero.
pub fn number(field: &[u8]) -> Result<i64, &'static str> {
    if field.first().is_some_and(|first| first & 0x80 != 0) {
        return binary(field);
    }
    let start = field.iter().position(|byte| !matches!(byte, b' ' | 0)).unwrap_or(field.len());
    let digits = field[start..].iter().position(|byte| !matches!(byte, b'0'..=b'7')).unwrap_or(field.len() - start);
    if !matches!(field.get(start + digits), None | Some(b' ' | 0)) {
        return Err("a number with other characters than octal digits");
    }
    // Twelve octal digits, the most of any field, are 36 bits.
    Ok(field[start..start + digits].iter().fold(0, |value, digit| value << 3 | i64::from(digit - b'0')))
}

/// Reads a number in the two's complement of its bytes, behind the one bit that marks it.
fn binary(field: &[u8]) -> Result<i64, &'static str> {
    let is_negative = field[0] & 0x40 != 0;
    let first = if is_negative { field[0] } else { field[0] & 0x7f };
    let (mut value, fill) = if is_negative { (-1_i128, 0xff) } else { (0, 0) };
    for (at, byte) in std::iter::once(first).chain(field[1..].iter().copied()).enumerate() {
        // What no number of 64 bits has must be the sign alone.
        if at + 9 <= field.len() && byte != fill {
            return Err("a number of more than 64 bits");
        }
        value = value << 8 | i128::from(byte);
    }
    // The shifts keep sixteen bytes at most, and fields have twelve.
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
