//! Causes of differences between two runs of a step. A cause is found in the differing bytes, by the known values of the runs.

use std::collections::BTreeSet;
use std::io::Read;
use std::ops::RangeInclusive;

use flate2::read::MultiGzDecoder;
use silo_base::timestamp;

use super::archive_members::{ByName, Member, by_name, members};
use super::word_kinds::{
    DATE_NAMES, changed_words, frame_of, is_address, is_clock, is_number, is_random, is_reordered, is_temporary, numbers_of,
};

/// A cause of a difference.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cause {
    /// The date or the time.
    Time,
    /// Random numbers.
    Random,
    /// Memory addresses.
    Address,
    /// The order of names in a directory, of a hash table, or of parallel processes.
    Order,
    /// Process ids.
    ProcessId,
    /// The number of processors.
    Processors,
    /// The host name.
    HostName,
    /// The umask.
    Umask,
    /// Inode numbers.
    Inode,
    /// The kernel's release.
    Kernel,
    /// A temporary name.
    TemporaryName,
    /// Times of files.
    FileTime,
    /// Permission bits.
    Mode,
    /// Owners.
    Owner,
    /// Compiled Python.
    Bytecode,
    /// The header of a gzip file.
    GzipHeader,
    /// The members' metadata in an archive.
    Archive,
    /// A log.
    Log,
    /// A number of the system.
    SystemNumber,
    /// A file that only some runs make.
    Presence,
    /// The type of a file.
    FileType,
    /// None of these.
    Unknown,
}

impl Cause {
    /// All causes.
    pub const ALL: [Cause; 22] = [
        Cause::Time,
        Cause::Random,
        Cause::Address,
        Cause::Order,
        Cause::ProcessId,
        Cause::Processors,
        Cause::HostName,
        Cause::Umask,
        Cause::Inode,
        Cause::Kernel,
        Cause::TemporaryName,
        Cause::FileTime,
        Cause::Mode,
        Cause::Owner,
        Cause::Bytecode,
        Cause::GzipHeader,
        Cause::Archive,
        Cause::Log,
        Cause::SystemNumber,
        Cause::Presence,
        Cause::FileType,
        Cause::Unknown,
    ];

    /// True if every build fixes the condition: it is the same on all systems.
    pub fn is_fixed(self) -> bool {
        matches!(self, Cause::HostName | Cause::Umask)
    }

    /// Returns the name.
    pub fn name(self) -> &'static str {
        self.texts().0
    }

    /// Returns the way in which it is found.
    pub fn sign(self) -> &'static str {
        self.texts().1
    }

    /// Returns the usual remedy.
    pub fn remedy(self) -> &'static str {
        self.texts().2
    }

    /// The name, the sign in the output, and the remedy.
    fn texts(self) -> (&'static str, &'static str, &'static str) {
        match self {
            Cause::Time => ("time", "a date or time of each run, as text, number or binary value", "use SOURCE_DATE_EPOCH"),
            Cause::Random => (
                "random",
                "words or bytes without a common part",
                "use a fixed seed or the step's `random = \"fixed\"`, or make the file at the first start",
            ),
            Cause::Address => ("address", "numbers in a program's memory", "leave addresses out"),
            Cause::Order => ("order", "the same parts in another order", "sort names and keys, and wait for parallel jobs"),
            Cause::ProcessId => ("process id", "numbers in the range of the process ids of each run", "leave process ids out"),
            Cause::Processors => ("CPU count", "the number of processors of each run", "use a fixed number of jobs"),
            Cause::HostName => ("host name", "the host name of each run", "leave the host name out"),
            Cause::Umask => ("umask", "the umask of each run, or modes that follow from it", "set modes explicitly"),
            Cause::Inode => ("inode", "inode numbers of files of each run", "leave inode numbers out"),
            Cause::Kernel => ("kernel", "the kernel's release", "leave the kernel's release out"),
            Cause::TemporaryName => ("temporary name", "a path below /tmp", "use a fixed path, or map it with -ffile-prefix-map"),
            Cause::FileTime => ("mtime", "a file's time, set to a value that changes", "set it from SOURCE_DATE_EPOCH"),
            Cause::Mode => ("mode", "permission bits", "set modes explicitly"),
            Cause::Owner => ("owner", "the owner of a file", "set owners explicitly"),
            Cause::Bytecode => ("pyc", "compiled Python with the time of its source", "set SOURCE_DATE_EPOCH when compiling"),
            Cause::GzipHeader => ("gzip header", "equal content in another gzip file", "use gzip -n"),
            Cause::Archive => (
                "archive",
                "an archive with other times, modes or owners of its members",
                "use tar --sort=name --mtime --mode, zip -X, ar D or jar --date",
            ),
            Cause::Log => ("log", "a file in /var/log, or a name in .log", "remove the log"),
            Cause::SystemNumber => ("system number", "another number, such as one of /proc", "leave numbers of the system out"),
            Cause::Presence => ("presence", "a file that only one run made", "make it in every run, with a fixed name"),
            Cause::FileType => ("file type", "another type of file", "make the same type in every run"),
            Cause::Unknown => ("unknown", "none of the others", "compare the files of two builds"),
        }
    }
}

/// Limit on archives and compressed files inside each other.
const MAX_DEPTH: usize = 8;

/// Limit on the bytes of a compressed file's content.
const MAX_CONTENT_BYTES: u64 = 64 << 20;

/// Values of one run that its step may have written.
#[derive(Debug)]
pub(super) struct RunFacts {
    /// The host name.
    pub host: &'static str,
    /// Number of visible processors.
    pub processors: u64,
    /// The umask.
    pub umask: u32,
    /// The process ids.
    pub pids: RangeInclusive<u64>,
    /// The times of the step's clock, in seconds since 1970.
    pub moments: RangeInclusive<i64>,
    /// The true times, which files get.
    pub file_times: RangeInclusive<i64>,
    /// The inodes of the changed files.
    pub inodes: BTreeSet<u64>,
    /// The kernel's release, if it is known.
    pub kernel: Option<String>,
}

/// The known values of the two runs.
pub(super) struct Values<'a> {
    pub first: &'a RunFacts,
    pub second: &'a RunFacts,
}

/// True if a word of the first run and one of the second differ by a cause.
type WordTest<'a> = &'a dyn Fn(&str, &str) -> bool;

impl Values<'_> {
    /// Finds the cause of different file contents.
    pub fn of_contents(&self, path: &str, old: &[u8], new: &[u8]) -> Cause {
        self.of_nested(path, old, new, 0)
    }

    /// Finds the cause of different contents; `depth` is the number of archives and compressed files around them.
    fn of_nested(&self, path: &str, old: &[u8], new: &[u8], depth: usize) -> Cause {
        let inner = || depth < MAX_DEPTH;
        if path.ends_with(".pyc") || path.ends_with(".pyo") {
            return Cause::Bytecode;
        }
        if let (true, Some(old), Some(new)) = (inner(), unzipped(old), unzipped(new)) {
            return if old == new { Cause::GzipHeader } else { self.of_nested(path.trim_end_matches(".gz"), &old, &new, depth + 1) };
        }
        if path.starts_with("var/log/") || path.ends_with(".log") {
            return Cause::Log;
        }
        if let (true, Some(old), Some(new)) = (inner(), members(old), members(new)) {
            return self.of_members(&old, &new, depth + 1);
        }
        if is_reordered(old, new) {
            return Cause::Order;
        }
        if is_archive(old) && is_archive(new) {
            return Cause::Archive;
        }
        match (std::str::from_utf8(old), std::str::from_utf8(new)) {
            (Ok(old), Ok(new)) if !old.contains('\0') => self.of_texts(old, new),
            _ => self.of_binary(old, new),
        }
    }

    /// Finds the cause of different members of an archive.
    fn of_members(&self, old: &[Member], new: &[Member], depth: usize) -> Cause {
        let (olds, news) = (by_name(old), by_name(new));
        let only = |these: &ByName<'_>, others: &ByName<'_>| {
            let names: Vec<_> =
                these.keys().filter(|key| !others.contains_key(*key)).map(|(name, _)| String::from_utf8_lossy(name).into_owned()).collect();
            names.join("\n")
        };
        let (old_names, new_names) = (only(&olds, &news), only(&news, &olds));
        if old_names != new_names {
            let is_renamed = !old_names.is_empty() && !new_names.is_empty();
            let cause = if is_renamed { self.of_texts(&old_names, &new_names) } else { Cause::Unknown };
            return if cause == Cause::Unknown { Cause::Presence } else { cause };
        }
        let other = olds.iter().find_map(|(key, member)| news.get(key).filter(|other| *other != member).map(|other| (key, member, other)));
        if let Some(((name, _), old, new)) = other {
            return self.of_nested(&String::from_utf8_lossy(name), old, new, depth);
        }
        let order = |members: &[Member]| members.iter().map(|member| member.name.clone()).collect::<Vec<_>>();
        if order(old) == order(new) { Cause::Archive } else { Cause::Order }
    }

    /// Finds the cause of different texts or names.
    pub fn of_texts(&self, old: &str, new: &str) -> Cause {
        let (olds, news) = (changed_words(old, new), changed_words(new, old));
        let pairs: Vec<(&str, &str)> = olds.iter().copied().zip(news.iter().copied()).collect();
        let tests: [(Cause, WordTest<'_>); 12] = [
            (Cause::HostName, &|old, new| {
                self.first.host != self.second.host && old.contains(self.first.host) && new.contains(self.second.host)
            }),
            (Cause::Kernel, &|old, new| self.is_kernel(old, new)),
            (Cause::TemporaryName, &|old, new| is_temporary(old) && is_temporary(new)),
            (Cause::Umask, &|old, new| self.is_umask(old, new)),
            (Cause::Processors, &|old, new| {
                self.numbers(old, new, |old, new| old == self.first.processors && new == self.second.processors)
            }),
            (Cause::Time, &|old, new| self.is_time(old, new)),
            (Cause::Inode, &|old, new| {
                self.numbers(old, new, |old, new| self.first.inodes.contains(&old) && self.second.inodes.contains(&new))
            }),
            (Cause::ProcessId, &|old, new| {
                self.numbers(old, new, |old, new| self.first.pids.contains(&old) && self.second.pids.contains(&new))
            }),
            (Cause::Address, &|old, new| is_address(old) && is_address(new)),
            (Cause::SystemNumber, &|old, new| is_number(old) && is_number(new) && frame_of(old) == frame_of(new)),
            (Cause::Random, &|old, new| is_random(old) && is_random(new)),
            (Cause::Time, &|old, new| is_clock(old) && is_clock(new)),
        ];
        let found = tests.iter().find(|(_, test)| pairs.iter().any(|(old, new)| test(old, new)));
        if let Some((cause, _)) = found {
            return *cause;
        }
        // A line of one run may be two words of the other one.
        let squeezed = |text: &str| text.split_whitespace().collect::<String>();
        if is_random(&squeezed(old)) && is_random(&squeezed(new)) { Cause::Random } else { Cause::Unknown }
    }

    /// Finds the cause of different binary files: a time of each run as an integer, or bytes without a common part.
    fn of_binary(&self, old: &[u8], new: &[u8]) -> Cause {
        let differing: Vec<usize> = old.iter().zip(new).enumerate().filter(|(_, (old, new))| old != new).map(|(at, _)| at).collect();
        let near = |at: &usize| {
            (at.saturating_sub(7)..=*at).any(|from| {
                [4, 8].into_iter().any(|length| {
                    let pair = old.get(from..from + length).zip(new.get(from..from + length));
                    pair.is_some_and(|(old, new)| {
                        let big = |bytes: &[u8]| bytes.iter().fold(0, |value, byte| value << 8 | u64::from(*byte));
                        let little = |bytes: &[u8]| bytes.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte));
                        self.are_moments(big(old), big(new)) || self.are_moments(little(old), little(new))
                    })
                })
            })
        };
        if differing.iter().take(4096).any(near) {
            return Cause::Time;
        }
        let host = |bytes: &[u8], name: &str| bytes.windows(name.len()).any(|window| window == name.as_bytes());
        if host(old, self.first.host) && host(new, self.second.host) && !host(new, self.first.host) {
            return Cause::HostName;
        }
        if !differing.is_empty() || old.len() != new.len() { Cause::Random } else { Cause::Unknown }
    }

    /// Calls `test` with the numbers in which two words differ. The words are equal but for their numbers: those of random words are none.
    fn numbers(&self, old: &str, new: &str, test: impl Fn(u64, u64) -> bool) -> bool {
        let (olds, news) = (numbers_of(old), numbers_of(new));
        olds.len() == news.len()
            && frame_of(old) == frame_of(new)
            && olds.iter().zip(&news).any(|(old, new)| old != new && test(*old, *new))
    }

    fn is_kernel(&self, old: &str, new: &str) -> bool {
        let has = |facts: &RunFacts, word: &str| facts.kernel.as_ref().is_some_and(|release| word.contains(release.as_str()));
        self.first.kernel != self.second.kernel && (has(self.first, old) || has(self.second, new))
    }

    fn is_umask(&self, old: &str, new: &str) -> bool {
        let octal = |word: &str| u32::from_str_radix(word, 8).ok().filter(|_| (3..=6).contains(&word.len()));
        let group = self.first.umask & !self.second.umask;
        let is_mask = |old, new| old == self.first.umask && new == self.second.umask;
        let is_mode = |old: u32, new: u32| old ^ new == group && new & group == group && new & 0o400 != 0;
        let is_listed = |old: &str, new: &str| {
            let is_mode = |word: &str| word.len() >= 10 && word.bytes().skip(1).take(9).all(|byte| b"rwxstST-".contains(&byte));
            is_mode(old) && is_mode(new) && old.get(5..6) == Some("-") && new.get(5..6) == Some("w")
        };
        group != 0 && (octal(old).zip(octal(new)).is_some_and(|(old, new)| is_mask(old, new) || is_mode(old, new)) || is_listed(old, new))
    }

    /// True if two words have a date or time, or a part of one, of their runs.
    fn is_time(&self, old: &str, new: &str) -> bool {
        let hex = |word: &str| u64::from_str_radix(word.trim_start_matches("0x"), 16).ok();
        let is_name = |word: &str| DATE_NAMES.iter().any(|name| word.get(..3).is_some_and(|start| start.eq_ignore_ascii_case(name)));
        self.numbers(old, new, |old, new| self.are_moments(old, new) || self.are_parts(old, new))
            || hex(old).zip(hex(new)).is_some_and(|(old, new)| self.are_moments(old, new))
            || is_name(old) && is_name(new) && old.len() <= 9 && new.len() <= 9
            || is_clock(old) && is_clock(new)
    }

    /// True if two numbers are moments of their runs, in seconds, milliseconds, microseconds, nanoseconds, or days.
    fn are_moments(&self, old: u64, new: u64) -> bool {
        // A real time may be in the output of a run with another clock, for example a file's time.
        let ranges = |facts: &RunFacts, number: u64, unit: u64| {
            let moment = i64::try_from(number / unit).unwrap_or(i64::MAX);
            facts.moments.contains(&moment) || facts.file_times.contains(&moment)
        };
        let is_day = |facts: &RunFacts, number: u64| {
            let day = |moment: &i64| u64::try_from(moment.div_euclid(86_400)).unwrap_or(0);
            (day(facts.moments.start())..=day(facts.moments.end())).contains(&number)
        };
        let units = [1, 1_000, 1_000_000, 10_000_000, 1_000_000_000];
        let near = |number: u64, unit: u64| ranges(self.first, number, unit) || ranges(self.second, number, unit);
        units.iter().any(|unit| near(old, *unit) && near(new, *unit)) || self.moved() && is_day(self.first, old) && is_day(self.second, new)
    }

    /// True if the clocks of the runs are on different days.
    fn moved(&self) -> bool {
        self.second.moments.start() - self.first.moments.end() > 86_400
    }

    /// True if two numbers are the same part of a date or time of their runs: year, month, day, hour, minute, second, or a whole date.
    fn are_parts(&self, old: u64, new: u64) -> bool {
        const MOST: usize = 600;
        let parts = |facts: &RunFacts, number: u64| {
            let mut found = BTreeSet::new();
            for moment in facts.moments.clone().take(MOST) {
                let text = timestamp::compact(moment);
                let ranges = [0..4, 2..4, 4..6, 6..8, 9..11, 11..13, 13..15, 0..8, 2..8, 9..15, 9..13, 0..6];
                found.extend(
                    ranges
                        .iter()
                        .enumerate()
                        .filter(|(_, range)| {
                            let part = text.get((*range).clone()).and_then(|part| part.parse::<u64>().ok());
                            part == Some(number)
                        })
                        .map(|(at, _)| at),
                );
                let (days, hour) = (moment.div_euclid(86_400), moment.rem_euclid(86_400) / 3_600);
                let year: i64 = text.get(..4).and_then(|year| year.parse().ok()).unwrap_or(0);
                let day_of_year = days - timestamp::days_from_civil(year, 1, 1) + 1;
                let others = [day_of_year, (days + 3).rem_euclid(7) + 1, (hour + 11) % 12 + 1];
                found.extend(others.iter().enumerate().filter(|(_, other)| u64::try_from(**other) == Ok(number)).map(|(at, _)| 100 + at));
            }
            found
        };
        parts(self.first, old).intersection(&parts(self.second, new)).next().is_some()
    }
}

/// True for archives with members that are not read: damaged ones, and cpio.
fn is_archive(bytes: &[u8]) -> bool {
    [&b"PK"[..], b"!<arch>\n", b"070701", b"070702"].iter().any(|magic| bytes.starts_with(magic))
}

/// Returns the content of a gzip file; `None` for other files.
fn unzipped(bytes: &[u8]) -> Option<Vec<u8>> {
    if !bytes.starts_with(&[0x1f, 0x8b]) {
        return None;
    }
    let mut content = Vec::new();
    MultiGzDecoder::new(bytes).take(MAX_CONTENT_BYTES).read_to_end(&mut content).ok()?;
    Some(content)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(host: &'static str, processors: u64, umask: u32, moment: i64) -> RunFacts {
        let first = host == "silo";
        RunFacts {
            host,
            processors,
            umask,
            pids: if first { 1..=20_000 } else { 20_000..=120_000 },
            moments: moment..=moment + 9,
            file_times: 1_700_000_000..=1_700_000_000,
            inodes: BTreeSet::from([if first { 7_654_321 } else { 34 }]),
            kernel: Some(if first { "6.12.1-one" } else { "6.12.2-other" }.to_owned()),
        }
    }

    #[test]
    fn causes_are_found_in_the_differing_bytes() {
        let (first, second) = (facts("silo", 4, 0o022, 1_795_486_000), facts("elsewhere", 1, 0o002, 1_830_070_000));
        let values = Values { first: &first, second: &second };
        for (path, old, new, expect) in [
            ("opt/a.pyc", "1", "2", Cause::Bytecode),
            ("var/log/x", "1", "2", Cause::Log),
            ("opt/list", "b\na\nc\n", "c\na\nb\n", Cause::Order),
            ("opt/list", "a,b,c", "c,a,b", Cause::Order),
            ("opt/list", "a\0bb\0c\0", "c\0a\0bb\0", Cause::Order),
            ("opt/t", "made at 1795486000\n", "made at 1830070009\n", Cause::Time),
            ("opt/t", "1795486000123456789", "1830070009123456789", Cause::Time),
            ("opt/t", "Tue Nov 24 02:09:08 UTC 2026", "Tue Nov 24 02:09:11 UTC 2026", Cause::Time),
            ("opt/t", "\0\u{1}time\u{0}", "\0\u{1}tide\u{0}", Cause::Random),
            ("opt/p", "built in /tmp/tmp.Ab12", "built in /tmp/tmp.Xy34", Cause::TemporaryName),
            ("opt/n", "-j4\n", "-j1\n", Cause::Processors),
            ("opt/n", "4\n", "3\n", Cause::SystemNumber),
            ("opt/i", "inode 7654321\n", "inode 34\n", Cause::Inode),
            ("opt/i", "pid 123\n", "pid 20123\n", Cause::ProcessId),
            ("opt/h", "root@silo", "root@elsewhere", Cause::HostName),
            ("opt/k", "Linux 6.12.1-one x", "Linux 6.12.2-other x", Cause::Kernel),
            ("opt/m", "drwxr-xr-x 2 root d", "drwxrwxr-x 2 root d", Cause::Umask),
            ("opt/m", "100644 f", "100664 f", Cause::Umask),
            ("opt/a", "<object at 0x7ffff7a1b2c0>", "<object at 0x7f12345ab2c0>", Cause::Address),
            ("opt/a", "5574e0001234", "5631e0045678", Cause::Address),
            ("opt/r", "a8f1c2", "77b0de", Cause::Random),
            // The numbers 4 and 1 are the processors of the runs, and 26 and 27 their years.
            ("opt/r", "aB4xYz26Q", "Uv1LmN27p", Cause::Random),
            ("opt/t", "x-24Nov2026.o", "x-29Dec2027.o", Cause::Time),
            ("opt/u", "yes", "no", Cause::Unknown),
            ("opt/z", "PK\u{3}\u{4}\0\u{1}", "PK\u{3}\u{4}\0\u{2}", Cause::Archive),
        ] {
            assert_eq!(values.of_contents(path, old.as_bytes(), new.as_bytes()), expect, "{path} {old:?} {new:?}");
        }
        let binary = |moment: i64| [&b"\x7fELF\0\xff\xfe"[..], &(moment as u32).to_be_bytes(), b"rest"].concat();
        assert_eq!(values.of_contents("opt/b", &binary(1_795_486_003), &binary(1_830_070_004)), Cause::Time);
    }

    #[test]
    fn hostile_archives_end() {
        let (first, second) = (facts("silo", 4, 0o022, 1_795_486_000), facts("elsewhere", 1, 0o002, 1_830_070_000));
        let values = Values { first: &first, second: &second };
        let nested = |text: &str| {
            let mut bytes = text.as_bytes().to_vec();
            for _ in 0..300 {
                let mut writer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::none());
                std::io::Write::write_all(&mut writer, &bytes).expect("in memory");
                bytes = writer.finish().expect("in memory");
            }
            bytes
        };
        assert_eq!(values.of_contents("opt/f.gz", &nested("a"), &nested("b")), Cause::Random);
        // A sparse file of a terabyte, in 1 KiB.
        let holes = |letter: &[u8; 1]| {
            let mut header = tar::Header::new_gnu();
            header.set_path("f").expect("short");
            header.set_entry_type(tar::EntryType::GNUSparse);
            header.set_size(0);
            let gnu = header.as_gnu_mut().expect("of GNU");
            gnu.set_real_size(1 << 40);
            gnu.sparse[0].set_offset(1 << 40);
            gnu.sparse[0].set_length(0);
            header.set_cksum();
            [header.as_bytes().as_slice(), &[0; 1024], letter].concat()
        };
        assert_ne!(values.of_contents("opt/f.tar", &holes(b"a"), &holes(b"b")), Cause::Archive);
    }

    /// Random words have numbers, and some are those of the runs by chance.
    #[test]
    fn random_words_are_random() {
        let (mut first, mut second) = (facts("silo", 4, 0o022, 1_795_486_000), facts("elsewhere", 1, 0o002, 1_830_070_000));
        for facts in [&mut first, &mut second] {
            facts.moments = *facts.moments.start()..=facts.moments.start() + 600;
        }
        let values = Values { first: &first, second: &second };
        let letters = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
        let hash = |number: u32, run: u8| *silo_store::digest::Digest::of(&[&number.to_le_bytes()[..], &[run]].concat()).as_bytes();
        let base64 = |bytes: &[u8]| bytes.iter().map(|byte| char::from(letters[usize::from(byte % 64)])).collect::<String>();
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        let uuid = |bytes: &[u8]| {
            let all = hex(&bytes[..16]);
            format!("{}-{}-4{}-a{}-{}", &all[..8], &all[8..12], &all[13..16], &all[17..20], &all[20..])
        };
        for number in 0..2_000 {
            let (old, new) = (hash(number, 0), hash(number, 1));
            for (old, new) in [
                (base64(&old[..16]), base64(&new[..16])),
                (base64(&old), base64(&new)),
                (hex(&old), hex(&new)),
                (uuid(&old), uuid(&new)),
                (format!("f-{}", uuid(&old)), format!("f-{}", uuid(&new))),
            ] {
                assert_eq!(values.of_texts(&old, &new), Cause::Random, "{number}: {old} {new}");
            }
        }
    }

    #[test]
    fn each_cause_has_its_own_name() {
        let names: BTreeSet<&str> = Cause::ALL.iter().map(|cause| cause.name()).collect();
        assert_eq!(names.len(), Cause::ALL.len());
        assert!(Cause::ALL.windows(2).all(|pair| pair[0] < pair[1]), "all of them, in their order");
    }
}
