//! Pages in the place of errors, and of everything while a service is being maintained. Pure.

use std::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;
use haflinger_core::{ErrorPages, Maintenance, Page};
use http::HeaderValue;
use ipnet::IpNet;

/// Pages by status, checked.
#[derive(Debug)]
pub(crate) struct Pages {
    pages: Vec<(u16, u16, Sheet)>,
    intercept: bool,
}

/// A page, ready to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Sheet {
    /// `Content-Type`.
    pub(crate) content_type: HeaderValue,
    /// The body.
    pub(crate) body: Bytes,
}

/// Nothing is passed on for now.
#[derive(Debug)]
pub(crate) struct Closed {
    /// What all are answered whom it holds for.
    pub(crate) notice: Arc<Notice>,
    except: Vec<IpNet>,
}

/// What is said meanwhile.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Notice {
    /// `Retry-After` in seconds; 0: none.
    pub(crate) retry_after_secs: u32,
    /// What is shown; `None`: as for any other 503.
    pub(crate) sheet: Option<Sheet>,
}

impl Sheet {
    /// `None` when the type is none: a field with it could not be sent.
    fn compile(from: &Page) -> Option<Self> {
        let content_type = HeaderValue::from_str(&from.content_type).ok()?;
        Some(Self { content_type, body: Bytes::copy_from_slice(from.body.as_bytes()) })
    }
}

impl Pages {
    /// `None` when a page cannot be sent.
    pub(crate) fn compile(from: &ErrorPages) -> Option<Self> {
        let pages = from.pages.iter();
        let pages = pages.map(|page| Some((page.first, page.last, Sheet::compile(&page.page)?)));
        Some(Self { pages: pages.collect::<Option<_>>()?, intercept: from.intercept })
    }

    /// The page for a status.
    pub(crate) fn find(&self, status: u16) -> Option<&Sheet> {
        let mut pages = self.pages.iter();
        pages.find(|(first, last, _)| (*first..=*last).contains(&status)).map(|(.., page)| page)
    }

    /// The page in the place of what a backend says with a status.
    pub(crate) fn find_for_backend(&self, status: u16) -> Option<&Sheet> {
        self.find(status).filter(|_| self.intercept)
    }
}

impl Closed {
    /// `None` when its page cannot be sent.
    pub(crate) fn compile(from: &Maintenance) -> Option<Self> {
        let sheet = match &from.page {
            Some(page) => Some(Sheet::compile(page)?),
            None => None,
        };
        let notice = Arc::new(Notice { retry_after_secs: from.retry_after_secs, sheet });
        Some(Self { notice, except: from.except.clone() })
    }

    /// Whether it holds for a client.
    pub(crate) fn holds_for(&self, client: IpAddr) -> bool {
        let client = client.to_canonical();
        !self.except.iter().any(|network| network.contains(&client))
    }
}

#[cfg(test)]
mod tests {
    use haflinger_core::ErrorPage;

    use super::*;

    fn page(body: &str) -> Page {
        Page { content_type: "text/html".into(), body: body.into() }
    }

    #[test]
    fn the_first_page_for_a_status_is_used_and_for_backends_only_where_asked() {
        let pages = vec![
            ErrorPage { first: 503, last: 503, page: page("busy") },
            ErrorPage { first: 500, last: 599, page: page("broken") },
        ];
        for intercept in [false, true] {
            let pages = Pages::compile(&ErrorPages { pages: pages.clone(), intercept }).unwrap();
            let body = |sheet: Option<&Sheet>| sheet.map(|sheet| sheet.body.clone());
            assert_eq!(body(pages.find(503)), Some("busy".into()));
            assert_eq!(body(pages.find(599)), Some("broken".into()));
            assert_eq!(body(pages.find(404)), None);
            assert_eq!(pages.find_for_backend(502).is_some(), intercept);
        }
    }

    #[test]
    fn a_type_that_no_field_can_carry_is_refused() {
        let bad = Page { content_type: "text/html\n".into(), body: "".into() };
        let pages = vec![ErrorPage { first: 500, last: 500, page: bad.clone() }];
        assert!(Pages::compile(&ErrorPages { pages, intercept: false }).is_none());
        let closed = Maintenance { page: Some(bad), ..Maintenance::default() };
        assert!(Closed::compile(&closed).is_none());
    }

    #[test]
    fn maintenance_is_for_all_but_those_that_are_excepted() {
        let except = vec!["192.0.2.0/24".parse().unwrap()];
        let closed = Closed::compile(&Maintenance { except, ..Maintenance::default() }).unwrap();
        let holds = |client: &str| closed.holds_for(client.parse().unwrap());
        assert!(!holds("192.0.2.7"));
        assert!(!holds("::ffff:192.0.2.7"));
        assert!(holds("198.51.100.7"));
    }
}
