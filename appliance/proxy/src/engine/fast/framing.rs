//! Where the body of an answer ends. Pure.
//!
//! The bytes of a body pass as they are, chunks with their sizes too; only their end is looked for.
//! What is not a body by the letter of RFC 9112 is a fault, and the connection ends.

/// Longest line of a size with extensions, and longest trailer section: what no server needs.
const LINE_BYTES_MAX: usize = 4 * 1024;

/// What ends a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Framing {
    /// That many bytes are left.
    Length(u64),
    /// The last chunk (RFC 9112, section 7.1).
    Chunked(Chunks),
    /// The end of the connection.
    Close,
}

/// The body is none by the rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Malformed;

/// Where in a chunked body one is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Chunks {
    at: At,
    /// Bytes of the line, or of the trailers, so far.
    line: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    /// In a size of so many digits.
    Size { size: u64, digits: u8 },
    /// Behind a size: whatever extends it.
    Extension { size: u64 },
    /// Behind the carriage return of a line with a size.
    SizeEnd { size: u64 },
    /// In a chunk with so many bytes left.
    Data(u64),
    /// Behind a chunk.
    DataEnd,
    /// Behind the carriage return behind a chunk.
    DataEndLine,
    /// At the begin of a line of trailers.
    Trailer,
    /// In such a line.
    TrailerLine,
    /// Behind its carriage return.
    TrailerEnd,
    /// Behind the carriage return of the empty line.
    LastEnd,
    /// Behind everything.
    Done,
}

impl Framing {
    /// A chunked body.
    pub(super) fn chunked() -> Self {
        Self::Chunked(Chunks { at: At::Size { size: 0, digits: 0 }, line: 0 })
    }

    /// Whether nothing more belongs to the body.
    pub(super) fn is_done(&self) -> bool {
        match self {
            Self::Length(left) => *left == 0,
            Self::Chunked(chunks) => chunks.at == At::Done,
            Self::Close => false,
        }
    }

    /// How many of the next bytes belong to the body.
    pub(super) fn take(&mut self, bytes: &[u8]) -> Result<usize, Malformed> {
        match self {
            Self::Length(left) => {
                let taken = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len());
                *left -= taken as u64;
                Ok(taken)
            }
            Self::Chunked(chunks) => chunks.take(bytes),
            Self::Close => Ok(bytes.len()),
        }
    }
}

impl Chunks {
    fn take(&mut self, bytes: &[u8]) -> Result<usize, Malformed> {
        let mut taken = 0;
        while taken < bytes.len() && self.at != At::Done {
            if let At::Data(left) = self.at {
                let here = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len() - taken);
                taken += here;
                let left = left - here as u64;
                self.at = if left == 0 { At::DataEnd } else { At::Data(left) };
                continue;
            }
            self.step(bytes[taken])?;
            taken += 1;
        }
        Ok(taken)
    }

    /// One byte outside of the chunks themselves.
    fn step(&mut self, byte: u8) -> Result<(), Malformed> {
        self.line += 1;
        if self.line > LINE_BYTES_MAX {
            return Err(Malformed);
        }
        self.at = match (self.at, byte) {
            (At::Size { size, digits }, _) if byte.is_ascii_hexdigit() => {
                // Sixteen digits fill 64 bits; more could be read as another size.
                if digits == 16 {
                    return Err(Malformed);
                }
                let digit = char::from(byte).to_digit(16).ok_or(Malformed)?;
                At::Size { size: size << 4 | u64::from(digit), digits: digits + 1 }
            }
            (At::Size { digits: 0, .. }, _) => return Err(Malformed),
            (At::Size { size, .. } | At::Extension { size }, b'\r') => At::SizeEnd { size },
            (At::Size { size, .. }, b';' | b' ' | b'\t') => At::Extension { size },
            // A bare line feed could end the line for others (RFC 9112, section 7.1.1).
            (At::Extension { size }, 0x20..=0x7e | b'\t' | 0x80..) => At::Extension { size },
            (At::SizeEnd { size: 0 }, b'\n') => {
                self.line = 0;
                At::Trailer
            }
            (At::SizeEnd { size }, b'\n') => At::Data(size),
            (At::DataEnd, b'\r') => At::DataEndLine,
            (At::DataEndLine, b'\n') => {
                self.line = 0;
                At::Size { size: 0, digits: 0 }
            }
            (At::Trailer, b'\r') => At::LastEnd,
            (At::TrailerLine, b'\r') => At::TrailerEnd,
            (At::Trailer | At::TrailerLine, 0x20..=0x7e | b'\t' | 0x80..) => At::TrailerLine,
            (At::TrailerEnd, b'\n') => At::Trailer,
            (At::LastEnd, b'\n') => At::Done,
            _ => return Err(Malformed),
        };
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How much of a text is the body; whether it is complete.
    fn all(text: &str) -> Result<(usize, bool), Malformed> {
        let mut framing = Framing::chunked();
        let taken = framing.take(text.as_bytes())?;
        Ok((taken, framing.is_done()))
    }

    #[test]
    fn a_chunked_body_ends_behind_its_trailers() {
        let body = "4;x=\"y\"\r\nabcd\r\n0A\r\n0123456789\r\n0\r\nX: y\r\nZ: z\r\n\r\n";
        assert_eq!(all(&format!("{body}HTTP/1.1 200 OK")), Ok((body.len(), true)));
        assert_eq!(all("0\r\n\r\n"), Ok((5, true)));
    }

    #[test]
    fn pieces_of_any_size_come_to_the_same() {
        let body = "3\r\nabc\r\n1f\r\n0123456789012345678901234567890\r\n0\r\nA: b\r\n\r\nrest";
        for size in 1..body.len() {
            let (mut framing, mut taken) = (Framing::chunked(), 0);
            for piece in body.as_bytes().chunks(size) {
                taken += framing.take(piece).unwrap();
            }
            assert_eq!((taken, framing.is_done()), (body.len() - 4, true), "pieces of {size}");
        }
    }

    #[test]
    fn what_could_be_read_in_two_ways_is_no_body() {
        for text in [
            "\r\n",
            "x\r\n",
            "-1\r\n",
            "4\nabcd\r\n",
            "4\r\nabcde\r\n",
            "4\r\nabcd\n",
            "4;\n\r\n",
            "0\r\n\n",
            "00000000000000000\r\n",
            "0\r\nX: \0\r\n\r\n",
        ] {
            assert_eq!(all(text), Err(Malformed), "{text:?}");
        }
        assert_eq!(all(&format!("1;{}", "x".repeat(LINE_BYTES_MAX))), Err(Malformed));
        assert_eq!(all(&format!("0\r\n{}", "X: y\r\n".repeat(LINE_BYTES_MAX))), Err(Malformed));
    }

    #[test]
    fn a_length_ends_where_it_says() {
        let mut framing = Framing::Length(5);
        assert_eq!(framing.take(b"abc"), Ok(3));
        assert!(!framing.is_done());
        assert_eq!(framing.take(b"defg"), Ok(2));
        assert!(framing.is_done());
        let mut framing = Framing::Close;
        assert_eq!(framing.take(b"abc"), Ok(3));
        assert!(!framing.is_done());
    }
}
