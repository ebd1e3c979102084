//! Messages between the host side and the sandbox's PID 1, over a socket pair that keeps message boundaries.
//!
//! Both ends are the same program, so the format has no version. PID 1 is trusted until it starts the program, and the program cannot
//! access it afterwards. Nevertheless every message is checked, and an invalid one counts as the end of the stream.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};

use crate::failure::Failure;
use crate::host::signal_escalation::Scope;
use silo_wire::frame::StageFailure;

/// Largest message: an error with a path.
const MESSAGE_BYTES: usize = 8192;

/// A message from the sandbox to the host.
#[derive(Debug)]
pub enum Report {
    /// A step failed; nothing will run.
    Failed(Failure),
    /// The master side of the program's terminal.
    Terminal(OwnedFd),
    /// The channel to the network agent.
    Channel(OwnedFd),
    /// The listening socket on the path of the user's ssh agent.
    Keys(OwnedFd),
    /// The sandbox is set up, and the program starts.
    Started,
    /// The program was stopped by this signal, as by Ctrl-Z.
    Stopped(u8),
    /// An order about the foreground was executed.
    Placed,
    /// PID 1 is the last process, and ends after the next report.
    Last,
    /// The program exited with this code.
    Exited(u8),
    /// The program was killed by this signal.
    Killed(u8),
}

/// A message from the host to the sandbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Continue: the host has mapped a range of ids into the user namespace, or has not.
    Mapped(bool),
    /// A signal for the program.
    Signal {
        /// The signal.
        signal: u8,
        /// The target.
        scope: Scope,
    },
    /// Move the program to the foreground of its terminal.
    Foreground,
    /// Move the program to the background.
    Background,
}

/// Sends a report.
pub fn report(to: BorrowedFd<'_>, report: &Report) -> Result<(), Errno> {
    let mut bytes = Vec::with_capacity(64);
    let mut passed = Vec::new();
    match report {
        Report::Failed(failure) => {
            bytes.push(failure.stage.letter());
            let (errno, text) = failure.to_parts();
            bytes.extend_from_slice(&errno.to_le_bytes());
            bytes.extend_from_slice(&text.as_bytes()[..text.floor_char_boundary(MESSAGE_BYTES - bytes.len())]);
        }
        Report::Terminal(fd) => {
            bytes.push(b'T');
            passed.push(fd.as_fd());
        }
        Report::Channel(fd) => {
            bytes.push(b'N');
            passed.push(fd.as_fd());
        }
        Report::Keys(fd) => {
            bytes.push(b'A');
            passed.push(fd.as_fd());
        }
        Report::Started => bytes.push(b'B'),
        Report::Stopped(signal) => bytes.extend([b'Z', *signal]),
        Report::Placed => bytes.push(b'P'),
        Report::Last => bytes.push(b'L'),
        Report::Exited(code) => bytes.extend([b'E', *code]),
        Report::Killed(signal) => bytes.extend([b'K', *signal]),
    }
    send_with(to, &bytes, &passed)
}

/// Receives a report; `None` when the sandbox is gone.
pub fn next_report(from: BorrowedFd<'_>) -> Result<Option<Report>, Errno> {
    let mut bytes = [0; MESSAGE_BYTES];
    let (length, fd) = match receive_with(from, &mut bytes) {
        // The sandbox ended with an unread order. The kernel reports this error once; its final report can still be read.
        Err(Errno::CONNRESET) => receive_with(from, &mut bytes)?,
        received => received?,
    };
    Ok(parse(&bytes[..length], fd))
}

fn parse(bytes: &[u8], fd: Option<OwnedFd>) -> Option<Report> {
    let (kind, rest) = bytes.split_first()?;
    let stage = match kind {
        b'T' => return fd.map(Report::Terminal),
        b'N' => return fd.map(Report::Channel),
        b'A' => return fd.map(Report::Keys),
        b'B' => return Some(Report::Started),
        b'Z' => return rest.first().map(|signal| Report::Stopped(*signal)),
        b'P' => return Some(Report::Placed),
        b'L' => return Some(Report::Last),
        b'E' => return rest.first().map(|code| Report::Exited(*code)),
        b'K' => return rest.first().map(|signal| Report::Killed(*signal)),
        other => StageFailure::of_letter(*other)?,
    };
    let (errno, text) = rest.split_first_chunk::<4>()?;
    Some(Report::Failed(Failure::from_parts(stage, i32::from_le_bytes(*errno), &String::from_utf8_lossy(text))))
}

/// Sends an order.
pub fn order(to: BorrowedFd<'_>, order: Order) -> Result<(), Errno> {
    let bytes = match order {
        Order::Signal { signal, scope: Scope::Program } => [b'P', signal],
        Order::Signal { signal, scope: Scope::Group } => [b'G', signal],
        Order::Mapped(range) => [b'M', u8::from(range)],
        Order::Foreground => [b'F', 0],
        Order::Background => [b'B', 0],
    };
    retry(|| rustix::net::send(to, &bytes, SendFlags::NOSIGNAL)).map(drop)
}

/// Receives an order; `None` when the host side is gone.
pub fn next_order(from: BorrowedFd<'_>) -> Result<Option<Order>, Errno> {
    let mut bytes = [0; 8];
    let (got, _) = retry(|| rustix::net::recv(from, &mut bytes[..], RecvFlags::empty()))?;
    let order = match bytes[0] {
        b'P' => Order::Signal { signal: bytes[1], scope: Scope::Program },
        b'G' => Order::Signal { signal: bytes[1], scope: Scope::Group },
        b'M' => Order::Mapped(bytes[1] == 1),
        b'F' => Order::Foreground,
        b'B' => Order::Background,
        _ => return Ok(None),
    };
    Ok((got == 2).then_some(order))
}

/// Passes a descriptor to another process of the sandbox.
pub fn hand_over(to: BorrowedFd<'_>, fd: OwnedFd) -> Result<(), Errno> {
    send_with(to, b"L", &[fd.as_fd()])
}

/// Receives a descriptor from another process of the sandbox; `None` if that process is gone.
pub fn take_over(from: BorrowedFd<'_>) -> Result<Option<OwnedFd>, Errno> {
    let mut byte = [0; 1];
    receive_with(from, &mut byte).map(|(_, fd)| fd)
}

/// Sends bytes with descriptors.
fn send_with(to: BorrowedFd<'_>, bytes: &[u8], passed: &[BorrowedFd<'_>]) -> Result<(), Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !passed.is_empty() {
        control.push(SendAncillaryMessage::ScmRights(passed));
    }
    retry(|| sendmsg(to, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL)).map(drop)
}

/// Receives bytes with an optional descriptor; returns the number of bytes.
fn receive_with(from: BorrowedFd<'_>, bytes: &mut [u8]) -> Result<(usize, Option<OwnedFd>), Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let got = retry(|| recvmsg(from, &mut [IoSliceMut::new(bytes)], &mut control, RecvFlags::CMSG_CLOEXEC))?;
    let fd = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    });
    Ok((got.bytes, fd))
}

fn retry<T>(mut call: impl FnMut() -> Result<T, Errno>) -> Result<T, Errno> {
    loop {
        match call() {
            Err(Errno::INTR) => {}
            result => return result,
        }
    }
}

#[cfg(test)]
mod tests {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

    use super::*;
    use crate::failure::Cause;

    #[test]
    fn both_directions_arrive_whole() {
        let (host, guest) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).expect("a socket pair needs nothing");
        let failure = Failure { stage: StageFailure::Execute, step: "x".repeat(9000), cause: Cause::Number(libc::ENOEXEC) };
        report(guest.as_fd(), &Report::Failed(failure)).expect("the other end is open");
        report(guest.as_fd(), &Report::Exited(42)).expect("the other end is open");
        let (null, _) = rustix::pipe::pipe().expect("a pipe needs nothing");
        report(guest.as_fd(), &Report::Terminal(null)).expect("the other end is open");
        let first = next_report(host.as_fd()).expect("it was sent");
        assert!(matches!(first, Some(Report::Failed(failure))
            if failure.cause == Cause::Number(libc::ENOEXEC) && failure.step.len() > 4000));
        assert!(matches!(next_report(host.as_fd()), Ok(Some(Report::Exited(42)))));
        assert!(matches!(next_report(host.as_fd()), Ok(Some(Report::Terminal(_)))));
        let signal = |scope| Order::Signal { signal: 15, scope };
        for sent in [signal(Scope::Group), signal(Scope::Program), Order::Foreground, Order::Background, Order::Mapped(true)] {
            order(host.as_fd(), sent).expect("the other end is open");
            assert_eq!(next_order(guest.as_fd()), Ok(Some(sent)));
        }
        drop(host);
        assert_eq!(next_order(guest.as_fd()), Ok(None));
    }

    #[test]
    fn each_kind_of_report_has_a_letter_of_its_own() {
        let (host, guest) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).expect("a socket pair needs nothing");
        let fd = || rustix::pipe::pipe().expect("a pipe needs nothing").0;
        let failed = |stage| Report::Failed(Failure { stage, step: "a step".to_owned(), cause: Cause::Number(libc::ENOENT) });
        let stages = [StageFailure::Setup, StageFailure::Find, StageFailure::Execute].map(failed);
        let others = [Report::Terminal(fd()), Report::Channel(fd()), Report::Keys(fd()), Report::Started, Report::Placed, Report::Last];
        let ends = [Report::Stopped(20), Report::Exited(3), Report::Killed(9)];
        for sent in stages.into_iter().chain(others).chain(ends) {
            report(guest.as_fd(), &sent).expect("the other end is open");
            let received = next_report(host.as_fd()).expect("it was sent").expect("it is valid");
            let is_same = match (&sent, &received) {
                (Report::Failed(sent), Report::Failed(received)) => sent.stage == received.stage,
                _ => std::mem::discriminant(&sent) == std::mem::discriminant(&received),
            };
            assert!(is_same, "{sent:?} arrived as {received:?}");
        }
    }

    #[test]
    fn an_order_that_is_not_read_does_not_lose_the_last_word() {
        let (host, guest) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).expect("a socket pair needs nothing");
        order(host.as_fd(), Order::Background).expect("the other end is open");
        report(guest.as_fd(), &Report::Exited(5)).expect("the other end is open");
        drop(guest);
        assert!(matches!(next_report(host.as_fd()), Ok(Some(Report::Exited(5)))));
        assert!(matches!(next_report(host.as_fd()), Ok(None)));
    }
}
