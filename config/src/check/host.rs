//! `[host]`, `[admin]`, `[log]`, `[vips]` and `[routes]`.

use super::text::{self, path};
use crate::checked::{Admin, Host, Log, Routes, Vips};
use crate::context::Context;
use crate::file;
use crate::suggest::nearest;

/// Bytes of an interface name at most (IFNAMSIZ less the final zero).
const INTERFACE_BYTES_MAX: usize = 15;

pub(crate) fn host(context: &mut Context, file: &file::Host, kernel_name: &str) -> Option<Host> {
    let name = match &file.name {
        Some(name) => name.as_str(),
        None => kernel_name,
    };
    let fits = (1..=63).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-.".contains(&byte))
        && name.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric());
    if !fits && !context.is_refused("host.name") {
        let what = match &file.name {
            Some(_) => "it is not a host name".to_owned(),
            None => format!("it is missing, and the kernel's host name {name:?} does not serve"),
        };
        let remedy = "write 1 to 63 letters, digits, \"-\" and \".\", such as \"edge-1\"";
        context.refuse("host.name", &what, remedy);
    }
    let state_dir = path(context, "host.state_dir", &file.state_dir);
    let run_dir = path(context, "host.run_dir", &file.run_dir);
    Some(Host {
        name: fits.then(|| name.to_owned())?,
        state_dir: state_dir?,
        run_dir: run_dir?,
        zone: file.zone.clone().filter(|zone| !zone.is_empty()),
    })
}

pub(crate) fn admin(
    context: &mut Context,
    file: &file::Admin,
    host: Option<&Host>,
) -> Option<Admin> {
    let listen = match file.listen.as_str() {
        "" => Some(None),
        listen => text::listen(context, "admin.listen", listen).map(Some),
    };
    if let Some(Some(listen)) = listen
        && !listen.ip().is_loopback()
    {
        context.warn(
            "admin.listen",
            "everyone who reaches this address can read status and metrics",
            "listen on 127.0.0.1, or keep strangers out with a firewall",
        );
    }
    let socket = match &file.socket {
        Some(socket) => path(context, "admin.socket", socket),
        None => host.map(|host| host.run_dir.join(crate::socket::SOCKET_NAME)),
    };
    // sockaddr_un holds 108 bytes with the final zero.
    const SOCKET_BYTES_MAX: usize = 107;
    if let Some(socket) = &socket
        && socket.as_os_str().len() > SOCKET_BYTES_MAX
    {
        let at = if file.socket.is_some() { "admin.socket" } else { "host.run_dir" };
        let what = format!("the socket's path {} is too long", socket.display());
        context.refuse(at, &what, &format!("write a path of at most {SOCKET_BYTES_MAX} bytes"));
        return None;
    }
    Some(Admin { listen: listen?, socket: socket? })
}

pub(crate) fn log(context: &mut Context, file: &file::Log) -> Option<Log> {
    const LEVELS: &[&str] = &["error", "warn", "info", "debug", "trace", "off"];
    for directive in file.level.split(',') {
        let (target, level) = match directive.split_once('=') {
            Some((target, level)) => (Some(target.trim()), level.trim()),
            None => (None, directive.trim()),
        };
        if !LEVELS.contains(&level) {
            let remedy = match nearest(level, LEVELS) {
                Some(near) => format!("did you mean \"{near}\"?"),
                None => "write error, warn, info, debug or trace, or directives such as \
                         \"info,haflinger_bgp=debug\""
                    .to_owned(),
            };
            context.refuse("log.level", &format!("{level:?} is not a log level"), &remedy);
            return None;
        }
        let word = |byte: u8| byte.is_ascii_alphanumeric() || b"_:-".contains(&byte);
        if target.is_some_and(|target| target.is_empty() || !target.bytes().all(word)) {
            let remedy = "write a module path before \"=\", such as \"haflinger_bgp=debug\"";
            context.refuse("log.level", &format!("{directive:?} names no target"), remedy);
            return None;
        }
    }
    Some(Log { level: file.level.clone(), format: file.format })
}

pub(crate) fn vips(context: &mut Context, file: &file::Vips) -> Option<Vips> {
    let interface = interface(context, "vips.interface", &file.interface, "lo")?;
    Some(Vips { bind: file.bind, interface })
}

/// A name that an interface can have.
pub(super) fn interface(
    context: &mut Context,
    at: &str,
    name: &str,
    example: &str,
) -> Option<String> {
    let fits = (1..=INTERFACE_BYTES_MAX).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'/' && byte != b':')
        && name != "."
        && name != "..";
    if !fits && !context.is_refused(at) {
        let remedy =
            format!("write the name of an interface of at most 15 bytes, such as \"{example}\"");
        context.refuse(at, "no interface can have this name", &remedy);
    }
    fits.then(|| name.to_owned())
}

pub(crate) fn routes(context: &mut Context, file: &file::Routes) -> Option<Routes> {
    // RT_TABLE_LOCAL is the kernel's own.
    const TABLE_LOCAL: u32 = 255;
    if file.table == TABLE_LOCAL {
        let remedy = "write 254 for the main table, or a table of your own";
        context.refuse("routes.table", "table 255 belongs to the kernel", remedy);
        return None;
    }
    Some(Routes { enabled: file.enabled, table: file.table })
}
