//! The server: one thread, one epoll set, answers requests until the process ends.

use std::collections::HashMap;
use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};
use std::thread;

use anyhow::{Context as _, Result};
use haflinger_tests::lab::Namespace;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};

use super::message::{CHUNK, REQUEST, asked};
use crate::l4::world::{SERVER_CORE, pin};

/// Where it listens, on every address.
pub(super) const PORT: u16 = 7000;

/// Events taken at once.
const EVENTS: usize = 256;

/// Starts the server in a namespace. A socket stays in the namespace in which it was made, so
/// the thread itself need not be there.
pub(super) fn start(namespace: &Namespace) -> Result<()> {
    let listener = namespace.enter(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, PORT)))??;
    listener.set_nonblocking(true)?;
    let mut server = Server::new(listener).context("the server's epoll set")?;
    thread::Builder::new().name("server".into()).spawn(move || {
        // Unbound it still serves; the report's spread would show it.
        let _ = pin(SERVER_CORE);
        // It ends only with a broken epoll set; then every client fails and says so.
        let _ = server.serve();
    })?;
    Ok(())
}

struct Server {
    epoll: OwnedFd,
    listener: TcpListener,
    connections: HashMap<u64, Connection>,
    chunk: Vec<u8>,
}

struct Connection {
    stream: TcpStream,
    /// The request in hand, and how much of it there is.
    request: [u8; REQUEST],
    filled: usize,
    /// Bytes of answers not yet written.
    owed: u64,
    /// Whether it waits to write.
    blocked: bool,
}

impl Server {
    fn new(listener: TcpListener) -> io::Result<Self> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        epoll::add(&epoll, &listener, token(&listener), EventFlags::IN)?;
        Ok(Self { epoll, listener, connections: HashMap::new(), chunk: vec![b'.'; CHUNK] })
    }

    fn serve(&mut self) -> io::Result<()> {
        let mut events = Vec::with_capacity(EVENTS);
        loop {
            events.clear();
            match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), None) {
                Ok(_) => {}
                Err(rustix::io::Errno::INTR) => continue,
                Err(error) => return Err(error.into()),
            }
            for event in &events {
                self.handle(event);
            }
        }
    }

    fn handle(&mut self, event: &Event) {
        let (data, flags) = (event.data, event.flags);
        if data == token(&self.listener) {
            return self.accept();
        }
        let Some(connection) = self.connections.get_mut(&data.u64()) else { return };
        let alive = if flags.contains(EventFlags::OUT) {
            connection.write(&self.epoll, &self.chunk)
        } else {
            connection.read(&self.epoll, &self.chunk)
        };
        if !alive.unwrap_or(false) {
            // Closing takes it out of the epoll set.
            self.connections.remove(&data.u64());
        }
    }

    fn accept(&mut self) {
        while let Ok((stream, _)) = self.listener.accept() {
            let add = || -> io::Result<()> {
                stream.set_nonblocking(true)?;
                stream.set_nodelay(true)?;
                epoll::add(&self.epoll, &stream, token(&stream), EventFlags::IN)?;
                Ok(())
            };
            if add().is_ok() {
                let connection = Connection {
                    request: [0; REQUEST],
                    filled: 0,
                    owed: 0,
                    blocked: false,
                    stream,
                };
                self.connections.insert(token(&connection.stream).u64(), connection);
            }
        }
    }
}

impl Connection {
    /// Takes what has arrived and answers it. False: the client is gone.
    fn read(&mut self, epoll: &OwnedFd, chunk: &[u8]) -> io::Result<bool> {
        match self.stream.read(&mut self.request[self.filled..]) {
            Ok(0) => return Ok(false),
            Ok(length) => self.filled += length,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(true),
            Err(error) => return Err(error),
        }
        if self.filled < REQUEST {
            return Ok(true);
        }
        self.filled = 0;
        self.owed += asked(&self.request);
        self.write(epoll, chunk)
    }

    /// Writes what is owed as far as it goes.
    fn write(&mut self, epoll: &OwnedFd, chunk: &[u8]) -> io::Result<bool> {
        while self.owed > 0 {
            let size = usize::try_from(self.owed).unwrap_or(CHUNK).min(CHUNK);
            match self.stream.write(&chunk[..size]) {
                Ok(length) => self.owed -= length as u64,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        let blocked = self.owed > 0;
        if blocked != self.blocked {
            self.blocked = blocked;
            let flags = if blocked { EventFlags::OUT } else { EventFlags::IN };
            epoll::modify(epoll, &self.stream, token(&self.stream), flags)?;
        }
        Ok(true)
    }
}

/// What the epoll set calls a socket: its descriptor.
pub(super) fn token(socket: &impl AsFd) -> EventData {
    EventData::new_u64(u64::from(socket.as_fd().as_raw_fd().unsigned_abs()))
}
