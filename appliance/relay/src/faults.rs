//! Which sockets could not be opened: what the core still has to be told.
//!
//! One entry a service at most, and only the newest word about each, so that a core that is slow
//! to listen costs nothing more. A word that was said already is not said again.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use haflinger_core::{ServiceKey, Update};
use tokio::sync::Notify;

use crate::pipes::lock;

/// Words about sockets on their way to the core.
#[derive(Default)]
pub(crate) struct Faults {
    words: Mutex<Words>,
    noted: Notify,
}

#[derive(Default)]
struct Words {
    /// What holds now.
    standing: BTreeMap<ServiceKey, Arc<str>>,
    /// What is still to be told.
    pending: BTreeMap<ServiceKey, Option<Arc<str>>>,
}

impl Faults {
    /// The service's socket cannot be opened.
    pub(crate) fn raise(&self, service: ServiceKey, fault: &str) {
        let mut words = lock(&self.words);
        if words.standing.get(&service).is_some_and(|known| **known == *fault) {
            return;
        }
        let fault: Arc<str> = fault.into();
        words.standing.insert(service, Arc::clone(&fault));
        words.pending.insert(service, Some(fault));
        drop(words);
        self.noted.notify_one();
    }

    /// It is open, or no longer wanted.
    pub(crate) fn withdraw(&self, service: ServiceKey) {
        let mut words = lock(&self.words);
        if words.standing.remove(&service).is_some() {
            words.pending.insert(service, None);
            drop(words);
            self.noted.notify_one();
        }
    }

    /// Whether there is something to tell.
    pub(crate) fn is_pending(&self) -> bool {
        !lock(&self.words).pending.is_empty()
    }

    /// The next word.
    pub(crate) fn next(&self) -> Option<Update> {
        let (listener, fault) = lock(&self.words).pending.pop_first()?;
        Some(Update::Served { listener, fault })
    }

    /// Waits until something was noted since the last wait.
    pub(crate) async fn noted(&self) {
        self.noted.notified().await;
    }
}

#[cfg(test)]
mod tests {
    use haflinger_core::Protocol;

    use super::*;

    fn service(port: u16) -> ServiceKey {
        ServiceKey { vip: [192, 0, 2, 1].into(), port, protocol: Protocol::Tcp }
    }

    fn told(faults: &Faults) -> Option<(ServiceKey, Option<Arc<str>>)> {
        match faults.next()? {
            Update::Served { listener, fault } => Some((listener, fault)),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_fault_is_told_once_and_withdrawn_once() {
        let faults = Faults::default();
        faults.withdraw(service(1));
        assert!(!faults.is_pending());
        faults.raise(service(1), "in use");
        assert_eq!(told(&faults), Some((service(1), Some("in use".into()))));
        faults.raise(service(1), "in use");
        assert_eq!(told(&faults), None);
        faults.raise(service(1), "forbidden");
        assert_eq!(told(&faults), Some((service(1), Some("forbidden".into()))));
        faults.withdraw(service(1));
        faults.withdraw(service(1));
        assert_eq!(told(&faults), Some((service(1), None)));
        assert_eq!(told(&faults), None);
    }

    #[test]
    fn a_slow_core_hears_only_the_newest_word() {
        let faults = Faults::default();
        faults.raise(service(1), "in use");
        faults.raise(service(2), "in use");
        faults.withdraw(service(1));
        assert_eq!(told(&faults), Some((service(1), None)));
        assert_eq!(told(&faults), Some((service(2), Some("in use".into()))));
        assert!(!faults.is_pending());
    }
}
