//! A request that somebody thinks of.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use http::header::{self, HeaderName};
use http::{HeaderValue, Method, Request, Uri, request};

use crate::authority::host_of;

/// The client where none is named: addresses for documentation (RFC 5737, RFC 3849), which are on no
/// list that is meant for anybody.
const SOMEBODY_V4: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
const SOMEBODY_V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1));

/// The client's port where none is named: it has a part in the choice of the backend.
const SOME_PORT: u16 = 40_000;

/// A request as it would arrive.
#[derive(Clone, Debug)]
pub struct Question {
    /// As written.
    pub(super) url: String,
    /// Whether it is asked by TLS.
    pub(super) tls: bool,
    /// The host of the URL in canonical form.
    pub(super) host: String,
    /// The host's address, where the URL has one instead of a name.
    pub(super) literal: Option<IpAddr>,
    /// The port of the URL.
    pub(super) port: u16,
    /// What is sent.
    pub(super) request: request::Parts,
    from: Option<(IpAddr, Option<u16>)>,
    /// The address asked, where one is named.
    pub(super) to: Option<(IpAddr, Option<u16>)>,
}

/// What cannot be asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what} {given:?}: {remedy}")]
pub struct QuestionError {
    /// Which part.
    pub what: &'static str,
    /// As given.
    pub given: String,
    /// What to write.
    pub remedy: String,
}

impl QuestionError {
    fn new(what: &'static str, given: &str, remedy: impl Into<String>) -> Self {
        Self { what, given: given.to_owned(), remedy: remedy.into() }
    }
}

impl Question {
    /// A request with `method` for `url`, with `fields` (each `name: value`), `from` a client's
    /// address and `to` a VIP, either with or without a port.
    ///
    /// # Errors
    ///
    /// One of them cannot be read.
    pub fn new(
        url: &str,
        method: &str,
        fields: &[String],
        from: Option<&str>,
        to: Option<&str>,
    ) -> Result<Self, QuestionError> {
        let form = "write it as https://shop.example/cart?x=1";
        let refuse = |remedy: &str| QuestionError::new("url", url, format!("{remedy}; {form}"));
        let uri: Uri = url.parse().map_err(|error| refuse(&format!("{error}")))?;
        let tls = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            Some(_) => return Err(refuse("only http and https are served")),
            None => return Err(refuse("it does not say whether http or https")),
        };
        let authority = uri.authority().ok_or_else(|| refuse("it names no host"))?.as_str();
        if authority.contains('@') {
            return Err(refuse("user and password go into a field: -H 'authorization: …'"));
        }
        let host = host_of(authority).map_err(|error| refuse(&error.to_string()))?.into_owned();
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        let method: Method = method.parse().map_err(|_| {
            QuestionError::new("method", method, "a method is a word: GET, POST, PUT, …")
        })?;
        let target = uri.path_and_query().map_or("/", |target| target.as_str());
        let mut request = Request::builder().method(method).uri(target);
        let mut named_host = false;
        for field in fields {
            let (name, value) = read_field(field)?;
            named_host |= name == header::HOST;
            request = request.header(name, value);
        }
        if !named_host {
            request = request.header(header::HOST, authority);
        }
        let (request, ()) =
            request.body(()).map_err(|error| refuse(&error.to_string()))?.into_parts();
        Ok(Self {
            url: url.to_owned(),
            tls,
            literal: bare.parse().ok(),
            port: uri.port_u16().unwrap_or(if tls { 443 } else { 80 }),
            host,
            request,
            from: from.map(|from| read_address("from", from)).transpose()?,
            to: to.map(|to| read_address("to", to)).transpose()?,
        })
    }

    /// Who asks a listener at `address`, and whether that was only assumed.
    pub(super) fn client(&self, address: SocketAddr) -> (SocketAddr, bool) {
        let (from, port) = self.from.unwrap_or_else(|| {
            let somebody = if address.is_ipv4() { SOMEBODY_V4 } else { SOMEBODY_V6 };
            (somebody, None)
        });
        (SocketAddr::new(from, port.unwrap_or(SOME_PORT)), self.from.is_none())
    }

    /// Whether the client's port was only assumed.
    pub(super) fn any_port(&self) -> bool {
        self.from.is_none_or(|(_, port)| port.is_none())
    }

    /// The server name of the handshake (RFC 6066, section 3): an address is none.
    pub(super) fn server_name(&self) -> Option<&str> {
        (self.tls && self.literal.is_none()).then_some(&self.host)
    }
}

fn read_field(field: &str) -> Result<(HeaderName, HeaderValue), QuestionError> {
    let refuse = || QuestionError::new("field", field, "write it as 'name: value'");
    let (name, value) = field.split_once(':').ok_or_else(refuse)?;
    let name = name.parse().map_err(|_| refuse())?;
    Ok((name, value.trim().parse().map_err(|_| refuse())?))
}

fn read_address(what: &'static str, text: &str) -> Result<(IpAddr, Option<u16>), QuestionError> {
    if let Ok(address) = text.parse::<SocketAddr>() {
        return Ok((address.ip().to_canonical(), Some(address.port())));
    }
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    let address = bare.parse::<IpAddr>().map_err(|_| {
        let remedy = "write an address, with or without a port: 192.0.2.7 or [2001:db8::7]:443";
        QuestionError::new(what, text, remedy)
    })?;
    Ok((address.to_canonical(), None))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(url: &str) -> Result<Question, QuestionError> {
        Question::new(url, "GET", &[], None, None)
    }

    #[test]
    fn a_url_is_the_request_that_a_client_makes_of_it() {
        let asked = ask("https://Shop.Example:8443/cart/%2e?x=1&y=%20").unwrap();
        assert_eq!((asked.tls, &*asked.host, asked.port), (true, "shop.example", 8443));
        assert_eq!(asked.request.uri, "/cart/%2e?x=1&y=%20");
        assert_eq!(asked.request.headers["host"], "Shop.Example:8443");
        assert_eq!(asked.server_name(), Some("shop.example"));
        let plain = ask("http://shop.example").unwrap();
        assert_eq!((plain.port, plain.request.uri.path()), (80, "/"));
        assert_eq!(plain.server_name(), None);
        let address = ask("https://[2001:db8::7]/").unwrap();
        assert_eq!(address.literal, Some("2001:db8::7".parse().unwrap()));
        assert_eq!((address.server_name(), address.port), (None, 443));
    }

    #[test]
    fn fields_are_sent_as_given_and_a_host_takes_the_place_of_the_url_s() {
        let fields = ["Host: blog.example".to_owned(), "X-A:  1 ".to_owned()];
        let asked = Question::new("http://shop.example/", "POST", &fields, None, None).unwrap();
        assert_eq!(asked.request.headers["host"], "blog.example");
        assert_eq!(
            (asked.request.headers["x-a"].to_str().unwrap(), asked.request.headers.len()),
            ("1", 2)
        );
    }

    #[test]
    fn what_cannot_be_asked_says_which_part_and_what_to_write() {
        for url in [
            "shop.example/cart",
            "/cart",
            "ftp://shop.example/",
            "https://",
            "https://user:word@shop.example/",
            "https://a b/",
            "http://a..b/",
            "",
        ] {
            let error = ask(url).unwrap_err();
            assert_eq!((error.what, &*error.given), ("url", url));
            assert!(error.remedy.contains("https://shop.example/cart"), "{error}");
        }
        let with = |method: &str, field: &str, from: &str| {
            let fields = [field.to_owned()];
            Question::new("http://a/", method, &fields, Some(from), None).unwrap_err().what
        };
        assert_eq!(with("GE T", "a: b", "192.0.2.1"), "method");
        assert_eq!(with("GET", "a b: c", "192.0.2.1"), "field");
        assert_eq!(with("GET", "a", "192.0.2.1"), "field");
        assert_eq!(with("GET", "a: b", "shop.example"), "from");
    }

    #[test]
    fn a_client_that_is_not_named_is_somebody_of_the_listener_s_family() {
        let asked = ask("http://shop.example/").unwrap();
        let client = |listener: &str| asked.client(listener.parse().unwrap());
        assert_eq!(client("192.0.2.10:80"), ("192.0.2.1:40000".parse().unwrap(), true));
        assert!(client("[2001:db8::10]:80").0.is_ipv6());
        let from = |from| {
            let asked = Question::new("http://a/", "GET", &[], Some(from), None).unwrap();
            asked.client("192.0.2.10:80".parse().unwrap()).0.to_string()
        };
        assert_eq!(from("198.51.100.7"), "198.51.100.7:40000");
        assert_eq!(from("[2001:db8::7]:5"), "[2001:db8::7]:5");
        assert_eq!(from("::ffff:198.51.100.7"), "198.51.100.7:40000");
    }
}
