//! The command line.

mod seeing;
mod top;

use std::io::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Args, CommandFactory as _, Parser, Subcommand, ValueEnum};
use haflinger_config::{Config, FileSource, Flag, Loaded, Sources};
use haflinger_core::flow::FlowHashKey;

use crate::demo::backend::Backend;
use crate::{admin, daemon, demo, manual, settings};

/// Edge load balancer for Kubernetes on bare metal: discovers pods, announces VIPs by BGP,
/// keeps DNS, and sends every flow straight to a pod.
#[derive(Parser)]
#[command(name = "haflinger", version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the daemon
    Run(RunArgs),
    /// Check a configuration and say everything that is wrong with it
    Check {
        /// The file [default: /etc/haflinger/haflinger.toml]
        file: Option<PathBuf>,
    },
    /// Show the configuration's schema or the documented default
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Show what a running daemon does
    Status(AskArgs),
    /// Show the address pools: how far they are used, and by whom
    Pools(PoolsArgs),
    /// Show the flows that the XDP data path holds
    Flows(seeing::FlowsArgs),
    /// Explain what happens to a request for a URL, or to packets of a client to a service, and why
    Why(seeing::WhyArgs),
    /// Show which routes of layer 7 are asked most at the moment, or which pods
    Top(top::TopArgs),
    /// Show packets as they pass through the XDP data path: a sample, for a while
    Trace(seeing::TraceArgs),
    /// Follow the deletions of a source that are held because too many came at once
    Accept(AcceptArgs),
    /// Take back the addresses and routes that a stopped daemon left in the kernel
    Cleanup(FileArgs),
    /// Run the daemon unprivileged with an inventory of two sample backends
    Demo {
        /// Loopback address to listen on
        #[arg(long, default_value = "127.0.0.1")]
        address: std::net::IpAddr,
    },
    /// Run one sample backend: it says who answered, over HTTP and UDP
    Backend {
        /// The name it answers with
        #[arg(long, default_value = "backend")]
        name: String,
        /// Where it listens
        #[arg(long)]
        listen: SocketAddr,
    },
    /// Write a manual page
    #[command(hide = true)]
    Manual {
        /// Which one
        #[arg(value_enum, default_value = "command")]
        page: ManualPage,
    },
}

#[derive(Subcommand)]
enum ConfigCommand {
    /// Print the JSON schema of the configuration file
    Schema,
    /// Print the shipped default, which documents every key
    Default,
}

#[derive(Clone, Copy, ValueEnum)]
enum ManualPage {
    /// haflinger(8)
    Command,
    /// haflinger.toml(5)
    File,
}

#[derive(Args)]
struct FileArgs {
    /// Configuration file
    #[arg(long, value_name = "FILE", env = "HAFLINGER_CONFIG",
          default_value = haflinger_config::DEFAULT_PATH)]
    config: PathBuf,
}

#[derive(Args)]
struct RunArgs {
    #[command(flatten)]
    file: FileArgs,
    /// Set one key, stronger than file and environment (may be repeated)
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
}

#[derive(Args)]
struct AskArgs {
    #[command(flatten)]
    file: FileArgs,
    /// Socket of the daemon [default: admin.socket of the configuration]
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
    /// Form of the answer
    #[arg(short, long, value_enum, default_value = "text")]
    output: Output,
}

#[derive(Args)]
struct AcceptArgs {
    #[command(flatten)]
    file: FileArgs,
    /// Socket of the daemon [default: admin.socket of the configuration]
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
    /// The source as `haflinger status` shows it: cluster/NAME
    source: String,
}

impl AskArgs {
    fn socket(&self) -> anyhow::Result<PathBuf> {
        socket_of(self.socket.as_ref(), &self.file)
    }
}

fn socket_of(named: Option<&PathBuf>, file: &FileArgs) -> anyhow::Result<PathBuf> {
    match named {
        Some(socket) => Ok(socket.clone()),
        None => configured_socket(&file.config),
    }
}

#[derive(Args)]
struct PoolsArgs {
    #[command(flatten)]
    ask: AskArgs,
    /// Only this pool
    #[arg(value_name = "POOL")]
    pool: Option<String>,
    /// Show each address in use with whoever holds it
    #[arg(long)]
    addresses: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Output {
    Text,
    Json,
}

/// Exit status of a refused configuration, as of a wrong command line.
const EXIT_REFUSED: u8 = 2;

/// Runs what the command line asks for.
pub(crate) fn run() -> ExitCode {
    match dispatch(Cli::parse().command) {
        Ok(code) => code,
        Err(error) => {
            complain(&format!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn dispatch(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Run(args) => run_daemon(&args),
        Command::Check { file } => {
            let file = file.unwrap_or_else(|| haflinger_config::DEFAULT_PATH.into());
            Ok(check(&Sources::system(FileSource::Path(file))))
        }
        Command::Config(ConfigCommand::Schema) => show(&(haflinger_config::schema() + "\n")),
        Command::Config(ConfigCommand::Default) => show(haflinger_config::DEFAULT),
        Command::Status(args) => runtime()?.block_on(status(&args)),
        Command::Pools(args) => runtime()?.block_on(pools(&args)),
        Command::Flows(args) => runtime()?.block_on(seeing::flows(&args)),
        Command::Why(args) => runtime()?.block_on(seeing::why(&args)),
        Command::Top(args) => runtime()?.block_on(top::run(&args)),
        Command::Trace(args) => runtime()?.block_on(seeing::trace(&args)),
        Command::Accept(args) => runtime()?.block_on(accept(&args)),
        Command::Cleanup(args) => runtime()?.block_on(cleanup(&args)),
        Command::Demo { address } => demo::run(address).map(|()| ExitCode::SUCCESS),
        Command::Backend { name, listen } => runtime()?.block_on(sample_backend(&name, listen)),
        Command::Manual { page: ManualPage::File } => show(&haflinger_config::manual()),
        Command::Manual { page: ManualPage::Command } => show(&manual::page(&Cli::command())),
    }
}

fn run_daemon(args: &RunArgs) -> anyhow::Result<ExitCode> {
    let mut sources = Sources::system(FileSource::Path(args.file.config.clone()));
    for setting in &args.set {
        let (key, value) = setting
            .split_once('=')
            .with_context(|| format!("--set {setting:?}: write it as KEY=VALUE"))?;
        sources.flags.push(Flag::text("--set", key, value));
    }
    match Config::load(&sources) {
        Ok(loaded) => {
            daemon::run(loaded, sources)?;
            Ok(ExitCode::SUCCESS)
        }
        Err(errors) => {
            complain(&errors.to_string());
            Ok(ExitCode::from(EXIT_REFUSED))
        }
    }
}

fn check(sources: &Sources) -> ExitCode {
    match Config::load(sources) {
        Ok(Loaded { warnings, config }) => {
            // What only the room itself can tell.
            if let Err(error) = settings::proxy(&config, FlowHashKey([0; 16])) {
                complain(&format!("{error:#}"));
                return ExitCode::from(EXIT_REFUSED);
            }
            for warning in &warnings {
                complain(&format!("{warning}\n"));
            }
            complain(match warnings.len() {
                0 => "the configuration is good",
                _ => "the configuration can be used",
            });
            ExitCode::SUCCESS
        }
        Err(errors) => {
            complain(&errors.to_string());
            ExitCode::from(EXIT_REFUSED)
        }
    }
}

async fn status(args: &AskArgs) -> anyhow::Result<ExitCode> {
    let socket = args.socket()?;
    let target = match args.output {
        Output::Text => "/status?format=text",
        Output::Json => "/status",
    };
    let answer = admin::fetch(&socket, target).await?;
    let answer = String::from_utf8(answer).context("the daemon's answer is not text")?;
    match args.output {
        Output::Text => show(&answer),
        Output::Json => {
            let value: serde_json::Value = serde_json::from_str(&answer)?;
            show(&(serde_json::to_string_pretty(&value)? + "\n"))
        }
    }
}

async fn accept(args: &AcceptArgs) -> anyhow::Result<ExitCode> {
    let socket = socket_of(args.socket.as_ref(), &args.file)?;
    let target = admin::Target::new("/accept").with("source", Some(&args.source)).to_string();
    let answer = admin::order(&socket, &target).await?;
    show(&String::from_utf8(answer).context("the daemon's answer is not text")?)
}

async fn pools(args: &PoolsArgs) -> anyhow::Result<ExitCode> {
    let target = admin::Target::new("/pools")
        .with("pool", args.pool.as_ref())
        .with("addresses", args.addresses.then_some("true"));
    seeing::answer(&args.ask, target).await
}

/// Removes what carries our mark in the kernel. The configuration says where addresses are
/// remembered on old kernels; without one, the mark alone has to do.
async fn cleanup(args: &FileArgs) -> anyhow::Result<ExitCode> {
    let sources = Sources::system(FileSource::Path(args.config.clone()));
    let (remembered, pin_dir) = match Config::load(&sources) {
        Ok(Loaded { config, .. }) => (settings::netlink(&config).remembered, config.xdp.pin_dir),
        Err(_) => (None, haflinger_xdp::DEFAULT_PIN_DIR.into()),
    };
    // The program first: it leads packets to what is removed next.
    let taken_off = haflinger_xdp::take_off(&pin_dir)
        .with_context(|| format!("taking XDP off ({})", pin_dir.display()))?;
    let what =
        haflinger_netlink::Cleanup { addresses: true, sources: true, routes: true, remembered };
    let removed = haflinger_netlink::cleanup(&what).await?;
    show(&format!(
        "took XDP off {} interfaces, removed {} addresses and {} routes\n",
        taken_off.interfaces, removed.addresses, removed.routes
    ))
}

/// The socket of the daemon that runs on a configuration. A file that the daemon has refused is
/// when its status is wanted most: then the socket's key, or that of its directory, is taken from
/// the file as it is, and what is wrong is said as a warning.
fn configured_socket(file: &Path) -> anyhow::Result<PathBuf> {
    let errors = match Config::load(&Sources::system(FileSource::Path(file.to_owned()))) {
        Ok(loaded) => return Ok(loaded.config.admin.socket),
        Err(errors) => errors,
    };
    complain(&format!("warning: {} cannot be used: {errors}\n", file.display()));
    let default = Config::load(&Sources::system(FileSource::Embedded))
        .map_err(|errors| anyhow::anyhow!("{errors}\nname the daemon's socket by --socket"))?;
    Ok(haflinger_config::socket_of(file).unwrap_or(default.config.admin.socket))
}

async fn sample_backend(name: &str, listen: SocketAddr) -> anyhow::Result<ExitCode> {
    let backend = Backend::open(name, listen).await?;
    backend.run(daemon::stop_signal()?).await;
    Ok(ExitCode::SUCCESS)
}

fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    let built = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    built.context("starting the runtime")
}

/// Prints to standard output; a reader that has seen enough is no error.
fn show(text: &str) -> anyhow::Result<ExitCode> {
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(ExitCode::SUCCESS),
    }
}

/// Prints to standard error, where a failure has nowhere to be told.
fn complain(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
