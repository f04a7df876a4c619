//! Source addresses of `nat`: bind, leave for a while, let go. There are few, so that all of them
//! are looked at whenever something may have changed.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use imbl::OrdMap;
use tracing::{info, warn};

use super::{Work, jitter};
use crate::address::{HeldAddress, forget, host_prefix_len};
use crate::kernel::{Kernel, KernelError, Mark};
use crate::source::{Place, SourceDecision, SourcePlan};
use crate::status::{AddressState, Entry};

impl Work {
    /// Whether a source address is due for a look by the clock.
    pub(super) fn sources_are_due(&self, now_ms: u64) -> bool {
        let lingering = self.lingering.next_due_ms(self.linger_ms());
        lingering.is_some_and(|due| due <= now_ms)
            || self.source_retries.due(now_ms).next().is_some()
    }

    pub(super) fn linger_ms(&self) -> u64 {
        u64::from(self.settings.source_linger_secs) * 1000
    }

    /// Binds and lets go by the picture at hand. Says what is missing altogether.
    pub(super) async fn reconcile_sources(
        &mut self,
        kernel: &Kernel,
        now_ms: u64,
    ) -> Result<Option<String>, KernelError> {
        let wanted: BTreeSet<IpAddr> = self.settings.sources.iter().copied().collect();
        let of_us = |here: &Vec<HeldAddress>| here.iter().any(HeldAddress::is_source);
        let held = self.held_addresses.iter().filter(|(_, here)| of_us(here));
        let scope: BTreeSet<IpAddr> =
            held.map(|(address, _)| *address).chain(wanted.iter().copied()).collect();
        self.published.sources = OrdMap::new();
        if scope.is_empty() {
            return Ok(None);
        }
        let name = self.settings.source_interface.clone();
        let interface = kernel.interface(&name).await?;
        let mut plan = SourcePlan::default();
        for address in scope {
            let place = Place {
                // No interface has index 0: what is bound elsewhere stays for the time being.
                interface: interface.unwrap_or(0),
                held: &self.held_addresses,
                now_ms,
                linger_ms: self.linger_ms(),
            };
            let decision =
                self.lingering.decide(address, wanted.contains(&address), place, &mut plan);
            self.show_source(address, decision, now_ms);
        }
        if interface.is_none() && !wanted.is_empty() {
            let reason: Arc<str> = format!("interface {name} does not exist").into();
            for address in wanted {
                let entry = Entry { state: AddressState::Failing, reason: Some(reason.clone()) };
                self.published.sources.insert(address, entry);
            }
            return Ok(Some(reason.to_string()));
        }
        self.change_sources(kernel, interface.unwrap_or(0), plan, now_ms).await;
        Ok(None)
    }

    async fn change_sources(
        &mut self,
        kernel: &Kernel,
        interface: u32,
        mut plan: SourcePlan,
        now_ms: u64,
    ) {
        plan.add.retain(|address| self.source_retries.is_due(address, now_ms));
        plan.remove.retain(|held| self.source_retries.is_due(&held.address, now_ms));
        if !kernel.marks_addresses() {
            self.remembered_sources.update(&plan.add, &[]).await;
        }
        for address in plan.add {
            let result = kernel.add_address(interface, address, Mark::Source).await;
            self.source_added(interface, address, result, now_ms);
        }
        for held in plan.remove {
            let result = kernel.remove_address(&held).await;
            self.source_removed(&held, result, now_ms);
            if !kernel.marks_addresses() && !self.held_addresses.contains_key(&held.address) {
                self.remembered_sources.update(&[], &[held.address]).await;
            }
        }
    }

    fn show_source(&mut self, address: IpAddr, decision: SourceDecision, now_ms: u64) {
        let (state, reason) = match decision {
            SourceDecision::Absent => return,
            SourceDecision::Add => {
                let refusal = self.source_retries.get(&address);
                (AddressState::Failing, refusal.map(|refusal| refusal.reason.clone()))
            }
            SourceDecision::Bound => (AddressState::Bound, None),
            SourceDecision::Foreign => {
                let reason = "the host has it from elsewhere; it is left alone";
                (AddressState::Foreign, Some(reason.to_owned()))
            }
            SourceDecision::Unbindable => {
                let reason = "loopback, link-local and multicast are not bound";
                (AddressState::Skipped, Some(reason.to_owned()))
            }
            SourceDecision::Lingers { until_ms } => {
                let secs = until_ms.saturating_sub(now_ms).div_ceil(1000);
                let reason = format!("not configured any more, bound for flows another {secs} s");
                (AddressState::Lingering, Some(reason))
            }
        };
        if decision != SourceDecision::Add {
            self.source_retries.settled(&address);
        }
        let entry = Entry { state, reason: reason.map(Arc::from) };
        self.published.sources.insert(address, entry);
    }

    fn source_added(
        &mut self,
        interface: u32,
        address: IpAddr,
        result: Result<(), KernelError>,
        now_ms: u64,
    ) {
        self.metrics.operation("source_add", result.is_ok());
        let (state, reason) = match result {
            Ok(()) => {
                info!(%address, "source address bound");
                let prefix_len = host_prefix_len(address);
                let held =
                    HeldAddress { interface, address, prefix_len, ours: false, source: true };
                self.held_addresses.entry(address).or_default().push(held);
                self.source_retries.settled(&address);
                (AddressState::Bound, None)
            }
            Err(error) => {
                // Somebody was quicker: the dump will tell who.
                if error == KernelError::Exists {
                    self.addresses_due = super::Due::All;
                }
                self.denied |= error == KernelError::Denied;
                warn!(%address, %error, "source address not bound");
                self.source_retries.refused(address, error.to_string(), now_ms, jitter());
                (AddressState::Failing, Some(error.to_string().into()))
            }
        };
        self.published.sources.insert(address, Entry { state, reason });
    }

    fn source_removed(&mut self, held: &HeldAddress, result: Result<(), KernelError>, now_ms: u64) {
        self.metrics.operation("source_remove", result.is_ok());
        match result {
            Ok(()) | Err(KernelError::Gone) => {
                info!(address = %held.address, "source address let go");
                forget(held, &mut self.held_addresses);
                self.lingering.forget(&held.address);
                self.source_retries.settled(&held.address);
            }
            Err(error) => {
                self.denied |= error == KernelError::Denied;
                warn!(address = %held.address, %error, "source address not let go");
                self.source_retries.refused(held.address, error.to_string(), now_ms, jitter());
            }
        }
    }
}
