//! The language in which a line of the access log is described.
//!
//! Text stands for itself, `{name}` for a field of the request, `{{` and `}}` for braces. Whether
//! a field stands between quotes is known from the text before it, so that a value can never look
//! like more than one field. Pure.

use std::fmt;

use super::field::Field;

/// Longest description of a line in bytes: all fields by their longest names, with text between
/// them, take a quarter of it.
pub const FORMAT_BYTES_MAX: usize = 4_096;

/// Fields of one line at most: some more than there are.
pub const FORMAT_FIELDS_MAX: usize = 64;

/// As Apache and nginx call it.
const COMBINED: &str = "{client} - {user} [{time_clf}] \"{method} {target} {protocol}\" {status} \
                        {bytes_out} \"{referer}\" \"{user_agent}\"";

/// As close to HAProxy's `option httplog` as what is known allows.
const HAPROXY: &str = "{client}:{client_port} [{time}] {listener} {namespace}/{service}/{pod} \
                       {first_byte_ms}/{duration_ms} {status} {bytes_out} {end} {attempts} \
                       \"{method} {target} {protocol}\"";

/// How requests are written down.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AccessFormat {
    /// A JSON object (RFC 8259) a line, with every field that the request has.
    Json,
    /// As described.
    Line(LineFormat),
}

impl Default for AccessFormat {
    fn default() -> Self {
        Self::Line(LineFormat::combined())
    }
}

impl AccessFormat {
    /// `json`, `combined` or `haproxy`, or a description of a line.
    ///
    /// # Errors
    /// The text is none of them; says where and what would be.
    pub fn parse(text: &str) -> Result<Self, FormatError> {
        match text {
            "json" => Ok(Self::Json),
            "combined" => Ok(Self::Line(LineFormat::combined())),
            "haproxy" => LineFormat::parse(HAPROXY).map(Self::Line),
            _ if !text.contains(['{', '}']) => Err(FormatError::NoField),
            _ => LineFormat::parse(text).map(Self::Line),
        }
    }
}

/// The parts of a line. No two texts stand side by side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LineFormat {
    pieces: Vec<Piece>,
}

/// A part of a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Piece {
    /// As it is: printable ASCII.
    Text(Box<str>),
    /// What the request has there.
    Field {
        /// Which.
        field: Field,
        /// Whether it stands between double quotes, where blanks do no harm.
        quoted: bool,
    },
}

/// Why a text describes no line. Positions count bytes from 0.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    /// There is not a single field.
    #[error(
        "it is neither \"json\", \"combined\" or \"haproxy\" nor has it a field such as {{client}}"
    )]
    NoField,
    /// It is longer than [`FORMAT_BYTES_MAX`].
    #[error("it has {bytes} bytes, but {FORMAT_BYTES_MAX} are the limit")]
    TooLong {
        /// Its length.
        bytes: usize,
    },
    /// It has more fields than [`FORMAT_FIELDS_MAX`].
    #[error("it has more than {FORMAT_FIELDS_MAX} fields")]
    TooMany,
    /// A field has no end.
    #[error("the brace at byte {at} is not closed: write {{{{ for a brace itself")]
    Unclosed {
        /// Where it begins.
        at: usize,
    },
    /// A closing brace closes nothing.
    #[error("the brace at byte {at} closes nothing: write }}}} for a brace itself")]
    Stray {
        /// Where it is.
        at: usize,
    },
    /// There is no such field.
    #[error("there is no field {{{name}}} (byte {at}): fields are {known}", known = Known)]
    Unknown {
        /// Where it begins.
        at: usize,
        /// As written.
        name: Box<str>,
    },
    /// A character that a line cannot have.
    #[error("the character at byte {at} is not printable ASCII")]
    Unprintable {
        /// Where it is.
        at: usize,
    },
}

/// Shows the names of all fields.
struct Known;

impl fmt::Display for Known {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, field) in Field::ALL.iter().enumerate() {
            write!(f, "{}{}", if at == 0 { "" } else { ", " }, field.name())?;
        }
        Ok(())
    }
}

impl LineFormat {
    fn combined() -> Self {
        // The text is the constant above, which a test parses.
        Self::parse(COMBINED).unwrap_or(Self { pieces: Vec::new() })
    }

    /// Reads a description.
    ///
    /// # Errors
    /// It describes no line; says where and what would.
    pub fn parse(text: &str) -> Result<Self, FormatError> {
        if text.len() > FORMAT_BYTES_MAX {
            return Err(FormatError::TooLong { bytes: text.len() });
        }
        if let Some(at) = text.bytes().position(|byte| !(b' '..=b'~').contains(&byte)) {
            return Err(FormatError::Unprintable { at });
        }
        let mut reader = Reader::default();
        let mut at = 0;
        while let Some(found) = text[at..].find(['{', '}']) {
            reader.text.push_str(&text[at..at + found]);
            at += found;
            let (brace, rest) = (&text[at..=at], &text[at + 1..]);
            if rest.starts_with(brace) {
                reader.text.push_str(brace);
                at += 2;
            } else if brace == "}" {
                return Err(FormatError::Stray { at });
            } else {
                at += reader.field(rest, at)?;
            }
        }
        reader.text.push_str(&text[at..]);
        reader.end()
    }

    pub(super) fn pieces(&self) -> &[Piece] {
        &self.pieces
    }
}

#[derive(Default)]
struct Reader {
    pieces: Vec<Piece>,
    text: String,
    fields: usize,
    quoted: bool,
}

impl Reader {
    /// A field whose opening brace at `at` is followed by `rest`; its length with both braces.
    fn field(&mut self, rest: &str, at: usize) -> Result<usize, FormatError> {
        let name = match rest.find(['{', '}']) {
            Some(end) if rest[end..].starts_with('}') => &rest[..end],
            _ => return Err(FormatError::Unclosed { at }),
        };
        let field = Field::named(name)
            .ok_or_else(|| FormatError::Unknown { at, name: name.chars().take(64).collect() })?;
        self.fields += 1;
        if self.fields > FORMAT_FIELDS_MAX {
            return Err(FormatError::TooMany);
        }
        self.flush();
        self.pieces.push(Piece::Field { field, quoted: self.quoted });
        Ok(name.len() + 2)
    }

    fn flush(&mut self) {
        if !self.text.is_empty() {
            let quotes = self.text.bytes().filter(|byte| *byte == b'"').count();
            self.quoted ^= quotes % 2 == 1;
            self.pieces.push(Piece::Text(std::mem::take(&mut self.text).into()));
        }
    }

    fn end(mut self) -> Result<LineFormat, FormatError> {
        self.flush();
        match self.fields {
            0 => Err(FormatError::NoField),
            _ => Ok(LineFormat { pieces: self.pieces }),
        }
    }
}

/// As it can be read again.
impl fmt::Display for LineFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for piece in &self.pieces {
            match piece {
                Piece::Text(text) => {
                    f.write_str(&text.replace('{', "{{").replace('}', "}}"))?;
                }
                Piece::Field { field, .. } => write!(f, "{{{}}}", field.name())?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn line(text: &str) -> LineFormat {
        LineFormat::parse(text).unwrap()
    }

    #[test]
    fn every_preset_can_be_read_and_is_what_it_says() {
        assert_eq!(line(COMBINED).to_string(), COMBINED);
        assert_eq!(AccessFormat::parse("combined"), Ok(AccessFormat::Line(line(COMBINED))));
        assert_eq!(AccessFormat::parse("haproxy"), Ok(AccessFormat::Line(line(HAPROXY))));
        assert_eq!(AccessFormat::parse("json"), Ok(AccessFormat::Json));
        assert_eq!(AccessFormat::default(), AccessFormat::Line(line(COMBINED)));
    }

    #[test]
    fn text_braces_and_fields_are_told_apart() {
        let field = |field, quoted| Piece::Field { field, quoted };
        let text = |text: &str| Piece::Text(text.into());
        assert_eq!(
            line("{{{client}}} \"{path}\"{status}").pieces,
            [
                text("{"),
                field(Field::Client, false),
                text("} \""),
                field(Field::Path, true),
                text("\""),
                field(Field::Status, false)
            ]
        );
    }

    #[test]
    fn what_describes_no_line_is_refused_with_its_place() {
        for (text, expected) in [
            ("", "neither \"json\""),
            ("comon", "neither \"json\""),
            ("{{}}", "neither \"json\""),
            ("a {client", "at byte 2 is not closed"),
            ("a {cli{ent}", "at byte 2 is not closed"),
            ("{client}}", "at byte 8 closes nothing"),
            ("{client} {cookie}", "no field {cookie} (byte 9): fields are time, time_clf"),
            ("{client}\n", "at byte 8 is not printable"),
            ("{client} ä", "at byte 9 is not printable"),
        ] {
            let error = AccessFormat::parse(text).unwrap_err().to_string();
            assert!(error.contains(expected), "{text:?}: {error}");
        }
        let long = format!("{{client}}{}", "x".repeat(FORMAT_BYTES_MAX));
        assert_eq!(LineFormat::parse(&long), Err(FormatError::TooLong { bytes: long.len() }));
        let many = "{client}".repeat(FORMAT_FIELDS_MAX + 1);
        assert_eq!(LineFormat::parse(&many), Err(FormatError::TooMany));
    }

    /// A description made of parts, of which most are sound.
    fn described() -> impl Strategy<Value = String> {
        let name = (0..Field::ALL.len()).prop_map(|at| format!("{{{}}}", Field::ALL[at].name()));
        let part = prop_oneof![4 => name, 3 => "[ -z~|]{0,8}", 1 => "[{]{2}|[}]{2}", 1 => "[{}\"]"];
        prop::collection::vec(part, 0..12).prop_map(|parts| parts.concat())
    }

    proptest! {
        #[test]
        fn what_can_be_read_is_written_so_that_it_is_read_as_the_same(text in described()) {
            if let Ok(format) = LineFormat::parse(&text) {
                prop_assert_eq!(&format.to_string(), &text);
                prop_assert_eq!(line(&format.to_string()), format);
            }
        }

        #[test]
        fn any_text_is_read_or_refused(text in any::<String>()) {
            if let Err(error) = AccessFormat::parse(&text) {
                prop_assert!(!error.to_string().is_empty());
            }
        }
    }
}
