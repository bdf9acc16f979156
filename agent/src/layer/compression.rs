//! Unpacks gzip and zstd. Recognised by their first bytes, as containerd does: what a manifest calls a layer is not always what it is.

use std::io::{self, BufRead, BufReader, Cursor, Read};

use flate2::bufread::MultiGzDecoder;
use ruzstd::decoding::errors::{FrameDecoderError, ReadFrameHeaderError};
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};

use super::LayerError;

const GZIP: &[u8] = b"\x1f\x8b";
const ZSTD: &[u8] = b"\x28\xb5\x2f\xfd";
/// A frame to be skipped begins so, but for its lowest four bits.
const ZSTD_SKIPPABLE: &[u8] = b"\x2a\x4d\x18";
const HEAD_BYTES: u64 = 8;
const BUFFER_BYTES: usize = 256 << 10;
/// What every reader should have memory for (RFC 8878, 3.1.1.1.2), and all but `zstd --ultra` and `--long` ask for; a frame that wants more is refused.
const MAX_WINDOW_BYTES: u64 = 8 << 20;

/// The bytes of `layer` without their packing, and whether they had one.
pub(super) fn unpack<'r>(layer: &'r mut dyn BufRead) -> Result<(Box<dyn BufRead + 'r>, bool), LayerError> {
    let mut head = Vec::new();
    (&mut *layer).take(HEAD_BYTES).read_to_end(&mut head).map_err(LayerError::from_io)?;
    let is_skippable = head.get(1..).is_some_and(|rest| rest.starts_with(ZSTD_SKIPPABLE));
    let is_skippable = is_skippable && head.first().is_some_and(|first| first & 0xf0 == 0x50);
    let (is_gzip, is_zstd) = (head.starts_with(GZIP), head.starts_with(ZSTD) || is_skippable);
    let whole = Cursor::new(head).chain(layer);
    Ok(if is_gzip {
        (Box::new(buffered(Named { inner: MultiGzDecoder::new(whole), name: "gzip" })), true)
    } else if is_zstd {
        (Box::new(buffered(Named { inner: Zstd::new(whole), name: "zstd" })), true)
    } else {
        (Box::new(whole), false)
    })
}

fn buffered<R: Read>(unpacker: R) -> BufReader<R> {
    BufReader::with_capacity(BUFFER_BYTES, unpacker)
}

/// Says of an unpacker's error whose it is.
struct Named<R> {
    inner: R,
    name: &'static str,
}

impl<R: Read> Read for Named<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.inner.read(buffer).map_err(|error| match error.kind() {
            io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData => LayerError::Packing(self.name).into_io(),
            _ => error,
        })
    }
}

/// All frames of a zstd file; ruzstd's own reader stops after the first.
struct Zstd<R> {
    source: R,
    decoder: Box<FrameDecoder>,
    is_in_frame: bool,
}

impl<R: BufRead> Zstd<R> {
    fn new(source: R) -> Self {
        let mut decoder = FrameDecoder::new();
        decoder.set_max_window_size(MAX_WINDOW_BYTES);
        Self { source, decoder: Box::new(decoder), is_in_frame: false }
    }

    /// Begins the next frame, if there is one.
    fn next_frame(&mut self) -> io::Result<bool> {
        while !self.source.fill_buf()?.is_empty() {
            match self.decoder.reset(&mut self.source) {
                Ok(()) => {
                    self.is_in_frame = true;
                    return Ok(true);
                }
                Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame { length, .. })) => {
                    io::copy(&mut self.source.by_ref().take(u64::from(length)), &mut io::sink())?;
                }
                Err(_) => return Err(LayerError::Packing("zstd").into_io()),
            }
        }
        Ok(false)
    }
}

impl<R: BufRead> Read for Zstd<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            if self.is_in_frame {
                while self.decoder.can_collect() == 0 && !self.decoder.is_finished() {
                    let decoded = self.decoder.decode_blocks(&mut self.source, BlockDecodingStrategy::UptoBlocks(1));
                    decoded.map_err(|_| LayerError::Packing("zstd").into_io())?;
                }
                let count = self.decoder.read(buffer)?;
                if count > 0 || buffer.is_empty() {
                    return Ok(count);
                }
                self.is_in_frame = false;
            }
            if !self.next_frame()? {
                return Ok(0);
            }
        }
    }
}
