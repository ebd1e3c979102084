//! Reads the members of archives, for the search of the cause of a difference: tar, ar, and zip with the formats that are zip files, such as
//! jar and whl.

use std::collections::BTreeMap;
use std::io::{Cursor, Read};

use silo_fetch::unpack::ar_headers::CheckedHeaders;
use zip::ZipArchive;

/// Limit on the bytes of all contents of an archive.
const MAX_BYTES: u64 = 64 << 20;
/// Limit on the number of members.
const MAX_MEMBERS: usize = 100_000;

/// A member of an archive. Its time, mode and owner are left out.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Member {
    pub name: Vec<u8>,
    pub content: Vec<u8>,
}

/// Returns the members in their order; `None` for other files, and for archives that are damaged or too large.
pub(super) fn members(bytes: &[u8]) -> Option<Vec<Member>> {
    match bytes {
        _ if bytes.get(257..262) == Some(b"ustar") => of_tar(bytes),
        _ if bytes.starts_with(b"PK\x03\x04") => of_zip(bytes),
        _ if bytes.starts_with(b"!<arch>\n") => of_ar(bytes),
        _ => None,
    }
}

/// The contents of members, by name and by number among those with the same name.
pub(super) type ByName<'a> = BTreeMap<(&'a [u8], usize), &'a [u8]>;

/// Returns the contents by name; several members may have the same name.
pub(super) fn by_name(members: &[Member]) -> ByName<'_> {
    let mut seen: BTreeMap<&[u8], usize> = BTreeMap::new();
    let mut found = ByName::new();
    for member in members {
        let number = seen.entry(&member.name).or_default();
        found.insert((&member.name, *number), &member.content);
        *number += 1;
    }
    found
}

/// The members so far, and the bytes that the others may have.
struct Members {
    all: Vec<Member>,
    left: u64,
}

impl Members {
    fn new() -> Members {
        Members { all: Vec::new(), left: MAX_BYTES }
    }

    /// Adds a member that begins with `start`; `None` beyond a limit, or if it cannot be read.
    fn add(&mut self, name: Vec<u8>, start: Vec<u8>, rest: impl Read) -> Option<()> {
        let mut content = start;
        rest.take(self.left.saturating_add(1)).read_to_end(&mut content).ok()?;
        self.left = self.left.checked_sub(content.len() as u64)?;
        self.all.push(Member { name, content });
        (self.all.len() <= MAX_MEMBERS).then_some(())
    }
}

fn of_tar(bytes: &[u8]) -> Option<Vec<Member>> {
    let mut archive = tar::Archive::new(bytes);
    let mut members = Members::new();
    for entry in archive.entries().ok()? {
        let entry = entry.ok()?;
        let name = entry.path_bytes().into_owned();
        let link = entry.link_name_bytes().map(|name| name.into_owned()).unwrap_or_default();
        members.add(name, link, entry)?;
    }
    Some(members.all)
}

fn of_zip(bytes: &[u8]) -> Option<Vec<Member>> {
    let mut archive = ZipArchive::new(Cursor::new(bytes)).ok()?;
    let mut members = Members::new();
    for number in 0..archive.len() {
        let file = archive.by_index(number).ok()?;
        let name = file.name_raw().to_vec();
        members.add(name, Vec::new(), file)?;
    }
    Some(members.all)
}

fn of_ar(bytes: &[u8]) -> Option<Vec<Member>> {
    let mut archive = ar::Archive::new(CheckedHeaders::new(bytes));
    let mut members = Members::new();
    while let Some(entry) = archive.next_entry() {
        let entry = entry.ok()?;
        let name = entry.header().identifier().to_vec();
        members.add(name, Vec::new(), entry)?;
    }
    Some(members.all)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use zip::write::SimpleFileOptions;

    use super::*;

    const FILES: [(&str, &str); 2] = [("b-a-long-name-of-a-member.txt", "one\n"), ("a", "two two two two two two\n")];

    fn a_tar() -> Vec<u8> {
        let mut tar = tar::Builder::new(Vec::new());
        for (name, text) in FILES {
            let mut header = tar::Header::new_ustar();
            header.set_size(text.len() as u64);
            tar.append_data(&mut header, name, text.as_bytes()).expect("memory");
        }
        tar.into_inner().expect("memory")
    }

    fn a_zip() -> Vec<u8> {
        let mut zip = zip::ZipWriter::new(Cursor::new(Vec::new()));
        for (number, (name, text)) in FILES.into_iter().enumerate() {
            let method = if number == 0 { zip::CompressionMethod::Stored } else { zip::CompressionMethod::Deflated };
            zip.start_file(name, SimpleFileOptions::default().compression_method(method)).expect("memory");
            zip.write_all(text.as_bytes()).expect("memory");
        }
        zip.finish().expect("memory").into_inner()
    }

    fn an_ar() -> Vec<u8> {
        let mut ar = ar::GnuBuilder::new(Vec::new(), FILES.iter().map(|(name, _)| name.as_bytes().to_vec()).collect());
        for (name, text) in FILES {
            ar.append(&ar::Header::new(name.into(), text.len() as u64), text.as_bytes()).expect("memory");
        }
        ar.into_inner().expect("memory")
    }

    #[test]
    fn members_are_read_in_their_order() {
        let expect: Vec<Member> = FILES.map(|(name, text)| Member { name: name.into(), content: text.into() }).into();
        for archive in [a_tar(), a_zip(), an_ar()] {
            assert_eq!(members(&archive).as_ref(), Some(&expect));
            // Damaged ones end in an error or in other members, and never in a panic.
            for length in 0..archive.len() {
                let cut = members(&archive[..length]);
                assert!(cut.as_ref() != Some(&expect) || archive[length..].iter().all(|byte| [0, b'\n'].contains(byte)));
            }
            for at in 0..archive.len() {
                let mut changed = archive.clone();
                changed[at] ^= 0xff;
                drop(members(&changed));
            }
        }
        assert_eq!(members(b"#!/bin/sh\n"), None);
    }

    #[test]
    fn a_large_archive_has_no_members() {
        let mut zip = zip::ZipWriter::new(Cursor::new(Vec::new()));
        let options = SimpleFileOptions::default().compression_method(zip::CompressionMethod::Deflated);
        zip.start_file("zeros", options).expect("memory");
        std::io::copy(&mut std::io::repeat(0).take(MAX_BYTES + 1), &mut zip).expect("memory");
        let archive = zip.finish().expect("memory").into_inner();
        assert!(archive.len() < 1 << 20 && members(&archive).is_none());
    }
}
