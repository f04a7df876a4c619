//! ingress-nginx.

use std::sync::Arc;

use haflinger_core::{
    ClientRanges, Cors, IngressRequests, IngressRule, RATE_REQUESTS_MAX, RateKey, RateLimit,
    ToHttps, UpstreamProtocol,
};

use super::Verdict::{Honoured, Needless, Refused};
use super::{Controller, Given, Verdict, auth, paths, ranges, values};

const POLICY: &str = "there is no such policy: keep it with the application";
const TIMES: &str = "times hold for all sites: write them under [proxy] in the configuration";
const CANARY: &str = "write an HTTPRoute with weighted backendRefs";
const BALANCE: &str = "requests are spread by the forwarding table, evenly: leave it out";
const SNIPPET: &str = "no configuration of nginx is run: write filters of an HTTPRoute";
const UPSTREAM_TLS: &str = "write an HTTPRoute, and a BackendTLSPolicy for the Service";
const CLIENT_TLS: &str = "write a Gateway with spec.tls.frontend";

pub(super) const CONTROLLER: Controller = Controller {
    prefix: "nginx.ingress.kubernetes.io/",
    known: KNOWN,
    unknown: "it is not known: leave it out, or write an HTTPRoute",
    read,
};

#[rustfmt::skip]
const KNOWN: &[(&str, Verdict)] = &[
    ("affinity", Refused(POLICY)),
    ("app-root", Honoured),
    ("auth-method", Honoured),
    ("auth-realm", Honoured),
    ("auth-response-headers", Honoured),
    ("auth-secret", Honoured),
    ("auth-secret-type", Honoured),
    ("auth-signin", Honoured),
    ("auth-signin-redirect-param", Honoured),
    ("auth-tls-secret", Refused(CLIENT_TLS)),
    ("auth-tls-verify-client", Refused(CLIENT_TLS)),
    ("auth-type", Honoured),
    ("auth-url", Honoured),
    ("backend-protocol", Honoured),
    ("canary", Refused(CANARY)),
    ("canary-by-header", Refused(CANARY)),
    ("canary-weight", Refused(CANARY)),
    ("client-body-buffer-size", Needless),
    ("client-header-buffer-size", Needless),
    ("configuration-snippet", Refused(SNIPPET)),
    ("connection-proxy-header", Needless),
    ("cors-allow-credentials", Honoured),
    ("cors-allow-headers", Honoured),
    ("cors-allow-methods", Honoured),
    ("cors-allow-origin", Honoured),
    ("cors-expose-headers", Honoured),
    ("cors-max-age", Honoured),
    ("custom-headers", Refused("write a ResponseHeaderModifier of an HTTPRoute")),
    ("custom-http-errors", Refused(POLICY)),
    ("default-backend", Refused("write spec.defaultBackend")),
    ("denylist-source-range", Honoured),
    ("enable-access-log", Needless),
    ("enable-cors", Honoured),
    ("enable-modsecurity", Refused(POLICY)),
    ("enable-opentelemetry", Needless),
    ("force-ssl-redirect", Honoured),
    ("from-to-www-redirect", Refused("write an HTTPRoute with a RequestRedirect for the other name")),
    ("http2-push-preload", Needless),
    ("limit-burst-multiplier", Honoured),
    ("limit-connections", Refused(POLICY)),
    ("limit-rpm", Honoured),
    ("limit-rps", Honoured),
    ("limit-whitelist", Refused(POLICY)),
    ("load-balance", Refused(BALANCE)),
    ("mirror-target", Refused("write a RequestMirror of an HTTPRoute")),
    ("permanent-redirect", Honoured),
    ("permanent-redirect-code", Honoured),
    ("preserve-trailing-slash", Needless),
    ("proxy-body-size", Honoured),
    ("proxy-buffer-size", Needless),
    ("proxy-buffering", Needless),
    ("proxy-buffers-number", Needless),
    ("proxy-connect-timeout", Refused(TIMES)),
    ("proxy-http-version", Needless),
    ("proxy-max-temp-file-size", Needless),
    ("proxy-next-upstream", Needless),
    ("proxy-next-upstream-timeout", Needless),
    ("proxy-next-upstream-tries", Needless),
    ("proxy-read-timeout", Refused(TIMES)),
    ("proxy-redirect-from", Refused("write a ResponseHeaderModifier of an HTTPRoute")),
    ("proxy-request-buffering", Needless),
    ("proxy-send-timeout", Refused(TIMES)),
    ("proxy-ssl-secret", Refused(UPSTREAM_TLS)),
    ("proxy-ssl-verify", Refused(UPSTREAM_TLS)),
    ("relative-redirects", Needless),
    ("rewrite-target", Honoured),
    ("satisfy", Refused(POLICY)),
    ("server-alias", Honoured),
    ("server-snippet", Refused(SNIPPET)),
    ("service-upstream", Needless),
    ("session-cookie-name", Refused(POLICY)),
    ("ssl-passthrough", Refused("write a Gateway with a TLS listener in mode Passthrough, and a TLSRoute")),
    ("ssl-redirect", Honoured),
    ("stream-snippet", Refused(SNIPPET)),
    ("temporal-redirect", Honoured),
    ("temporal-redirect-code", Honoured),
    ("upstream-hash-by", Refused(BALANCE)),
    ("upstream-vhost", Honoured),
    ("use-regex", Honoured),
    ("whitelist-source-range", Honoured),
    ("x-forwarded-prefix", Honoured),
];

/// What ingress-nginx says of origins, methods and fields where an Ingress says nothing.
const CORS_METHODS: &str = "GET, PUT, POST, DELETE, PATCH, OPTIONS";
const CORS_HEADERS: &str = "DNT,Keep-Alive,User-Agent,X-Requested-With,If-Modified-Since,\
                            Cache-Control,Content-Type,Range,Authorization";
const CORS_MAX_AGE_SECS: u32 = 1_728_000;

fn read(given: &mut Given<'_>, requests: &mut IngressRequests, rules: &mut Vec<IngressRule>) {
    let always = given.switch("force-ssl-redirect");
    if always || given.switch("ssl-redirect") {
        requests.to_https = Some(ToHttps { status: 308, port: None, always });
    }
    redirects(given, requests);
    let path = "write a path beginning with /";
    requests.root = given.parsed("app-root", path, values::path);
    requests.host = given.parsed("upstream-vhost", "write a host name", values::host);
    if given.switch("enable-cors") {
        requests.wishes.cors = cors(given);
    }
    let prefix = given.parsed("x-forwarded-prefix", path, values::path);
    let prefix = prefix.map(|prefix| ("x-forwarded-prefix".into(), prefix));
    requests.request_headers.set.extend(prefix);
    let speaks = "write \"HTTP\" or \"GRPC\"; for TLS an HTTPRoute, and a BackendTLSPolicy";
    let speaks = given.parsed("backend-protocol", speaks, |text| match text {
        "HTTP" | "AUTO_HTTP" => Some(UpstreamProtocol::Http1),
        "GRPC" => Some(UpstreamProtocol::Http2),
        _ => None,
    });
    requests.backends.speaks = speaks;
    rewrites(given, rules);
    let allow = given.networks("whitelist-source-range");
    let deny = given.networks("denylist-source-range").unwrap_or_default();
    ranges(requests, ClientRanges { allow, deny });
    requests.wishes.rates = Some(rates(given)).filter(|rates| !rates.is_empty());
    let size = "write bytes, or as in 8k, 50m, 1g; 0 is without limit";
    let body_max = given.parsed("proxy-body-size", size, values::size);
    requests.wishes.body_max = body_max.filter(|max| *max > 0);
    auth::users(given, requests, "basic");
    auth::authorizer(given, requests);
    let aliases = "write at most 64 host names, separated by commas";
    let aliases = given.parsed("server-alias", aliases, |text| {
        values::list(text)?.iter().map(|name| values::host(name)).collect::<Option<Vec<_>>>()
    });
    let named: Vec<IngressRule> =
        rules.iter().filter(|rule| rule.host.is_some()).cloned().collect();
    for alias in aliases.into_iter().flatten() {
        rules.extend(
            named.iter().map(|rule| IngressRule { host: Some(alias.clone()), ..rule.clone() }),
        );
    }
}

/// Requests of one client, a burst of some of them at once.
fn rates(given: &mut Given<'_>) -> Vec<RateLimit> {
    const MULTIPLIER: u32 = 5;
    let number = "write a number from 1 to 10000000";
    let multiplier = given.parsed("limit-burst-multiplier", number, values::count);
    let multiplier = multiplier.unwrap_or(MULTIPLIER);
    let mut rates = Vec::new();
    for (name, period_ms) in [("limit-rps", 1_000), ("limit-rpm", 60_000)] {
        let Some(requests) = given.parsed(name, number, values::count) else { continue };
        let burst = requests.saturating_mul(multiplier).min(RATE_REQUESTS_MAX);
        rates.push(RateLimit { requests, period_ms, burst, per: RateKey::Client, status: 503 });
    }
    rates
}

fn redirects(given: &mut Given<'_>, requests: &mut IngressRequests) {
    for (name, code, usual) in [
        ("permanent-redirect", "permanent-redirect-code", 301),
        ("temporal-redirect", "temporal-redirect-code", 302),
    ] {
        let codes = "write 301, 302, 303, 307 or 308";
        let status = given.parsed(code, codes, values::redirect_status).unwrap_or(usual);
        let to = "write a URL as in https://www.example.com/path, or $request_uri for the path";
        let redirect = given.parsed(name, to, |text| values::redirect(text, status));
        requests.redirect = requests.redirect.take().or(redirect);
    }
}

fn rewrites(given: &mut Given<'_>, rules: &mut [IngressRule]) {
    let expressions = given.switch("use-regex");
    let Some(target) = given.text("rewrite-target") else {
        if expressions {
            paths::as_expressions(rules);
        }
        return;
    };
    let parts = target.contains('$');
    if !target.starts_with('/') || !paths::rewrite(rules, &target) {
        let remedy = "write a path, or /b/$2 for paths as in /a(/|$)(.*); for others an HTTPRoute \
                      with a URLRewrite";
        return given.refuse("rewrite-target", &target, remedy);
    }
    if expressions && !parts {
        paths::as_expressions(rules);
    }
}

fn cors(given: &mut Given<'_>) -> Option<Cors> {
    let remedy = "write names separated by commas";
    let mut items = |name: &str, usual: &str| -> Option<Vec<Arc<str>>> {
        match given.text(name) {
            Some(_) => given.parsed(name, remedy, values::list),
            None => values::list(usual),
        }
    };
    // Without the list nobody is let in: a wrong one must not mean everybody.
    let origins = items("cors-allow-origin", "*")?;
    let methods = items("cors-allow-methods", CORS_METHODS).unwrap_or_default();
    let headers = items("cors-allow-headers", CORS_HEADERS).unwrap_or_default();
    let expose = items("cors-expose-headers", "").unwrap_or_default();
    let remedy = "write \"true\" or \"false\"";
    let credentials = given.parsed("cors-allow-credentials", remedy, values::boolean);
    let max_age_secs = given.parsed("cors-max-age", "write seconds", |text| text.parse().ok());
    Some(Cors {
        origins,
        credentials: credentials.unwrap_or(true),
        methods,
        headers,
        expose,
        max_age_secs: max_age_secs.unwrap_or(CORS_MAX_AGE_SECS),
    })
}
