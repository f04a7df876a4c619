//! `[proxy.access_log]`, and what requests are known by.

use super::text;
use crate::checked::{AccessDestination, AccessLog};
use crate::context::Context;
use crate::file;

/// Fields that mean something else already (RFC 9110; RFC 9112; W3C Trace Context).
const TAKEN: [&str; 16] = [
    "authorization",
    "connection",
    "content-length",
    "content-type",
    "cookie",
    "expect",
    "host",
    "keep-alive",
    "proxy-authorization",
    "te",
    "traceparent",
    "tracestate",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "x-forwarded-for",
];

/// The access log; `None` inside when it is off.
pub(super) fn access_log(
    context: &mut Context,
    file: &file::AccessLog,
) -> Option<Option<AccessLog>> {
    const AT: &str = "proxy.access_log.to";
    let to = match &*file.to {
        "off" => return Some(None),
        "stdout" => AccessDestination::Stdout,
        "syslog" => AccessDestination::Syslog,
        path if path.starts_with('/') => AccessDestination::File(text::path(context, AT, path)?),
        _ => {
            let remedy = "write \"off\", \"stdout\", \"syslog\" or a path that begins with \"/\"";
            context.refuse(AT, "it is no place for a log", remedy);
            return None;
        }
    };
    Some(Some(AccessLog { to, format: file.format.clone(), queries: file.queries }))
}

/// The field of a request's id, lower case; `None` inside when requests have none.
pub(super) fn request_id_header(context: &mut Context, name: &str) -> Option<Option<String>> {
    const AT: &str = "proxy.request_id_header";
    const REMEDY: &str = "write a name such as \"X-Request-ID\", or \"\" for none";
    if name.is_empty() {
        return Some(None);
    }
    let name = name.to_ascii_lowercase();
    // A token (RFC 9110, section 5.6.2).
    let inner = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    if name.len() > 64 || !name.bytes().all(inner) {
        context.refuse(AT, "it is no name of a header field", REMEDY);
        return None;
    }
    if TAKEN.contains(&&*name) {
        context.refuse(AT, "that field means something else", REMEDY);
        return None;
    }
    Some(Some(name))
}
