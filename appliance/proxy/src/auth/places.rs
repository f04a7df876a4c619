//! Where tokens stand in requests, and how they are taken out again. Pure.

use std::sync::Arc;

use haflinger_core::TokenPlace;
use http::header::{self, HeaderName};
use http::{HeaderMap, HeaderValue};

/// The first token that stands in one of `places`; parameters of the query as they are written,
/// since tokens have no character that would be encoded.
pub(crate) fn find<'a>(
    places: &[TokenPlace],
    fields: &'a HeaderMap,
    query: Option<&'a str>,
) -> Option<&'a [u8]> {
    places.iter().find_map(|place| match place {
        TokenPlace::Bearer => {
            let value = only(fields, &header::AUTHORIZATION)?;
            let (scheme, token) = value.split_at_checked(7)?;
            scheme.eq_ignore_ascii_case(b"bearer ").then(|| token.trim_ascii())
        }
        TokenPlace::Header { name, prefix } => {
            let value = only(fields, &name.parse().ok()?)?;
            value.strip_prefix(prefix.as_bytes()).map(<[u8]>::trim_ascii)
        }
        TokenPlace::Cookie(name) => cookies(fields).find_map(|pair| {
            let (own, value) = split(pair, b'=')?;
            (own == name.as_bytes()).then_some(value)
        }),
        TokenPlace::Query(name) => query?.split('&').find_map(|pair| {
            let (own, value) = pair.split_once('=')?;
            (own == &**name).then_some(value.as_bytes())
        }),
    })
}

/// The value of a field that stands once: of two, two readers could choose differently.
fn only<'a>(fields: &'a HeaderMap, name: &HeaderName) -> Option<&'a [u8]> {
    let mut values = fields.get_all(name).iter();
    match (values.next(), values.next()) {
        (Some(value), None) => Some(value.as_bytes()),
        _ => None,
    }
}

fn cookies(fields: &HeaderMap) -> impl Iterator<Item = &[u8]> {
    let values = fields.get_all(header::COOKIE).iter();
    values.flat_map(|value| value.as_bytes().split(|byte| *byte == b';')).map(<[u8]>::trim_ascii)
}

fn split(text: &[u8], at: u8) -> Option<(&[u8], &[u8])> {
    let place = text.iter().position(|byte| *byte == at)?;
    Some((text[..place].trim_ascii(), text[place + 1..].trim_ascii()))
}

/// The cookies of a request but those with one of `names`; `None` when nothing is left.
pub(crate) fn cookies_without(fields: &HeaderMap, names: &[Arc<str>]) -> Option<HeaderValue> {
    let named = |pair: &&[u8]| {
        let name = split(pair, b'=').map_or(*pair, |(name, _)| name);
        !names.iter().any(|own| own.as_bytes() == name)
    };
    let left: Vec<&[u8]> = cookies(fields).filter(|pair| !pair.is_empty()).filter(named).collect();
    if left.is_empty() {
        return None;
    }
    HeaderValue::from_bytes(&left.join(&b"; "[..])).ok()
}

/// A query but for parameters with one of `names`; `None` when nothing is left.
pub(crate) fn query_without(query: &str, names: &[Arc<str>]) -> Option<String> {
    let named = |pair: &&str| {
        let name = pair.split('=').next().unwrap_or_default();
        !names.iter().any(|own| **own == *name)
    };
    let left: Vec<&str> = query.split('&').filter(named).collect();
    (!left.is_empty()).then(|| left.join("&"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(all: &[(&'static str, &'static str)]) -> HeaderMap {
        let pair = |(name, value): &(&'static str, &'static str)| {
            (HeaderName::from_static(name), HeaderValue::from_static(value))
        };
        let mut fields = HeaderMap::new();
        for (name, value) in all.iter().map(pair) {
            fields.append(name, value);
        }
        fields
    }

    fn found(place: TokenPlace, all: &[(&'static str, &'static str)]) -> Option<String> {
        let fields = fields(all);
        let token = find(&[place], &fields, Some("a=1&token=q.q.q&token=2"))?;
        Some(String::from_utf8(token.to_vec()).unwrap())
    }

    #[test]
    fn a_token_is_found_where_it_is_looked_for_and_nowhere_else() {
        let bearer = || TokenPlace::Bearer;
        assert_eq!(found(bearer(), &[("authorization", "bEarer  a.b.c ")]).unwrap(), "a.b.c");
        assert_eq!(found(bearer(), &[("authorization", "Basic a.b.c")]), None);
        let twice = [("authorization", "Bearer a"), ("authorization", "Bearer b")];
        assert_eq!(found(bearer(), &twice), None);
        let header = || TokenPlace::Header { name: "x-jwt".into(), prefix: "t:".into() };
        assert_eq!(found(header(), &[("x-jwt", "t: a.b.c")]).unwrap(), "a.b.c");
        assert_eq!(found(header(), &[("x-jwt", "a.b.c")]), None);
        let cookie = || TokenPlace::Cookie("t".into());
        assert_eq!(found(cookie(), &[("cookie", "tt=1; t=a.b.c;u=2")]).unwrap(), "a.b.c");
        assert_eq!(found(cookie(), &[("cookie", "u=1"), ("cookie", "t = x")]).unwrap(), "x");
        assert_eq!(found(TokenPlace::Query("token".into()), &[]).unwrap(), "q.q.q");
        assert_eq!(found(TokenPlace::Query("ken".into()), &[]), None);
    }

    #[test]
    fn the_first_place_that_has_one_counts() {
        let fields = fields(&[("authorization", "Bearer a.b.c"), ("cookie", "t=d.e.f")]);
        let places = [TokenPlace::Cookie("t".into()), TokenPlace::Bearer];
        assert_eq!(find(&places, &fields, None), Some(&b"d.e.f"[..]));
    }

    #[test]
    fn what_is_taken_out_leaves_the_rest_as_it_was() {
        let names = ["t".into()];
        let all = fields(&[("cookie", "a=1; t=x; b=2"), ("cookie", "t=y"), ("cookie", "c")]);
        assert_eq!(cookies_without(&all, &names).unwrap(), "a=1; b=2; c");
        assert_eq!(cookies_without(&fields(&[("cookie", "t=x")]), &names), None);
        assert_eq!(query_without("a=1&t=x&b=&t", &names).as_deref(), Some("a=1&b="));
        assert_eq!(query_without("t=x", &names), None);
    }
}
