//! Other paths and places: what a backend sees instead of what was asked for, and where a client
//! is sent instead. Pure.

use std::borrow::Cow;

use haflinger_core::{PathRewrite, Redirect};

use crate::paths::without_end;

/// What a redirect is made from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asked<'a> {
    /// Whether the client speaks TLS.
    pub(crate) tls: bool,
    /// The host, in canonical form; absent only for HTTP/1.0.
    pub(crate) host: Option<&'a str>,
    /// The port of the listener.
    pub(crate) port: u16,
    /// The path, without the query.
    pub(crate) path: &'a str,
    /// The query, as written.
    pub(crate) query: Option<&'a str>,
    /// Length of what matched of the path.
    pub(crate) prefix_bytes: usize,
}

/// The path that takes the place of `path`, of which `prefix_bytes` were matched.
pub(crate) fn path<'a>(to: &'a PathRewrite, path: &str, prefix_bytes: usize) -> Cow<'a, str> {
    match to {
        PathRewrite::Full(full) if full.starts_with('/') => Cow::Borrowed(full),
        PathRewrite::Full(full) => Cow::Owned(format!("/{full}")),
        PathRewrite::Prefix(prefix) => {
            let rest = path.get(prefix_bytes..).unwrap_or_default();
            let (prefix, slash) = (without_end(prefix), without_end(prefix).starts_with('/'));
            let lead = if slash || prefix.is_empty() { "" } else { "/" };
            match (rest.is_empty(), rest.starts_with('/')) {
                (true, _) if prefix.is_empty() => Cow::Borrowed("/"),
                (true, _) | (_, true) => Cow::Owned(format!("{lead}{prefix}{rest}")),
                // Behind the prefix `/`, whose length without its slash is 0.
                (false, false) => Cow::Owned(format!("{lead}{prefix}/{rest}")),
            }
        }
    }
}

/// A path and the query that stays behind it.
pub(crate) fn with_query(path: &str, query: Option<&str>) -> String {
    match query {
        Some(query) => format!("{path}?{query}"),
        None => path.to_owned(),
    }
}

/// The `Location` of a redirect (HTTPRoute `requestRedirect`). Without any host, which only
/// HTTP/1.0 may lack, it is a path alone (RFC 9110, section 10.2.2).
pub(crate) fn location(redirect: &Redirect, asked: &Asked<'_>) -> String {
    let scheme = redirect.scheme.as_deref().unwrap_or(if asked.tls { "https" } else { "http" });
    let usual = match scheme {
        "http" => Some(80),
        "https" => Some(443),
        _ => None,
    };
    let derived = match &redirect.scheme {
        Some(_) => usual.unwrap_or(asked.port),
        None => asked.port,
    };
    let port = Some(redirect.port.unwrap_or(derived)).filter(|port| Some(*port) != usual);
    let path = match &redirect.path {
        Some(to) => path(to, asked.path, asked.prefix_bytes),
        None => Cow::Borrowed(asked.path),
    };
    let path = with_query(&path, asked.query);
    match (redirect.host.as_deref().or(asked.host), port) {
        (None, _) => path,
        (Some(host), None) => format!("{scheme}://{host}{path}"),
        (Some(host), Some(port)) => format!("{scheme}://{host}:{port}{path}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_is_replaced_as_the_table_of_the_specification_says() {
        for (from, matched, to, expected) in [
            ("/foo/bar", "/foo", "/xyz", "/xyz/bar"),
            ("/foo/bar", "/foo", "/xyz/", "/xyz/bar"),
            ("/foo/bar", "/foo/", "/xyz", "/xyz/bar"),
            ("/foo/bar", "/foo/", "/xyz/", "/xyz/bar"),
            ("/foo", "/foo", "/xyz", "/xyz"),
            ("/foo/", "/foo", "/xyz", "/xyz/"),
            ("/foo/bar", "/foo", "", "/bar"),
            ("/foo/", "/foo", "", "/"),
            ("/foo", "/foo", "", "/"),
            ("/foo/", "/foo", "/", "/"),
            ("/foo", "/foo", "/", "/"),
            ("/", "/", "/xyz", "/xyz/"),
            ("/bar", "/", "/xyz", "/xyz/bar"),
            ("/bar", "/", "xyz", "/xyz/bar"),
        ] {
            let to = PathRewrite::Prefix(to.into());
            let bytes = without_end(matched).len();
            assert_eq!(path(&to, from, bytes), expected, "{from} {matched} {to:?}");
        }
        assert_eq!(path(&PathRewrite::Full("/one".into()), "/a/b", 2), "/one");
    }

    #[test]
    fn the_port_is_that_of_the_scheme_or_of_the_listener_and_left_out_where_it_is_usual() {
        let redirect = |scheme: Option<&str>, port| Redirect {
            scheme: scheme.map(Into::into),
            host: Some("example.org".into()),
            path: None,
            port,
            status: 302,
        };
        for (tls, listener, scheme, port, expected) in [
            (false, 80, None, None, "http://example.org/a"),
            (false, 80, None, Some(80), "http://example.org/a"),
            (false, 80, None, Some(8080), "http://example.org:8080/a"),
            (false, 80, Some("https"), None, "https://example.org/a"),
            (false, 80, Some("https"), Some(443), "https://example.org/a"),
            (false, 80, Some("https"), Some(8443), "https://example.org:8443/a"),
            (false, 8080, None, None, "http://example.org:8080/a"),
            (false, 8080, None, Some(80), "http://example.org/a"),
            (false, 8080, Some("https"), None, "https://example.org/a"),
            (true, 443, None, None, "https://example.org/a"),
            (true, 443, None, Some(443), "https://example.org/a"),
            (true, 443, None, Some(8443), "https://example.org:8443/a"),
            (true, 443, Some("http"), None, "http://example.org/a"),
            (true, 443, Some("http"), Some(80), "http://example.org/a"),
            (true, 443, Some("http"), Some(8080), "http://example.org:8080/a"),
        ] {
            let (host, path, query) = (Some("shop.example"), "/a", None);
            let asked = Asked { tls, host, port: listener, path, query, prefix_bytes: 0 };
            let got = location(&redirect(scheme, port), &asked);
            assert_eq!(got, expected, "{tls} {listener} {scheme:?} {port:?}");
        }
    }

    #[test]
    fn what_a_redirect_does_not_name_stays_as_it_was_asked() {
        let none = Redirect { scheme: None, host: None, path: None, port: None, status: 302 };
        let (path, query) = ("/a/b", Some("c=%20&d"));
        let host = Some("shop.example");
        let asked = Asked { tls: false, host, port: 80, path, query, prefix_bytes: 2 };
        assert_eq!(location(&none, &asked), "http://shop.example/a/b?c=%20&d");
        let to = Some(PathRewrite::Prefix("/x".into()));
        let prefix = Redirect { path: to, ..none.clone() };
        assert_eq!(location(&prefix, &asked), "http://shop.example/x/b?c=%20&d");
        assert_eq!(location(&prefix, &Asked { host: None, ..asked }), "/x/b?c=%20&d");
    }
}
