//! What we bound, on kernels that keep no mark of it: one address a line in a file that is
//! written before an address is bound, so that a crash leaves none behind unknown.

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use tracing::warn;

/// The file and what stands in it.
#[derive(Debug, Default)]
pub(crate) struct Remembered {
    path: Option<PathBuf>,
    pub(crate) addresses: BTreeSet<IpAddr>,
}

impl Remembered {
    /// Reads the file. A file that does not exist, and a line that is no address, say nothing.
    pub(crate) async fn load(path: Option<PathBuf>) -> Self {
        let text = match &path {
            Some(path) => tokio::fs::read_to_string(path).await.unwrap_or_default(),
            None => String::new(),
        };
        let addresses = text.lines().filter_map(|line| line.trim().parse().ok()).collect();
        Self { path, addresses }
    }

    /// Notes changes and writes the file. Without it the room goes on; what a crash would leave
    /// behind is then not recognised.
    pub(crate) async fn update(&mut self, added: &[IpAddr], removed: &[IpAddr]) {
        let before = self.addresses.len();
        self.addresses.extend(added);
        let grown = self.addresses.len() != before;
        let mut shrunk = false;
        for address in removed {
            shrunk |= self.addresses.remove(address);
        }
        let (true, Some(path)) = (grown || shrunk, &self.path) else { return };
        if let Err(error) = save(path, &self.addresses).await {
            warn!(path = %path.display(), %error, "bound addresses are not remembered");
        }
    }
}

/// Replaces the file in one step.
async fn save(path: &Path, addresses: &BTreeSet<IpAddr>) -> io::Result<()> {
    let text: String = addresses.iter().map(|address| format!("{address}\n")).collect();
    let draft = path.with_extension("new");
    tokio::fs::write(&draft, text).await?;
    tokio::fs::rename(&draft, path).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_was_noted_is_read_back_and_nonsense_is_passed_over() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("addresses");
        let [one, two]: [IpAddr; 2] =
            ["192.0.2.1", "2001:db8::1"].map(|text| text.parse().unwrap());
        let mut remembered = Remembered::load(Some(path.clone())).await;
        remembered.update(&[one, two], &[]).await;
        remembered.update(&[], &[one]).await;
        let text = tokio::fs::read_to_string(&path).await.unwrap();
        tokio::fs::write(&path, text + "nonsense\n").await.unwrap();
        assert_eq!(Remembered::load(Some(path)).await.addresses, BTreeSet::from([two]));
    }
}
