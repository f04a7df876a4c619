//! What the daemon tells of single clients and packets is what happens to them.
//!
//! ```text
//!  client ── router ── edge1 ── b0 to b3
//!  10.10.0.2           XDP      nat, over both families
//! ```
//!
//! 1. `haflinger flows` shows a connection with the backend that answers it, and with the client that
//!    this backend sees.
//! 2. `haflinger why` names, before there is any connection, the backend that a client's port will get.
//! 3. `haflinger trace` shows the packets of one client alone, of both directions, in their order.
//! 4. `haflinger why` names the reason for which a client is refused.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::process::{Child, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use haflinger_tests::lab::echo_ports::LINE;
use haflinger_tests::lab::topology::CLIENT;
use haflinger_tests::lab::{Line, Offer, VipBlock, eventually};
use serde_json::Value;
use socket2::{Domain, Socket, Type};

use super::offer;
use crate::scenarios::grounds::BACKENDS;
use crate::scenarios::runner::{Run, Scenario};
use crate::scenarios::sample::SOON;

pub(super) const SCENARIO: Scenario<Line> = Scenario {
    name: "xdp-seeing",
    needs: (),
    claims: &[
        "flows shows a connection with its backend and what that sees",
        "why foretells the backend of a new connection",
        "trace shows the packets of one client, both directions, in order",
        "why names the reason for which a client is refused",
    ],
    run: |run| Box::pin(claims(run)),
};

/// A backend answers sooner, or not at all.
const PATIENCE: Duration = Duration::from_secs(10);

/// The client's first port of this scenario; below those that the kernel gives out.
const PORT: u16 = 20_000;

/// Ports whose backend is foretold: that all are right by chance happens once in 4^8.
const FORETOLD: u16 = 8;

/// Packets of a connection that is opened: SYN, SYN-ACK, ACK.
const HANDSHAKE: [&str; 3] = ["S", "SA", "A"];

async fn claims(run: &mut Run<Line>) -> Result<()> {
    let web = Offer::new("web", VipBlock::Plain, 1, "nat").to(BACKENDS);
    let closed = Offer::new("closed", VipBlock::Plain, 2, "nat")
        .to(BACKENDS)
        .with("source_ranges = [\"203.0.113.0/24\", \"2001:db8:ffff::/48\"]");
    offer(&run.lab, &[web.clone(), closed.clone()]).await?;

    run.claim(1, async |line| {
        for target in web.targets(LINE) {
            shown_as_it_is(line, Conversation::begin(line, PORT, target)?)?;
        }
        Ok(())
    })
    .await;
    run.claim(2, async |line| {
        for target in web.targets(LINE) {
            for port in PORT + 10..PORT + 10 + FORETOLD {
                foretold(line, port, target)?;
            }
        }
        Ok(())
    })
    .await;
    run.claim(3, async |line| {
        for target in web.targets(LINE) {
            traced(line, PORT + 30, target).await?;
        }
        Ok(())
    })
    .await;
    run.claim(4, async |line| {
        for target in closed.targets(LINE) {
            refused(line, PORT + 40, target)?;
        }
        Ok(())
    })
    .await;
    Ok(())
}

/// A connection of the client, and what the backend said at its start.
struct Conversation {
    client: SocketAddr,
    target: SocketAddr,
    pod: String,
    peer: SocketAddr,
    _stream: TcpStream,
}

/// The client's end at `port`, of the family of `target`.
fn client(port: u16, target: SocketAddr) -> SocketAddr {
    let address: IpAddr = if target.is_ipv4() { CLIENT.0.into() } else { CLIENT.1.into() };
    SocketAddr::new(address, port)
}

impl Conversation {
    fn begin(line: &Line, port: u16, target: SocketAddr) -> Result<Self> {
        let client = client(port, target);
        let opened = line.network.client.enter(move || connect(client, target))?;
        let mut stream = opened.with_context(|| format!("from {client} to {target}"))?;
        stream.write_all(b"hello\n")?;
        let mut greeting = String::new();
        BufReader::new(&stream).read_line(&mut greeting)?;
        let word = |name: &str| {
            let mut words = greeting.split_whitespace();
            let found = words.find_map(|word| word.strip_prefix(name)).map(str::to_owned);
            found.with_context(|| format!("no {name} in {greeting:?}"))
        };
        let (pod, peer) = (word("pod=")?, word("peer=")?.parse()?);
        Ok(Self { client, target, pod, peer, _stream: stream })
    }
}

fn connect(client: SocketAddr, target: SocketAddr) -> std::io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(target), Type::STREAM, None)?;
    // The same port serves each claim's connections to several VIPs.
    socket.set_reuse_address(true)?;
    socket.bind(&client.into())?;
    socket.connect_timeout(&target.into(), PATIENCE)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    Ok(socket.into())
}

/// A service as commands want it: VIP:PORT/tcp.
fn service(target: SocketAddr) -> String {
    format!("{target}/tcp")
}

fn shown_as_it_is(line: &Line, held: Conversation) -> Result<()> {
    let flows = line.edge.ask(&["flows", "--client", &held.client.to_string()])?;
    let shown = flows["flows"].as_array().context("no flows in the answer")?;
    let vip = held.target.ip().to_string();
    let of_vip: Vec<&Value> = shown.iter().filter(|flow| flow["service"]["vip"] == vip).collect();
    ensure!(of_vip.len() == 1, "one connection from {}, shown are {shown:?}", held.client);
    let flow = of_vip[0];
    ensure!(flow["backend_name"] == held.pod, "{} answers: {flow}", held.pod);
    ensure!(flow["source"] == held.peer.to_string(), "it sees {}: {flow}", held.peer);
    ensure!(flow["phase"] == "established", "{flow}");
    Ok(())
}

fn foretold(line: &Line, port: u16, target: SocketAddr) -> Result<()> {
    let from = client(port, target).to_string();
    let why = line.edge.ask(&["why", &from, &service(target)])?;
    ensure!(why["flow"].is_null(), "there is a flow already: {why}");
    let hop = &why["new_flow"]["backend"];
    let held = Conversation::begin(line, port, target)?;
    ensure!(hop["name"] == held.pod, "{} answers {from}, foretold was {hop}", held.pod);
    let why = line.edge.ask(&["why", &from, &service(target)])?;
    ensure!(why["flow"]["backend_name"] == held.pod, "{} answers {from}: {why}", held.pod);
    Ok(())
}

/// A trace that runs; ended when dropped.
struct Trace(Child);

impl Drop for Trace {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

async fn traced(line: &Line, port: u16, target: SocketAddr) -> Result<()> {
    let from = client(port, target);
    let (of, count) = (from.to_string(), HANDSHAKE.len().to_string());
    let arguments = ["trace", "--client", &of, "--count", &count, "--for", "60"];
    let mut command = line.edge.question(&arguments)?;
    let mut trace = Trace(command.stdout(Stdio::piped()).spawn()?);
    let lines = BufReader::new(trace.0.stdout.take().context("no output of the trace")?).lines();
    eventually(SOON, "the trace to be on", async || {
        let status = line.edge.status()?;
        ensure!(status["xdp"]["tracing"] == true, "{}", status["xdp"]["tracing"]);
        Ok(())
    })
    .await?;
    // Another client beside it is not shown.
    let _other = Conversation::begin(line, port + 1, target)?;
    let held = Conversation::begin(line, port, target)?;
    let mut flags = Vec::new();
    for text in lines {
        let told: Value = serde_json::from_str(&text?)?;
        let packet = &told["packet"];
        if packet.is_null() {
            break;
        }
        ensure!(packet.to_string().contains(&held.pod) || flags.is_empty(), "{packet}");
        ensure!(packet["verdict"] == "redirect", "{packet}");
        flags.push(packet["flags"].as_str().context("no flags")?.to_owned());
    }
    ensure!(flags == HANDSHAKE, "shown were {flags:?}");
    Ok(())
}

fn refused(line: &Line, port: u16, target: SocketAddr) -> Result<()> {
    let from = client(port, target);
    let opened = line.network.client.enter(move || {
        let socket = Socket::new(Domain::for_address(target), Type::STREAM, None)?;
        socket.bind(&from.into())?;
        // Its packets are dropped in silence.
        socket.connect_timeout(&target.into(), Duration::from_millis(500))
    })?;
    ensure!(opened.is_err(), "a client outside of the source ranges is served");
    let why = line.edge.ask(&["why", &from.to_string(), &service(target)])?;
    ensure!(why["clients"]["served"] == false, "{why}");
    let reason = &why["refusal"]["reason"]["name"];
    ensure!(reason == "source_range", "the reason is {reason}");
    Ok(())
}
