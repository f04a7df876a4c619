//! From a kubeconfig to a client.

use std::error::Error as _;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::PathBuf;
use std::time::Duration;

use kube::config::{KubeConfigOptions, Kubeconfig, KubeconfigError};
use kube::{Client, Config};

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
}

impl Access {
    /// A client whose requests fail when the server is silent for `silence`. For watches that
    /// must be longer than the watch's own timeout.
    ///
    /// # Errors
    /// [`ConnectError`] when the kubeconfig cannot be used. An unreachable server is no error
    /// here: the first request says so.
    pub async fn connect(&self, silence: Duration) -> Result<Client, ConnectError> {
        let refused = |source| ConnectError::Kubeconfig {
            path: self.kubeconfig.clone(),
            source: Box::new(source),
        };
        let kubeconfig = Kubeconfig::read_from(&self.kubeconfig).map_err(refused)?;
        let options = KubeConfigOptions { context: self.context.clone(), ..Default::default() };
        let mut config =
            Config::from_custom_kubeconfig(kubeconfig, &options).await.map_err(refused)?;
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

    /// Changes when the kubeconfig file's content does: rotated credentials need a new client.
    /// `None` while the file cannot be read; then the old client stays.
    pub fn fingerprint(&self) -> Option<u64> {
        let content = std::fs::read(&self.kubeconfig).ok()?;
        let mut hasher = DefaultHasher::new();
        content.hash(&mut hasher);
        Some(hasher.finish())
    }
}

/// One line for an operator: what failed, down to the first cause, with a remedy where the
/// cause is clear.
pub fn describe(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => {
            let remedy = match status.code {
                401 => "; renew the credentials in the kubeconfig",
                403 => "; apply packaging/kubernetes/rbac.yaml",
                _ => "",
            };
            let message = if status.message.is_empty() { &status.reason } else { &status.message };
            format!("the API server answered {}: {message}{remedy}", status.code)
        }
        other => {
            let mut text = other.to_string();
            let mut cause = other.source();
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
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn access(content: &str) -> (tempfile::TempDir, Access) {
        let dir = tempfile::tempdir().unwrap();
        let kubeconfig = dir.path().join("kubeconfig");
        std::fs::write(&kubeconfig, content).unwrap();
        (dir, Access { kubeconfig, context: None })
    }

    #[test]
    fn rotated_credentials_change_the_fingerprint() {
        let (_dir, access) = access("a");
        let before = access.fingerprint();
        std::fs::write(&access.kubeconfig, "b").unwrap();
        assert_ne!(before, access.fingerprint());
        std::fs::remove_file(&access.kubeconfig).unwrap();
        assert_eq!(access.fingerprint(), None);
    }

    #[test]
    fn a_refusal_for_lack_of_rights_names_the_remedy() {
        let mut status = kube::core::Status::failure("nodes is forbidden", "Forbidden");
        status.code = 403;
        let text = describe(&kube::Error::Api(status.boxed()));
        assert!(text.contains("403") && text.contains("nodes is forbidden"), "{text}");
        assert!(text.contains("rbac.yaml"), "{text}");
    }
}
