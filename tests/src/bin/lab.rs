//! `make lab` and `make lab-down`: a lab that stays up until it is taken down.
//!
//! `up` starts a keeper, which owns everything, and returns once the page is written. `down`
//! ends the keeper and removes whatever is left, also when the keeper was killed.
#![expect(clippy::print_stdout, reason = "it talks to people")]

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use clap::{Parser, Subcommand};
use haflinger_tests::lab::{
    Api, Lab, LedgerEntry, Place, control_plane_binary, demo, end, haflinger_binary,
    namespace_names, page, sweep, tail, tools_are_installed,
};
use reqwest::Method;
use tokio::signal::unix::{SignalKind, signal};

/// The lab's name, and so `hf-lab-` the prefix of its namespaces.
const ID: &str = "lab";
/// Generous: building the control plane takes minutes the first time.
const UP_MAX: Duration = Duration::from_secs(1200);

#[derive(Parser)]
struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Brings the lab up and shows what to try.
    Up,
    /// Takes the lab down; leaves nothing behind.
    Down,
    /// Shows the page again, or says that no lab is up.
    Status,
    /// Asks the lab's Kubernetes API: METHOD PATH [JSON].
    Api {
        /// GET, POST, PATCH (a merge patch), DELETE.
        method: String,
        /// Path with leading `/`.
        path: String,
        /// Body.
        body: Option<String>,
    },
    /// Owns the lab; started by `up`.
    #[command(hide = true)]
    Keep,
}

#[tokio::main]
async fn main() -> ExitCode {
    let place = Place::of(ID);
    let outcome = match Args::parse().action {
        Action::Up => up(&place).await,
        Action::Down => down(&place).await,
        Action::Status => status(&place),
        Action::Api { method, path, body } => api(&place, &method, &path, body).await,
        Action::Keep => keep(&place).await,
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("lab: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn up(place: &Place) -> Result<()> {
    ensure!(rustix::process::geteuid().is_root(), "the lab needs root: sudo make lab");
    haflinger_binary()?;
    tools_are_installed()?;
    if is_up(place) {
        println!("The lab is up already.\n");
        return status(place);
    }
    sweep(place);
    // Minutes the first time, so not behind the keeper's back.
    if let Err(error) = control_plane_binary() {
        println!("No control plane: {error:#}. The lab uses an inventory file instead.");
    }
    fs::create_dir_all(place.path("logs"))?;
    let keeper = start_keeper(place)?;
    let answer = haflinger_tests::lab::eventually(UP_MAX, "the lab to come up", async || {
        if place.path("page.txt").exists() || place.path("failure.txt").exists() {
            return Ok(());
        }
        bail!("neither up nor failed; see {}", place.log("keeper").display())
    });
    let died = wait_for_death(&keeper);
    tokio::select! {
        answer = answer => answer?,
        () = died => {}
    }
    if place.path("page.txt").exists() {
        return status(place);
    }
    let why = fs::read_to_string(place.path("failure.txt"))
        .unwrap_or_else(|_| format!("its keeper died; {}", tail(&place.log("keeper"))));
    end(place).await;
    bail!("the lab did not come up: {why}")
}

/// Starts the keeper in a session of its own, so that it survives this command and its terminal.
fn start_keeper(place: &Place) -> Result<LedgerEntry> {
    let log = File::options().create(true).append(true).open(place.log("keeper"))?;
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("keep").stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    // SAFETY: between fork and exec only one system call is made; nothing is allocated and no
    // lock is taken.
    unsafe {
        command.pre_exec(|| {
            rustix::process::setsid()?;
            Ok(())
        });
    }
    let child = command.spawn().context("start the keeper")?;
    LedgerEntry::of("keeper", child.id()).context("the keeper died at once")
}

async fn wait_for_death(keeper: &LedgerEntry) {
    while keeper.is_running() {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

async fn keep(place: &Place) -> Result<()> {
    tracing_subscriber::fmt().with_ansi(false).init();
    let mut terminations = signal(SignalKind::terminate())?;
    let mut hangups = signal(SignalKind::hangup())?;
    let lab = tokio::select! {
        lab = bring_up() => lab,
        _ = terminations.recv() => bail!("ended before the lab was up"),
    };
    let (lab, vip) = match lab {
        Ok(up) => up,
        Err(error) => {
            // The directory may be what is missing.
            fs::create_dir_all(place.path(""))?;
            fs::write(place.path("failure.txt"), format!("{error:#}"))?;
            return Err(error);
        }
    };
    fs::write(place.path("page.new"), page(&lab, vip.as_deref()))?;
    fs::rename(place.path("page.new"), place.path("page.txt"))?;
    loop {
        tokio::select! {
            _ = terminations.recv() => break,
            // The terminal is gone; the lab stays.
            _ = hangups.recv() => {}
        }
    }
    lab.down().await
}

async fn bring_up() -> Result<(Lab, Option<String>)> {
    let mut lab = Lab::up(ID, control_plane_binary().ok()).await?;
    if lab.cluster.is_none() {
        demo::take_stock(&mut lab)?;
    }
    for edge in &mut lab.edges {
        edge.start().await?;
    }
    let vip = match lab.cluster {
        Some(_) => demo::deploy(&lab).await?,
        None => demo::INVENTORY_VIP.to_owned(),
    };
    Ok((lab, Some(vip)))
}

async fn down(place: &Place) -> Result<()> {
    ensure!(rustix::process::geteuid().is_root(), "the lab needs root: sudo make lab-down");
    let before = end(place).await;
    println!(
        "The lab is down: {} processes ended, {} namespaces removed.",
        before.processes, before.namespaces
    );
    let left = namespace_names(place);
    ensure!(left.is_empty(), "namespaces are left: {left:?}");
    Ok(())
}

fn status(place: &Place) -> Result<()> {
    if !is_up(place) {
        println!("No lab is up.");
        return Ok(());
    }
    let page = fs::read_to_string(place.path("page.txt")).context("the lab is still coming up")?;
    println!("{page}");
    Ok(())
}

fn is_up(place: &Place) -> bool {
    place.owner().is_some_and(|owner| owner.is_running())
}

async fn api(place: &Place, method: &str, path: &str, body: Option<String>) -> Result<()> {
    let control = haflinger_tests::lab::Namespace::existing(place, "control");
    let inside = control.runtime()?;
    let api = Api::new(place, inside.handle().clone())?;
    let method: Method = method.to_uppercase().parse().context("a strange method")?;
    let kind = match method {
        Method::PATCH => "application/merge-patch+json",
        _ => "application/json",
    };
    let answer = api.request(method, path, kind, body.map(String::into_bytes)).await;
    inside.shutdown_background();
    let text = serde_json::to_string_pretty(&answer?)?;
    match writeln!(std::io::stdout(), "{text}") {
        // A reader that has seen enough is no error.
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}
