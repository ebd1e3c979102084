//! The frames that each phase allows, and the limits on memory. Whole hostile conversations are in `tests/corpus.rs`.

use silo_wire::frame::{AFTER, ERRORS, OUTPUT, Report, StageFailure, TERMINAL, WINDOW_BYTES};

use super::*;

fn hello() -> Frame {
    Frame::Hello { version: VERSION }
}

fn report() -> Frame {
    Frame::Report(Report::Exited(0))
}

fn data(stream: u32, length: usize) -> Frame {
    Frame::Data { stream, bytes: vec![1; length] }
}

/// Sends frames as the VM; returns the actions, up to a violation.
fn send_as_guest(host: &mut Protocol, frames: &[Frame]) -> (Vec<Action>, Option<Violation>) {
    let mut acts = Vec::new();
    for frame in frames {
        let mut bytes = Vec::new();
        frame.write(&mut bytes);
        host.arrive(&bytes);
        loop {
            match host.next_act() {
                Ok(Some(act)) => acts.push(act),
                Ok(None) => break,
                Err(violation) => return (acts, Some(violation)),
            }
        }
    }
    (acts, None)
}

/// A host that has received hello, with the streams of a program.
fn heard() -> Protocol {
    let mut host = Protocol::new(Side::Host);
    assert_eq!(send_as_guest(&mut host, &[hello()]).1, None);
    host.add(JOB, End::Shared, Directions::OUT);
    host.add(INPUT, End::Shared, Directions::OUT);
    host.add(OUTPUT, End::Shared, Directions::BACK);
    host
}

#[test]
fn each_phase_allows_its_own_frames() {
    let failed = Frame::Report(Report::Failed { stage: StageFailure::Setup, errno: 1, step: String::new() });
    let message = || Frame::Message { stream: None, bytes: vec![1] };
    let long = Frame::Message { stream: None, bytes: vec![1; MAX_MESSAGE_BYTES + 1] };
    let signal = || Frame::Signal { signal: 1, to_group: true };
    let cases: Vec<(Vec<Frame>, Phase)> = vec![
        (vec![], Phase::Boot),
        (vec![hello()], Phase::Setup),
        (vec![hello(), Frame::Started], Phase::Running),
        (vec![hello(), Frame::Started, Frame::Stopped { signal: 20 }, Frame::Stopped { signal: 20 }], Phase::Running),
        (vec![hello(), data(OUTPUT, 9), message(), Frame::Started], Phase::Running),
        (vec![hello(), failed], Phase::Reported),
        (vec![hello(), Frame::Started, report()], Phase::Reported),
        // After the report no frame is read, so none can be a violation.
        (vec![hello(), report(), report(), hello(), message()], Phase::Reported),
        (vec![Frame::Started], Phase::Over),
        (vec![report()], Phase::Over),
        (vec![data(OUTPUT, 1)], Phase::Over),
        (vec![message()], Phase::Over),
        (vec![Frame::Hello { version: VERSION + 1 }], Phase::Over),
        (vec![hello(), hello()], Phase::Over),
        (vec![hello(), Frame::Stopped { signal: 20 }], Phase::Over),
        (vec![hello(), Frame::Started, Frame::Placed, Frame::Placed], Phase::Running),
        (vec![hello(), Frame::Placed], Phase::Over),
        (vec![hello(), Frame::Started, Frame::Started], Phase::Over),
        (vec![hello(), signal()], Phase::Over),
        (vec![hello(), Frame::Window { rows: 1, columns: 1 }], Phase::Over),
        (vec![hello(), long], Phase::Over),
        // Streams of the other direction, or that never existed.
        (vec![hello(), data(INPUT, 1)], Phase::Over),
        (vec![hello(), data(AFTER, 1)], Phase::Over),
        (vec![hello(), Frame::End { stream: 17 }], Phase::Over),
        (vec![hello(), Frame::Credit { stream: JOB, bytes: 1 }], Phase::Over),
    ];
    for (frames, phase) in cases {
        let mut host = Protocol::new(Side::Host);
        if !frames.is_empty() {
            send_as_guest(&mut host, &frames[..1]);
            if host.phase() == Phase::Setup {
                host.add(JOB, End::Shared, Directions::OUT);
                host.add(INPUT, End::Shared, Directions::OUT);
                host.add(OUTPUT, End::Shared, Directions::BACK);
            }
            send_as_guest(&mut host, &frames[1..]);
        }
        assert_eq!(host.phase(), phase, "{frames:?}");
    }
}

#[test]
fn bytes_that_are_no_frame_end_it_in_every_phase_and_are_not_kept() {
    for frames in [vec![], vec![hello()], vec![hello(), Frame::Started]] {
        let mut host = Protocol::new(Side::Host);
        send_as_guest(&mut host, &frames);
        host.arrive(&[b'Q'; 60_000]);
        assert_eq!(host.next_act(), Err(Violation::Malformed));
        assert_eq!((host.phase(), host.kept(), host.room()), (Phase::Over, 0, 0));
        host.arrive(&[b'Q'; 60_000]);
        assert_eq!((host.next_act(), host.kept()), (Ok(None), 0));
    }
}

#[test]
fn after_the_report_pending_output_is_written_and_no_input_is_read() {
    let mut host = heard();
    send_as_guest(&mut host, &[Frame::Started, data(OUTPUT, 100), report()]);
    assert!(host.has_output() && host.room() == 0 && !host.has_room() && host.is_flushed());
    host.arrive(&[b'Q'; 60_000]);
    assert_eq!((host.next_act(), host.kept()), (Ok(None), 100), "only the output to be written");
    // The stream sent no end: the report ends it.
    assert_eq!(host.wrote(OUTPUT, 100), DescriptorAction::Gone);
    assert_eq!([JOB, INPUT].map(|number| host.apply_end(number)), [DescriptorAction::Gone; 2]);
    assert!(host.numbers().is_empty());
}

#[test]
fn all_streams_together_have_a_budget() {
    let mut host = heard();
    let mut said = 0;
    for stream in FIRST_FREE..FIRST_FREE + MAX_STREAMS as u32 {
        let (acts, violation) = send_as_guest(&mut host, &[Frame::Message { stream: Some(stream), bytes: vec![1] }]);
        assert!(violation.is_none() && acts.len() == 1);
        host.add(stream, End::Own, Directions::BOTH);
        for _ in 0..WINDOW_BYTES / MAX_PAYLOAD_BYTES {
            if host.room() > MAX_PAYLOAD_BYTES {
                assert_eq!(send_as_guest(&mut host, &[data(stream, MAX_PAYLOAD_BYTES)]).1, None);
                said += MAX_PAYLOAD_BYTES;
            }
        }
        if host.room() == 0 {
            break;
        }
    }
    let kept = host.kept();
    assert!((BUDGET_BYTES..BUDGET_BYTES + (1 << 20)).contains(&kept) && said <= kept, "{said} {kept}");
    // The link is read again after some data was written.
    assert_eq!(host.wrote(FIRST_FREE, WINDOW_BYTES), DescriptorAction::Stays);
    assert!(host.room() > 0);
}

#[test]
fn a_machine_that_reads_nothing_fills_nothing() {
    let mut host = heard();
    send_as_guest(&mut host, &[Frame::Started]);
    for _ in 0..1_000_000 {
        host.send(&Frame::Signal { signal: 10, to_group: false });
    }
    assert!(host.kept() <= FULL_BYTES + 64 && host.room() == 0 && host.may_send(INPUT) == 0, "{}", host.kept());
}

#[test]
fn the_total_bytes_of_a_stream_are_bounded() {
    let mut host = heard();
    host.add(AFTER, End::Own, Directions::BACK);
    host.bound(AFTER, 1000);
    assert_eq!(send_as_guest(&mut host, &[data(AFTER, 600)]).1, None);
    host.wrote(AFTER, 600);
    assert_eq!(send_as_guest(&mut host, &[data(AFTER, 401)]).1, Some(Violation::TooMuch { stream: AFTER }));
}

#[test]
fn a_machine_that_is_saved_says_hello_again() {
    let mut host = Protocol::new(Side::Host);
    send_as_guest(&mut host, &[hello()]);
    host.expect_hello();
    assert_eq!(host.phase(), Phase::Boot);
    send_as_guest(&mut host, &[hello()]);
    assert_eq!(host.phase(), Phase::Setup);
    // Not after the program's start.
    send_as_guest(&mut host, &[Frame::Started]);
    host.expect_hello();
    assert_eq!(host.phase(), Phase::Running);
    assert!(!host.has(TERMINAL) && !host.has(ERRORS));
}
