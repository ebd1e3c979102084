//! Properties of all parsers of guest input, for any bytes: fuzz targets try new inputs, tests replay the saved ones (`corpus/`).

use std::fs::File;
use std::io::Write;

use flate2::Compression;
use flate2::write::ZlibEncoder;
use silo_base::grant::{Host, HostGrant, Specificity};
use silo_guard::git::budget::Budget;
use silo_guard::git::index::Index;
use silo_guard::git::oid::Format;
use silo_guard::git::{loose_object, pack, pack_index};
use silo_launch::broker::http_head::{end_of_head, parse};
use silo_launch::broker::sni;
use silo_launch::protocol::{Action, BUDGET_BYTES, DescriptorAction, Directions, End, Phase, Protocol, Side};
use silo_wire::frame::{AFTER, BEFORE, ERRORS, Frame, INPUT, JOB, MAX_STREAMS, OUTPUT};
use silo_wire::{ToAgent, ToBroker};

/// Messages of the agent: parsed completely or not at all.
pub fn wire(data: &[u8]) {
    if let Some(ask) = ToBroker::from_bytes(data) {
        assert_eq!(ask.to_bytes(), data);
    }
    if let Some(answer) = ToAgent::from_bytes(data) {
        assert_eq!(answer.to_bytes(), data);
    }
}

/// The first bytes of a TLS client.
pub fn hello(data: &[u8]) {
    let _ = sni::read(data);
}

/// The head of a plain HTTP request on its way to the machine's proxy, as a hostile guest writes it.
pub fn request(data: &[u8]) {
    let head = match end_of_head(data) {
        Ok(Some(end)) => &data[..end],
        _ => data,
    };
    let host = Host::parse("a.example").expect("a host");
    let Ok(exchange) = parse(head, &host, 80) else { return };
    // A forwarded head is complete, and for the host connected to.
    let passed = exchange.for_proxy(&host, 80, None);
    assert_eq!(end_of_head(passed.as_bytes()).ok().flatten().unwrap_or(passed.len()), passed.len());
    assert!(passed.split(' ').nth(1).is_some_and(|target| target.starts_with("http://a.example/")));
    assert_eq!(passed.matches("\r\nHost: a.example\r\n").count(), 1);
}

/// Names, networks and ports as a person writes them and as a guest asks for them.
pub fn grant(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Some(host) = Host::parse(text) {
        // One spelling, which is ASCII and stays itself.
        assert!(host.as_str().is_ascii() && host.as_str().len() <= 253);
        assert_eq!(Host::parse(host.as_str()), Some(host));
    }
    let Some(grant) = HostGrant::parse(text) else { return };
    assert!(grant.ranges().iter().all(|range| 0 < range.first() && range.first() <= range.last()));
    for (place, port) in [("127.0.0.1", 22), ("host.silo.internal", 22), ("169.254.169.254", 80), ("localhost", 80), ("[::1]", 443)] {
        let host = Host::parse(place).expect("a host");
        // A grant reaches this machine only by its own name, or as a named address of a private network.
        if grant.covers(&host, port) == Some(Specificity::Exact) {
            assert!(grant.host() == Some(&host) || grant.block().is_some_and(|block| block.is_apart()), "{text}");
            assert!(grant.block().is_none() || place.starts_with("169.254"), "{text}");
        }
    }
}

/// The most bytes unpacked from a sandbox's repository.
const UNPACKED_BYTES: u64 = 8 << 20;
const FORMATS: [Format; 2] = [Format::Sha1, Format::Sha256];

/// git's index without its checksum: each index has one encoding, and no path in it leaves the directory.
pub fn git_index(data: &[u8]) {
    for format in FORMATS {
        // As `index.skipHash` leaves it.
        let bytes = [data, &vec![0; format.bytes()]].concat();
        assert_eq!(Index::parse_own(&bytes, format), Index::parse(&bytes, format));
        let Ok(mut index) = Index::parse(&bytes, format) else { continue };
        let Some(written) = index.to_bytes(format) else { continue };
        let again = Index::parse(&written, format).expect("what was written can be read");
        assert_eq!(again.to_bytes(format).as_deref(), Some(&written[..]));
        assert!(again.entries.iter().zip(&index.entries).all(|(again, entry)| again.path == entry.path));
        assert_eq!(again.entries.len(), index.entries.len());
        for entry in &index.entries {
            let is_down = |part: &[u8]| !part.is_empty() && part != b"." && part != b".." && !part.eq_ignore_ascii_case(b".git");
            assert!(entry.path.split(|byte| *byte == b'/').all(is_down), "{:?}", entry.path);
        }
        index.hold_back_gitlinks(&Index::default());
        assert_eq!(index.gitlinks().count(), 0);
    }
}

/// A pack, but for its checksum. A script of entries reaches more than bytes do, which would have to be compressed by chance.
pub fn git_pack(data: &[u8]) {
    let Some((way, rest)) = data.split_first() else { return };
    for format in FORMATS {
        let mut bytes = if way % 2 == 0 { rest.to_vec() } else { packed(rest, format) };
        let mut hasher = format.hasher();
        hasher.update(&bytes);
        let Some(sum) = hasher.finish() else { continue };
        bytes.extend(sum.as_bytes());
        let file = file_of(&bytes);
        let Ok(pack) = pack::verify(&file, bytes.len() as u64, format, &mut Budget::new(UNPACKED_BYTES)) else { continue };
        assert_eq!((pack.checksum, pack.objects.len() as u32), (sum, u32::from_be_bytes(bytes[8..12].try_into().expect("four"))));
        let index = file_of(&pack_index::write(&pack, format).expect("no collision"));
        assert!(pack.objects.is_sorted() && pack.objects.iter().all(|object| pack_index::has(&index, &object.oid, format)));
        let other = format.of_object("blob", &bytes).expect("no collision");
        assert_eq!(pack_index::has(&index, &other, format), pack.objects.iter().any(|object| object.oid == other));
    }
}

/// Builds a pack from a script: for each entry its type, the error in its stated size, its length, and its content. A delta has its base
/// first: an offset back, or the number of an earlier entry, whose object it names.
fn packed(script: &[u8], format: Format) -> Vec<u8> {
    let (mut entries, mut starts, mut names) = (Vec::new(), vec![0], Vec::new());
    let mut rest = script;
    while let [head, length, base, after @ ..] = rest {
        let (content, after) = after.split_at(usize::from(*length).min(after.len()));
        rest = after;
        let kind = head & 7;
        let size = if head & 0x80 != 0 { content.len().wrapping_add_signed(isize::from(*head as i8) >> 4) } else { content.len() };
        let begin = entries.len();
        entries.push(kind << 4 | (size & 15) as u8 | if size > 15 { 0x80 } else { 0 });
        let mut left = size >> 4;
        while left > 0 {
            entries.push((left & 0x7f) as u8 | if left > 0x7f { 0x80 } else { 0 });
            left >>= 7;
        }
        match kind {
            6 => {
                let back = begin - starts[usize::from(*base) % starts.len()].min(begin);
                if back > 0x7f {
                    entries.push(0x80 | ((back >> 7) - 1) as u8);
                }
                entries.push((back & 0x7f) as u8);
            }
            7 => match names.get(usize::from(*base) % names.len().max(1)) {
                Some(name) => entries.extend(name),
                None => entries.extend(vec![7; format.bytes()]),
            },
            _ => {}
        }
        let named = ["commit", "tree", "blob", "tag"].get(usize::from(kind).wrapping_sub(1));
        names.extend(named.and_then(|kind| format.of_object(kind, content)).map(|oid| oid.as_bytes().to_vec()));
        starts.push(begin);
        entries.extend(compressed(content));
    }
    [b"PACK\0\0\0\x02", &(starts.len() as u32 - 1).to_be_bytes()[..], &entries].concat()
}

/// A loose object: random bytes and compressed ones, under its own name and under another.
pub fn git_loose(data: &[u8]) {
    for format in FORMATS {
        let mut budget = Budget::new(UNPACKED_BYTES);
        let mut hasher = format.hasher();
        hasher.update(data);
        let Some(own) = hasher.finish() else { continue };
        assert!(loose_object::verify(data, own, format, &mut budget).is_err(), "no bytes are compressed to their own hash's");
        let file = compressed(data);
        let is_object = loose_object::verify(&file[..], own, format, &mut budget).is_ok();
        assert_eq!(is_object, is_loose(data), "{data:?}");
        let other = format.of_object("blob", data).expect("no collision");
        assert!(loose_object::verify(&file[..], other, format, &mut Budget::new(UNPACKED_BYTES)).is_err());
        assert!(loose_object::verify(&[&file[..], b"x"].concat()[..], own, format, &mut Budget::new(UNPACKED_BYTES)).is_err());
    }
}

/// Says in another way than the reader does whether bytes are an object with its header.
fn is_loose(data: &[u8]) -> bool {
    let Some(end) = data.iter().position(|byte| *byte == 0) else { return false };
    let length = data.len() - end - 1;
    ["blob", "tree", "commit", "tag"].iter().any(|kind| format!("{kind} {length}").as_bytes() == &data[..end])
}

fn compressed(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).expect("to memory");
    encoder.finish().expect("to memory")
}

fn file_of(bytes: &[u8]) -> File {
    let mut file = tempfile::tempfile().expect("a temporary file");
    file.write_all(bytes).expect("our own file");
    file
}

/// The most bytes that a conversation buffers: streams, frames for the link, and bytes to parse.
const MAX_KEPT_BYTES: usize = BUDGET_BYTES + (4 << 20);

/// A whole conversation with a VM, from boot to end: a script of the VM's frames and of the bytes that the host's descriptors accept in
/// between. Returns its last phase.
pub fn conversation(script: &[u8]) -> Phase {
    let mut host = Protocol::new(Side::Host);
    let mut rest = script;
    while let [what, low, high, after @ ..] = rest {
        let length = usize::from(u16::from_le_bytes([*low, *high]));
        rest = after;
        match what % 8 {
            0..=3 => {
                let (bytes, after) = after.split_at(length.min(after.len()));
                rest = after;
                say(&mut host, bytes);
            }
            4 => host.sent(length),
            5 => {
                for number in host.numbers() {
                    let _ = write(&mut host, number, length);
                }
            }
            6 => host.numbers().into_iter().for_each(|number| send(&mut host, number, &vec![7; length])),
            _ => {
                let number = host.numbers().get(length % 7).copied().unwrap_or_default();
                let _ = host.closed(number);
            }
        }
        holds(&host);
    }
    let reached = host.phase();
    if reached == Phase::Reported {
        // Output before the report is written; then nothing is left.
        while let Some(number) = host.numbers().first().copied() {
            let before = host.kept();
            let fate = write(&mut host, number, usize::MAX);
            assert!(fate == DescriptorAction::Gone || host.kept() < before, "stream {number} stays");
        }
    }
    host.end();
    assert!(host.kept() == 0 && host.numbers().is_empty());
    reached
}

fn holds(host: &Protocol) {
    assert!(host.kept() <= MAX_KEPT_BYTES, "{} bytes are kept", host.kept());
    assert!(host.numbers().len() <= MAX_STREAMS + 8, "{} streams", host.numbers().len());
    if host.phase() >= Phase::Reported {
        assert!(host.room() == 0 && host.is_flushed() && !host.has_room(), "it is read on {}", host.phase());
    }
}

/// The VM sends bytes; the host performs the requests as far as possible.
fn say(host: &mut Protocol, mut bytes: &[u8]) {
    while !bytes.is_empty() && host.room() > 0 {
        let (now, later) = bytes.split_at(bytes.len().min(host.room()));
        bytes = later;
        host.arrive(now);
        loop {
            let before = host.phase();
            match host.next_act() {
                Ok(Some(act)) => act_on(host, act),
                Ok(None) => break,
                Err(_) => {
                    assert!(host.phase() == Phase::Over && host.kept() == 0 && host.numbers().is_empty());
                    assert_eq!(host.next_act(), Ok(None), "nothing is parsed twice");
                    return;
                }
            }
            assert!(host.phase() >= before, "{} {before}", host.phase());
            holds(host);
        }
    }
}

fn act_on(host: &mut Protocol, act: Action) {
    match act {
        Action::Tell(Frame::Hello { .. }) => {
            for number in [JOB, INPUT, BEFORE] {
                host.add(number, End::Shared, Directions::OUT);
            }
            for number in [OUTPUT, ERRORS, AFTER] {
                host.add(number, End::Shared, Directions::BACK);
            }
            host.bound(AFTER, 1 << 20);
        }
        Action::Tell(Frame::Report(_)) => {
            for number in host.numbers() {
                let _ = host.apply_end(number);
            }
        }
        Action::Message { stream: Some(stream), .. } | Action::Keys { stream } => {
            assert!(!host.has(stream));
            if host.has_place() { host.add(stream, End::Own, Directions::BOTH) } else { host.refuse(stream) }
        }
        Action::Settle { stream, fate } => assert_eq!(host.has(stream), fate == DescriptorAction::HalfShut),
        Action::Message { .. } | Action::Tell(_) => {}
    }
}

fn write(host: &mut Protocol, number: u32, most: usize) -> DescriptorAction {
    let length = host.pending(number).len().min(most);
    if length == 0 { host.apply_end(number) } else { host.wrote(number, length) }
}

fn send(host: &mut Protocol, number: u32, bytes: &[u8]) {
    let most = host.may_send(number);
    if most > 0 {
        let _ = host.send_data(number, bytes[..bytes.len().min(most)].to_vec());
    }
}
