//! Pack indexes, version 2: written for verified packs, and searched in the host's repository.

use std::fs::File;
use std::os::unix::fs::FileExt;

use super::oid::{Format, Oid};
use super::pack::Pack;

/// Marks an offset in the table of large offsets.
const LARGE: u32 = 0x8000_0000;
/// Size of the header: signature and version.
const HEAD: u64 = 8;
const FANOUT: u64 = 256 * 4;

/// Serializes the index of a pack.
pub fn write(pack: &Pack, format: Format) -> Option<Vec<u8>> {
    let mut bytes = b"\xfftOc\0\0\0\x02".to_vec();
    let mut count: u32 = 0;
    let mut objects = pack.objects.iter().peekable();
    for first in 0..=255u8 {
        while objects.next_if(|object| object.oid.as_bytes().first() == Some(&first)).is_some() {
            count += 1;
        }
        bytes.extend(count.to_be_bytes());
    }
    pack.objects.iter().for_each(|object| bytes.extend(object.oid.as_bytes()));
    pack.objects.iter().for_each(|object| bytes.extend(object.crc.to_be_bytes()));
    let mut large: Vec<u64> = Vec::new();
    for object in &pack.objects {
        let short = u32::try_from(object.offset).ok().filter(|offset| offset & LARGE == 0);
        let offset = match short {
            Some(offset) => offset,
            None => {
                large.push(object.offset);
                LARGE | u32::try_from(large.len() - 1).ok()?
            }
        };
        bytes.extend(offset.to_be_bytes());
    }
    large.iter().for_each(|offset| bytes.extend(offset.to_be_bytes()));
    bytes.extend(pack.checksum.as_bytes());
    let mut hasher = format.hasher();
    hasher.update(&bytes);
    bytes.extend(hasher.finish()?.as_bytes());
    Some(bytes)
}

/// True if an index has an object.
pub fn has(file: &File, oid: &Oid, format: Format) -> bool {
    position(file, oid, format).is_some()
}

/// Returns the offset of an object in the pack, as the index has it.
pub fn find(file: &File, oid: &Oid, format: Format) -> Option<u64> {
    let position = u64::from(position(file, oid, format)?);
    let count = u64::from(number(file, HEAD + 255 * 4)?);
    let offsets = HEAD + FANOUT + count * (format.bytes() as u64 + 4);
    let short = number(file, offsets + position * 4)?;
    if short & LARGE == 0 {
        return Some(u64::from(short));
    }
    let mut bytes = [0; 8];
    file.read_exact_at(&mut bytes, offsets + count * 4 + u64::from(short & !LARGE) * 8).ok()?;
    Some(u64::from_be_bytes(bytes))
}

fn number(file: &File, at: u64) -> Option<u32> {
    let mut bytes = [0; 4];
    file.read_exact_at(&mut bytes, at).ok()?;
    Some(u32::from_be_bytes(bytes))
}

/// Returns the position of an object in the sorted list of an index.
fn position(file: &File, oid: &Oid, format: Format) -> Option<u32> {
    if (number(file, 0)?, number(file, 4)?) != (0xff74_4f63, 2) {
        return None;
    }
    let first = u64::from(*oid.as_bytes().first()?);
    let mut low = if first == 0 { 0 } else { number(file, HEAD + (first - 1) * 4)? };
    let mut high = number(file, HEAD + first * 4)?;
    let mut name = vec![0; format.bytes()];
    while low < high {
        let middle = low + (high - low) / 2;
        file.read_exact_at(&mut name, HEAD + FANOUT + u64::from(middle) * format.bytes() as u64).ok()?;
        match name.as_slice().cmp(oid.as_bytes()) {
            std::cmp::Ordering::Equal => return Some(middle),
            std::cmp::Ordering::Less => low = middle + 1,
            std::cmp::Ordering::Greater => high = middle,
        }
    }
    None
}
