//! The container of a .deb: an `ar` archive of `debian-binary`, `control.tar*` and `data.tar*` (deb(5)).
//!
//! A .deb is untrusted until its digest is verified, which needs all of its bytes. So its contents are staged and discarded if the digest
//! is wrong.

use std::io::{self, BufReader, Read};

use silo_store::digest::{Digest, HashingReader};

use super::ar_headers::CheckedHeaders;
use super::compressed::{self, LimitedReader};

/// Reason why a .deb cannot be unpacked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The container violates deb(5).
    #[error("{deb}: {what}")]
    Container {
        /// The file's name.
        deb: String,
        /// The fault.
        what: String,
    },
    /// Reading or decompressing failed.
    #[error("{deb}: cannot read {member}")]
    Read {
        /// The file's name.
        deb: String,
        /// The member of the container.
        member: String,
        /// The cause.
        source: io::Error,
    },
    /// The digest differs from the lock.
    #[error("{deb}: its sha-256 is {got}, but the lock has {expected}; the file was changed after the download")]
    Digest {
        /// The file's name.
        deb: String,
        /// The digest in the lock.
        expected: Digest,
        /// The digest of the bytes.
        got: Digest,
    },
    /// An entry of the archive that layers do not allow.
    #[error("{deb}: {path}: {what}")]
    Entry {
        /// The file's name.
        deb: String,
        /// The entry's path, unescaped as in the archive.
        path: String,
        /// The fault.
        what: String,
    },
    /// The layer could not be written.
    #[error("{deb}: cannot unpack")]
    Stage {
        /// The file's name.
        deb: String,
        /// The error of the store.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// Limit of a control archive's decompressed size: the largest in Debian contain symbol files of a few megabytes.
const MAX_CONTROL_BYTES: u64 = 64 << 20;
/// Memory limit for decompressing one member; xz -9 needs 65 MiB, zstd's long mode 128 MiB.
const MAX_DECODER_BYTES: u64 = 256 << 20;
/// Limit of the window of zstd members, as a power of two.
const MAX_ZSTD_WINDOW_LOG: u32 = 27;

/// Receives the two archives of a .deb.
pub trait Members {
    /// Receives the decompressed control archive.
    fn control(&mut self, tar: &mut dyn Read) -> Result<(), Error>;
    /// Receives the decompressed data archive; its limit also applies to sparse files.
    fn data(&mut self, tar: &mut LimitedReader<'_>) -> Result<(), Error>;
}

/// Reads the .deb `name` from `from` and passes its archives to `to`, control first. Fails unless all bytes have the digest `expected`.
pub fn read(name: &str, from: impl Read, expected: Digest, to: &mut dyn Members) -> Result<(), Error> {
    let mut hashing = HashingReader::new(BufReader::with_capacity(1 << 17, from));
    let result = members(name, &mut hashing, to);
    // A wrong digest explains any other fault, so report it first.
    io::copy(&mut hashing, &mut io::sink()).map_err(|source| read_error(name, "the rest", source))?;
    let (got, _) = hashing.finish();
    if got != expected {
        return Err(Error::Digest { deb: name.to_owned(), expected, got });
    }
    result
}

fn members(name: &str, from: &mut dyn Read, to: &mut dyn Members) -> Result<(), Error> {
    let wrong = |what: &str| Error::Container { deb: name.to_owned(), what: what.to_owned() };
    let mut archive = ar::Archive::new(CheckedHeaders::new(from));
    let (mut control, mut data) = (false, false);
    let mut first = true;
    while let Some(entry) = archive.next_entry() {
        let mut entry = entry.map_err(|source| read_error(name, "the container", source))?;
        let member = String::from_utf8_lossy(entry.header().identifier()).trim_end_matches('/').to_owned();
        if first != (member == "debian-binary") {
            return Err(wrong("its first member is not \"debian-binary\": not a .deb"));
        }
        first = false;
        let limit = compressed::limit(entry.header().size());
        match member.split_once(".tar").map_or((member.as_str(), ""), |(stem, form)| (stem, form)) {
            ("debian-binary", _) => check_version(name, &mut entry)?,
            ("control", form) if !control => {
                control = true;
                to.control(&mut LimitedReader::new(decompress(form, &mut entry, &member, name)?, limit.min(MAX_CONTROL_BYTES)))?;
            }
            ("data", form) if control && !data => {
                data = true;
                to.data(&mut LimitedReader::new(decompress(form, &mut entry, &member, name)?, limit))?;
            }
            // deb(5): members with a leading underscore may be ignored.
            (other, _) if other.starts_with('_') => {}
            (other, _) => return Err(wrong(&format!("unexpected member \"{other}\""))),
        }
    }
    if control && data { Ok(()) } else { Err(wrong("a control or data archive is missing")) }
}

fn check_version(name: &str, entry: &mut dyn Read) -> Result<(), Error> {
    let mut version = String::new();
    entry.take(64).read_to_string(&mut version).map_err(|source| read_error(name, "debian-binary", source))?;
    if version.starts_with("2.") {
        Ok(())
    } else {
        Err(Error::Container { deb: name.to_owned(), what: format!("format {} is not 2.x", version.trim().escape_debug()) })
    }
}

fn decompress<'a>(form: &str, from: &'a mut dyn Read, member: &str, name: &str) -> Result<Box<dyn Read + 'a>, Error> {
    Ok(match form {
        "" => Box::new(from),
        ".gz" => Box::new(flate2::read::MultiGzDecoder::new(from)),
        ".xz" => {
            let stream = liblzma::stream::Stream::new_stream_decoder(MAX_DECODER_BYTES, liblzma::stream::CONCATENATED)
                .map_err(|error| read_error(name, member, error.into()))?;
            Box::new(liblzma::read::XzDecoder::new_stream(from, stream))
        }
        ".zst" => {
            let mut decoder = zstd::stream::read::Decoder::new(from).map_err(|source| read_error(name, member, source))?;
            decoder.window_log_max(MAX_ZSTD_WINDOW_LOG).map_err(|source| read_error(name, member, source))?;
            Box::new(decoder)
        }
        other => return Err(Error::Container { deb: name.to_owned(), what: format!("cannot decompress \"{other}\" members") }),
    })
}

pub(super) fn read_error(deb: &str, member: &str, source: io::Error) -> Error {
    Error::Read { deb: deb.to_owned(), member: member.to_owned(), source }
}
