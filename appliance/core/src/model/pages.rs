//! What clients see of answers beside what a backend says: their coding, their size, and pages in
//! the place of errors.

use std::sync::Arc;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// Longest body of an [`ErrorPage`] in bytes: a page that says sorry, not a site.
pub const PAGE_BYTES_MAX: usize = 64 * 1024;

/// Most pages of one [`ErrorPages`].
pub const PAGES_MAX: usize = 64;

/// Largest [`Maintenance::retry_after_secs`]: a day.
pub const RETRY_AFTER_MAX_SECS: u32 = 86_400;

/// Most types of one [`Compression`].
pub const COMPRESSED_TYPES_MAX: usize = 64;

/// Content types that are compressed where nothing else is said. Images, films, sound, fonts in
/// WOFF and archives are compressed already.
pub const COMPRESSED_TYPES: [&str; 13] = [
    "text/*",
    "application/javascript",
    "application/json",
    "application/ld+json",
    "application/manifest+json",
    "application/rss+xml",
    "application/atom+xml",
    "application/vnd.ms-fontobject",
    "application/wasm",
    "application/xhtml+xml",
    "application/xml",
    "font/ttf",
    "image/svg+xml",
];

/// Answers are compressed for clients that accept it (RFC 9110, section 12.5.3).
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Compression {
    /// The codings, preferred first where a client likes several alike. Empty: none.
    pub codings: Vec<Coding>,
    /// Content types, lower case without parameters; `text/*` is every one of `text`. At most
    /// [`COMPRESSED_TYPES_MAX`].
    pub types: Vec<Arc<str>>,
    /// Bytes that an answer has to have at least. One that does not say is compressed.
    pub bytes_min: u64,
    /// How much work is done for it.
    pub effort: Effort,
}

impl Default for Compression {
    fn default() -> Self {
        Self {
            codings: vec![Coding::Brotli, Coding::Zstd, Coding::Gzip],
            types: COMPRESSED_TYPES.map(Into::into).to_vec(),
            // Below it an answer fits one segment either way.
            bytes_min: 1_024,
            effort: Effort::default(),
        }
    }
}

/// A content coding (RFC 9110, section 8.4.1; RFC 7932; RFC 8878).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Coding {
    /// `gzip`.
    Gzip,
    /// `br`.
    #[serde(alias = "br")]
    Brotli,
    /// `zstd`.
    Zstd,
}

impl Coding {
    /// The registered name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Gzip => "gzip",
            Self::Brotli => "br",
            Self::Zstd => "zstd",
        }
    }
}

/// How much work is done to make answers small.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum Effort {
    /// The least.
    Low,
    /// What answers that are made for one client deserve.
    #[default]
    Medium,
    /// Several times the work for a few percent.
    High,
}

/// Pages in the place of errors. The first that is for a status is used.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ErrorPages {
    /// The pages, at most [`PAGES_MAX`].
    pub pages: Vec<ErrorPage>,
    /// Also in the place of what backends answer with these statuses.
    pub intercept: bool,
}

/// A page for some statuses.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ErrorPage {
    /// The first status, 400 to 599.
    pub first: u16,
    /// The last status, not below the first.
    pub last: u16,
    /// What is answered.
    pub page: Page,
}

/// A body and what it is.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Page {
    /// `Content-Type`.
    pub content_type: Arc<str>,
    /// At most [`PAGE_BYTES_MAX`].
    pub body: Arc<str>,
}

/// Requests get 503 and are not passed on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Maintenance {
    /// `Retry-After` in seconds, at most [`RETRY_AFTER_MAX_SECS`]; 0: none.
    pub retry_after_secs: u32,
    /// What is shown; `None`: an error page for 503, or else a line of text.
    pub page: Option<Page>,
    /// Clients that are served all the same.
    pub except: Vec<IpNet>,
}
