//! Log lines: text for people, JSON for machines, on standard error (which the journal keeps).

use anyhow::Context as _;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Registry, reload};

use haflinger_config::LogFormat;

/// Changes the level while running.
#[derive(Clone)]
pub(crate) struct LevelHandle(reload::Handle<EnvFilter, Registry>);

impl LevelHandle {
    pub(crate) fn set(&self, level: &str) -> anyhow::Result<()> {
        self.0.reload(filter(level)?).context("replacing the log level")
    }
}

/// Installs the subscriber. To be called once.
pub(crate) fn install(level: &str, format: LogFormat) -> anyhow::Result<LevelHandle> {
    let (filter, handle) = reload::Layer::new(filter(level)?);
    let registry = tracing_subscriber::registry().with(filter);
    // The journal adds time and host itself.
    let in_journal = std::env::var_os("JOURNAL_STREAM").is_some();
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let installed = match (format, in_journal) {
        (LogFormat::Json, _) => registry.with(lines.json().flatten_event(true)).try_init(),
        (LogFormat::Text, true) => registry.with(lines.with_ansi(false).without_time()).try_init(),
        (LogFormat::Text, false) => {
            let colours = std::io::IsTerminal::is_terminal(&std::io::stderr());
            registry.with(lines.with_ansi(colours)).try_init()
        }
    };
    installed.context("installing the log subscriber")?;
    Ok(LevelHandle(handle))
}

/// The configured level, less the libraries that log every broken connection as an error.
fn filter(level: &str) -> anyhow::Result<EnvFilter> {
    // The API client logs each failed attempt as an error; discovery says it once, with a reason.
    let quiet = haflinger_proxy::NOISY_LOG_TARGETS.map(|target| format!(",{target}=off")).concat();
    EnvFilter::try_new(format!("{level},kube_client=off{quiet}"))
        .with_context(|| format!("log level {level:?}"))
}
