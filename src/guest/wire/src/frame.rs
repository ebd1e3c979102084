//! The protocol between a VM and Silo on the host, over one serial port that carries only bytes.
//!
//! A port has no end of file and no half-close, so frames express both. A frame is a letter, a stream number and the length of the payload,
//! each number in four little-endian bytes:
//!
//! | letter | from | stream | payload |
//! |---|---|---|---|
//! | `H` | guest | 0 | hello: the version, two bytes; the guest's first frame |
//! | `D` | both | any | data of the stream |
//! | `E` | both | any | none: end of the stream in this direction |
//! | `X` | both | any | none: the sender discards further data of this stream |
//! | `C` | both | any | credit: four bytes; this many bytes of the stream were consumed, and as many more may be sent |
//! | `M` | both | 0 | the stream that comes with the message (four bytes, 0 for none), and a network message |
//! | `K` | guest | from 16 | none: a connection to the user's ssh agent on this stream |
//! | `A` | host | 0 | 32 random bytes, seconds since 1970 (eight bytes) and nanoseconds (four): reseed after a restore; the guest answers
//! with `H` |
//! | `S` | host | 0 | a signal and its scope, one byte each |
//! | `W` | host | 0 | rows and columns of the terminal, two bytes each |
//! | `B` | guest | 0 | none: the program starts |
//! | `F` | host | 0 | `F` or `B`: puts the program in the foreground or background of its terminal |
//! | `T` | host | 0 | settings of the host's terminal: input, output, line and control modes, four bytes each, and special characters |
//! | `Z` | guest | 0 | the signal that stopped the program, one byte |
//! | `R` | guest | 0 | the result: a letter, a four-byte number, and a text; the last frame |
//!
//! At most [`WINDOW_BYTES`] of a stream may be in flight in each direction. Streams below [`FIRST_FREE`] exist from the start; the guest
//! numbers the others, which come with messages and ssh agent connections.
//!
//! Both sides treat input as hostile: a malformed frame ends the connection.

/// The protocol version in the guest's first frame; a host accepts no other.
///
/// The guest's program is part of silo, and its digest is part of a snapshot's key, so both sides normally agree. Raise the version if a
/// program of another silo could misread this one's frames.
pub const VERSION: u16 = 2;

/// The longest payload of a frame.
pub const MAX_PAYLOAD_BYTES: usize = 32 << 10;
/// The most bytes of a stream in flight in one direction.
pub const WINDOW_BYTES: usize = 256 << 10;
/// The most open streams.
pub const MAX_STREAMS: usize = 1024;
/// The longest text of a report: a step with a path, and the reason of the failure.
pub const MAX_TEXT_BYTES: usize = 4096;
/// Random bytes that reseed a restored guest.
pub const SEED_BYTES: usize = 32;
/// The most special characters of a terminal.
pub const MAX_CODES: usize = 32;
/// The signals that stop a program: STOP, TSTP, TTIN and TTOU.
const STOPS: std::ops::RangeInclusive<u8> = 19..=22;
const HEAD_BYTES: usize = 9;

/// To the guest: the job, as JSON.
pub const JOB: u32 = 0;
/// To the guest: the program's standard input.
pub const INPUT: u32 = 1;
/// From the guest: the program's standard output.
pub const OUTPUT: u32 = 2;
/// From the guest: the program's standard error.
pub const ERRORS: u32 = 3;
/// Both ways: the program's terminal.
pub const TERMINAL: u32 = 4;
/// To the guest: the contents of the overlay's upper directory, as a tar.
pub const BEFORE: u32 = 5;
/// From the guest: the upper directory after the program exited, as a tar.
pub const AFTER: u32 = 6;
/// The first stream number that the guest may assign.
pub const FIRST_FREE: u32 = 16;

/// A frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// The guest is ready.
    Hello {
        /// The guest's protocol version.
        version: u16,
    },
    /// Data of a stream.
    Data {
        /// The stream.
        stream: u32,
        /// The data; at least one byte.
        bytes: Vec<u8>,
    },
    /// End of a stream in this direction.
    End {
        /// The stream.
        stream: u32,
    },
    /// The sender discards further data of this stream.
    Closed {
        /// The stream.
        stream: u32,
    },
    /// Bytes of a stream were consumed.
    Credit {
        /// The stream.
        stream: u32,
        /// The number of bytes.
        bytes: u32,
    },
    /// A network message.
    Message {
        /// The stream that comes with it.
        stream: Option<u32>,
        /// The encoded message.
        bytes: Vec<u8>,
    },
    /// A connection to the user's ssh agent.
    Keys {
        /// The stream of the connection.
        stream: u32,
    },
    /// Reseeds the RNG of a restored VM and sets its clock.
    Awake {
        /// Random bytes from the host.
        seed: [u8; SEED_BYTES],
        /// The host's clock: seconds since 1970.
        secs: i64,
        /// The nanoseconds of that second.
        nanos: u32,
    },
    /// A signal for the program.
    Signal {
        /// The signal number.
        signal: u8,
        /// Whether the whole process group receives it.
        to_group: bool,
    },
    /// The terminal was resized.
    Window {
        /// Rows.
        rows: u16,
        /// Columns.
        columns: u16,
    },
    /// The program starts.
    Started,
    /// Puts the program in the foreground or background of its terminal.
    Foreground {
        /// Whether it is in the foreground.
        is_foreground: bool,
    },
    /// The settings of the host's terminal.
    Settings {
        /// Input, output, line and control modes.
        modes: [u32; 4],
        /// The special characters.
        codes: Vec<u8>,
    },
    /// The program was stopped.
    Stopped {
        /// The signal that stopped it.
        signal: u8,
    },
    /// The program is in the foreground or background, as the last [`Frame::Foreground`] asked.
    Placed,
    /// The program's result.
    Report(Report),
}

/// The result of the program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Report {
    /// The exit code.
    Exited(u8),
    /// The signal that killed the program.
    Killed(u8),
    /// An error; the program did not run.
    Failed {
        /// The stage that failed.
        stage: StageFailure,
        /// The errno; 0 if there is none.
        errno: i32,
        /// The step that failed; without an errno, a NUL byte and the reason follow.
        step: String,
    },
}

/// The stage of a failure, from the guest to the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StageFailure {
    /// Set up the sandbox inside.
    Setup,
    /// Find the program.
    Find,
    /// Execute the program.
    Execute,
}

/// Malformed frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MalformedFrame;

impl Frame {
    /// Returns the frame's name, for errors.
    pub fn name(&self) -> &'static str {
        match self {
            Frame::Hello { .. } => "hello",
            Frame::Data { .. } => "data",
            Frame::End { .. } => "end",
            Frame::Closed { .. } => "closed",
            Frame::Credit { .. } => "credit",
            Frame::Message { .. } => "message",
            Frame::Keys { .. } => "keys",
            Frame::Awake { .. } => "awake",
            Frame::Signal { .. } => "signal",
            Frame::Window { .. } => "window",
            Frame::Started => "started",
            Frame::Foreground { .. } => "foreground",
            Frame::Settings { .. } => "settings",
            Frame::Stopped { .. } => "stopped",
            Frame::Placed => "placed",
            Frame::Report(_) => "report",
        }
    }

    /// Appends the encoded frame to `out`.
    pub fn write(&self, out: &mut Vec<u8>) {
        match self {
            Frame::Hello { version } => put(out, b'H', 0, &[&version.to_le_bytes()]),
            Frame::Data { stream, bytes } => put(out, b'D', *stream, &[bytes]),
            Frame::End { stream } => put(out, b'E', *stream, &[]),
            Frame::Closed { stream } => put(out, b'X', *stream, &[]),
            Frame::Credit { stream, bytes } => put(out, b'C', *stream, &[&bytes.to_le_bytes()]),
            Frame::Message { stream, bytes } => put(out, b'M', 0, &[&stream.unwrap_or(0).to_le_bytes(), bytes]),
            Frame::Keys { stream } => put(out, b'K', *stream, &[]),
            Frame::Awake { seed, secs, nanos } => put(out, b'A', 0, &[seed, &secs.to_le_bytes(), &nanos.to_le_bytes()]),
            Frame::Signal { signal, to_group } => put(out, b'S', 0, &[&[*signal, if *to_group { b'G' } else { b'P' }]]),
            Frame::Window { rows, columns } => put(out, b'W', 0, &[&rows.to_le_bytes(), &columns.to_le_bytes()]),
            Frame::Started => put(out, b'B', 0, &[]),
            Frame::Foreground { is_foreground } => put(out, b'F', 0, &[if *is_foreground { b"F" } else { b"B" }]),
            Frame::Settings { modes: [a, b, c, d], codes } => {
                put(out, b'T', 0, &[&a.to_le_bytes(), &b.to_le_bytes(), &c.to_le_bytes(), &d.to_le_bytes(), codes]);
            }
            Frame::Stopped { signal } => put(out, b'Z', 0, &[&[*signal]]),
            Frame::Placed => put(out, b'P', 0, &[]),
            Frame::Report(report) => report.write(out),
        }
    }

    /// Parses the first frame of `bytes`; `None` if it is incomplete.
    pub fn read(bytes: &[u8]) -> Result<Option<(Frame, usize)>, MalformedFrame> {
        let Some((letter, rest)) = bytes.split_first() else { return Ok(None) };
        let Some((stream, rest)) = rest.split_first_chunk::<4>() else { return Ok(None) };
        let Some((length, rest)) = rest.split_first_chunk::<4>() else { return Ok(None) };
        let length = usize::try_from(u32::from_le_bytes(*length)).map_err(|_| MalformedFrame)?;
        if length > MAX_PAYLOAD_BYTES {
            return Err(MalformedFrame);
        }
        let Some(payload) = rest.get(..length) else { return Ok(None) };
        let frame = parse(*letter, u32::from_le_bytes(*stream), payload).ok_or(MalformedFrame)?;
        Ok(Some((frame, HEAD_BYTES + length)))
    }
}

impl Report {
    fn write(&self, out: &mut Vec<u8>) {
        let (letter, number, text) = match self {
            Report::Exited(code) => (b'E', i32::from(*code), ""),
            Report::Killed(signal) => (b'K', i32::from(*signal), ""),
            Report::Failed { stage, errno, step } => (stage.letter(), *errno, step.as_str()),
        };
        let text = &text.as_bytes()[..text.floor_char_boundary(MAX_TEXT_BYTES)];
        put(out, b'R', 0, &[&[letter], &number.to_le_bytes(), text]);
    }

    fn read(payload: &[u8]) -> Option<Report> {
        let (letter, rest) = payload.split_first()?;
        let (number, text) = rest.split_first_chunk::<4>()?;
        let number = i32::from_le_bytes(*number);
        let stage = match letter {
            b'E' => return Some(Report::Exited(u8::try_from(number).ok()?)).filter(|_| text.is_empty()),
            b'K' => return Some(Report::Killed(u8::try_from(number).ok()?)).filter(|_| text.is_empty()),
            other => StageFailure::of_letter(*other)?,
        };
        let text = std::str::from_utf8(text).ok().filter(|text| text.len() <= MAX_TEXT_BYTES)?;
        Some(Report::Failed { stage, errno: number, step: text.to_owned() })
    }
}

impl StageFailure {
    /// Returns the stage with this letter.
    pub fn of_letter(letter: u8) -> Option<StageFailure> {
        match letter {
            b'S' => Some(StageFailure::Setup),
            b'F' => Some(StageFailure::Find),
            b'X' => Some(StageFailure::Execute),
            _ => None,
        }
    }

    /// Returns the letter of the stage on the wire.
    pub fn letter(self) -> u8 {
        match self {
            StageFailure::Setup => b'S',
            StageFailure::Find => b'F',
            StageFailure::Execute => b'X',
        }
    }
}

/// Writes a head and its payload; a payload beyond the limit is the caller's bug and is cut.
fn put(out: &mut Vec<u8>, letter: u8, stream: u32, parts: &[&[u8]]) {
    let length = parts.iter().map(|part| part.len()).sum::<usize>().min(MAX_PAYLOAD_BYTES);
    out.push(letter);
    out.extend(stream.to_le_bytes());
    out.extend((length as u32).to_le_bytes());
    let end = out.len() + length;
    parts.iter().for_each(|part| out.extend_from_slice(part));
    out.truncate(end);
}

fn parse(letter: u8, stream: u32, payload: &[u8]) -> Option<Frame> {
    let about_none = |frame: Frame| (stream == 0).then_some(frame);
    match (letter, payload) {
        (b'H', [low, high]) => about_none(Frame::Hello { version: u16::from_le_bytes([*low, *high]) }),
        (b'D', bytes) if !bytes.is_empty() => Some(Frame::Data { stream, bytes: bytes.to_vec() }),
        (b'E', []) => Some(Frame::End { stream }),
        (b'X', []) => Some(Frame::Closed { stream }),
        (b'C', [a, b, c, d]) => Some(Frame::Credit { stream, bytes: u32::from_le_bytes([*a, *b, *c, *d]) }),
        (b'M', [a, b, c, d, bytes @ ..]) => {
            let passed = u32::from_le_bytes([*a, *b, *c, *d]);
            let passed = if passed == 0 { None } else { Some(Some(passed).filter(|passed| *passed >= FIRST_FREE)?) };
            about_none(Frame::Message { stream: passed, bytes: bytes.to_vec() })
        }
        (b'K', []) if stream >= FIRST_FREE => Some(Frame::Keys { stream }),
        (b'A', payload) => {
            let (seed, rest) = payload.split_first_chunk::<SEED_BYTES>()?;
            let (secs, rest) = rest.split_first_chunk::<8>()?;
            let nanos = u32::from_le_bytes(*rest.first_chunk::<4>().filter(|_| rest.len() == 4)?);
            about_none(Frame::Awake { seed: *seed, secs: i64::from_le_bytes(*secs), nanos })
        }
        (b'S', [signal, scope @ (b'G' | b'P')]) => about_none(Frame::Signal { signal: *signal, to_group: *scope == b'G' }),
        (b'W', [a, b, c, d]) => about_none(Frame::Window { rows: u16::from_le_bytes([*a, *b]), columns: u16::from_le_bytes([*c, *d]) }),
        (b'B', []) => about_none(Frame::Started),
        (b'F', [way @ (b'F' | b'B')]) => about_none(Frame::Foreground { is_foreground: *way == b'F' }),
        (b'T', payload) => {
            let (modes, codes) = payload.split_first_chunk::<16>()?;
            let mode = |number: usize| u32::from_le_bytes([0, 1, 2, 3].map(|byte| modes[4 * number + byte]));
            let codes = Some(codes).filter(|codes| codes.len() <= MAX_CODES)?.to_vec();
            about_none(Frame::Settings { modes: [0, 1, 2, 3].map(mode), codes })
        }
        (b'Z', [signal]) if STOPS.contains(signal) => about_none(Frame::Stopped { signal: *signal }),
        (b'P', []) => about_none(Frame::Placed),
        (b'R', payload) => about_none(Frame::Report(Report::read(payload)?)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AWAKE: &[u8] = b"A\0\0\0\0\x2c\0\0\0rrrrrrrrrrrrrrrrrrrrrrrrrrrrrrrr\x01\0\0\0\0\0\0\0\x02\0\0\0";

    const SETTINGS: &[u8] = b"T\0\0\0\0\x11\0\0\0\x01\0\0\0\x02\0\0\0\x03\0\0\0\x04\0\0\0\x05";

    fn examples() -> Vec<(Frame, &'static [u8])> {
        let failed = Report::Failed { stage: StageFailure::Execute, errno: 8, step: "x".to_owned() };
        vec![
            (Frame::Hello { version: 1 }, b"H\0\0\0\0\x02\0\0\0\x01\0"),
            (Frame::Data { stream: 2, bytes: b"hi".to_vec() }, b"D\x02\0\0\0\x02\0\0\0hi"),
            (Frame::End { stream: 1 }, b"E\x01\0\0\0\0\0\0\0"),
            (Frame::Closed { stream: 0x1000 }, b"X\0\x10\0\0\0\0\0\0"),
            (Frame::Credit { stream: 3, bytes: 4096 }, b"C\x03\0\0\0\x04\0\0\0\0\x10\0\0"),
            (Frame::Message { stream: None, bytes: b"m".to_vec() }, b"M\0\0\0\0\x05\0\0\0\0\0\0\0m"),
            (Frame::Message { stream: Some(16), bytes: vec![] }, b"M\0\0\0\0\x04\0\0\0\x10\0\0\0"),
            (Frame::Keys { stream: 17 }, b"K\x11\0\0\0\0\0\0\0"),
            (Frame::Awake { seed: [b'r'; SEED_BYTES], secs: 1, nanos: 2 }, AWAKE),
            (Frame::Signal { signal: 15, to_group: true }, b"S\0\0\0\0\x02\0\0\0\x0fG"),
            (Frame::Window { rows: 24, columns: 80 }, b"W\0\0\0\0\x04\0\0\0\x18\0\x50\0"),
            (Frame::Started, b"B\0\0\0\0\0\0\0\0"),
            (Frame::Foreground { is_foreground: false }, b"F\0\0\0\0\x01\0\0\0B"),
            (Frame::Settings { modes: [1, 2, 3, 4], codes: vec![5] }, SETTINGS),
            (Frame::Stopped { signal: 20 }, b"Z\0\0\0\0\x01\0\0\0\x14"),
            (Frame::Placed, b"P\0\0\0\0\0\0\0\0"),
            (Frame::Report(Report::Exited(3)), b"R\0\0\0\0\x05\0\0\0E\x03\0\0\0"),
            (Frame::Report(Report::Killed(9)), b"R\0\0\0\0\x05\0\0\0K\x09\0\0\0"),
            (Frame::Report(failed), b"R\0\0\0\0\x06\0\0\0X\x08\0\0\0x"),
        ]
    }

    /// The exact bytes: a host of another version reads them.
    #[test]
    fn frames_have_one_form() {
        for (frame, bytes) in examples() {
            let mut written = Vec::new();
            frame.write(&mut written);
            assert_eq!(written, bytes, "{frame:?}");
            assert_eq!(Frame::read(bytes), Ok(Some((frame, bytes.len()))));
        }
    }

    #[test]
    fn a_frame_that_is_cut_is_waited_for() {
        for (_, bytes) in examples() {
            for cut in 0..bytes.len() {
                assert_eq!(Frame::read(&bytes[..cut]), Ok(None));
            }
        }
    }

    #[test]
    fn malformed_frames_are_refused() {
        for bytes in [
            &b"D\0\0\0\0\x01\x80\0\0"[..],
            b"D\0\0\0\0\xff\xff\xff\xff",
            b"D\0\0\0\0\0\0\0\0",
            b"Q\0\0\0\0\0\0\0\0",
            b"Z\0\0\0\0\x01\0\0\0x",
            b"Z\0\0\0\0\0\0\0\0",
            b"F\0\0\0\0\x01\0\0\0x",
            b"P\0\0\0\0\x01\0\0\0x",
            b"T\0\0\0\0\x01\0\0\0x",
            b"H\x01\0\0\0\x02\0\0\0\x01\0",
            b"E\0\0\0\0\x01\0\0\0x",
            b"M\0\0\0\0\x04\0\0\0\x05\0\0\0",
            b"M\0\0\0\0\x03\0\0\0\0\0\0",
            b"K\x05\0\0\0\0\0\0\0",
            b"A\0\0\0\0\x01\0\0\0r",
            b"S\0\0\0\0\x02\0\0\0\x0fx",
            b"R\0\0\0\0\x05\0\0\0E\0\x01\0\0",
            b"R\0\0\0\0\x06\0\0\0E\0\0\0\0x",
            b"R\0\0\0\0\x05\0\0\0Z\0\0\0\0",
        ] {
            assert_eq!(Frame::read(bytes), Err(MalformedFrame), "{bytes:?}");
        }
    }

    #[test]
    fn a_text_has_a_longest_length() {
        let frame = |text: &str| Frame::Report(Report::Failed { stage: StageFailure::Setup, errno: 1, step: text.to_owned() });
        let mut written = Vec::new();
        frame(&"é".repeat(MAX_TEXT_BYTES)).write(&mut written);
        let Ok(Some((Frame::Report(Report::Failed { step, .. }), _))) = Frame::read(&written) else { panic!("{written:?}") };
        assert_eq!(step.len(), MAX_TEXT_BYTES);
        let mut long = Vec::new();
        put(&mut long, b'R', 0, &[b"S\x01\0\0\0", &[b'x'; MAX_TEXT_BYTES + 1]]);
        assert_eq!(Frame::read(&long), Err(MalformedFrame));
    }

    /// Pseudo-random bytes, the same in every run, after the start of a frame.
    #[test]
    fn parsing_and_encoding_agree() {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut read = 0;
        for round in 0..200_000_usize {
            let mut next = || {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                (state >> 56) as u8
            };
            let length = usize::from(next() % 9);
            let stream = if next() % 2 == 0 { 0 } else { next() };
            let mut bytes = vec![b"HDEXCMKASWRBZFT"[round % 15], stream, 0, 0, 0, length as u8, 0, 0, 0];
            for _ in 0..length {
                let byte = next();
                bytes.push(if byte % 2 == 0 { 0 } else { b"EKSFXGP"[usize::from(next() % 7)] });
            }
            if let Ok(Some((frame, taken))) = Frame::read(&bytes) {
                let mut written = Vec::new();
                frame.write(&mut written);
                assert_eq!(written, bytes[..taken], "{frame:?}");
                read += 1;
            }
        }
        assert!(read > 1000, "{read} of the frames were read");
    }
}
