//! `[dns]` and `[[dns.zone]]`.

use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU8;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::text::{self, Distinct};
use crate::checked::{Dns, Secret, TsigKey, Zone};
use crate::context::Context;
use crate::file;
use crate::layer::item;

/// Port of DNS servers that are written without one.
const DNS_PORT: u16 = 53;

/// Zones at most: each costs a picture of the zone for each server.
const ZONES_MAX: usize = 256;

/// Servers of one zone at most: each is written to on its own.
const SERVERS_MAX: usize = 8;

/// Bytes of an owner at most: it stands inside one TXT string of 255 bytes with other words.
const OWNER_BYTES_MAX: usize = 63;

pub(crate) fn dns(context: &mut Context, file: &file::Dns) -> Dns {
    let mut names = Distinct::new("the zone");
    let mut zones = Vec::with_capacity(file.zone.len());
    for (index, written) in file.zone.iter().enumerate() {
        let at = item("dns.zone", index);
        let Some(zone) = zone(context, &at, written) else { continue };
        if names.add(context, &format!("{at}.name"), &zone.name) {
            zones.push(zone);
        }
    }
    if file.zone.len() > ZONES_MAX {
        let what = format!("there are {} zones", file.zone.len());
        context.refuse(&item("dns.zone", ZONES_MAX), &what, &format!("list at most {ZONES_MAX}"));
    }
    Dns { dry_run: file.dry_run, refresh: text::secs(file.refresh_secs), zones }
}

fn zone(context: &mut Context, at: &str, file: &file::Zone) -> Option<Zone> {
    let key = |name: &str| format!("{at}.{name}");
    let name = text::required(
        context,
        &key("name"),
        file.name.as_ref(),
        "name the zone, such as name = \"example.org\"",
    )
    .and_then(|name| text::domain(context, &key("name"), name));
    let servers_at = key("servers");
    if file.servers.is_empty() {
        let remedy = "list the zone's primary server, such as servers = [\"192.0.2.53\"]";
        context.missing(&servers_at, remedy);
    }
    if file.servers.len() > SERVERS_MAX {
        let what = format!("there are {} servers", file.servers.len());
        let remedy = format!("list at most {SERVERS_MAX} primary servers");
        context.refuse(&item(&servers_at, SERVERS_MAX), &what, &remedy);
    }
    let servers = text::each(context, &servers_at, &file.servers, server);
    let owner = owner(context, &key("owner"), &file.owner);
    let wildcard = match &file.wildcard {
        Some(word) => text::label(context, &key("wildcard"), word).map(Some),
        None => Some(None),
    };
    let tsig = tsig(context, &key, file);
    Some(Zone {
        name: name?,
        servers: servers.into_iter().map(|(_, server)| server).collect(),
        key: tsig,
        ttl_secs: file.ttl_secs,
        owner: owner?,
        policy: file.policy,
        deletes_max: file.deletes_max,
        deletes_percent_max: NonZeroU8::new(file.deletes_percent_max).unwrap_or(NonZeroU8::MIN),
        wildcard: wildcard?,
    })
}

fn server(context: &mut Context, at: &str, written: &str) -> Option<SocketAddr> {
    let socket = match (written.parse::<SocketAddr>(), written.parse::<IpAddr>()) {
        (Ok(socket), _) => socket,
        (_, Ok(address)) => SocketAddr::new(address, DNS_PORT),
        _ => {
            let remedy = "write its address, such as \"192.0.2.53\" or \"[2001:db8::53]:5353\"";
            context.refuse(at, "it is not the address of a server", remedy);
            return None;
        }
    };
    if socket.port() == 0 {
        context.refuse(at, "no server listens on port 0", "write a port from 1 to 65535");
        return None;
    }
    text::address(context, at, &socket.ip().to_string()).map(|_| socket)
}

fn owner(context: &mut Context, at: &str, written: &str) -> Option<String> {
    let inner = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    let fits = (1..=OWNER_BYTES_MAX).contains(&written.len()) && written.bytes().all(inner);
    if !fits {
        if !context.is_refused(at) {
            let remedy = "write 1 to 63 letters, digits, \"-\", \"_\" and \".\"";
            context.refuse(at, "it does not fit into a TXT record of external-dns", remedy);
        }
        return None;
    }
    Some(written.to_owned())
}

fn tsig(
    context: &mut Context,
    key: &impl Fn(&str) -> String,
    file: &file::Zone,
) -> Option<TsigKey> {
    let (inline, path, name_at) = (key("key"), key("key_file"), key("key_name"));
    let has_secret = file.key.is_some() || file.key_file.is_some();
    let name = match &file.key_name {
        None if has_secret => {
            let remedy = "write the key's name as the server knows it";
            context.missing(&name_at, remedy);
            None
        }
        None => {
            if !file.servers.is_empty() {
                let remedy = "write key_name and key_file, and make the server ask for them";
                context.warn(&key("servers"), "updates of this zone are not signed", remedy);
            }
            return None;
        }
        Some(_) if !has_secret => {
            context.missing(&path, "name the file with the key, or take `key_name` out");
            None
        }
        Some(name) => text::domain(context, &name_at, name),
    };
    let written =
        text::secret(context, (&inline, file.key.as_ref()), (&path, file.key_file.as_ref()))?;
    let at = if file.key.is_some() { inline } else { path };
    let Some(secret) = decode(written.expose()) else {
        let remedy = "write it as tsig-keygen prints it between the quotes of `secret`";
        context.refuse(&at, "the key is not base64", remedy);
        return None;
    };
    Some(TsigKey { name: name?, algorithm: file.key_algorithm, secret })
}

fn decode(written: &[u8]) -> Option<Secret> {
    let letters: Vec<u8> =
        written.iter().copied().filter(|byte| !byte.is_ascii_whitespace()).collect();
    STANDARD.decode(letters).ok().filter(|key| !key.is_empty()).map(Secret)
}
