//! A record as a line, without its end.
//!
//! Whatever a client has sent: a line is printable, so that nothing in it begins another line, and
//! a value ends where its field ends. Pure.

use std::io::Write as _;

use jiff::tz::Offset;

use super::field::{Field, Value};
use super::format::{AccessFormat, Piece};
use super::record::Record;

/// Bytes of one value that are written, counted before escaping; a longer one ends in `...`.
/// Enough for any path that servers accept, and with [`FORMAT_FIELDS_MAX`] a bound on the line.
///
/// [`FORMAT_FIELDS_MAX`]: super::FORMAT_FIELDS_MAX
pub(super) const VALUE_BYTES_MAX: usize = 4_096;

/// Room for an ordinary line, so that it is allocated once.
const ORDINARY_LINE_BYTES: usize = 768;

const MONTHS: [&str; 12] =
    ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

/// Writes a record down.
pub(super) fn line(format: &AccessFormat, record: &Record<'_>) -> Vec<u8> {
    let mut out = Vec::with_capacity(ORDINARY_LINE_BYTES);
    match format {
        AccessFormat::Json => json(&mut out, record),
        AccessFormat::Line(format) => {
            for piece in format.pieces() {
                match piece {
                    Piece::Text(text) => out.extend_from_slice(text.as_bytes()),
                    Piece::Field { field, quoted } => field_of(&mut out, *field, *quoted, record),
                }
            }
        }
    }
    out
}

fn field_of(out: &mut Vec<u8>, field: Field, quoted: bool, record: &Record<'_>) {
    match field.of(record) {
        Value::Absent => out.push(b'-'),
        Value::Foreign(first, second) => {
            foreign(first, second, out, |out, bytes| escape(out, bytes, quoted));
        }
        own => plain(out, &own),
    }
}

fn json(out: &mut Vec<u8>, record: &Record<'_>) {
    let mut before = b'{';
    for field in Field::ALL.into_iter().filter(|field| field.stands_alone()) {
        let value = field.of(record);
        if matches!(value, Value::Absent) {
            continue;
        }
        out.extend_from_slice(&[before, b'"']);
        before = b',';
        out.extend_from_slice(field.name().as_bytes());
        out.extend_from_slice(b"\":");
        match value {
            Value::Number(_) | Value::Millis(_) => plain(out, &value),
            Value::Foreign(first, second) => {
                out.push(b'"');
                foreign(first, second, out, escape_json);
                out.push(b'"');
            }
            own => {
                out.push(b'"');
                plain(out, &own);
                out.push(b'"');
            }
        }
    }
    out.push(b'}');
}

/// What this side has made: printable, without quotes and blanks (but for [`Value::MomentClf`]).
fn plain(out: &mut Vec<u8>, value: &Value<'_>) {
    // Writing into memory does not fail.
    let _ = match value {
        Value::Absent | Value::Foreign(..) => Ok(()),
        Value::Number(number) => write!(out, "{number}"),
        Value::Millis(span) => {
            let micros = span.as_micros();
            write!(out, "{}.{:03}", micros / 1_000, micros % 1_000)
        }
        Value::Moment(at) => write!(out, "{at:.3}"),
        Value::MomentClf(at) => {
            let at = Offset::UTC.to_datetime(*at);
            let month = MONTHS[usize::try_from(at.month() - 1).unwrap_or(0)];
            let (day, year) = (at.day(), at.year());
            let (hour, minute, second) = (at.hour(), at.minute(), at.second());
            write!(out, "{day:02}/{month}/{year:04}:{hour:02}:{minute:02}:{second:02} +0000")
        }
        Value::Address(address) => write!(out, "{address}"),
        Value::Socket(socket) => write!(out, "{socket}"),
        Value::Trace(id) => write!(out, "{id:032x}"),
    };
}

fn foreign(
    first: &[u8],
    second: Option<&[u8]>,
    out: &mut Vec<u8>,
    escape: impl Fn(&mut Vec<u8>, &[u8]),
) {
    let mut part = |part: &[u8]| {
        escape(out, &part[..part.len().min(VALUE_BYTES_MAX)]);
        if part.len() > VALUE_BYTES_MAX {
            out.extend_from_slice(b"...");
        }
    };
    part(first);
    if let Some(second) = second {
        part(b"?");
        part(second);
    }
}

/// Everything but printable ASCII as `\xHH`, as nginx does; also `"` and `\`, and blanks outside
/// quotes.
fn escape(out: &mut Vec<u8>, bytes: &[u8], quoted: bool) {
    for byte in bytes {
        match byte {
            b'"' | b'\\' => hex(out, *byte),
            b' ' if !quoted => hex(out, *byte),
            b' '..=b'~' => out.push(*byte),
            _ => hex(out, *byte),
        }
    }
}

fn hex(out: &mut Vec<u8>, byte: u8) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    let (high, low) = (DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]);
    out.extend_from_slice(&[b'\\', b'x', high, low]);
}

/// As a JSON string has it (RFC 8259, section 7). What is no UTF-8 becomes U+FFFD; controls of
/// Unicode and what some readers take for the end of a line are escaped as well.
fn escape_json(out: &mut Vec<u8>, bytes: &[u8]) {
    for chunk in bytes.utf8_chunks() {
        for character in chunk.valid().chars() {
            match character {
                '"' => out.extend_from_slice(b"\\\""),
                '\\' => out.extend_from_slice(b"\\\\"),
                '\u{2028}' | '\u{2029}' => unicode(out, character),
                control if control.is_control() => unicode(out, control),
                other => out.extend_from_slice(other.encode_utf8(&mut [0; 4]).as_bytes()),
            }
        }
        if !chunk.invalid().is_empty() {
            out.extend_from_slice("\u{fffd}".as_bytes());
        }
    }
}

fn unicode(out: &mut Vec<u8>, character: char) {
    // Writing into memory does not fail.
    let _ = write!(out, "\\u{:04x}", u32::from(character));
}

#[cfg(test)]
#[path = "line_tests.rs"]
mod tests;
