//! The messages between silo and a worker over ssh: frames on its standard input and output.
//!
//! A frame is a kind (1 byte), a length (4 bytes, big endian) and that many bytes. A message is one frame of JSON. A file is a sequence of
//! data frames and an end frame.

use std::io::{self, Read, Write};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// The first bytes of a worker. A login shell may print others before them.
pub const PREAMBLE: &[u8] = b"\nsilo-worker-1\n";
/// Bytes that may come before the preamble.
const MAX_BEFORE: usize = 64 << 10;

const MESSAGE: u8 = 1;
const DATA: u8 = 2;
const END: u8 = 3;
/// Limit on a message: the names of thousands of layers.
const MAX_MESSAGE_BYTES: u32 = 4 << 20;
/// Bytes of a data frame at most.
const MAX_DATA_BYTES: u32 = 256 << 10;

/// The first message of a worker.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hello {
    /// The version of requests and reports that it knows.
    pub version: u32,
    /// Its architecture, as Debian names it.
    pub arch: String,
    /// The number of its processors.
    pub processors: usize,
}

/// A step for a worker. The request and the files follow, each as a file.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Order {
    /// The layers of the root, lowest first.
    pub layers: Vec<String>,
    /// Names of the files in the step's directory, the request among them.
    pub files: Vec<String>,
    /// Names of the files that the worker sends back.
    pub results: Vec<String>,
}

/// A worker's answer to an order: the numbers of the layers that it lacks. These follow, each as a file.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Needs {
    /// Numbers in the order's list, ascending.
    pub layers: Vec<usize>,
}

/// The end of a step. The files follow.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Done {
    /// The results that exist, as names of the order's list.
    pub files: Vec<String>,
}

/// Sends a message.
pub fn send(out: &mut dyn Write, message: &impl Serialize) -> io::Result<()> {
    frame(out, MESSAGE, &serde_json::to_vec(message)?)?;
    out.flush()
}

/// Receives a message.
pub fn receive<T: DeserializeOwned>(input: &mut dyn Read) -> io::Result<T> {
    let (kind, length) = head(input)?;
    if kind != MESSAGE || length > MAX_MESSAGE_BYTES {
        return Err(malformed(&format!("a frame of kind {kind} with {length} bytes in place of a message")));
    }
    let mut text = vec![0; length as usize];
    input.read_exact(&mut text)?;
    serde_json::from_slice(&text).map_err(|error| malformed(&error.to_string()))
}

/// Reads up to the preamble of a worker.
pub fn await_preamble(input: &mut dyn Read) -> io::Result<()> {
    let mut last = Vec::with_capacity(PREAMBLE.len());
    for _ in 0..MAX_BEFORE {
        let mut byte = [0];
        input.read_exact(&mut byte)?;
        if last.len() == PREAMBLE.len() {
            last.remove(0);
        }
        last.push(byte[0]);
        if last == PREAMBLE {
            return Ok(());
        }
    }
    Err(malformed("no worker of silo answers"))
}

fn frame(out: &mut dyn Write, kind: u8, bytes: &[u8]) -> io::Result<()> {
    let length = u32::try_from(bytes.len()).map_err(|_| malformed("a frame of 4 GiB"))?;
    let mut head = [kind, 0, 0, 0, 0];
    head[1..].copy_from_slice(&length.to_be_bytes());
    out.write_all(&head)?;
    out.write_all(bytes)
}

fn head(input: &mut dyn Read) -> io::Result<(u8, u32)> {
    let mut head = [0; 5];
    input.read_exact(&mut head)?;
    let [kind, length @ ..] = head;
    Ok((kind, u32::from_be_bytes(length)))
}

fn malformed(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// Sends a file.
pub struct FileWriter<'a> {
    out: &'a mut dyn Write,
    buffer: Vec<u8>,
}

impl<'a> FileWriter<'a> {
    /// Begins a file.
    pub fn new(out: &'a mut dyn Write) -> FileWriter<'a> {
        FileWriter { out, buffer: Vec::with_capacity(MAX_DATA_BYTES as usize) }
    }

    /// Ends the file.
    pub fn finish(mut self) -> io::Result<()> {
        self.flush()?;
        frame(self.out, END, &[])?;
        self.out.flush()
    }
}

impl Write for FileWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = bytes.len().min(MAX_DATA_BYTES as usize - self.buffer.len());
        self.buffer.extend_from_slice(&bytes[..taken]);
        if self.buffer.len() == MAX_DATA_BYTES as usize {
            self.flush()?;
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        if !self.buffer.is_empty() {
            frame(self.out, DATA, &self.buffer)?;
            self.buffer.clear();
        }
        Ok(())
    }
}

/// Receives a file.
pub struct FileReader<'a> {
    input: &'a mut dyn Read,
    /// Bytes left of the current frame; `None` after the last one.
    left: Option<u32>,
}

impl<'a> FileReader<'a> {
    /// Begins a file.
    pub fn new(input: &'a mut dyn Read) -> FileReader<'a> {
        FileReader { input, left: Some(0) }
    }
}

impl Read for FileReader<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        while self.left == Some(0) {
            match head(self.input)? {
                (END, 0) => self.left = None,
                (DATA, length @ 1..=MAX_DATA_BYTES) => self.left = Some(length),
                (kind, length) => return Err(malformed(&format!("a frame of kind {kind} with {length} bytes in a file"))),
            }
        }
        let Some(left) = self.left else { return Ok(0) };
        let most = into.len().min(left as usize);
        let read = self.input.read(&mut into[..most])?;
        if read == 0 && most > 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.left = Some(left - u32::try_from(read).unwrap_or(left));
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_and_messages_arrive_and_all_else_is_an_error() {
        for size in [0, 1, MAX_DATA_BYTES as usize, MAX_DATA_BYTES as usize + 1, 700_000] {
            let file: Vec<u8> = (0..size).map(|at| at as u8).collect();
            let mut wire = b"Welcome!\n".to_vec();
            wire.extend(PREAMBLE);
            send(&mut wire, &Needs { layers: vec![1, 5] }).expect("in memory");
            let mut writer = FileWriter::new(&mut wire);
            writer.write_all(&file).and_then(|()| writer.finish()).expect("in memory");
            let mut input = &wire[..];
            await_preamble(&mut input).expect("it is there");
            assert_eq!(receive::<Needs>(&mut input).expect("a message").layers, [1, 5]);
            let mut found = Vec::new();
            FileReader::new(&mut input).read_to_end(&mut found).expect("a file");
            assert!(found == file && input.is_empty(), "{size}");
            // A shorter wire ends in an error, at each length.
            for end in (0..wire.len()).step_by(wire.len() / 97 + 1) {
                let mut input = &wire[..end];
                let read = await_preamble(&mut input)
                    .and_then(|()| receive::<Needs>(&mut input))
                    .and_then(|_| FileReader::new(&mut input).read_to_end(&mut Vec::new()));
                assert!(read.is_err(), "{end} of {}", wire.len());
            }
        }
        for wire in [&[MESSAGE, 0xff, 0, 0, 0][..], &[DATA, 0, 0, 0, 1, b'x'], &[MESSAGE, 0, 0, 0, 2, b'{', b'}'], &[9, 0, 0, 0, 0]] {
            assert!(receive::<Needs>(&mut &wire[..]).is_err(), "{wire:?}");
        }
        for wire in [&[DATA, 0, 0, 0, 0][..], &[DATA, 1, 0, 0, 0], &[END, 0, 0, 0, 1, 0], &[MESSAGE, 0, 0, 0, 0]] {
            assert!(FileReader::new(&mut &wire[..]).read_to_end(&mut Vec::new()).is_err(), "{wire:?}");
        }
        assert!(await_preamble(&mut &vec![b'x'; MAX_BEFORE + 1][..]).is_err());
    }
}
