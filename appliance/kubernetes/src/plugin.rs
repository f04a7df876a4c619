//! Credentials from a program: the `exec` of a kubeconfig's user.
//!
//! Own code instead of kube's, which runs the program on the thread that asks for a client, once
//! for the certificate and once for the token, waits for it without end, and afterwards decides by
//! the wall clock when to run it again: for a token that lives less than a minute at every request.
//! Here it runs once for each client, beside everything else, and for so long at most.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use jiff::Timestamp;
use kube::config::{ExecConfig, ExecInteractiveMode};
use serde::Deserialize;
use serde_json::json;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::Command;

/// A program that has not answered by then is ended: some ask a server that is far away, and a
/// terminal that nobody sits at would wait for ever.
const RUN_MAX: Duration = Duration::from_secs(30);

/// What is read of the program's answer, in bytes: far more than a token and a chain of
/// certificates take.
const ANSWER_BYTES_MAX: u64 = 1 << 20;

/// What is read of its complaints, in bytes, and shown of them, in characters.
const COMPLAINT_BYTES_MAX: u64 = 4096;
const COMPLAINT_CHARS_MAX: usize = 200;

/// The version of the protocol that is spoken where the kubeconfig names none.
const VERSION_DEFAULT: &str = "client.authentication.k8s.io/v1";

/// What the program answered.
#[derive(Debug, Default)]
pub(crate) struct Credential {
    pub(crate) token: Option<String>,
    /// Certificate and key in PEM.
    pub(crate) certificate: Option<(String, String)>,
    /// How long it is good for, from now on; `None`: nothing is said.
    pub(crate) lifetime: Option<Duration>,
}

/// Why a program gave no credentials.
#[derive(Debug, thiserror::Error)]
pub enum PluginError {
    /// `exec.command` is missing or empty.
    #[error("exec has no command: write one")]
    NoCommand,
    /// It wants to ask somebody.
    #[error("exec.interactiveMode is Always, and a daemon has nobody to ask: write IfAvailable")]
    Interactive,
    /// It cannot be started.
    #[error("{command} cannot be run{hint}")]
    Start {
        /// `exec.command`.
        command: String,
        /// `exec.installHint`, behind a colon.
        hint: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// It took too long.
    #[error("{command} has not answered within {} s", RUN_MAX.as_secs())]
    Silent {
        /// `exec.command`.
        command: String,
    },
    /// It says that it failed.
    #[error("{command} failed ({status}): {complaint}")]
    Failed {
        /// `exec.command`.
        command: String,
        /// How it ended.
        status: std::process::ExitStatus,
        /// The end of what it wrote to its standard error.
        complaint: String,
    },
    /// Its answer is no ExecCredential.
    #[error("{command} answered with no ExecCredential")]
    Answer {
        /// `exec.command`.
        command: String,
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// Its answer is too long, or holds neither a token nor a certificate with its key.
    #[error("{command} answered with {what}")]
    Useless {
        /// `exec.command`.
        command: String,
        /// What is wrong with it.
        what: &'static str,
    },
}

/// `client.authentication.k8s.io`, as far as it is read.
#[derive(Deserialize)]
struct ExecCredential {
    status: Option<Status>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Status {
    expiration_timestamp: Option<Timestamp>,
    token: Option<String>,
    client_certificate_data: Option<String>,
    client_key_data: Option<String>,
}

/// Runs the program once.
pub(crate) async fn run(exec: &ExecConfig) -> Result<Credential, PluginError> {
    let command = exec.command.clone().filter(|command| !command.is_empty());
    let command = command.ok_or(PluginError::NoCommand)?;
    if exec.interactive_mode == Some(ExecInteractiveMode::Always) {
        return Err(PluginError::Interactive);
    }
    let answered = tokio::time::timeout(RUN_MAX, answer(exec, &command)).await;
    let answer = answered.map_err(|_| PluginError::Silent { command: command.clone() })??;
    // The one look at the wall clock: everything else follows from how much time is left.
    read(&answer, &command, Timestamp::now())
}

/// What the program writes to its standard output. Dropped, it ends the program.
async fn answer(exec: &ExecConfig, command: &str) -> Result<Vec<u8>, PluginError> {
    let start = |source| PluginError::Start {
        command: command.to_owned(),
        hint: exec.install_hint.as_ref().map(|hint| format!(": {hint}")).unwrap_or_default(),
        source,
    };
    let mut program = Command::new(PathBuf::from(command));
    program.args(exec.args.iter().flatten());
    for variable in exec.env.iter().flatten() {
        if let (Some(name), Some(value)) = (variable.get("name"), variable.get("value")) {
            program.env(name, value);
        }
    }
    program.env("KUBERNETES_EXEC_INFO", question(exec).to_string());
    program.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut child = program.spawn().map_err(start)?;
    // One byte more than is taken tells a longer answer apart.
    let (output, complaint, status) = tokio::join!(
        head(child.stdout.take(), ANSWER_BYTES_MAX + 1),
        head(child.stderr.take(), COMPLAINT_BYTES_MAX),
        child.wait(),
    );
    let status = status.map_err(start)?;
    if output.len() as u64 > ANSWER_BYTES_MAX {
        let what = "more than a token and a certificate take";
        return Err(PluginError::Useless { command: command.to_owned(), what });
    }
    if !status.success() {
        let complaint = last_words(&complaint);
        return Err(PluginError::Failed { command: command.to_owned(), status, complaint });
    }
    Ok(output)
}

/// What the program is told.
fn question(exec: &ExecConfig) -> serde_json::Value {
    let mut spec = json!({ "interactive": false });
    if let Some(cluster) = &exec.cluster {
        spec["cluster"] = json!(cluster);
    }
    let version = exec.api_version.as_deref().unwrap_or(VERSION_DEFAULT);
    json!({ "apiVersion": version, "kind": "ExecCredential", "spec": spec })
}

/// The first bytes of a stream, which is then closed.
async fn head(stream: Option<impl AsyncRead + Unpin>, bytes_max: u64) -> Vec<u8> {
    let mut read = Vec::new();
    if let Some(stream) = stream {
        // What came before an error is as good as it gets.
        let _ = stream.take(bytes_max).read_to_end(&mut read).await;
    }
    read
}

/// The last line of what a program complained about, shortened.
fn last_words(complaint: &[u8]) -> String {
    let text = String::from_utf8_lossy(complaint);
    let line = text.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("no word of why");
    line.chars().filter(|c| !c.is_control()).take(COMPLAINT_CHARS_MAX).collect()
}

/// Reads an answer that came at the time `wall`.
fn read(answer: &[u8], command: &str, wall: Timestamp) -> Result<Credential, PluginError> {
    let command = || command.to_owned();
    let read: ExecCredential = serde_json::from_slice(answer)
        .map_err(|source| PluginError::Answer { command: command(), source })?;
    let useless = |what| PluginError::Useless { command: command(), what };
    let status = read.status.ok_or_else(|| useless("an ExecCredential without status"))?;
    let certificate = match (status.client_certificate_data, status.client_key_data) {
        (Some(certificate), Some(key)) => Some((certificate, key)),
        (None, None) => None,
        _ => return Err(useless("a certificate without its key, or a key alone")),
    };
    let token = status.token.filter(|token| !token.is_empty());
    if token.is_none() && certificate.is_none() {
        return Err(useless("neither a token nor a certificate"));
    }
    let left =
        |until: Timestamp| Duration::try_from(until.duration_since(wall)).unwrap_or_default();
    Ok(Credential { token, certificate, lifetime: status.expiration_timestamp.map(left) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wall() -> Timestamp {
        "2026-01-01T00:00:00Z".parse().unwrap()
    }

    #[test]
    fn a_token_is_good_for_what_is_left_of_its_time() {
        let answer = br#"{"kind":"ExecCredential","status":{"token":"t",
            "expirationTimestamp":"2026-01-01T00:15:00Z"}}"#;
        let credential = read(answer, "get", wall()).unwrap();
        assert_eq!(credential.token.as_deref(), Some("t"));
        assert_eq!(credential.lifetime, Some(Duration::from_secs(900)));
        let late = "2026-01-02T00:00:00Z".parse().unwrap();
        assert_eq!(read(answer, "get", late).unwrap().lifetime, Some(Duration::ZERO));
    }

    #[test]
    fn answers_that_cannot_be_used_say_why() {
        for (answer, words) in [
            (&b"no json"[..], "no ExecCredential"),
            (br#"{"kind":"ExecCredential"}"#, "without status"),
            (br#"{"status":{}}"#, "neither"),
            (br#"{"status":{"token":""}}"#, "neither"),
            (br#"{"status":{"clientCertificateData":"c"}}"#, "without its key"),
            (br#"{"status":{"token":"t","expirationTimestamp":"soon"}}"#, "no ExecCredential"),
        ] {
            let error = read(answer, "get", wall()).unwrap_err().to_string();
            assert!(error.starts_with("get ") && error.contains(words), "{error}");
        }
    }

    fn shell(script: &str) -> ExecConfig {
        ExecConfig {
            command: Some("sh".into()),
            args: Some(vec!["-c".into(), script.into()]),
            env: Some(vec![
                [("name", "SAID"), ("value", "from-env")]
                    .map(|(key, value)| (key.to_owned(), value.to_owned()))
                    .into(),
            ]),
            ..ExecConfig::default()
        }
    }

    #[tokio::test]
    async fn the_program_gets_its_environment_and_the_question() {
        let script = r#"case "$KUBERNETES_EXEC_INFO" in *ExecCredential*) ;; *) exit 1;; esac
            echo "{\"status\":{\"token\":\"$SAID\"}}""#;
        let credential = run(&shell(script)).await.unwrap();
        assert_eq!(credential.token.as_deref(), Some("from-env"));
        assert_eq!(credential.lifetime, None);
    }

    #[tokio::test]
    async fn a_program_that_fails_is_quoted_and_one_that_is_missing_is_named() {
        let error = run(&shell("echo first >&2; echo log in anew >&2; exit 3")).await.unwrap_err();
        let text = error.to_string();
        assert!(text.contains("exit status: 3") && text.ends_with("log in anew"), "{text}");
        let missing = ExecConfig {
            command: Some("/nowhere/login".into()),
            install_hint: Some("install login".into()),
            ..ExecConfig::default()
        };
        let text = run(&missing).await.unwrap_err().to_string();
        assert_eq!(text, "/nowhere/login cannot be run: install login");
        let text = run(&ExecConfig::default()).await.unwrap_err().to_string();
        assert!(text.contains("no command"), "{text}");
    }

    #[tokio::test]
    async fn an_answer_without_end_is_cut_off() {
        let text = run(&shell("exec cat /dev/zero")).await.unwrap_err().to_string();
        assert!(text.contains("more than a token"), "{text}");
    }
}
