//! From a kubeconfig to a client.

use std::path::PathBuf;
use std::time::Duration;

use kube::Client;
use kube::config::KubeconfigError;

use crate::credentials::Credentials;
use crate::plugin::PluginError;

/// A server that does not complete TCP and TLS within this time counts as away.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Where a cluster's API is and as whom it is spoken to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Access {
    /// The kubeconfig file.
    pub kubeconfig: PathBuf,
    /// The context in it; its current context when absent.
    pub context: Option<String>,
}

/// Why no client could be built. Nothing has been sent to the server yet.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The file cannot be read, is no kubeconfig, or its context leads nowhere.
    #[error("kubeconfig {} cannot be used", path.display())]
    Kubeconfig {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: Box<KubeconfigError>,
    },
    /// Certificates, keys or credentials in it cannot be used.
    #[error("credentials of kubeconfig {} cannot be used", path.display())]
    Credentials {
        /// The file.
        path: PathBuf,
        /// What is wrong with them.
        source: Box<kube::Error>,
    },
    /// The file with the token cannot be read.
    #[error("token file {} cannot be used", path.display())]
    TokenFile {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: std::io::Error,
    },
    /// The program that hands out credentials gave none.
    #[error("the exec plugin of kubeconfig {} gave no credentials", path.display())]
    Plugin {
        /// The kubeconfig file.
        path: PathBuf,
        /// What it did instead.
        source: PluginError,
    },
}

impl Access {
    /// A client with these credentials, whose requests fail when the server is silent for
    /// `silence`.
    pub(crate) fn build(
        &self,
        read: &Credentials,
        silence: Duration,
    ) -> Result<Client, ConnectError> {
        let mut config = read.config.clone();
        config.connect_timeout = Some(CONNECT_TIMEOUT);
        config.read_timeout = Some(silence);
        // Otherwise the time for which a pooled connection lay idle counts as silence.
        config.reset_reader_on_write = true;
        // Our own retries are bounded, jittered and visible; the client's are neither.
        config.default_retry = false;
        Client::try_from(config).map_err(|source| ConnectError::Credentials {
            path: self.kubeconfig.clone(),
            source: Box::new(source),
        })
    }
}

/// An error with its causes, for an operator.
pub fn explain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    // Layers repeat each other's text: only what is new is appended.
    while let Some(inner) = cause {
        let words = inner.to_string();
        if !text.contains(&words) {
            text.push_str(": ");
            text.push_str(&words);
        }
        cause = inner.source();
    }
    text
}

/// What gives an account the rights that it lacks.
pub const RIGHTS_REMEDY: &str =
    "apply packaging/kubernetes/rbac.yaml, for readiness gates readiness.yaml";

/// One line for an operator: what failed, down to the first cause, with a remedy where the
/// cause is clear.
pub fn describe(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => {
            let remedy = match status.code {
                401 => "; renew the credentials in the kubeconfig".to_owned(),
                403 => format!("; {RIGHTS_REMEDY}"),
                _ => String::new(),
            };
            let message = if status.message.is_empty() { &status.reason } else { &status.message };
            format!("the API server answered {}: {message}{remedy}", status.code)
        }
        other => explain(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_for_lack_of_rights_names_the_remedy() {
        let mut status = kube::core::Status::failure("nodes is forbidden", "Forbidden");
        status.code = 403;
        let text = describe(&kube::Error::Api(status.boxed()));
        assert!(text.contains("403") && text.contains("nodes is forbidden"), "{text}");
        assert!(text.contains("rbac.yaml"), "{text}");
    }
}
