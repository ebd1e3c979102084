//! The memory of processes.

use std::fs;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;

/// All processes below one.
pub fn descendants(of: u32) -> Vec<u32> {
    let parent = |pid: u32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse::<u32>().ok()
    };
    let all: Vec<u32> =
        fs::read_dir("/proc").expect("there").flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    let is_below = |pid: &u32| std::iter::successors(parent(*pid), |pid| parent(*pid)).any(|pid| pid == of);
    all.into_iter().filter(is_below).collect()
}

/// Copies the readable parts of a process's memory.
pub fn copy_memory(pid: u32, to: &Path) {
    let mut copy = fs::File::create(to).expect("our own file");
    let Ok(mut file) = fs::File::open(format!("/proc/{pid}/mem")) else { return };
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap_or_default();
    for line in maps.lines().filter(|line| !line.contains("[v")) {
        let Some((from, to)) = line.split(' ').next().and_then(|range| range.split_once('-')) else { continue };
        let number = |text| u64::from_str_radix(text, 16).expect("a number");
        let (from, to) = (number(from), number(to));
        let mut part = vec![0; usize::try_from(to - from).expect("a size")];
        // Parts without read permission fail.
        if file.seek(SeekFrom::Start(from)).is_ok() && file.read_exact(&mut part).is_ok() {
            copy.write_all(&part).expect("our own file");
        }
    }
}
