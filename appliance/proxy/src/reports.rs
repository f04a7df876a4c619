//! What the core still has to be told: about certificates and about sockets.
//!
//! One entry a certificate or listener, and only the newest word about each: bounded by their
//! number, however slow the core is to listen.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use haflinger_core::{CertificateRef, Protocol, ServiceKey, SourceFault, Update};

/// A listener's address, and why its socket is not open; `None` when it is, or is not wanted.
pub(crate) type SocketWord = (SocketAddr, Option<Arc<str>>);

/// A certificate, and everything that is to be said of it although it is served.
pub(crate) type CertificateNotices = (CertificateRef, Vec<SourceFault>);

/// Words on their way to the core.
#[derive(Debug, Default)]
pub(crate) struct Reports {
    certificates: BTreeMap<CertificateRef, Option<SourceFault>>,
    notices: BTreeMap<CertificateRef, Vec<SourceFault>>,
    sockets: BTreeMap<SocketAddr, Option<Arc<str>>>,
    /// The sockets that are not open, as last noted.
    closed: BTreeMap<SocketAddr, Arc<str>>,
}

impl Reports {
    /// Notes what is wrong with certificates, or no longer.
    pub(crate) fn certificates(
        &mut self,
        words: impl IntoIterator<Item = (CertificateRef, Option<SourceFault>)>,
    ) {
        self.certificates.extend(words);
    }

    /// Notes what is to be said of certificates although they are served.
    pub(crate) fn notices(&mut self, words: impl IntoIterator<Item = CertificateNotices>) {
        self.notices.extend(words);
    }

    /// Notes what is wrong with sockets, or no longer. What was said before is not said again.
    pub(crate) fn sockets(&mut self, words: impl IntoIterator<Item = SocketWord>) {
        for (address, fault) in words {
            let before = match &fault {
                Some(fault) => self.closed.insert(address, fault.clone()),
                None => self.closed.remove(&address),
            };
            if before != fault {
                self.sockets.insert(address, fault);
            }
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.certificates.is_empty() && self.notices.is_empty() && self.sockets.is_empty()
    }

    /// The next word: sockets first, since routes depend on them.
    pub(crate) fn next(&mut self) -> Option<Update> {
        if let Some((address, fault)) = self.sockets.pop_first() {
            let listener =
                ServiceKey { vip: address.ip(), port: address.port(), protocol: Protocol::Tcp };
            return Some(Update::Served { listener, fault });
        }
        if let Some((certificate, fault)) = self.certificates.pop_first() {
            return Some(Update::Certificate { certificate, fault });
        }
        let (certificate, notices) = self.notices.pop_first()?;
        Some(Update::CertificateNotice { certificate, notices })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(port: u16) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, 1], port))
    }

    fn told(reports: &mut Reports) -> Vec<(u16, Option<Arc<str>>)> {
        let words = std::iter::from_fn(|| reports.next());
        let told = words.map(|word| match word {
            Update::Served { listener, fault } => (listener.port, fault),
            other => panic!("{other:?}"),
        });
        told.collect()
    }

    #[test]
    fn a_word_is_said_once_and_only_the_newest() {
        let mut reports = Reports::default();
        reports.sockets([(address(1), None), (address(2), None)]);
        assert!(reports.is_empty(), "nothing was said that could be withdrawn");
        let taken: Option<Arc<str>> = Some("in use".into());
        reports.sockets([(address(1), taken.clone()), (address(2), taken.clone())]);
        reports.sockets([(address(2), None)]);
        assert_eq!(told(&mut reports), [(1, taken.clone()), (2, None)]);
        reports.sockets([(address(1), taken.clone())]);
        assert!(reports.is_empty());
        reports.sockets([(address(1), None)]);
        assert_eq!(told(&mut reports), [(1, None)]);
    }
}
