//! The ingress controller of HAProxy Technologies.

use haflinger_core::{
    ClientRanges, Cors, IngressRequests, IngressRule, RATE_PERIOD_MAX_MS, RateKey, RateLimit,
    Redirect, ToHttps, UpstreamProtocol,
};

use super::Verdict::{Honoured, Needless, Refused};
use super::{Controller, Given, Verdict, auth, paths, ranges, values};

const POLICY: &str = "there is no such policy: keep it with the application";
const CHECKS: &str = "write haflinger.dev/health-check and those beside it at the Service";
const TIMES: &str = "times hold for all sites: write them under [proxy] in the configuration";
const BALANCE: &str = "requests are spread by the forwarding table, evenly: leave it out";
const SNIPPET: &str = "no configuration of HAProxy is run: write filters of an HTTPRoute";
const UPSTREAM_TLS: &str = "write an HTTPRoute, and a BackendTLSPolicy for the Service";
const CLIENT_TLS: &str = "write a Gateway with spec.tls.frontend";
const LIMITS: &str = "limits hold for all sites: write them under [proxy] in the configuration";

pub(super) const CONTROLLER: Controller = Controller {
    prefix: "haproxy.org/",
    known: KNOWN,
    unknown: "it is not known: leave it out, or write an HTTPRoute",
    read: |given, requests, rules| read(given, requests, rules),
};

#[rustfmt::skip]
const KNOWN: &[(&str, Verdict)] = &[
    ("abortonclose", Needless),
    ("allow-list", Honoured),
    ("auth-realm", Honoured),
    ("auth-secret", Honoured),
    ("auth-type", Honoured),
    ("backend-config-snippet", Refused(SNIPPET)),
    ("check", Refused(CHECKS)),
    ("check-http", Refused(CHECKS)),
    ("check-interval", Refused(CHECKS)),
    ("client-ca", Refused(CLIENT_TLS)),
    ("cookie-persistence", Refused(POLICY)),
    ("cors-allow-credentials", Honoured),
    ("cors-allow-headers", Honoured),
    ("cors-allow-methods", Honoured),
    ("cors-allow-origin", Honoured),
    ("cors-enable", Honoured),
    ("cors-max-age", Honoured),
    ("deny-list", Honoured),
    ("forwarded-for", Needless),
    ("load-balance", Refused(BALANCE)),
    ("path-rewrite", Honoured),
    ("pod-maxconn", Refused(LIMITS)),
    ("rate-limit-period", Honoured),
    ("rate-limit-requests", Honoured),
    ("rate-limit-size", Needless),
    ("rate-limit-status-code", Honoured),
    ("request-capture", Needless),
    ("request-redirect", Honoured),
    ("request-redirect-code", Honoured),
    ("request-set-header", Honoured),
    ("response-set-header", Honoured),
    ("route-acl", Refused("write an HTTPRoute with matches")),
    ("scale-server-slots", Needless),
    ("send-proxy-protocol", Refused("write haflinger.dev/proxy-protocol at a Service of type LoadBalancer")),
    ("server-ca", Refused(UPSTREAM_TLS)),
    ("server-crt", Refused(UPSTREAM_TLS)),
    ("server-proto", Honoured),
    ("server-slots", Needless),
    ("server-ssl", Refused(UPSTREAM_TLS)),
    ("set-host", Honoured),
    ("src-ip-header", Refused("name the proxies before us under [proxy] trusted_proxies")),
    ("ssl-passthrough", Refused("write a Gateway with a TLS listener in mode Passthrough, and a TLSRoute")),
    ("ssl-redirect", Honoured),
    ("ssl-redirect-code", Honoured),
    ("ssl-redirect-port", Honoured),
    ("standalone-backend", Needless),
    ("timeout-check", Refused(CHECKS)),
    ("timeout-connect", Refused(TIMES)),
    ("timeout-http-keep-alive", Refused(TIMES)),
    ("timeout-http-request", Refused(TIMES)),
    ("timeout-queue", Needless),
    ("timeout-server", Refused(TIMES)),
    ("timeout-tunnel", Refused(TIMES)),
    ("use-regex", Refused("write an HTTPRoute with a path of type RegularExpression")),
];

/// What HAProxy's controller says where an Ingress says nothing.
const CORS_MAX_AGE_SECS: u32 = 5;

fn read(given: &mut Given<'_>, requests: &mut IngressRequests, rules: &mut [IngressRule]) {
    let codes = "write 301, 302, 303, 307 or 308";
    let port = given.parsed("ssl-redirect-port", "write a port from 1 to 65535", values::port);
    let status = given.parsed("ssl-redirect-code", codes, values::redirect_status);
    if given.switch("ssl-redirect") {
        requests.to_https =
            Some(ToHttps { status: status.unwrap_or(302), port, always: port.is_some() });
    }
    let status = given.parsed("request-redirect-code", codes, values::redirect_status);
    let to = given.parsed("request-redirect", "write a host name", values::host);
    requests.redirect = to.map(|host| Redirect {
        scheme: None,
        host: Some(host),
        path: None,
        port: None,
        status: status.unwrap_or(302),
    });
    requests.host = given.parsed("set-host", "write a host name", values::host);
    let speaks = given.parsed("server-proto", "write \"h1\" or \"h2\"", |text| match text {
        "h1" => Some(UpstreamProtocol::Http1),
        "h2" => Some(UpstreamProtocol::Http2),
        _ => None,
    });
    requests.backends.speaks = speaks;
    let fields = "write a name and a value, without expressions, one field a line";
    let set = |given: &mut Given<'_>, name| {
        given.parsed(name, fields, values::fields).unwrap_or_default()
    };
    requests.request_headers.set = set(given, "request-set-header");
    requests.response_headers.set = set(given, "response-set-header");
    if given.switch("cors-enable") {
        requests.wishes.cors = cors(given);
    }
    let allow = given.networks("allow-list");
    let deny = given.networks("deny-list").unwrap_or_default();
    ranges(requests, ClientRanges { allow, deny });
    if let Some(rate) = rate(given) {
        requests.wishes.rates.get_or_insert_default().push(rate);
    }
    auth::users(given, requests, "basic-auth");
    path(given, rules);
}

/// Requests of one client; all of a period may come at once.
fn rate(given: &mut Given<'_>) -> Option<RateLimit> {
    const PERIOD_MS: u32 = 1_000;
    let number = "write a number from 1 to 10000000";
    let period = given.parsed("rate-limit-period", "write a time from 1ms to 24h", |text| {
        values::time_ms(text).filter(|ms| *ms <= RATE_PERIOD_MAX_MS)
    });
    let status = given.parsed("rate-limit-status-code", "write a status from 400 to 599", |text| {
        text.parse().ok().filter(|status| (400..600).contains(status))
    });
    let requests = given.parsed("rate-limit-requests", number, values::count)?;
    Some(RateLimit {
        requests,
        period_ms: period.unwrap_or(PERIOD_MS),
        burst: requests,
        per: RateKey::Client,
        status: status.unwrap_or(403),
    })
}

/// One path for all, or an expression and what takes its place.
fn path(given: &mut Given<'_>, rules: &mut [IngressRule]) {
    let Some(text) = given.text("path-rewrite") else { return };
    let done = match text.split_once(char::is_whitespace) {
        None => text.starts_with('/') && paths::rewrite(rules, &text),
        Some((expression, target)) => paths::exchange(rules, expression, target.trim()),
    };
    if !done {
        let remedy = "write a path, or as in /a/(.*) /b/\\1; for others an HTTPRoute with a \
                      URLRewrite";
        given.refuse("path-rewrite", &text, remedy);
    }
}

fn cors(given: &mut Given<'_>) -> Option<Cors> {
    let remedy = "write names separated by commas";
    let mut items = |name: &str| match given.text(name) {
        Some(_) => given.parsed(name, remedy, values::list),
        None => values::list("*"),
    };
    // Without the list nobody is let in: a wrong one must not mean everybody.
    let origins = items("cors-allow-origin")?;
    let methods = items("cors-allow-methods").unwrap_or_default();
    let headers = items("cors-allow-headers").unwrap_or_default();
    let credentials = given.switch("cors-allow-credentials");
    let max_age = given.parsed("cors-max-age", "write seconds, or as in 5m", values::time_ms);
    let max_age_secs = max_age.map_or(CORS_MAX_AGE_SECS, |ms| ms / 1_000);
    Some(Cors { origins, credentials, methods, headers, expose: Vec::new(), max_age_secs })
}
