//! Decompression by the format's magic bytes, with a limit on the output.

use std::io::{self, BufRead, BufReader, Read};

/// Limit of the output of any file: arbitrary, far above any real one.
pub const MAX_BYTES: u64 = 64 << 30;
/// Limit of the output in multiples of the file size; zeros compress to a thousandth, useful data less.
const MAX_RATIO: u64 = 2_000;
/// Output that is always allowed, however small the file is.
const FREE_BYTES: u64 = 64 << 20;
/// Limit of zstd's window, as a power of two.
const MAX_ZSTD_WINDOW_LOG: u32 = 27;
/// Memory limit of the xz decoder; the strongest setting needs 65 MiB.
const MAX_XZ_BYTES: u64 = 128 << 20;

/// Decompressed data, limited in proportion to the compressed size.
pub struct LimitedReader<'a> {
    inner: Box<dyn Read + 'a>,
    left: u64,
    limit: u64,
}

/// Decompresses gzip, zstd or xz by the magic bytes, or passes other data through; the file has `size` bytes.
pub fn decompressed<'a>(from: impl Read + 'a, size: u64) -> io::Result<LimitedReader<'a>> {
    Ok(LimitedReader::new(opened(from)?, limit(size)))
}

/// Returns the output limit for a file of `size` bytes.
pub fn limit(size: u64) -> u64 {
    size.saturating_mul(MAX_RATIO).saturating_add(FREE_BYTES).min(MAX_BYTES)
}

fn opened<'a>(from: impl Read + 'a) -> io::Result<Box<dyn Read + 'a>> {
    let mut from = BufReader::with_capacity(1 << 17, from);
    let start = from.fill_buf()?;
    if start.starts_with(&[0x1f, 0x8b]) {
        return Ok(Box::new(flate2::bufread::MultiGzDecoder::new(from)));
    }
    if start.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
        let mut decoder = zstd::stream::read::Decoder::with_buffer(from)?;
        decoder.window_log_max(MAX_ZSTD_WINDOW_LOG)?;
        return Ok(Box::new(decoder));
    }
    if start.starts_with(b"\xfd7zXZ\0") {
        let stream = liblzma::stream::Stream::new_stream_decoder(MAX_XZ_BYTES, liblzma::stream::CONCATENATED).map_err(io::Error::other)?;
        return Ok(Box::new(liblzma::bufread::XzDecoder::new_stream(from, stream)));
    }
    Ok(Box::new(from))
}

impl<'a> LimitedReader<'a> {
    /// Limits the output of a decompressor.
    pub fn new(inner: Box<dyn Read + 'a>, limit: u64) -> LimitedReader<'a> {
        LimitedReader { inner, left: limit, limit }
    }

    /// Returns the limit in bytes.
    pub fn limit(&self) -> u64 {
        self.limit
    }

    /// Returns true if the limit is reached.
    pub fn is_over(&self) -> bool {
        self.left == 0
    }
}

impl Read for LimitedReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.left == 0 {
            let what = format!("it unpacks to more than {} bytes, out of proportion to its file size", self.limit);
            return Err(io::Error::new(io::ErrorKind::InvalidData, what));
        }
        let most = buffer.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        let count = self.inner.read(&mut buffer[..most])?;
        self.left -= count as u64;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn compression_is_detected_by_magic_bytes() {
        let text = b"the same in every form".repeat(100);
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(&text).expect("memory");
        let mut xz = liblzma::write::XzEncoder::new(Vec::new(), 1);
        xz.write_all(&text).expect("memory");
        let forms = [
            text.clone(),
            gzip.finish().expect("memory"),
            zstd::encode_all(text.as_slice(), 1).expect("memory"),
            xz.finish().expect("memory"),
        ];
        for form in forms {
            let mut read = Vec::new();
            decompressed(form.as_slice(), form.len() as u64).and_then(|mut from| from.read_to_end(&mut read)).expect("it is read");
            assert_eq!(read, text);
        }
    }

    #[test]
    fn a_bomb_is_bounded() {
        let bomb = zstd::encode_all(io::repeat(0).take(100 << 20), 1).expect("memory");
        let mut from = decompressed(bomb.as_slice(), bomb.len() as u64).expect("it begins well");
        let error = io::copy(&mut from, &mut io::sink()).expect_err("it is too much");
        assert!(from.is_over() && error.to_string().contains("out of proportion"), "{error}");
    }
}
