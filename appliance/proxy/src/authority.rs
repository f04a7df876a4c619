//! The host that a request names: strict, so that what is routed on here cannot be understood
//! differently by the backend.
//!
//! Never resolves a name, and never looks at anything but the field itself.

use std::borrow::Cow;
use std::net::Ipv6Addr;

/// Longest accepted host name (RFC 1035, section 2.3.4).
const NAME_BYTES_MAX: usize = 253;

/// Why a `Host` field or `:authority` was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum AuthorityError {
    /// No host at all.
    #[error("the host is empty")]
    Empty,
    /// A character that no host name has.
    #[error("the host holds a character that host names cannot have")]
    Character,
    /// Longer than any name can be.
    #[error("the host is longer than 253 bytes")]
    TooLong,
    /// The part behind the colon is no port.
    #[error("the port is not a number from 0 to 65535")]
    Port,
}

/// The host of `host[:port]` (RFC 9110, section 7.2) in lower case, without port, without a
/// final dot. An IPv6 address keeps its brackets.
pub(crate) fn host_of(authority: &str) -> Result<Cow<'_, str>, AuthorityError> {
    if authority.is_empty() {
        return Err(AuthorityError::Empty);
    }
    if let Some(rest) = authority.strip_prefix('[') {
        let (address, port) = rest.split_once(']').ok_or(AuthorityError::Character)?;
        address.parse::<Ipv6Addr>().map_err(|_| AuthorityError::Character)?;
        match port.strip_prefix(':') {
            Some(port) => check_port(port)?,
            None if port.is_empty() => {}
            None => return Err(AuthorityError::Port),
        }
        return Ok(lower(&authority[..address.len() + 2]));
    }
    let host = match authority.split_once(':') {
        Some((host, port)) => {
            check_port(port)?;
            host
        }
        None => authority,
    };
    let host = host.strip_suffix('.').unwrap_or(host);
    if host.is_empty() {
        return Err(AuthorityError::Empty);
    }
    if host.len() > NAME_BYTES_MAX {
        return Err(AuthorityError::TooLong);
    }
    // Underscores are no host name's, but service names with them are common inside companies.
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
    if !host.bytes().all(allowed) || host.starts_with('.') || host.contains("..") {
        return Err(AuthorityError::Character);
    }
    Ok(lower(host))
}

/// An empty port is allowed (RFC 3986, section 3.2.3).
fn check_port(port: &str) -> Result<(), AuthorityError> {
    let digits = port.bytes().all(|byte| byte.is_ascii_digit());
    if port.is_empty() || (digits && port.parse::<u16>().is_ok()) {
        return Ok(());
    }
    Err(AuthorityError::Port)
}

fn lower(host: &str) -> Cow<'_, str> {
    if host.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return Cow::Owned(host.to_ascii_lowercase());
    }
    Cow::Borrowed(host)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn case_port_and_final_dot_do_not_count() {
        for authority in
            ["shop.example", "Shop.EXAMPLE", "shop.example:8443", "shop.example.", "shop.example:"]
        {
            assert_eq!(host_of(authority).unwrap(), "shop.example", "{authority}");
        }
        assert_eq!(host_of("[2001:DB8::1]:443").unwrap(), "[2001:db8::1]");
        assert_eq!(host_of("192.0.2.1:80").unwrap(), "192.0.2.1");
    }

    #[test]
    fn what_two_readers_could_understand_differently_is_refused() {
        for authority in [
            "",
            ":80",
            ".",
            "a b",
            "a,b",
            "a/b",
            "a@b",
            "a\\b",
            "a%2eb",
            "a..b",
            ".a",
            "a:b",
            "a:80:80",
            "a:65536",
            "a:+80",
            "[::1",
            "[::1]80",
            "[zz]",
            "2001:db8::1",
            "a\tb",
            "ä",
        ] {
            assert!(host_of(authority).is_err(), "{authority:?} was accepted");
        }
        assert_eq!(host_of(&"a".repeat(254)), Err(AuthorityError::TooLong));
    }

    proptest! {
        #[test]
        fn nothing_panics_and_the_result_is_its_own_canonical_form(text in "\\PC{0,40}") {
            if let Ok(host) = host_of(&text) {
                let again = host_of(&host);
                prop_assert_eq!(again.as_deref().ok(), Some(host.as_ref()));
            }
        }
    }
}
