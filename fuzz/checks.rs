//! What must hold of everything that a guest can send, for whatever bytes: the fuzz targets try new ones, and the tests
//! those that were found to matter (`corpus/`).

use silo::broker::hello;
use silo::broker::request::{end_of_head, parse};
use silo::grant::{Cover, Grant, Host};
use silo::launch::conversation::{Act, BUDGET_BYTES, Conversation, End, Fate, Phase, Side, Ways};
use silo_wire::frame::{AFTER, BEFORE, ERRORS, Frame, INPUT, JOB, MAX_STREAMS, OUTPUT};
use silo_wire::{Answer, Ask};

/// Messages of a sandbox's agent: whatever arrives is read whole or not at all.
pub fn wire(data: &[u8]) {
    if let Some(ask) = Ask::from_bytes(data) {
        assert_eq!(ask.to_bytes(), data);
    }
    if let Some(answer) = Answer::from_bytes(data) {
        assert_eq!(answer.to_bytes(), data);
    }
}

/// What a TLS client says first.
pub fn hello(data: &[u8]) {
    let _ = hello::read(data);
}

/// The head of a plain HTTP request on its way to the machine's proxy, as a hostile guest writes it.
pub fn request(data: &[u8]) {
    let head = match end_of_head(data) {
        Ok(Some(end)) => &data[..end],
        _ => data,
    };
    let host = Host::parse("a.example").expect("a host");
    let Ok(exchange) = parse(head, &host, 80) else { return };
    // What is passed on is one whole head, for the host that was connected to.
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
    let Some(grant) = Grant::parse(text) else { return };
    assert!(grant.ranges().iter().all(|(from, to)| 0 < *from && from <= to));
    for (place, port) in [("127.0.0.1", 22), ("host.silo.internal", 22), ("169.254.169.254", 80), ("localhost", 80), ("[::1]", 443)] {
        let host = Host::parse(place).expect("a host");
        // Only by its own name, or as one of a private network that is named, does anybody reach this machine.
        if grant.covers(&host, port) == Some(Cover::Exact) {
            assert!(grant.host() == Some(&host) || grant.block().is_some_and(|block| block.is_apart()), "{text}");
            assert!(grant.block().is_none() || place.starts_with("169.254"), "{text}");
        }
    }
}

/// Most that a conversation keeps of whatever it hears: streams, frames that wait for the link, and bytes to parse.
const MAX_KEPT_BYTES: usize = BUDGET_BYTES + (4 << 20);

/// A whole conversation with a machine, from its boot to its end: a script of what the machine says and of what the host's
/// own descriptors take meanwhile. Returns the phase in which it ended.
pub fn conversation(script: &[u8]) -> Phase {
    let mut host = Conversation::new(Side::Host);
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
        // What it has reported before is written, and then nothing is left.
        while let Some(number) = host.numbers().first().copied() {
            let before = host.kept();
            let fate = write(&mut host, number, usize::MAX);
            assert!(fate == Fate::Gone || host.kept() < before, "stream {number} stays");
        }
    }
    host.end();
    assert!(host.kept() == 0 && host.numbers().is_empty());
    reached
}

fn holds(host: &Conversation) {
    assert!(host.kept() <= MAX_KEPT_BYTES, "{} bytes are kept", host.kept());
    assert!(host.numbers().len() <= MAX_STREAMS + 8, "{} streams", host.numbers().len());
    if host.phase() >= Phase::Reported {
        assert!(host.room() == 0 && host.is_flushed() && !host.has_room(), "it is read on {}", host.phase());
    }
}

/// The machine says something; the host does what it asks for, as far as it goes.
fn say(host: &mut Conversation, mut bytes: &[u8]) {
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

fn act_on(host: &mut Conversation, act: Act) {
    match act {
        Act::Tell(Frame::Hello { .. }) => {
            for number in [JOB, INPUT, BEFORE] {
                host.add(number, End::Shared, Ways::OUT, true);
            }
            for number in [OUTPUT, ERRORS, AFTER] {
                host.add(number, End::Shared, Ways::BACK, true);
            }
            host.bound(AFTER, 1 << 20);
        }
        Act::Tell(Frame::Report(_)) => {
            for number in host.numbers() {
                let _ = host.settle(number);
            }
        }
        Act::Message { stream: Some(stream), .. } | Act::Keys { stream } => {
            assert!(!host.has(stream));
            if host.has_place() { host.add(stream, End::Own, Ways::BOTH, true) } else { host.refuse(stream) }
        }
        Act::Settle { stream, fate } => assert_eq!(host.has(stream), fate == Fate::HalfShut),
        Act::Message { .. } | Act::Tell(_) => {}
    }
}

fn write(host: &mut Conversation, number: u32, most: usize) -> Fate {
    let length = host.pending(number).len().min(most);
    if length == 0 { host.settle(number) } else { host.wrote(number, length) }
}

fn send(host: &mut Conversation, number: u32, bytes: &[u8]) {
    let most = host.may_send(number);
    if most > 0 {
        let _ = host.send_data(number, bytes[..bytes.len().min(most)].to_vec());
    }
}
