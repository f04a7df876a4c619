//! The coders, one interface to three: bytes in, bytes out, nothing held back.
//!
//! Every piece is flushed, so that an event that a backend sends reaches the client at once. What a
//! coder holds is bounded by its window and its tables.

use std::io::{self, Write};

use brotli::CompressorWriter;
use bytes::Bytes;
use flate2::write::GzEncoder;
use haflinger_core::{Coding, Effort};

/// Logarithm of the bytes that brotli and zstd look back: 256 KiB.
const WINDOW_LOG: u32 = 18;

/// Bytes that brotli takes up before it compresses them.
const BROTLI_BUFFER_BYTES: usize = 4 * 1024;

/// A coder in its work.
pub(crate) enum Encoder {
    /// RFC 1952.
    Gzip(Box<GzEncoder<Vec<u8>>>),
    /// RFC 7932.
    Brotli(Box<CompressorWriter<Vec<u8>>>),
    /// RFC 8878.
    Zstd(Box<zstd::stream::write::Encoder<'static, Vec<u8>>>),
    /// The end has been written.
    Ended,
}

impl Encoder {
    pub(crate) fn new(coding: Coding, effort: Effort) -> io::Result<Self> {
        let pick = |levels: [u32; 3]| levels[effort as usize];
        Ok(match coding {
            Coding::Gzip => {
                let level = flate2::Compression::new(pick([1, 5, 8]));
                Self::Gzip(Box::new(GzEncoder::new(Vec::new(), level)))
            }
            Coding::Brotli => {
                let quality = pick([1, 4, 6]);
                let (buffer, window) = (BROTLI_BUFFER_BYTES, WINDOW_LOG);
                Self::Brotli(Box::new(CompressorWriter::new(Vec::new(), buffer, quality, window)))
            }
            Coding::Zstd => {
                let level = [1, 3, 8][effort as usize];
                let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), level)?;
                encoder.window_log(WINDOW_LOG)?;
                Self::Zstd(Box::new(encoder))
            }
        })
    }

    /// Takes up a piece and gives out all of it, compressed; with `end` the end too.
    pub(crate) fn push(&mut self, piece: &[u8], end: bool) -> io::Result<Bytes> {
        fn all<W: Write>(writer: &mut W, piece: &[u8], end: bool) -> io::Result<()> {
            writer.write_all(piece)?;
            // The end flushes too, and an empty piece leaves nothing to be flushed.
            if end || piece.is_empty() { Ok(()) } else { writer.flush() }
        }
        let out = match self {
            Self::Gzip(coder) => {
                all(coder, piece, end)?;
                std::mem::take(coder.get_mut())
            }
            Self::Brotli(coder) => {
                all(coder, piece, end)?;
                std::mem::take(coder.get_mut())
            }
            Self::Zstd(coder) => {
                all(coder, piece, end)?;
                std::mem::take(coder.get_mut())
            }
            Self::Ended => Vec::new(),
        };
        if !end {
            return Ok(out.into());
        }
        let rest = match std::mem::replace(self, Self::Ended) {
            Self::Gzip(coder) => coder.finish()?,
            Self::Brotli(coder) => coder.into_inner(),
            Self::Zstd(coder) => coder.finish()?,
            Self::Ended => Vec::new(),
        };
        Ok(if out.is_empty() { rest.into() } else { [out, rest].concat().into() })
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use proptest::prelude::*;

    use super::*;

    const CODINGS: [Coding; 3] = [Coding::Gzip, Coding::Brotli, Coding::Zstd];

    /// As much as a client can read of it so far.
    fn decoded(coding: Coding, bytes: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        let mut reader: Box<dyn Read + '_> = match coding {
            Coding::Gzip => Box::new(flate2::read::MultiGzDecoder::new(bytes)),
            Coding::Brotli => Box::new(brotli::Decompressor::new(bytes, 4_096)),
            Coding::Zstd => Box::new(zstd::stream::read::Decoder::new(bytes).unwrap()),
        };
        // The error at the end says only that more is to come.
        let _ = reader.read_to_end(&mut out);
        out
    }

    #[test]
    fn what_was_pushed_can_be_read_at_once() {
        for coding in CODINGS {
            let mut encoder = Encoder::new(coding, Effort::Medium).unwrap();
            let mut sent = Vec::new();
            for event in ["data: one\n\n", "data: two\n\n"] {
                sent.extend(encoder.push(event.as_bytes(), false).unwrap());
                let so_far = decoded(coding, &sent);
                assert!(so_far.ends_with(event.as_bytes()), "{coding:?} held back {event}");
            }
            sent.extend(encoder.push(b"", true).unwrap());
            assert_eq!(decoded(coding, &sent), b"data: one\n\ndata: two\n\n");
            assert_eq!(encoder.push(b"", true).unwrap(), Bytes::new(), "there is one end");
        }
    }

    #[test]
    fn text_becomes_a_good_deal_smaller_with_any_effort() {
        let text = "a word and another, as texts have them; ".repeat(1_000);
        for coding in CODINGS {
            for effort in [Effort::Low, Effort::Medium, Effort::High] {
                let mut encoder = Encoder::new(coding, effort).unwrap();
                let bytes = encoder.push(text.as_bytes(), true).unwrap();
                assert!(bytes.len() < text.len() / 10, "{coding:?} {effort:?} {}", bytes.len());
                assert_eq!(decoded(coding, &bytes), text.as_bytes());
            }
        }
    }

    proptest! {
        #[test]
        fn any_pieces_come_out_whole(
            pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..2_000), 0..6),
        ) {
            for coding in CODINGS {
                let mut encoder = Encoder::new(coding, Effort::Low).unwrap();
                let mut sent = Vec::new();
                for piece in &pieces {
                    sent.extend(encoder.push(piece, false).unwrap());
                }
                sent.extend(encoder.push(b"", true).unwrap());
                prop_assert_eq!(decoded(coding, &sent), pieces.concat());
            }
        }
    }
}
