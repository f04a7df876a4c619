//! `haflinger flows`, `haflinger why` and `haflinger trace`: asks the daemon on its socket.

use std::io::Write as _;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::{Args, ValueEnum};
use haflinger_core::ServiceKey;
use haflinger_proxy::Question;
use haflinger_xdp::seeing::{
    AskError, Chosen, Endpoint, FLOWS_SHOWN_MAX, TRACE_COUNT_MAX, TRACE_ONE_IN_MAX, TRACE_SECS_MAX,
};

use super::{AskArgs, Output, show};
use crate::admin::{self, Target};

#[derive(Args)]
pub(super) struct FlowsArgs {
    #[command(flatten)]
    ask: AskArgs,
    /// Only flows of this service: NAMESPACE/NAME of its object, or its address as VIP:PORT
    #[arg(long, value_name = "SERVICE")]
    service: Option<Chosen>,
    /// Only flows of this client: its address, with or without port
    #[arg(long, value_name = "ADDRESS")]
    client: Option<Endpoint>,
    /// The greatest flows first, instead of any: bytes and packets count both directions, rate is
    /// bytes a second over a flow's life
    #[arg(long, value_name = "BY")]
    top: Option<TopArg>,
    /// How many flows are shown [default: 100, with --top 10]
    #[arg(long, value_name = "N",
          value_parser = clap::value_parser!(u32).range(1..=FLOWS_SHOWN_MAX as i64))]
    limit: Option<u32>,
}

#[derive(Clone, Copy, ValueEnum)]
enum TopArg {
    Bytes,
    Packets,
    Rate,
}

#[derive(Args)]
pub(super) struct WhyArgs {
    #[command(flatten)]
    ask: AskArgs,
    /// A URL, https://shop.example/cart?x=1, or the address and port of a client of layer 4,
    /// 198.51.100.7:40000
    #[arg(value_name = "URL|CLIENT:PORT", value_parser = asked)]
    asked: Asked,
    /// With a client: the service's address, port and protocol: 192.0.2.1:443/tcp
    #[arg(value_name = "VIP:PORT/PROTOCOL", value_parser = haflinger_xdp::seeing::service_key)]
    service: Option<ServiceKey>,
    /// With a URL: the method
    #[arg(short = 'X', long, value_name = "METHOD", default_value = "GET")]
    method: String,
    /// With a URL: a header field, 'name: value' (may be repeated)
    #[arg(short = 'H', long = "header", value_name = "FIELD")]
    fields: Vec<String>,
    /// With a URL: the client's address, with or without port
    #[arg(long, value_name = "ADDRESS")]
    from: Option<String>,
    /// With a URL: the VIP that is asked, with or without port, instead of the one of the name
    #[arg(long, value_name = "VIP")]
    to: Option<String>,
}

/// What is asked about.
#[derive(Clone)]
enum Asked {
    Url(String),
    Client(SocketAddr),
}

fn asked(text: &str) -> Result<Asked, AskError> {
    match text.contains("://") {
        true => Ok(Asked::Url(text.to_owned())),
        false => haflinger_xdp::seeing::client(text).map(Asked::Client),
    }
}

#[derive(Args)]
pub(super) struct TraceArgs {
    #[command(flatten)]
    ask: AskArgs,
    /// Only packets of this service: NAMESPACE/NAME of its object, or its address as VIP:PORT
    #[arg(long, value_name = "SERVICE")]
    service: Option<Chosen>,
    /// Only packets from and to this client: its address, with or without port
    #[arg(long, value_name = "ADDRESS")]
    client: Option<Endpoint>,
    /// Only packets to and from this VIP: its address, with or without port and protocol
    #[arg(long, value_name = "VIP")]
    vip: Option<Endpoint>,
    /// Show one packet in so many
    #[arg(long, value_name = "N", default_value = "1",
          value_parser = clap::value_parser!(u32).range(1..=i64::from(TRACE_ONE_IN_MAX)))]
    one_in: u32,
    /// For how many seconds
    #[arg(long = "for", value_name = "SECONDS", default_value = "10",
          value_parser = clap::value_parser!(u32).range(1..=i64::from(TRACE_SECS_MAX)))]
    secs: u32,
    /// How many packets at most
    #[arg(long, value_name = "N", default_value = "1000",
          value_parser = clap::value_parser!(u32).range(1..=i64::from(TRACE_COUNT_MAX)))]
    count: u32,
}

/// Flows shown where nothing is said: a page or two.
const FLOWS_SHOWN: u32 = 100;

/// Flows shown with `--top` where nothing is said.
const TOP_SHOWN: u32 = 10;

/// What the daemon may take beyond the time of a trace.
const GRACE: Duration = Duration::from_secs(10);

pub(super) async fn flows(args: &FlowsArgs) -> anyhow::Result<ExitCode> {
    let top = args.top.and_then(|top| top.to_possible_value());
    let limit = args.limit.unwrap_or(if top.is_some() { TOP_SHOWN } else { FLOWS_SHOWN });
    let target = Target::new("/flows")
        .with("service", args.service.as_ref())
        .with("client", args.client.as_ref())
        .with("top", top.as_ref().map(clap::builder::PossibleValue::get_name))
        .with("limit", Some(limit));
    answer(&args.ask, target).await
}

pub(super) async fn why(args: &WhyArgs) -> anyhow::Result<ExitCode> {
    let target = match (&args.asked, args.service) {
        (Asked::Client(client), Some(service)) => {
            if !args.fields.is_empty() || args.from.is_some() || args.to.is_some() {
                anyhow::bail!("--header, --from and --to go with a URL: https://shop.example/");
            }
            Target::new("/why").with("client", Some(client)).with("to", Some(service))
        }
        (Asked::Client(client), None) => anyhow::bail!(
            "the service that {client} asks is missing: write it behind, as 192.0.2.1:443/tcp"
        ),
        (Asked::Url(_), Some(service)) => {
            anyhow::bail!("a URL names its service: leave {service} out, or write it behind --to")
        }
        (Asked::Url(url), None) => url_target(args, url)?,
    };
    answer(&args.ask, target).await
}

fn url_target(args: &WhyArgs, url: &str) -> anyhow::Result<Target> {
    let (from, to) = (args.from.as_deref(), args.to.as_deref());
    // What is wrong with it can be said here.
    Question::new(url, &args.method, &args.fields, from, to)?;
    let fields = (!args.fields.is_empty()).then(|| args.fields.join("\n"));
    Ok(Target::new("/url")
        .with("url", Some(url))
        .with("method", Some(&args.method))
        .with("fields", fields)
        .with("from", from)
        .with("to", to))
}

/// One question, one answer.
pub(super) async fn answer(ask: &AskArgs, target: Target) -> anyhow::Result<ExitCode> {
    let socket = ask.socket()?;
    match ask.output {
        Output::Text => {
            let target = target.with("format", Some("text"));
            let text = admin::fetch(&socket, &target.to_string()).await?;
            show(&String::from_utf8(text).context("the daemon's answer is not text")?)
        }
        Output::Json => {
            let json = admin::fetch(&socket, &target.to_string()).await?;
            let value: serde_json::Value = serde_json::from_slice(&json)?;
            show(&(serde_json::to_string_pretty(&value)? + "\n"))
        }
    }
}

/// Shows each packet as it comes.
pub(super) async fn trace(args: &TraceArgs) -> anyhow::Result<ExitCode> {
    let socket = args.ask.socket()?;
    let target = Target::new("/trace")
        .with("service", args.service.as_ref())
        .with("client", args.client.as_ref())
        .with("vip", args.vip.as_ref())
        .with("one_in", Some(args.one_in))
        .with("for", Some(args.secs))
        .with("count", Some(args.count))
        .with("format", matches!(args.ask.output, Output::Text).then_some("text"));
    let patience = Duration::from_secs(args.secs.into()) + GRACE;
    let mut out = std::io::stdout();
    admin::follow(&socket, &target.to_string(), patience, |bytes| {
        // A reader that has seen enough ends the trace.
        out.write_all(bytes).and_then(|()| out.flush()).is_ok()
    })
    .await?;
    Ok(ExitCode::SUCCESS)
}
