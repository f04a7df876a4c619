//! What policies say about answers: their coding, and pages in the place of errors.

use std::sync::Arc;

use haflinger_core::{
    COMPRESSED_TYPES_MAX, Coding, Compression, Effort, ErrorPage, ErrorPages, Maintenance,
    PAGE_BYTES_MAX, PAGES_MAX, Page, RETRY_AFTER_MAX_SECS,
};

use super::Reading;
use super::durations::duration_ms;
use crate::objects::lax::Lax;
use crate::objects::{CompressionBody, ErrorPagesBody, MaintenanceBody};
use crate::translate::quoted;

/// The type of a page that names none.
const PAGE_TYPE_DEFAULT: &str = "text/html; charset=utf-8";

/// Longest content type.
const TYPE_BYTES_MAX: usize = 256;

impl Reading<'_> {
    pub(super) fn compression(&mut self, field: &str, body: &CompressionBody) -> Compression {
        let mut asked = Compression::default();
        if let Some(list) = self.present(&format!("{field}.codings"), &body.codings) {
            asked.codings.clear();
            for (field, text) in self.each(&format!("{field}.codings"), list) {
                match &**text {
                    "gzip" => asked.codings.push(Coding::Gzip),
                    "br" => asked.codings.push(Coding::Brotli),
                    "zstd" => asked.codings.push(Coding::Zstd),
                    other => {
                        let other = quoted(other);
                        self.refuse(format!("{field}: {other} is unknown; write gzip, br or zstd"));
                    }
                }
            }
        }
        if let Some(list) = self.present(&format!("{field}.types"), &body.types) {
            asked.types = self.content_types(&format!("{field}.types"), list);
        }
        let least = self.size(&format!("{field}.minSize"), &body.min_size);
        asked.bytes_min = least.unwrap_or(asked.bytes_min);
        asked.effort = match body.effort.text() {
            None | Some("Medium") => Effort::Medium,
            Some("Low") => Effort::Low,
            Some("High") => Effort::High,
            Some(other) => {
                let other = quoted(other);
                self.refuse(format!(
                    "{field}.effort: {other} is unknown; write Low, Medium or High"
                ));
                Effort::Medium
            }
        };
        asked
    }

    fn content_types(&mut self, field: &str, list: &[Lax<String>]) -> Vec<Arc<str>> {
        if list.len() > COMPRESSED_TYPES_MAX {
            self.refuse(format!("{field}: are more than {COMPRESSED_TYPES_MAX}; write fewer"));
            return Vec::new();
        }
        let mut types = Vec::with_capacity(list.len());
        for (field, text) in self.each(field, list) {
            let part = |part: &str| {
                let fits = |b: u8| b.is_ascii_alphanumeric() || b"!#$&-^_.+".contains(&b);
                !part.is_empty() && part.bytes().all(fits)
            };
            let parts = text.split_once('/').filter(|_| text.len() <= TYPE_BYTES_MAX);
            match parts {
                Some((kind, own)) if part(kind) && (own == "*" || part(own)) => {
                    types.push(text.to_ascii_lowercase().into());
                }
                _ => {
                    let text = quoted(text);
                    self.refuse(format!(
                        "{field}: {text} is no content type; write one, as in text/html or text/*"
                    ));
                }
            }
        }
        types
    }

    pub(super) fn error_pages(&mut self, field: &str, body: &ErrorPagesBody) -> ErrorPages {
        let mut pages = Vec::new();
        for (field, written) in self.each(&format!("{field}.pages"), body.pages.elements()) {
            let page = self.page(&field, &written.content_type, &written.body);
            let Some(page) = page else {
                self.refuse(format!("{field}.body: is missing; write what is shown"));
                continue;
            };
            for (field, text) in
                self.each(&format!("{field}.statuses"), written.statuses.elements())
            {
                match statuses(text) {
                    Some((first, last)) => {
                        pages.push(ErrorPage { first, last, page: page.clone() })
                    }
                    None => {
                        let text = quoted(text);
                        self.refuse(format!(
                            "{field}: {text} is no status of an error; write some, as in 503, 5xx \
                             or 502-504"
                        ));
                    }
                }
            }
        }
        if pages.len() > PAGES_MAX {
            self.refuse(format!(
                "{field}.pages: are for more than {PAGES_MAX} ranges; write fewer"
            ));
            pages.clear();
        }
        ErrorPages { pages, intercept: body.intercept.get().copied().unwrap_or_default() }
    }

    pub(super) fn maintenance(&mut self, field: &str, body: &MaintenanceBody) -> Maintenance {
        let retry_after_secs = body.retry_after.text().map(|text| {
            let secs = duration_ms(text).map(|ms| ms.div_ceil(1_000));
            secs.filter(|secs| *secs <= RETRY_AFTER_MAX_SECS).unwrap_or_else(|| {
                let text = quoted(text);
                self.refuse(format!(
                    "{field}.retryAfter: {text} is no duration of up to a day; write one, as in 5m"
                ));
                0
            })
        });
        Maintenance {
            retry_after_secs: retry_after_secs.unwrap_or_default(),
            page: self.page(field, &body.content_type, &body.body),
            except: self.networks(&format!("{field}.except"), body.except.elements()),
        }
    }

    /// A page, where there is a body.
    fn page(&mut self, field: &str, kind: &Lax<String>, body: &Lax<String>) -> Option<Page> {
        let body = body.text()?;
        if body.len() > PAGE_BYTES_MAX {
            self.refuse(format!("{field}.body: is longer than {PAGE_BYTES_MAX} bytes; shorten it"));
        }
        let kind = kind.text().unwrap_or(PAGE_TYPE_DEFAULT);
        let visible = kind.bytes().all(|b| (b' '..=b'~').contains(&b));
        if !visible || !kind.contains('/') || kind.len() > TYPE_BYTES_MAX {
            let kind = quoted(kind);
            self.refuse(format!(
                "{field}.contentType: {kind} is no content type; write one, as in text/html"
            ));
        }
        Some(Page { content_type: kind.into(), body: body.into() })
    }
}

/// `503`, `5xx` or `502-504`, from 400 to 599.
fn statuses(text: &str) -> Option<(u16, u16)> {
    let one = |text: &str| {
        let is_number = text.len() == 3 && text.bytes().all(|b| b.is_ascii_digit());
        text.parse().ok().filter(|status| is_number && (400..600).contains(status))
    };
    match text {
        "4xx" => Some((400, 499)),
        "5xx" => Some((500, 599)),
        _ => {
            let (first, last) = text.split_once('-').unwrap_or((text, text));
            let (first, last) = (one(first)?, one(last)?);
            (first <= last).then_some((first, last))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_are_one_a_class_or_a_range_of_errors() {
        for (text, expected) in [
            ("404", Some((404, 404))),
            ("4xx", Some((400, 499))),
            ("5xx", Some((500, 599))),
            ("502-504", Some((502, 504))),
            ("504-502", None),
            ("200", None),
            ("3xx", None),
            ("600", None),
            ("+404", None),
            ("0404", None),
            ("404-", None),
            ("", None),
        ] {
            assert_eq!(statuses(text), expected, "{text}");
        }
    }
}
