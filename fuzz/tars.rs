//! Archives generated from a number, read by Silo, GNU tar and libarchive's bsdtar.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;
use std::process::{Command, Stdio};

use silo_fetch::unpack::entries::{self, Kind};

const BLOCK: usize = 512;

/// The same numbers for the same beginning (xorshift64).
pub struct Numbers(u64);

impl Numbers {
    /// Begins anywhere.
    pub fn new(seed: u64) -> Numbers {
        Numbers(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// Returns a number below another one.
    pub fn below(&mut self, most: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize % most
    }

    fn of<'a, T: ?Sized>(&mut self, all: &[&'a T]) -> &'a T {
        all[self.below(all.len())]
    }
}

/// An archive.
pub struct Made {
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// Whether everybody must be able to read it.
    pub is_sound: bool,
    /// Its entries, for messages.
    pub story: Vec<String>,
}

/// Facts about one path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fact {
    /// The kind, the contents and the target.
    pub what: String,
    /// The permission bits; none of links.
    pub mode: u32,
    /// Owner and group, where root unpacks.
    pub owner: (u32, u32),
    /// The time, of files.
    pub mtime: i64,
    /// The first of the file's names.
    pub first: Vec<u8>,
}

/// Entries of an archive, by path.
pub type Facts = BTreeMap<Vec<u8>, Fact>;

/// One header on its way.
struct Header {
    block: [u8; BLOCK],
}

impl Header {
    fn new(form: &str, name: &[u8], tag: u8) -> Header {
        let mut block = [0; BLOCK];
        block[..name.len().min(100)].copy_from_slice(&name[..name.len().min(100)]);
        block[156] = tag;
        match form {
            "ustar" => block[257..265].copy_from_slice(b"ustar\x0000"),
            "gnu" => block[257..265].copy_from_slice(b"ustar  \0"),
            _ => {}
        }
        let mut header = Header { block };
        header.octal(100, 8, 0o644);
        for (at, length) in [(108, 8), (116, 8), (124, 12), (136, 12)] {
            header.octal(at, length, 0);
        }
        header
    }

    fn octal(&mut self, at: usize, length: usize, value: u64) {
        let text = format!("{value:0width$o}\0", width = length - 1);
        self.block[at..at + length].copy_from_slice(text.as_bytes());
    }

    fn binary(&mut self, at: usize, length: usize, value: i64) {
        let bytes = i128::from(value).to_be_bytes();
        self.block[at..at + length].copy_from_slice(&bytes[16 - length..]);
        self.block[at] |= 0x80;
    }

    fn bytes(mut self) -> Vec<u8> {
        self.block[148..156].fill(b' ');
        let sum: u32 = self.block.iter().map(|byte| u32::from(*byte)).sum();
        self.block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        self.block.to_vec()
    }
}

fn padded(mut bytes: Vec<u8>) -> Vec<u8> {
    bytes.resize(bytes.len().next_multiple_of(BLOCK), 0);
    bytes
}

fn pax(tag: u8, records: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let mut body = Vec::new();
    for (key, value) in records {
        let rest = key.len() + value.len() + 3;
        let length = (rest + 1..).find(|length| rest + length.to_string().len() == *length).expect("there is one");
        body.extend(format!("{length} {key}=").into_bytes());
        body.extend(value);
        body.push(b'\n');
    }
    let mut header = Header::new("ustar", b"records", tag);
    header.octal(124, 12, body.len() as u64);
    [header.bytes(), padded(body)].concat()
}

/// Makes an archive; the same for the same number.
pub fn made(seed: u64) -> Made {
    let mut numbers = Numbers::new(seed);
    let numbers = &mut numbers;
    let mut archive = Archive { bytes: Vec::new(), story: Vec::new(), is_sound: true, files: Vec::new() };
    for at in 0..1 + numbers.below(6) {
        archive.entry(numbers, at);
    }
    archive.end(numbers);
    Made { bytes: archive.bytes, is_sound: archive.is_sound, story: archive.story }
}

struct Archive {
    bytes: Vec<u8>,
    story: Vec<String>,
    is_sound: bool,
    /// The names of files so far, as they are spelled.
    files: Vec<Vec<u8>>,
}

impl Archive {
    fn entry(&mut self, numbers: &mut Numbers, at: usize) {
        let form = *numbers.of(&[&"v7", &"ustar", &"gnu", &"gnu", &"ustar", &"ustar"]);
        if numbers.below(8) == 0 {
            self.bytes.extend(pax(b'g', &[("comment", b"of somebody".to_vec())]));
            self.story.push("global comment".to_owned());
        }
        let name = self.name(numbers, at);
        match numbers.below(10) {
            0 | 1 => self.plain(numbers, form, name),
            2 => self.of_no_contents(numbers, form, name),
            3 => self.link(numbers, form, name),
            4 | 5 => self.sparse(numbers, name),
            6 | 7 => self.by_pax(numbers, name),
            8 => self.long(numbers, form, name),
            _ => self.numbers(numbers, form, name),
        }
    }

    fn name(&mut self, numbers: &mut Numbers, at: usize) -> Vec<u8> {
        let name = numbers.of(&["a", "with space", "d/e", "./f", "g//h", "i/./j", "\u{fc}mlaut", "d/k"]);
        format!("{name}{at}").into_bytes()
    }

    fn contents(&mut self, numbers: &mut Numbers) -> Vec<u8> {
        let length = *numbers.of(&[&0, &1, &511, &512, &513, &3000]);
        (0..length).map(|at| b'a' + (at % 23) as u8).collect()
    }

    fn put(&mut self, story: &str, name: &[u8], parts: &[&[u8]]) {
        self.story.push(format!("{story} {}", String::from_utf8_lossy(name)));
        parts.iter().for_each(|part| self.bytes.extend_from_slice(part));
    }

    fn plain(&mut self, numbers: &mut Numbers, form: &str, name: Vec<u8>) {
        let contents = self.contents(numbers);
        let mut header = Header::new(form, &name, *numbers.of(&[&b'0', &0, &b'7']));
        header.octal(124, 12, contents.len() as u64);
        header.octal(136, 12, 1_700_000_000 + numbers.below(1000) as u64);
        header.octal(100, 8, *numbers.of(&[&0o644, &0o755, &0o600, &0o4755]));
        self.put(&format!("{form} file"), &name, &[&header.bytes(), &padded(contents)]);
        self.files.push(name);
    }

    /// A directory, a symbolic link or a pipe, with or without a size that means nothing.
    fn of_no_contents(&mut self, numbers: &mut Numbers, form: &str, name: Vec<u8>) {
        let tag = *numbers.of(&[&b'5', &b'2', &b'6', &b'5']);
        let spelled = if tag == b'5' && numbers.below(2) == 0 { [&name[..], b"/"].concat() } else { name.clone() };
        let mut header = Header::new(form, &spelled, tag);
        header.octal(100, 8, 0o755);
        header.octal(136, 12, 1_700_000_000);
        if tag == b'2' {
            header.block[157..163].copy_from_slice(b"../x/y");
        }
        if numbers.below(3) == 0 {
            header.octal(124, 12, 1024);
        }
        self.put(&format!("{form} kind {}", char::from(tag)), &name, &[&header.bytes()]);
    }

    fn link(&mut self, numbers: &mut Numbers, form: &str, name: Vec<u8>) {
        let Some(to) = self.files.last().cloned() else { return self.plain(numbers, form, name) };
        let mut header = Header::new(form, &name, b'1');
        header.block[157..157 + to.len()].copy_from_slice(&to);
        header.octal(100, 8, 0o644);
        // POSIX once allowed data after these entries; no program writes it.
        if form != "ustar" && numbers.below(2) == 0 {
            header.octal(124, 12, 700);
        }
        self.put(&format!("{form} hard link"), &name, &[&header.bytes()]);
    }

    fn sparse(&mut self, numbers: &mut Numbers, name: Vec<u8>) {
        let mut pieces: Vec<(u64, u64)> = Vec::new();
        let (mut at, count) = (0, numbers.below(30));
        for _ in 0..count {
            at += BLOCK as u64 * numbers.below(3) as u64;
            let length = BLOCK as u64 * (1 + numbers.below(2) as u64);
            pieces.push((at, length));
            at += length + BLOCK as u64;
        }
        let size = at + numbers.below(2000) as u64;
        // A hole at the end has its own piece; GNU tar leaves the file short without one.
        let end = pieces.last().map_or(0, |(offset, length)| offset + length);
        if size > end || numbers.below(2) == 0 {
            pieces.push((size, 0));
        }
        let stored: u64 = pieces.iter().map(|(_, length)| length).sum();
        let data: Vec<u8> = (0..stored).map(|at| b'A' + (at % 19) as u8).collect();
        let version = numbers.below(4);
        let (before, header, map) = match version {
            0 => (Vec::new(), old_sparse(&name, &pieces, size, stored), Vec::new()),
            1 => {
                let mut records = vec![("GNU.sparse.size", text(size)), ("GNU.sparse.numblocks", text(pieces.len() as u64))];
                for (offset, length) in &pieces {
                    records.extend([("GNU.sparse.offset", text(*offset)), ("GNU.sparse.numbytes", text(*length))]);
                }
                (pax(b'x', &records), file_of(&name, stored), Vec::new())
            }
            2 => {
                let list: Vec<String> = pieces.iter().map(|(offset, length)| format!("{offset},{length}")).collect();
                let records = [
                    ("GNU.sparse.size", text(size)),
                    ("GNU.sparse.numblocks", text(pieces.len() as u64)),
                    ("GNU.sparse.name", name.clone()),
                    ("GNU.sparse.map", list.join(",").into_bytes()),
                ];
                (pax(b'x', &records), file_of(b"GNUSparseFile.1/x", stored), Vec::new())
            }
            _ => {
                let records = [
                    ("GNU.sparse.major", text(1)),
                    ("GNU.sparse.minor", text(0)),
                    ("GNU.sparse.name", name.clone()),
                    ("GNU.sparse.realsize", text(size)),
                ];
                let list: String = pieces.iter().map(|(offset, length)| format!("{offset}\n{length}\n")).collect();
                let map = padded(format!("{}\n{list}", pieces.len()).into_bytes());
                (pax(b'x', &records), file_of(b"GNUSparseFile.1/x", stored + map.len() as u64), map)
            }
        };
        // An empty map of the older versions says nothing, which not every reader takes.
        self.is_sound &= !pieces.is_empty() || version == 3;
        self.put(&format!("sparse {version}, {} pieces of {size}", pieces.len()), &name, &[&before, &header, &map, &padded(data)]);
        self.files.push(name);
    }

    fn by_pax(&mut self, numbers: &mut Numbers, name: Vec<u8>) {
        let contents = self.contents(numbers);
        let mut header = Header::new("ustar", b"another name", b'0');
        header.octal(136, 12, 12);
        header.octal(124, 12, contents.len() as u64);
        let mut records = vec![("path", name.clone())];
        match numbers.below(6) {
            0 => records.push(("mtime", numbers.of(&["-86400", "9999999999", "1700000000.75", "0.5"]).as_bytes().to_vec())),
            1 => {
                header.octal(124, 12, 0);
                records.push(("size", text(contents.len() as u64)));
            }
            2 => records.extend([("uid", text(3_000_000)), ("gid", text(70_000))]),
            3 => records.push(("comment", vec![b'x'; 3000])),
            4 => records.extend([("atime", b"1.5".to_vec()), ("ctime", b"2".to_vec()), ("uname", b"nobody".to_vec())]),
            _ => {}
        }
        let keys: Vec<&str> = records.iter().map(|(key, _)| *key).collect();
        self.put(&format!("pax {keys:?}"), &name, &[&pax(b'x', &records), &header.bytes(), &padded(contents)]);
        self.files.push(name);
    }

    /// A name too long for the header fields.
    fn long(&mut self, numbers: &mut Numbers, form: &str, name: Vec<u8>) {
        let dirs = 1 + numbers.below(2);
        let name = [vec![b'l'; 90], b"/".to_vec(), vec![b'm'; 60 * dirs], b"/".to_vec(), name].concat();
        let contents = self.contents(numbers);
        let mut header = Header::new(if form == "ustar" { "ustar" } else { "gnu" }, &name[name.len() - 40..], b'0');
        header.octal(124, 12, contents.len() as u64);
        let before = match form {
            "ustar" => {
                let cut = name.iter().rposition(|byte| *byte == b'm').expect("there are some") + 1;
                if cut <= 155 && name.len() - cut <= 100 {
                    header.block[..100].fill(0);
                    header.block[..name.len() - cut - 1].copy_from_slice(&name[cut + 1..]);
                    header.block[345..345 + cut].copy_from_slice(&name[..cut]);
                    Vec::new()
                } else {
                    pax(b'x', &[("path", name.clone())])
                }
            }
            _ => {
                let mut long = Header::new("gnu", b"././@LongLink", b'L');
                long.octal(124, 12, name.len() as u64 + 1);
                [long.bytes(), padded([&name[..], b"\0"].concat())].concat()
            }
        };
        self.put(&format!("{form} long name of {}", name.len()), &name, &[&before, &header.bytes(), &padded(contents)]);
    }

    /// Numbers in every spelling.
    fn numbers(&mut self, numbers: &mut Numbers, form: &str, name: Vec<u8>) {
        let mut header = Header::new(form, &name, b'0');
        let story = match numbers.below(7) {
            0 => {
                header.block[108..124].fill(0);
                "no owner"
            }
            1 => {
                header.block[136..148].fill(0);
                "no time"
            }
            2 => {
                header.binary(136, 12, -86_400);
                "a time before 1970"
            }
            3 => {
                header.binary(136, 12, 9_999_999_999);
                "a time after 2242"
            }
            4 => {
                header.binary(108, 8, 2_097_152 + 7);
                "a large owner"
            }
            5 => {
                header.block[100..108].copy_from_slice(b"   755 \0");
                "spaces"
            }
            _ => {
                header.block[116..124].fill(b' ');
                // GNU tar warns of blanks and continues.
                self.is_sound = false;
                "a blank group"
            }
        };
        self.put(story, &name, &[&header.bytes()]);
        self.files.push(name);
    }

    fn end(&mut self, numbers: &mut Numbers) {
        match numbers.below(12) {
            0 => {
                let at = numbers.below(self.bytes.len());
                self.bytes[at] ^= 1 << numbers.below(8);
                self.story.push(format!("byte {at} changed"));
                self.is_sound = false;
            }
            1 => {
                let length = 1 + numbers.below(self.bytes.len());
                self.bytes.truncate(length);
                self.story.push(format!("cut at {length}"));
                self.is_sound = false;
                return;
            }
            _ => {}
        }
        self.bytes.extend([0; 2 * BLOCK]);
        self.bytes.resize(self.bytes.len().next_multiple_of(20 * BLOCK), 0);
    }
}

fn text(value: u64) -> Vec<u8> {
    value.to_string().into_bytes()
}

fn file_of(name: &[u8], size: u64) -> Vec<u8> {
    let mut header = Header::new("ustar", name, b'0');
    header.octal(124, 12, size);
    header.bytes()
}

/// A file with holes in GNU's older form.
fn old_sparse(name: &[u8], pieces: &[(u64, u64)], size: u64, stored: u64) -> Vec<u8> {
    let mut header = Header::new("gnu", name, b'S');
    header.octal(124, 12, stored);
    header.octal(483, 12, size);
    let put = |block: &mut [u8], at: usize, pieces: &[(u64, u64)]| {
        for (number, (offset, length)) in pieces.iter().enumerate() {
            block[at + 24 * number..][..24].copy_from_slice(format!("{offset:011o}\0{length:011o}\0").as_bytes());
        }
    };
    let (first, rest) = pieces.split_at(pieces.len().min(4));
    put(&mut header.block, 386, first);
    header.block[482] = u8::from(!rest.is_empty());
    let mut bytes = header.bytes();
    let chunks: Vec<_> = rest.chunks(21).collect();
    for (number, chunk) in chunks.iter().enumerate() {
        let mut block = [0; BLOCK];
        put(&mut block, 0, chunk);
        block[504] = u8::from(number + 1 < chunks.len());
        bytes.extend(block);
    }
    bytes
}

/// Reads an archive with Silo.
pub fn ours(mut bytes: &[u8]) -> Result<Facts, String> {
    let mut facts = Facts::new();
    entries::each(
        &mut bytes,
        |error| error.to_string(),
        |entry| {
            let Some(path) = entries::plain(&entry.path)? else { return Ok(()) };
            let mut contents = Vec::new();
            // Holes may claim any size; only small contents are compared.
            if entry.size > 16 << 20 {
                return Err("too large to compare".to_owned());
            }
            entry.read_to_end(&mut contents).map_err(|error| error.to_string())?;
            if contents.len() as u64 != entry.size {
                return Err("its size is not what was read".to_owned());
            }
            let what = match entry.kind {
                Kind::File => format!("file {}", silo_store::digest::Digest::of(&contents)),
                Kind::Dir => "dir".to_owned(),
                Kind::Symlink => format!("symlink {}", String::from_utf8_lossy(&entry.link)),
                Kind::Pipe => "pipe".to_owned(),
                Kind::Char | Kind::Block => "device".to_owned(),
                Kind::Link => {
                    let to = entries::plain(&entry.link)?.ok_or("a link to the root")?;
                    let fact: Fact = facts.get(&to).cloned().ok_or("a link to nothing")?;
                    facts.insert(path, fact);
                    return Ok(());
                }
            };
            facts.insert(path.clone(), Fact { what, mode: entry.mode, owner: (entry.uid, entry.gid), mtime: entry.mtime, first: path });
            Ok(())
        },
    )?;
    Ok(facts)
}

/// Unpacks an archive with another program; `None` if it fails.
pub fn theirs(program: &str, bytes: &[u8], dir: &Path) -> Option<Facts> {
    let (file, tree) = (dir.join("archive.tar"), dir.join("tree"));
    fs::write(&file, bytes).expect("our own directory");
    drop(silo_store::removal::remove_tree(&tree));
    fs::create_dir(&tree).expect("our own directory");
    let mut command = Command::new(program);
    command.arg("--numeric-owner").arg("-xpf").arg(&file).arg("-C").arg(&tree).stdout(Stdio::null()).stderr(Stdio::null());
    // An ordinary user cannot change the owner of a file.
    if program == "tar" && fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0) {
        command.arg("--same-owner");
    }
    let is_well = command.env("LC_ALL", "C.UTF-8").status().ok()?.success();
    let facts = self::tree(&tree);
    drop(silo_store::removal::remove_tree(&tree));
    is_well.then_some(facts)
}

/// Lists the entries of a directory.
pub fn tree(root: &Path) -> Facts {
    let mut facts = Facts::new();
    collect(root, root, &mut BTreeMap::new(), &mut facts);
    facts
}

fn collect(root: &Path, dir: &Path, names: &mut BTreeMap<u64, Vec<u8>>, facts: &mut Facts) {
    let mut all: Vec<_> = fs::read_dir(dir).map(|all| all.flatten().map(|entry| entry.path()).collect()).unwrap_or_default();
    all.sort();
    for path in all {
        let Ok(found) = fs::symlink_metadata(&path) else { continue };
        let name = path.strip_prefix(root).expect("it is below").as_os_str().as_bytes().to_vec();
        let kind = found.file_type();
        let what = if kind.is_dir() {
            collect(root, &path, names, facts);
            "dir".to_owned()
        } else if kind.is_symlink() {
            let target = fs::read_link(&path).map(|target| target.into_os_string().into_vec()).unwrap_or_default();
            format!("symlink {}", String::from_utf8_lossy(&target))
        } else if kind.is_fifo() {
            "pipe".to_owned()
        } else {
            format!("file {}", silo_store::digest::Digest::of(&fs::read(&path).unwrap_or_default()))
        };
        let first = names.entry(found.ino()).or_insert_with(|| name.clone()).clone();
        let fact = Fact { what, mode: found.mode() & 0o7777, owner: (found.uid(), found.gid()), mtime: found.mtime(), first };
        facts.insert(name, fact);
    }
}

/// Reduces entries to those that all readers must agree on: without implicit directories, and without properties that an ordinary user
/// cannot set.
pub fn comparable(facts: &Facts, described: &Facts, is_root: bool) -> Vec<(String, String)> {
    let groups = |fact: &Fact| {
        let names = facts.iter().filter(|(_, other)| other.first == fact.first).map(|(name, _)| String::from_utf8_lossy(name).into_owned());
        names.collect::<Vec<_>>().join(" = ")
    };
    let mut all = Vec::new();
    for (path, fact) in facts {
        if fact.what == "dir" && !described.contains_key(path) {
            continue;
        }
        let is_link = fact.what.starts_with("symlink");
        let is_file = fact.what.starts_with("file");
        // Without privilege these bits are lost.
        let mode = if is_root { fact.mode } else { fact.mode & 0o777 };
        let mode = if is_link { String::new() } else { format!("{mode:o}") };
        let owner = if is_root { format!("{:?}", fact.owner) } else { String::new() };
        let time = if is_file { fact.mtime.to_string() } else { String::new() };
        all.push((String::from_utf8_lossy(path).into_owned(), format!("{} {mode} {owner} {time} {}", fact.what, groups(fact))));
    }
    all
}

/// Compares Silo's reading of an archive with that of the others and describes a difference. Silo may also refuse it, which returns
/// `false`.
pub fn compare(bytes: &[u8], dir: &Path, is_root: bool) -> Result<bool, String> {
    let Ok(ours) = ours(bytes) else { return Ok(false) };
    let own = comparable(&ours, &ours, is_root);
    let others: Vec<(&str, Vec<(String, String)>)> = ["tar", "bsdtar"]
        .into_iter()
        .filter_map(|program| Some((program, comparable(&theirs(program, bytes, dir)?, &ours, is_root))))
        .collect();
    // GNU tar misreads a size of an entry without contents, and the readers spell unlikely names differently. If they differ from each
    // other, one of them must be right.
    match others.is_empty() || others.iter().any(|(_, other)| *other == own) {
        true => Ok(true),
        false => Err(format!("silo: {own:#?}\n{others:#?}")),
    }
}
