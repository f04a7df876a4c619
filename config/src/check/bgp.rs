//! `[bgp]` and `[[bgp.peer]]`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::text::{self, Distinct};
use crate::checked::{Bgp, Community, HoldTime, Peer, Secret};
use crate::context::Context;
use crate::file;
use crate::layer::item;

/// Peers at most: each costs a task, and each announcement a message to each.
const PEERS_MAX: usize = 64;

/// Communities of one route at most.
const COMMUNITIES_MAX: usize = 128;

/// Bytes of a TCP MD5 password at most (the kernel's TCP_MD5SIG_MAXKEYLEN).
const PASSWORD_BYTES_MAX: usize = 80;

/// Autonomous system numbers that no speaker may have, and why.
const RESERVED_AS: &[(u32, &str)] = &[
    (23_456, "stands for 4-byte numbers in old speakers (RFC 6793, section 9)"),
    (65_535, "is reserved (RFC 7300)"),
];

/// Well-known communities (IANA registry "BGP Well-known Communities").
const WELL_KNOWN: &[(&str, u32)] = &[
    ("graceful-shutdown", 0xffff_0000),
    ("blackhole", 0xffff_029a),
    ("no-export", 0xffff_ff01),
    ("no-advertise", 0xffff_ff02),
    ("no-export-subconfed", 0xffff_ff03),
    ("no-peer", 0xffff_ff04),
];

/// The inner value is absent when there is no peer; the outer when something was refused.
pub(crate) fn bgp(context: &mut Context, file: &file::Bgp) -> Option<Option<Bgp>> {
    let listen =
        file.listen.as_ref().and_then(|listen| text::listen(context, "bgp.listen", listen));
    let communities = communities(context, "bgp.communities", &file.communities);
    let local_as = file.local_as.and_then(|number| as_number(context, "bgp.local_as", number));
    let router_id = file.router_id.as_ref().and_then(|id| router_id(context, id));
    let peers = peers(context, file, &communities);
    if file.peer.is_empty() {
        return Some(None);
    }
    if file.local_as.is_none() {
        context.missing("bgp.local_as", "write the number of this host's autonomous system");
    }
    if file.router_id.is_none() {
        let remedy = "write an IPv4 address of this host, such as router_id = \"192.0.2.1\"";
        context.missing("bgp.router_id", remedy);
    }
    Some(Some(Bgp {
        local_as: local_as?,
        router_id: router_id?,
        connect_retry: text::secs(file.connect_retry_secs.into()),
        hold_time: HoldTime(file.hold_time_secs),
        listen,
        peers,
    }))
}

fn peers(context: &mut Context, file: &file::Bgp, general: &[Community]) -> Vec<Peer> {
    if file.peer.len() > PEERS_MAX {
        let what = format!("there are {} peers", file.peer.len());
        context.refuse(&item("bgp.peer", PEERS_MAX), &what, &format!("list at most {PEERS_MAX}"));
    }
    let mut names = Distinct::new("the peer name");
    let mut addresses = Distinct::new("the peer address");
    let mut peers = Vec::with_capacity(file.peer.len());
    for (index, written) in file.peer.iter().enumerate() {
        let at = item("bgp.peer", index);
        if written.passive && file.listen.is_none() {
            let remedy = "take it out, or write listen = \"[::]:179\" in [bgp]";
            let what = "a passive peer can only connect to us, and `bgp.listen` is missing";
            context.refuse(&format!("{at}.passive"), what, remedy);
        }
        let Some(peer) = peer(context, &at, written, general) else {
            continue;
        };
        let fresh = addresses.add(context, &format!("{at}.address"), &peer.address);
        if names.add(context, &format!("{at}.name"), &peer.name) && fresh {
            peers.push(peer);
        }
    }
    peers
}

fn peer(context: &mut Context, at: &str, file: &file::Peer, general: &[Community]) -> Option<Peer> {
    let key = |name: &str| format!("{at}.{name}");
    let name = peer_name(context, &key("name"), file.name.as_ref());
    let address = text::required(
        context,
        &key("address"),
        file.address.as_ref(),
        "write the router's address, such as address = \"192.0.2.254\"",
    )
    .and_then(|address| peer_address(context, &key("address"), address));
    let remote_as = match file.remote_as {
        Some(number) => as_number(context, &key("remote_as"), number),
        None => {
            let remedy = "write the number of the router's autonomous system";
            context.missing(&key("remote_as"), remedy);
            None
        }
    };
    let local_address = file
        .local_address
        .as_ref()
        .and_then(|local| local_address(context, &key("local_address"), local, address));
    let mut communities = communities(context, &key("communities"), &file.communities);
    communities.extend_from_slice(general);
    communities.sort_unstable();
    communities.dedup();
    Some(Peer {
        password: password(context, &key, file),
        next_hop_v4: next_hop_v4(context, &key("next_hop_v4"), file),
        next_hop_v6: next_hop_v6(context, &key("next_hop_v6"), file),
        name: name?,
        address: address?,
        port: file.port,
        remote_as: remote_as?,
        local_address,
        communities,
        passive: file.passive,
        multihop: file.multihop,
    })
}

fn peer_name(context: &mut Context, at: &str, name: Option<&String>) -> Option<String> {
    let name = text::required(context, at, name, "give the peer a name, such as name = \"tor-a\"")?;
    let inner = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    if name.len() > 63 || !name.bytes().all(inner) {
        let remedy = "write 1 to 63 letters, digits, \"-\", \"_\" and \".\", such as \"tor-a\"";
        context.refuse(at, "it is not a name that fits everywhere", remedy);
        return None;
    }
    Some(name.to_owned())
}

fn peer_address(context: &mut Context, at: &str, written: &str) -> Option<IpAddr> {
    let address = text::address(context, at, written)?;
    if let IpAddr::V6(v6) = address
        && v6.is_unicast_link_local()
    {
        let what = "a link-local address means nothing without its interface";
        context.refuse(at, what, "write a global or unique local address of the router");
        return None;
    }
    Some(address)
}

fn local_address(
    context: &mut Context,
    at: &str,
    written: &str,
    peer: Option<IpAddr>,
) -> Option<IpAddr> {
    let local = text::address(context, at, written)?;
    let Some(peer) = peer else { return Some(local) };
    if local.is_ipv4() != peer.is_ipv4() {
        let what = format!("it cannot reach the peer {peer} of the other address family");
        context.refuse(at, &what, "write an address of the peer's family, or take it out");
        return None;
    }
    if local == peer {
        let what = "it is the peer's own address";
        context.refuse(at, what, "write an address of this host, or take it out");
        return None;
    }
    Some(local)
}

fn next_hop_v4(context: &mut Context, at: &str, file: &file::Peer) -> Option<Ipv4Addr> {
    match text::address(context, at, file.next_hop_v4.as_ref()?)? {
        IpAddr::V4(v4) => Some(v4),
        IpAddr::V6(v6) => {
            let what = "it is an IPv6 address";
            context.refuse(at, what, &format!("write an IPv4 address, or next_hop_v6 = \"{v6}\""));
            None
        }
    }
}

fn next_hop_v6(context: &mut Context, at: &str, file: &file::Peer) -> Option<Ipv6Addr> {
    match text::address(context, at, file.next_hop_v6.as_ref()?)? {
        IpAddr::V6(v6) => Some(v6),
        IpAddr::V4(v4) => {
            let what = "it is an IPv4 address";
            context.refuse(at, what, &format!("write an IPv6 address, or next_hop_v4 = \"{v4}\""));
            None
        }
    }
}

fn password(
    context: &mut Context,
    key: &impl Fn(&str) -> String,
    file: &file::Peer,
) -> Option<Secret> {
    let (inline, path) = (key("password"), key("password_file"));
    let secret = text::secret(
        context,
        (&inline, file.password.as_ref()),
        (&path, file.password_file.as_ref()),
    )?;
    if !(1..=PASSWORD_BYTES_MAX).contains(&secret.expose().len()) {
        let at = if file.password.is_some() { inline } else { path };
        let what = format!("the password has {} bytes", secret.expose().len());
        let remedy = format!("choose one of 1 to {PASSWORD_BYTES_MAX} bytes");
        context.refuse(&at, &what, &remedy);
        return None;
    }
    if std::str::from_utf8(secret.expose()).is_err() {
        let at = if file.password.is_some() { inline } else { path };
        context.refuse(&at, "the password is not UTF-8", "choose one of letters and digits");
        return None;
    }
    Some(secret)
}

fn as_number(context: &mut Context, at: &str, number: u32) -> Option<u32> {
    match RESERVED_AS.iter().find(|(reserved, _)| *reserved == number) {
        Some((_, why)) => {
            let remedy = "write your own number, or a private one from 64512 to 65534";
            context.refuse(at, &format!("AS {number} {why}"), remedy);
            None
        }
        None => Some(number),
    }
}

fn router_id(context: &mut Context, written: &str) -> Option<Ipv4Addr> {
    const AT: &str = "bgp.router_id";
    if context.is_refused(AT) {
        return None;
    }
    match written.parse::<Ipv4Addr>() {
        Ok(id) if !id.is_unspecified() => Some(id),
        Ok(_) => {
            let what = "a BGP identifier is not zero (RFC 6286, section 2.1)";
            context.refuse(AT, what, "write an IPv4 address of this host");
            None
        }
        Err(_) => {
            let what = "a BGP identifier is written as an IPv4 address, also for IPv6 sessions";
            context.refuse(AT, what, "write four numbers, such as \"192.0.2.1\"");
            None
        }
    }
}

fn communities(context: &mut Context, at: &str, written: &[String]) -> Vec<Community> {
    if written.len() > COMMUNITIES_MAX {
        let what = format!("there are {} communities", written.len());
        let remedy = format!("list at most {COMMUNITIES_MAX}");
        context.refuse(&item(at, COMMUNITIES_MAX), &what, &remedy);
    }
    let read = text::each(context, at, written, |context, path, text| {
        if let Some((_, value)) = WELL_KNOWN.iter().find(|(name, _)| *name == text) {
            return Some(Community(*value));
        }
        let parts = text.split_once(':').map(|(high, low)| (high.parse(), low.parse()));
        let Some((Ok(high), Ok(low))) = parts else {
            let names: Vec<&str> = WELL_KNOWN.iter().map(|(name, _)| *name).collect();
            let remedy =
                format!("write \"AS:VALUE\", both from 0 to 65535, or one of {}", names.join(", "));
            context.refuse(path, "it is not a community", &remedy);
            return None;
        };
        let (high, low): (u16, u16) = (high, low);
        Some(Community(u32::from(high) << 16 | u32::from(low)))
    });
    let mut values: Vec<Community> = read.into_iter().map(|(_, community)| community).collect();
    values.sort_unstable();
    values.dedup();
    values
}
