//! Data exchange between the two ends of a link.

use rustix::event::{PollFd, poll};
use rustix::fs::Timespec;
use rustix::net::SocketType;
use rustix::pipe::pipe;
use silo_wire::frame::{MAX_PAYLOAD_BYTES, Report, VERSION, WINDOW_BYTES};

use std::os::fd::OwnedFd;

use super::*;
use crate::host::nonblocking::NonBlocking;
use crate::host::system::pair;
use crate::vm::protocol::{Directions, End, Side, Violation};

pub fn linked() -> (Mux, Mux) {
    let (one, other) = pair(SocketType::STREAM).expect("a socket pair needs nothing");
    rustix::io::ioctl_fionbio(&one, true).expect("set");
    rustix::io::ioctl_fionbio(&other, true).expect("set");
    let (mut host, mut guest) = (Mux::new(one, Side::Host), Mux::new(other, Side::Guest));
    guest.send(&Frame::Hello { version: VERSION });
    guest.turn(&[]).expect("there is room");
    host.turn(&[(Source::Link, PollFlags::IN)]).expect("it follows the protocol");
    assert!(host.next_frame().is_some());
    (host, guest)
}

fn spawn<'scope, T: Send + 'scope>(
    scope: &'scope std::thread::Scope<'scope, '_>,
    what: impl FnOnce() -> T + Send + 'scope,
) -> std::thread::ScopedJoinHandle<'scope, T> {
    std::thread::Builder::new().spawn_scoped(scope, what).expect("a thread")
}

fn given(fd: OwnedFd) -> NonBlocking {
    NonBlocking::own(fd)
}

/// Runs both sides until neither has work for a while.
pub fn run(muxes: [&mut Mux; 2]) -> Result<(), Error> {
    let [one, other] = muxes;
    let mut idle = 0;
    while idle < 5 {
        idle += 1;
        for mux in [&mut *one, &mut *other] {
            let interest = mux.interest();
            let mut fds: Vec<PollFd<'_>> = interest.iter().map(|(_, fd, flags)| PollFd::from_borrowed_fd(*fd, *flags)).collect();
            let ready = poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 5_000_000 })).expect("polled");
            let events: Vec<(Source, PollFlags)> = interest.iter().zip(&fds).map(|((source, ..), fd)| (*source, fd.revents())).collect();
            if ready > 0 {
                idle = 0;
            }
            mux.turn(&events)?;
        }
    }
    Ok(())
}

#[test]
fn a_stream_arrives_whole_and_ends() {
    let (mut host, mut guest) = linked();
    let (from, to) = pipe().expect("a pipe");
    let (out, into) = pipe().expect("a pipe");
    host.add(1, given(from), End::Shared, Directions::OUT);
    guest.add(1, given(into), End::Own, Directions::BACK);
    let sent: Vec<u8> = (0..3_000_000_u32).map(|number| (number % 251) as u8).collect();
    let wanted = sent.clone();
    std::thread::scope(|scope| {
        spawn(scope, move || {
            let mut rest = &sent[..];
            while !rest.is_empty() {
                rest = &rest[write(&to, rest).expect("taken")..];
            }
        });
        let reader = spawn(scope, move || {
            let mut got = Vec::new();
            let mut piece = [0; 7000];
            loop {
                match read(&out, &mut piece).expect("read") {
                    0 => return got,
                    length => got.extend_from_slice(&piece[..length]),
                }
            }
        });
        while host.has(1) || guest.has(1) {
            run([&mut host, &mut guest]).expect("both follow the protocol");
        }
        assert!(reader.join().expect("it reads to the end") == wanted);
    });
}

#[test]
fn a_reader_that_stalls_gets_one_window() {
    let (mut host, mut guest) = linked();
    let (from, to) = pipe().expect("a pipe");
    rustix::io::ioctl_fionbio(&to, true).expect("set");
    host.add(1, given(from), End::Shared, Directions::OUT);
    guest.add_unattached(1, End::Own, Directions::BACK);
    let mut taken = 0;
    for _ in 0..64 {
        while let Ok(length) = write(&to, &[7; 4096]) {
            taken += length;
        }
        run([&mut host, &mut guest]).expect("both follow the protocol");
    }
    // The window, and the capacity of a pipe.
    assert!(taken <= WINDOW_BYTES + (1 << 20), "{taken}");
    assert!((WINDOW_BYTES..WINDOW_BYTES + 1024).contains(&guest.conversation.kept()));
    drop(to);
}

#[test]
fn a_sender_beyond_its_credit_is_cut_off() {
    let (mut host, mut guest) = linked();
    host.add_unattached(2, End::Own, Directions::BACK);
    for _ in 0..=WINDOW_BYTES / MAX_PAYLOAD_BYTES {
        guest.send(&Frame::Data { stream: 2, bytes: vec![1; MAX_PAYLOAD_BYTES] });
    }
    assert!(matches!(run([&mut host, &mut guest]), Err(Error::Broken(_))));
}

#[test]
fn a_closed_reader_is_reported() {
    let (mut host, mut guest) = linked();
    let (out, into) = pipe().expect("a pipe");
    let (from, to) = pipe().expect("a pipe");
    host.add(2, given(into), End::Shared, Directions::BACK);
    guest.add(2, given(from), End::Own, Directions::OUT);
    drop(out);
    write(&to, b"unheard").expect("taken");
    run([&mut host, &mut guest]).expect("both follow the protocol");
    assert!(!guest.has(2), "the pipe inside is closed, and its writer hears of it");
}

/// A broken link, and a broker and a reader that accept nothing: no call blocks, and data sent earlier is still handled.
#[test]
fn a_stalled_reader_does_not_block_the_host() {
    let (mut host, mut guest) = linked();
    let (broker, ours) = pair(crate::host::system::MESSAGES).expect("a pair");
    host.take_messenger(ours);
    let (reader, stuck) = pipe().expect("a pipe");
    host.add(
        2,
        NonBlocking::shared(stuck.as_fd(), crate::host::nonblocking::Direction::Write).expect("taken"),
        End::Shared,
        Directions::BACK,
    );
    for number in 0..20_000_u32 {
        guest.send(&Frame::Message { stream: Some(16 + number), bytes: vec![1; 100] });
        if number % 8 == 0 && guest.conversation.has_room() {
            guest.send(&Frame::Data { stream: 2, bytes: vec![1; 100] });
        }
        guest.turn(&[]).expect("it is there");
        host.turn(&[(Source::Link, PollFlags::IN), (Source::Stream(2), PollFlags::OUT)]).expect("the VM follows the protocol");
    }
    assert!(host.waiting.is_some() && host.broker_deadline().is_some(), "a message waits for the broker");
    assert!(host.fds.len() < 1024 && host.conversation.kept() < 1 << 20, "{} {}", host.fds.len(), host.conversation.kept());
    assert!(host.interest().iter().all(|(source, ..)| *source != Source::Link), "the link is not read while it waits");
    // A closed broker does not block either.
    drop((broker, reader));
    for _ in 0..100 {
        host.turn(&[(Source::Messenger, PollFlags::OUT), (Source::Link, PollFlags::IN)]).expect("the VM follows the protocol");
        guest.turn(&[(Source::Link, PollFlags::IN)]).expect("the host follows the protocol");
    }
    assert!(!host.has_messenger() && host.waiting.is_none());
}

#[test]
fn a_report_counts_although_the_link_is_closed_behind_it_and_garbage_does_not() {
    for (last, expect) in [(&b""[..], true), (b"Q\0\0\0\0\0\0\0\0garbage", true)] {
        let (mut host, mut guest) = linked();
        guest.send(&Frame::Report(Report::Exited(3)));
        guest.turn(&[]).expect("there is room");
        write(&guest.link, last).expect("taken");
        drop(guest);
        host.send(&Frame::Signal { signal: 15, to_group: true });
        let turned = host.turn(&[(Source::Link, PollFlags::IN)]);
        assert_eq!(turned.is_ok() && host.next_frame() == Some(Frame::Report(Report::Exited(3))), expect);
        assert!(host.interest().is_empty(), "there is nothing to wait for");
    }
    let (mut host, guest) = linked();
    write(&guest.link, b"Q\0\0\0\0\0\0\0\0").expect("taken");
    assert!(matches!(host.turn(&[(Source::Link, PollFlags::IN)]), Err(Error::Broken(Violation::Malformed))));
    assert!(host.interest().is_empty());
    let (mut host, guest) = linked();
    drop(guest);
    assert!(matches!(host.turn(&[(Source::Link, PollFlags::IN)]), Err(Error::Gone)));
    assert!(host.interest().is_empty());
}
