//! Runs every saved fuzz input of `fuzz/corpus/`.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use silo_wire::frame::{Frame, MAX_PAYLOAD_BYTES, Report, StageFailure};

use crate::support::numbers::Numbers;

#[path = "../fuzz/checks.rs"]
mod checks;
#[path = "../fuzz/documents.rs"]
mod documents;

/// A reader of hostile bytes.
type Reader = fn(&[u8]);

/// The readers of pushed images.
const DOCUMENTS: [(&str, Reader); 8] = [
    ("inputs", documents::inputs),
    ("contents", documents::contents),
    ("document", documents::document),
    ("reference", documents::reference),
    ("bundle", documents::bundle),
    ("key", documents::key),
    ("memory", documents::memory),
    ("login", documents::login),
];

#[test]
fn the_fuzz_corpus_passes() {
    let of_guests = [
        ("wire", checks::wire as fn(&[u8])),
        ("hello", checks::hello),
        ("request", checks::request),
        ("grant", checks::grant),
        ("git_index", checks::git_index),
        ("git_pack", checks::git_pack),
        ("git_loose", checks::git_loose),
    ];
    for (name, check) in of_guests.into_iter().chain(DOCUMENTS) {
        saved(name).iter().for_each(|input| check(input));
    }
}

/// The saved inputs of a target.
fn saved(name: &str) -> Vec<Vec<u8>> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(name);
    let mut files: Vec<_> = fs::read_dir(&dir).expect("they are in the repository").flatten().map(|entry| entry.path()).collect();
    files.sort();
    assert!(!files.is_empty(), "{name}");
    files.iter().map(|file| fs::read(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()))).collect()
}

/// Documents of a hostile repository: each saved one, changed in 1,500 ways.
#[test]
fn changed_documents_of_a_repository_are_read_the_same_or_refused() {
    for (name, check) in DOCUMENTS {
        let saved = saved(name);
        for (number, intact) in saved.iter().enumerate() {
            for seed in 0..1500 {
                let mut numbers = Numbers::of((number * 10_000 + seed) as u64);
                let mut changed = intact.clone();
                for _ in 0..1 + numbers.next(3) {
                    change(&mut changed, &saved, &mut numbers);
                }
                let result = std::panic::catch_unwind(|| check(&changed));
                assert!(result.is_ok(), "{name}, {number}, {seed}: {:?}", String::from_utf8_lossy(&changed));
            }
        }
    }
}

/// Changes some bytes: other bits, a part less, a part twice, a part of another input, or a word that readers may trip over.
fn change(bytes: &mut Vec<u8>, others: &[Vec<u8>], numbers: &mut Numbers) {
    const WORDS: [&[u8]; 16] = [
        b"\"",
        b"\\",
        b"\0",
        b"{}",
        b"[]",
        b"null",
        b"-1",
        b"+1",
        b"00",
        b"18446744073709551616",
        b"\xff",
        "é".as_bytes(),
        b"sha256:",
        b"@",
        b":",
        b"\n",
    ];
    let at = numbers.next(bytes.len() + 1);
    let end = at + numbers.next(bytes.len() - at + 1).min(40);
    match numbers.next(6) {
        0 if at < bytes.len() => bytes[at] ^= 1 << numbers.next(8),
        1 => drop(bytes.drain(at..end)),
        2 => {
            let part = bytes[at..end].to_vec();
            drop(bytes.splice(at..at, part));
        }
        3 => {
            let other = numbers.one(others);
            let from = numbers.next(other.len().max(1)).min(other.len());
            let part = other[from..other.len().min(from + numbers.next(60))].to_vec();
            drop(bytes.splice(at..end, part));
        }
        4 => bytes.truncate(at),
        _ => drop(bytes.splice(at..at, numbers.one(&WORDS).iter().copied())),
    }
}

impl Numbers {
    fn stream(&mut self) -> u32 {
        match self.next(8) {
            0 => self.next(16) as u32,
            1 => 16 + self.next(2000) as u32,
            2 => u32::MAX - self.next(3) as u32,
            3 | 4 => 16 + self.next(12) as u32,
            _ => 2 + self.next(2) as u32,
        }
    }

    fn frame(&mut self) -> Frame {
        let length = if self.next(4) == 0 { self.next(MAX_PAYLOAD_BYTES) } else { self.next(64) } + 1;
        let bytes = vec![self.next(256) as u8; length];
        let step = ["", "a step", "\u{1b}[2J\u{202e}"][self.next(3)].to_owned();
        match self.next(24) {
            0..=7 => Frame::Data { stream: self.stream(), bytes },
            8 | 9 => Frame::End { stream: self.stream() },
            10 | 11 => Frame::Closed { stream: self.stream() },
            12 => Frame::Credit { stream: self.stream(), bytes: self.next(1 << 20) as u32 },
            13..=15 => Frame::Message { stream: Some(16 + self.next(3000) as u32), bytes: vec![1; self.next(1100)] },
            16 => Frame::Message { stream: None, bytes },
            17 => Frame::Keys { stream: 16 + self.next(3000) as u32 },
            18 => Frame::Started,
            19 => [Frame::Stopped { signal: 19 + self.next(4) as u8 }, Frame::Placed][self.next(2)].clone(),
            20 => Frame::Report(
                [Report::Exited(3), Report::Killed(9), Report::Failed { stage: StageFailure::Setup, errno: 0, step }][self.next(3)].clone(),
            ),
            21 => Frame::Signal { signal: 15, to_group: true },
            22 => Frame::Hello { version: self.next(4) as u16 },
            _ => Frame::Credit { stream: self.next(2) as u32, bytes: 1 },
        }
    }

    /// A script of a VM's frames: a valid start, then arbitrary frames, some of them corrupted.
    fn says(&mut self) -> Vec<u8> {
        let mut frames = vec![Frame::Hello { version: silo_wire::frame::VERSION }, Frame::Started];
        frames.truncate(self.next(8));
        // Most scripts end at their first violation; some have valid frames only.
        let is_honest = self.next(3) > 0;
        for _ in 0..self.next(200) {
            let frame = match self.frame() {
                Frame::Data { bytes, .. } if is_honest => Frame::Data { stream: 2 + self.next(2) as u32, bytes },
                Frame::Message { bytes, .. } if is_honest => {
                    Frame::Message { stream: None, bytes: bytes[..bytes.len().min(1000)].to_vec() }
                }
                _ if is_honest => Frame::Closed { stream: self.next(2) as u32 },
                frame => frame,
            };
            frames.push(frame);
        }
        if self.next(2) == 0 {
            frames.push(Frame::Report(Report::Exited(0)));
        }
        let mut said = Vec::new();
        for frame in &frames {
            let mut bytes = Vec::new();
            frame.write(&mut bytes);
            match self.next(400) {
                0 => bytes.truncate(self.next(bytes.len())),
                1 => bytes.extend_from_within(..),
                2 => bytes[5..9].copy_from_slice(&(self.next(1 << 31) as u32).to_le_bytes()),
                3 => bytes.reverse(),
                4 => {
                    let at = self.next(bytes.len());
                    bytes[at] ^= 1 << self.next(8);
                }
                _ => {}
            }
            said.extend(bytes);
        }
        if self.next(20) == 0 {
            said.truncate(self.next(11));
        }
        said
    }

    /// The same in pieces, between which the host's own descriptors take something, or nothing.
    fn script(&mut self) -> Vec<u8> {
        let said = self.says();
        let mut rest = &said[..];
        let mut script = Vec::new();
        let takes = self.next(3);
        while !rest.is_empty() {
            let (now, later) = rest.split_at(rest.len().min(1 + self.next(60_000)));
            rest = later;
            script.push(0);
            script.extend((now.len() as u16).to_le_bytes());
            script.extend(now);
            for _ in 0..takes {
                script.push(4 + self.next(4) as u8);
                script.extend((self.next(1 + takes * 30_000) as u16).to_le_bytes());
            }
        }
        script
    }
}

/// Thousands of conversations, truncated, repeated, out of order and too long: no panic, bounded memory, and an end.
#[test]
fn hostile_conversations_end_and_keep_little() {
    let mut numbers = Numbers(0x9e37_79b9_7f4a_7c15);
    let mut ended = BTreeMap::new();
    for _ in 0..3000 {
        *ended.entry(checks::conversation(&numbers.script())).or_insert(0) += 1;
    }
    // Each phase is one in which some of them end.
    assert!(ended.len() == 5 && ended.values().all(|count| *count > 20), "{ended:?}");
}
