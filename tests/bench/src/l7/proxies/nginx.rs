//! nginx with one worker. Many routes are a server for each host, found by hash, with a location
//! for each prefix.

use std::fmt::Write as _;
use std::fs;

use anyhow::Result;

use super::{CONNECTIONS_MAX, KEPT_SECS, Kind, Place, Setup, version_of};
use crate::l7::routes::{self, PREFIXES};

/// That of this machine.
pub(super) fn kind() -> Option<Kind> {
    let program = vec!["nginx".to_owned()];
    let version = version_of(&program, "-v");
    if version.is_none() {
        eprintln!("SKIPPED the comparison with nginx: it is not installed");
    }
    Some(Kind { name: "nginx", version: version?, program, write })
}

fn write(setup: &Setup, place: &Place<'_>) -> Result<Vec<String>> {
    let folder = place.folder.display();
    let file = place.folder.join("nginx.conf");
    let (backend, chain, key) =
        (setup.backend, place.certificate.chain.display(), place.certificate.key.display());
    let resumption = if setup.resumption { "on" } else { "off" };
    // One process, without a master: what it uses is then all in one place.
    fs::write(
        &file,
        format!(
            "daemon off; master_process off; worker_processes 1; pid {folder}/nginx.pid;\n\
             error_log stderr crit;\n\
             events {{ worker_connections {CONNECTIONS_MAX}; }}\n\
             http {{\n  access_log off; keepalive_requests 1000000000; keepalive_timeout {KEPT_SECS}s;\n  \
             client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;\n  \
             fastcgi_temp_path {folder}/fastcgi; uwsgi_temp_path {folder}/uwsgi;\n  \
             scgi_temp_path {folder}/scgi;\n  \
             server_names_hash_max_size 16384; server_names_hash_bucket_size 128;\n  \
             ssl_certificate {chain}; ssl_certificate_key {key};\n  \
             ssl_protocols TLSv1.2 TLSv1.3; ssl_session_cache off;\n  \
             ssl_session_tickets {resumption};\n  \
             upstream backend {{ server {backend}; keepalive 512;\n    \
             keepalive_requests 1000000000; keepalive_timeout 60s; }}\n\
             {}{}}}\n",
            fields(setup.grpc),
            servers(setup, place),
        ),
    )?;
    Ok(["-e", "stderr", "-p", &folder.to_string(), "-c", &file.display().to_string()]
        .map(str::to_owned)
        .to_vec())
}

/// What the backend is told, and room for a whole large answer on its way.
fn fields(grpc: bool) -> String {
    let set = if grpc { "grpc_set_header" } else { "proxy_set_header" };
    let of_the_client = format!(
        "  {set} Host $host; {set} X-Forwarded-For $remote_addr;\n  \
         {set} X-Forwarded-Proto $scheme; {set} X-Forwarded-Host $http_host;\n  \
         {set} X-Forwarded-Port $server_port;\n"
    );
    if grpc {
        return of_the_client;
    }
    of_the_client
        + "  map $http_upgrade $connection_upgrade { default upgrade; '' ''; }\n  \
           proxy_http_version 1.1; proxy_read_timeout 600s;\n  \
           proxy_set_header Upgrade $http_upgrade;\n  \
           proxy_set_header Connection $connection_upgrade;\n  \
           proxy_buffers 4 256k; proxy_busy_buffers_size 512k; proxy_max_temp_file_size 0;\n"
}

fn servers(setup: &Setup, place: &Place<'_>) -> String {
    let pass = match setup.grpc {
        true => "grpc_pass grpc://backend;",
        false => "proxy_pass http://backend;",
    };
    let (http, https) = (place.http, place.https);
    let listens = format!("listen {http} backlog=4096; listen {https} ssl http2 backlog=4096;");
    if setup.routes == 1 {
        return format!("  server {{ {listens} location / {{ {pass} }} }}\n");
    }
    let mut text = String::new();
    for (number, host) in routes::hosts(setup.routes).enumerate() {
        // Options of a socket are said once.
        let listens = match number {
            0 => listens.clone(),
            _ => format!("listen {http}; listen {https} ssl http2;"),
        };
        // Writing into a string cannot fail.
        let _ = write!(text, "  server {{ {listens} server_name {host};");
        for number in 0..PREFIXES {
            let _ = write!(text, " location {}/ {{ {pass} }}", routes::prefix(number));
        }
        text.push_str(" }\n");
    }
    text
}
