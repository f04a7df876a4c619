//! HAProxy with one thread. Many routes are a map by host and path, which it searches as a tree
//! of prefixes.

use std::fmt::Write as _;
use std::fs;

use anyhow::Result;

use super::{CONNECTIONS_MAX, KEPT_SECS, Kind, Place, Setup, version_of};
use crate::l7::routes::{self, PREFIXES};

/// That of this machine.
pub(super) fn kind() -> Option<Kind> {
    let found = of("haproxy", vec!["haproxy".to_owned()]);
    if found.is_none() {
        eprintln!("SKIPPED the comparison with haproxy: it is not installed");
    }
    found
}

/// One that is started so; `None` if that fails.
pub(super) fn of(name: &'static str, program: Vec<String>) -> Option<Kind> {
    let version = version_of(&program, "-v")?;
    Some(Kind { name, version, program, write })
}

fn write(setup: &Setup, place: &Place<'_>) -> Result<Vec<String>> {
    let map = place.folder.join("routes.map");
    let mut entries = String::new();
    for host in routes::hosts(setup.routes) {
        for number in 0..PREFIXES {
            // Writing into a string cannot fail.
            let _ = writeln!(entries, "{host}{}/ backend", routes::prefix(number));
        }
    }
    fs::write(&map, entries)?;
    let choice = match setup.routes {
        1 => "default_backend backend".to_owned(),
        _ => format!("use_backend %[base,map_beg({})]", map.display()),
    };
    let (tickets, cache) = match setup.resumption {
        true => ("", ""),
        false => ("no-tls-tickets", "tune.ssl.cachesize 0"),
    };
    let protocol = if setup.grpc { "proto h2" } else { "" };
    let (http, https, backend) = (place.http, place.https, setup.backend);
    let certificate = place.certificate.both.display();
    let file = place.folder.join("haproxy.cfg");
    // Twice as many descriptors as connections it would ask for, and not start without them.
    fs::write(
        &file,
        format!(
            "global\n  nbthread 1\n  maxconn {CONNECTIONS_MAX}\n  no strict-limits\n  {cache}\n\
             defaults\n  mode http\n  http-reuse always\n  option forwardfor\n  \
             option splice-response\n  timeout connect 5s\n  timeout client {KEPT_SECS}s\n  \
             timeout server 60s\n  timeout tunnel 600s\n\
             frontend clients\n  bind {http}\n  \
             bind {https} ssl crt {certificate} alpn h2,http/1.1 {tickets}\n  \
             http-request set-header X-Forwarded-Proto %[ssl_fc,iif(https,http)]\n  \
             http-request set-header X-Forwarded-Host %[req.hdr(host)]\n  \
             http-request set-header X-Forwarded-Port %[dst_port]\n  {choice}\n\
             backend backend\n  server backend {backend} {protocol}\n",
        ),
    )?;
    Ok(vec!["-db".to_owned(), "-f".to_owned(), file.display().to_string()])
}
