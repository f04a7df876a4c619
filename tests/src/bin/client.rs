//! A client of the lab: makes exchanges as a [`Plan`] says and reports what happened as JSON.
//!
//! Runs until the plan's count is reached or SIGTERM comes; exchanges under way are finished.
#![expect(clippy::print_stdout, reason = "the report goes to standard output or a file")]

use std::mem::MaybeUninit;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use clap::Parser;
use haflinger_tests::lab::{
    FAILURES_MAX, Failure, Held, Kind, Pattern, Plan, Progress, Report, now_ms, progress_path,
    raise_descriptor_limit,
};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpStream, UdpSocket};
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;

/// How often it is written down how held connections fare.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(200);
/// How long an echo may take.
const PING_MAX: Duration = Duration::from_secs(2);

#[derive(Parser)]
struct Args {
    /// What to do, as JSON.
    #[arg(long)]
    plan: String,
    /// File for the report; standard output when absent.
    #[arg(long)]
    report: Option<PathBuf>,
}

/// One successful exchange.
struct Answer {
    pod: String,
    peer: String,
    body: Option<String>,
}

type Shared = Arc<Mutex<Report>>;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let args = Args::parse();
    raise_descriptor_limit()?;
    let plan: Plan = serde_json::from_str(&args.plan).context("read the plan")?;
    ensure!(!plan.targets.is_empty(), "a plan without targets");
    let stop = CancellationToken::new();
    let mut terminations = signal(SignalKind::terminate())?;
    let stopper = stop.clone();
    tokio::spawn(async move {
        terminations.recv().await;
        stopper.cancel();
    });
    let report = match plan.kind {
        Kind::Hold => hold(plan, stop, args.report.as_deref()).await?,
        _ => exchange(plan, stop).await?,
    };
    let text = serde_json::to_string(&report)?;
    match args.report {
        Some(path) => std::fs::write(path, text)?,
        None => println!("{text}"),
    }
    Ok(())
}

async fn exchange(plan: Plan, stop: CancellationToken) -> Result<Report> {
    let plan = Arc::new(plan);
    let report = Shared::default();
    let mut ticks = interval(Duration::from_millis(plan.interval_ms.max(1)));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut tasks = JoinSet::new();
    let mut made = 0_usize;
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            _ = ticks.tick() => {}
        }
        while tasks.try_join_next().is_some() {}
        let target = plan.targets[made % plan.targets.len()];
        let (plan_of_task, report) = (Arc::clone(&plan), Arc::clone(&report));
        tasks.spawn(async move {
            let began_ms = now_ms();
            let limit = Duration::from_millis(plan_of_task.timeout_ms);
            let answer = match timeout(limit, once(&plan_of_task.kind, target)).await {
                Ok(answer) => answer,
                Err(_) => Err(anyhow::anyhow!("no answer in time")),
            };
            record(&report, began_ms, answer);
        });
        made += 1;
        if plan.count > 0 && u64::try_from(made)? >= plan.count {
            break;
        }
    }
    tasks.join_all().await;
    let report = report.lock().unwrap_or_else(PoisonError::into_inner).clone();
    Ok(report)
}

fn record(report: &Shared, began_ms: u64, answer: Result<Answer>) {
    let mut report = report.lock().unwrap_or_else(PoisonError::into_inner);
    match answer {
        Ok(answer) => {
            *report.ways.entry(format!("{} {}", answer.peer, answer.pod)).or_default() += 1;
            *report.pods.entry(answer.pod).or_default() += 1;
            *report.peers.entry(answer.peer).or_default() += 1;
            if answer.body.is_some() {
                report.last_body = answer.body;
            }
        }
        Err(error) => {
            let reason = format!("{error:#}");
            *report.failures.entry(reason.clone()).or_default() += 1;
            if report.failed_exchanges.len() < FAILURES_MAX {
                report.failed_exchanges.push(Failure { reason, began_ms, ended_ms: now_ms() });
            }
        }
    }
}

async fn once(kind: &Kind, target: SocketAddr) -> Result<Answer> {
    match kind {
        Kind::Connect | Kind::Proxied | Kind::Hold => connect_once(target).await,
        Kind::Datagram { length } => datagram_once(target, *length).await,
        Kind::Ping => ping_once(target.ip()).await,
        Kind::Store { length } => store_once(target, *length).await,
        Kind::Fetch { length } => fetch_once(target, *length).await,
        Kind::Https { .. } => https_once(kind, target).await,
    }
}

async fn connect_once(target: SocketAddr) -> Result<Answer> {
    let (mut stream, answer) = greet(target).await?;
    stream.get_mut().write_all(b"ping\n").await.context("write")?;
    let line = read_line(&mut stream).await?;
    ensure!(line.ends_with(" ping"), "unexpected line {line:?}");
    Ok(answer)
}

async fn greet(target: SocketAddr) -> Result<(BufReader<TcpStream>, Answer)> {
    let stream = TcpStream::connect(target).await.context("connect")?;
    stream.set_nodelay(true)?;
    let mut stream = BufReader::new(stream);
    let line = read_line(&mut stream).await?;
    let answer = parse_greeting(&line)?;
    Ok((stream, answer))
}

async fn read_line(stream: &mut BufReader<TcpStream>) -> Result<String> {
    let mut line = String::new();
    let length = stream.read_line(&mut line).await.context("read")?;
    ensure!(length > 0, "closed before an answer");
    Ok(line.trim_end().to_owned())
}

fn parse_greeting(line: &str) -> Result<Answer> {
    let mut words = line.split_whitespace();
    let pod = words.next().and_then(|word| word.strip_prefix("pod="));
    let peer = words.next().and_then(|word| word.strip_prefix("peer="));
    // Told by a PROXY protocol header, where there is one.
    let peer = words.next().and_then(|word| word.strip_prefix("proxy=")).or(peer);
    let (Some(pod), Some(peer)) = (pod, peer) else { bail!("unexpected greeting {line:?}") };
    Ok(Answer { pod: pod.to_owned(), peer: without_port(peer), body: None })
}

fn without_port(peer: &str) -> String {
    peer.parse::<SocketAddr>().map_or_else(|_| peer.to_owned(), |peer| peer.ip().to_string())
}

async fn datagram_once(target: SocketAddr, length: usize) -> Result<Answer> {
    let any = if target.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(target).await.context("connect")?;
    let sent: Vec<u8> = (b'a'..=b'z').cycle().take(length).collect();
    socket.send(&sent).await.context("send")?;
    let mut answer = vec![0; 65_536];
    let length = socket.recv(&mut answer).await.context("receive")?;
    let answer = &answer[..length];
    let text = String::from_utf8_lossy(&answer[..length.min(200)]).into_owned();
    ensure!(answer.ends_with(&sent), "unexpected datagram of {length} bytes: {text:?}");
    parse_greeting(&text)
}

/// One echo request; what answers has no name but its address.
async fn ping_once(target: IpAddr) -> Result<Answer> {
    let text = target.to_string();
    let answered = tokio::task::spawn_blocking(move || ping(target)).await?;
    answered.map(|()| Answer { pod: text.clone(), peer: text, body: None })
}

fn ping(target: IpAddr) -> Result<()> {
    let (domain, protocol, kind) = match target {
        IpAddr::V4(_) => (Domain::IPV4, Protocol::ICMPV4, 8),
        IpAddr::V6(_) => (Domain::IPV6, Protocol::ICMPV6, 128),
    };
    let socket = Socket::new(domain, Type::RAW, Some(protocol))?;
    socket.set_read_timeout(Some(PING_MAX))?;
    socket.connect(&SocketAddr::new(target, 0).into())?;
    let identifier = std::process::id().to_be_bytes();
    let mut request = [kind, 0, 0, 0, identifier[2], identifier[3], 0, 1, b'h', b'a', b'f', b'l'];
    if target.is_ipv4() {
        // Over IPv6 the kernel does that.
        let sum: u32 = request.chunks(2).map(|w| u32::from(w[0]) << 8 | u32::from(w[1])).sum();
        let [_, _, high, low] = (!(sum + (sum >> 16))).to_be_bytes();
        (request[2], request[3]) = (high, low);
    }
    socket.send(&request)?;
    let mut buffer = [MaybeUninit::uninit(); 256];
    loop {
        let length = socket.recv(&mut buffer).context("receive")?;
        let received: Vec<u8> = buffer[..length]
            .iter()
            // SAFETY: the kernel has written the first `length` bytes.
            .map(|byte| unsafe { byte.assume_init() })
            .collect();
        // IPv4 comes with its header.
        let message = match target {
            IpAddr::V4(_) => received.get(20..).unwrap_or_default(),
            IpAddr::V6(_) => &received,
        };
        let answers =
            message.first().is_some_and(|found| *found == if kind == 8 { 0 } else { 129 });
        if answers && message.get(4..) == Some(&request[4..]) {
            return Ok(());
        }
    }
}

async fn store_once(target: SocketAddr, length: u64) -> Result<Answer> {
    let stream = TcpStream::connect(target).await.context("connect")?;
    let mut stream = BufReader::new(stream);
    stream.get_mut().write_all(format!("store {length}\n").as_bytes()).await.context("write")?;
    let sent = Pattern::new(length).write(stream.get_mut(), length).await?;
    let line = read_line(&mut stream).await?;
    let (pod, received) = line.split_once(' ').context("no checksum")?;
    ensure!(received == format!("{sent:08x}"), "{pod} received {received}, sent were {sent:08x}");
    Ok(Answer { pod: pod.to_owned(), peer: String::new(), body: None })
}

async fn fetch_once(target: SocketAddr, length: u64) -> Result<Answer> {
    let stream = TcpStream::connect(target).await.context("connect")?;
    let mut stream = BufReader::new(stream);
    stream.get_mut().write_all(format!("fetch {length}\n").as_bytes()).await.context("write")?;
    let pod = read_line(&mut stream).await?;
    let received = Pattern::checksum_read(&mut stream, length).await?;
    let sent = Pattern::new(length).write(&mut tokio::io::sink(), length).await?;
    ensure!(received == sent, "received were {received:08x}, {pod} sent {sent:08x}");
    Ok(Answer { pod, peer: String::new(), body: None })
}

async fn https_once(kind: &Kind, target: SocketAddr) -> Result<Answer> {
    let Kind::Https { host, path, authority, http2 } = kind else { bail!("no HTTPS plan") };
    let authority = reqwest::Certificate::from_pem(&std::fs::read(authority)?)?;
    let builder = reqwest::Client::builder()
        .add_root_certificate(authority)
        .tls_built_in_root_certs(false)
        .resolve(host, target)
        .no_proxy();
    let builder = if *http2 { builder.http2_prior_knowledge() } else { builder.http1_only() };
    let url = format!("https://{host}:{}{path}", target.port());
    let response = builder.build()?.get(url).send().await?;
    let status = response.status();
    let version = response.version();
    let body = response.text().await?;
    ensure!(status.is_success(), "status {status}");
    let value: serde_json::Value = serde_json::from_str(&body)?;
    let text = |key: &str| value[key].as_str().unwrap_or_default().to_owned();
    let (pod, peer) = (text("pod"), without_port(&text("peer")));
    Ok(Answer { pod, peer, body: Some(format!("{version:?} {body}")) })
}

async fn hold(plan: Plan, stop: CancellationToken, report: Option<&Path>) -> Result<Report> {
    let plan = Arc::new(plan);
    let progress = Arc::new(Mutex::new(Progress::default()));
    let path = report.map(progress_path);
    let writer = path.clone().map(|path| {
        let progress = Arc::clone(&progress);
        tokio::spawn(write_progress_often(progress, path))
    });
    let mut tasks = JoinSet::new();
    let began = Instant::now();
    for number in 0..plan.count {
        // Evenly over one interval, and so are the lines that follow.
        let due = Duration::from_micros(plan.interval_ms * 1000 * number / plan.count);
        if timeout(due.saturating_sub(began.elapsed()), stop.cancelled()).await.is_ok() {
            break;
        }
        let (plan, stop, progress) = (Arc::clone(&plan), stop.clone(), Arc::clone(&progress));
        tasks.spawn(async move {
            let held = hold_one(&plan, number, stop, &progress).await;
            if let Some(reason) = &held.failure {
                let reason = format!("{}: {reason}", held.pod);
                *locked(&progress).failures.entry(reason).or_default() += 1;
            }
            (number, held)
        });
    }
    let mut held = tasks.join_all().await;
    if let (Some(writer), Some(path)) = (writer, path) {
        writer.abort();
        write_progress(&progress, &path)?;
    }
    held.sort_by_key(|(number, _)| *number);
    let mut report = Report::default();
    for (_, connection) in held {
        match &connection.failure {
            None => *report.pods.entry(connection.pod.clone()).or_default() += 1,
            Some(reason) => *report.failures.entry(reason.clone()).or_default() += 1,
        }
        report.held.push(connection);
    }
    Ok(report)
}

fn locked(progress: &Mutex<Progress>) -> MutexGuard<'_, Progress> {
    progress.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Writes down how connections fare, several times a second, until it is aborted.
async fn write_progress_often(progress: Arc<Mutex<Progress>>, path: PathBuf) -> Result<()> {
    let mut ticks = interval(PROGRESS_INTERVAL);
    loop {
        ticks.tick().await;
        write_progress(&progress, &path)?;
    }
}

fn write_progress(progress: &Mutex<Progress>, path: &Path) -> Result<()> {
    let text = serde_json::to_string(&*locked(progress))?;
    let new = path.with_extension("new");
    std::fs::write(&new, text)?;
    Ok(std::fs::rename(&new, path)?)
}

async fn hold_one(
    plan: &Plan,
    number: u64,
    stop: CancellationToken,
    progress: &Mutex<Progress>,
) -> Held {
    let mut held = Held::default();
    let index = usize::try_from(number).unwrap_or_default() % plan.targets.len();
    let limit = Duration::from_millis(plan.timeout_ms);
    let opened = timeout(limit, greet(plan.targets[index])).await;
    let mut stream = match opened {
        Ok(Ok((stream, answer))) => {
            (held.pod, held.peer) = (answer.pod, answer.peer);
            stream
        }
        Ok(Err(error)) => return Held { failure: Some(format!("{error:#}")), ..held },
        Err(_) => return Held { failure: Some("no answer in time".into()), ..held },
    };
    locked(progress).open += 1;
    held.failure = speak(plan, &mut stream, &mut held.lines, stop, progress).await;
    locked(progress).open -= 1;
    held
}

/// Says lines until told to stop; answers why it ended early.
async fn speak(
    plan: &Plan,
    stream: &mut BufReader<TcpStream>,
    lines: &mut u64,
    stop: CancellationToken,
    progress: &Mutex<Progress>,
) -> Option<String> {
    let limit = Duration::from_millis(plan.timeout_ms);
    let pause = Duration::from_millis(plan.interval_ms);
    loop {
        match timeout(limit, say(stream, *lines)).await {
            Ok(Ok(())) => *lines += 1,
            Ok(Err(error)) => return Some(format!("{error:#}")),
            Err(_) => return Some("no line in time".into()),
        }
        locked(progress).lines += 1;
        tokio::select! {
            () = stop.cancelled() => return None,
            () = tokio::time::sleep_until(Instant::now() + pause) => {}
        }
    }
}

async fn say(stream: &mut BufReader<TcpStream>, number: u64) -> Result<()> {
    stream.get_mut().write_all(format!("{number}\n").as_bytes()).await.context("write")?;
    let line = read_line(stream).await?;
    ensure!(line.ends_with(&format!(" {number}")), "unexpected line {line:?}");
    Ok(())
}
