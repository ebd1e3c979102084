//! Directories that list their names in a fixed order. A file system lists them in an order of its own: ext4 by a hash with a secret of each
//! file system, so a script without a sort gives other files on another machine. Steps with a seed see sorted names. In a reproducibility
//! check the order is from the last to the first, so that a step whose output depends on it comes out otherwise.
//!
//! The filter passes `getdents64` to PID 1, which reads the whole directory through a copy of the caller's descriptor, and answers from the
//! sorted list. The position in the list is the descriptor's own offset, so `seekdir` and `rewinddir` work. The list of a descriptor is
//! kept until it is read from the start again, so a program may remove the files that it has read.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;

use rustix::fs::{FileType, RawDir, SeekFrom, fstat, seek};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};

use super::fixed_random::write;
use super::syscall_path::Verdict;
use crate::kernel::notice::Notice;

/// Most lists that are kept; a program that reads more directories at the same time gets the next one in its natural order.
const MAX_LISTS: usize = 256;
/// Most bytes of one list, about half a million names. A larger directory has its natural order.
const MAX_LIST_BYTES: usize = 32 << 20;
/// Most bytes of all lists.
const MAX_TOTAL_BYTES: usize = 64 << 20;
/// Bytes of the buffer for one read of a directory.
const READ_BYTES: usize = 64 << 10;
/// Most bytes of one answer.
const MAX_ANSWER_BYTES: usize = 256 << 10;
/// Bytes of an entry before its name: inode, offset, length, type.
const HEAD_BYTES: usize = 19;

/// A process, its descriptor, and the device and inode of the directory.
type Key = (u32, u64, u64, u64);

/// An entry of a directory.
struct Entry {
    name: Vec<u8>,
    inode: u64,
    kind: u8,
}

/// The order of the names in all directories.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Sorted by their bytes.
    Sorted,
    /// From the last to the first.
    Reversed,
}

/// The lists of the directories that are being read.
pub struct SortedDirs {
    order: Order,
    lists: RefCell<BTreeMap<Key, Vec<Entry>>>,
}

impl SortedDirs {
    /// Lists all directories in this order.
    pub fn new(order: Order) -> SortedDirs {
        SortedDirs { order, lists: RefCell::default() }
    }

    /// Answers a call; `None` if it is another module's.
    pub fn judge(&self, notice: &Notice, still_waits: &dyn Fn() -> bool) -> Option<Result<Verdict, Errno>> {
        if libc::c_long::from(notice.call) != libc::SYS_getdents64 {
            return None;
        }
        // The kernel answers calls that PID 1 cannot: those on something else than a directory, or of a process that it may not look into.
        let Some(dir) = descriptor(notice) else { return Some(Ok(Verdict::Continue)) };
        Some(self.list(notice, &dir, still_waits))
    }

    fn list(&self, notice: &Notice, dir: &OwnedFd, still_waits: &dyn Fn() -> bool) -> Result<Verdict, Errno> {
        let found = fstat(dir)?;
        let position = seek(dir, SeekFrom::Current(0))?;
        let key = (notice.pid, notice.args[0], found.st_dev, found.st_ino);
        let mut lists = self.lists.borrow_mut();
        if position == 0 || !lists.contains_key(&key) {
            if !still_waits() {
                return Err(Errno::SRCH);
            }
            let Some(list) = read(dir, self.order)? else {
                seek(dir, SeekFrom::Start(position))?;
                return Ok(Verdict::Continue);
            };
            lists.remove(&key);
            while lists.len() >= MAX_LISTS || lists.values().map(|list| bytes_of(list)).sum::<usize>() + bytes_of(&list) > MAX_TOTAL_BYTES {
                lists.pop_first();
            }
            lists.insert(key, list);
        }
        let list = lists.get(&key).map(Vec::as_slice).unwrap_or_default();
        let from = usize::try_from(position).unwrap_or(usize::MAX).min(list.len());
        let most = usize::try_from(notice.args[2] as u32).unwrap_or(0).min(MAX_ANSWER_BYTES);
        let (answer, count) = encode(&list[from..], position, most);
        if answer.is_empty() && from < list.len() {
            return Err(Errno::INVAL);
        }
        let length = write(notice, notice.args[1], &answer, still_waits)?;
        seek(dir, SeekFrom::Start(position + count as u64))?;
        if from == list.len() {
            lists.remove(&key);
        }
        Ok(Verdict::Value(length))
    }
}

/// Copies the caller's descriptor, if it is a directory.
fn descriptor(notice: &Notice) -> Option<OwnedFd> {
    let status = fs::read_to_string(format!("/proc/{}/status", notice.pid)).ok()?;
    let process = status.lines().find_map(|line| line.strip_prefix("Tgid:"))?.trim().parse().ok()?;
    let process = pidfd_open(Pid::from_raw(process)?, PidfdFlags::empty()).ok()?;
    let copy = pidfd_getfd(process, notice.args[0] as u32 as i32, PidfdGetfdFlags::empty()).ok()?;
    let is_dir = fstat(&copy).is_ok_and(|found| FileType::from_raw_mode(found.st_mode) == FileType::Directory);
    is_dir.then_some(copy)
}

/// Returns the memory of a list.
fn bytes_of(list: &[Entry]) -> usize {
    list.iter().map(|entry| size_of::<Entry>() + entry.name.len()).sum()
}

/// Reads a directory from its start: `.` and `..`, then the other names in order. Returns nothing if the list is too long.
fn read(dir: &OwnedFd, order: Order) -> Result<Option<Vec<Entry>>, Errno> {
    seek(dir, SeekFrom::Start(0))?;
    let mut buffer = vec![MaybeUninit::uninit(); READ_BYTES];
    let mut entries = RawDir::new(dir, &mut buffer);
    let mut list = Vec::new();
    let mut length = 0;
    while let Some(entry) = entries.next() {
        let entry = entry?;
        let kind = match entry.file_type() {
            FileType::RegularFile => libc::DT_REG,
            FileType::Directory => libc::DT_DIR,
            FileType::Symlink => libc::DT_LNK,
            FileType::Fifo => libc::DT_FIFO,
            FileType::Socket => libc::DT_SOCK,
            FileType::CharacterDevice => libc::DT_CHR,
            FileType::BlockDevice => libc::DT_BLK,
            FileType::Unknown => libc::DT_UNKNOWN,
        };
        length += size_of::<Entry>() + entry.file_name().count_bytes();
        if length > MAX_LIST_BYTES {
            return Ok(None);
        }
        list.push(Entry { name: entry.file_name().to_bytes().to_vec(), inode: entry.ino(), kind });
    }
    let is_own = |name: &[u8]| name == b"." || name == b"..";
    list.sort_by(|one, other| {
        let by_name = match order {
            Order::Sorted => one.name.cmp(&other.name),
            Order::Reversed => other.name.cmp(&one.name),
        };
        is_own(&other.name).cmp(&is_own(&one.name)).then(by_name)
    });
    Ok(Some(list))
}

/// Lays entries out as the kernel does, as many as fit; returns the bytes and the number of entries.
fn encode(list: &[Entry], position: u64, most: usize) -> (Vec<u8>, usize) {
    let mut bytes = Vec::new();
    let mut count = 0;
    for entry in list {
        let length = (HEAD_BYTES + entry.name.len() + 1).next_multiple_of(8);
        if bytes.len() + length > most {
            break;
        }
        let end = bytes.len() + length;
        count += 1;
        bytes.extend(entry.inode.to_le_bytes());
        bytes.extend((position + count as u64).to_le_bytes());
        bytes.extend(u16::try_from(length).unwrap_or(u16::MAX).to_le_bytes());
        bytes.push(entry.kind);
        bytes.extend(&entry.name);
        bytes.resize(end, 0);
    }
    (bytes, count)
}
