//! VIPs: read, decide, bind, let go.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use imbl::OrdMap;
use tracing::{info, warn};

use super::{Due, Work, beyond, jitter};
use crate::address::{self, AddressDecision, AddressPlan, HeldAddress};
use crate::kernel::{Kernel, KernelError, Mark};
use crate::settings::ADDRESSES_MAX;
use crate::status::{AddressState, Entry};

impl Work {
    /// Says what is missing altogether, such as the interface.
    pub(super) async fn reconcile_addresses(
        &mut self,
        kernel: &Kernel,
        now_ms: u64,
    ) -> Result<Option<String>, KernelError> {
        let wanted_interface = self.settings.vip_interface.clone();
        if self.addresses_due.is_all() {
            self.interface = match &wanted_interface {
                Some(name) => kernel.interface(name).await?,
                None => None,
            };
            let (vips, sources) = (&self.remembered.addresses, &self.remembered_sources.addresses);
            self.held_addresses = kernel.addresses(vips, sources).await?;
        }
        if let (Some(name), None) = (&wanted_interface, self.interface) {
            // What stands elsewhere stays: the interface may come back.
            let reason: Arc<str> = format!("interface {name} does not exist").into();
            let entry = Entry { state: AddressState::Failing, reason: Some(reason.clone()) };
            self.published.addresses =
                self.vips.keys().map(|address| (*address, entry.clone())).collect();
            // The notification of the interface's return asks for everything.
            self.addresses_due = Due::default();
            return Ok(Some(reason.to_string()));
        }
        let scope = match std::mem::take(&mut self.addresses_due) {
            Due::Keys(mut keys) => {
                keys.extend(self.address_retries.due(now_ms));
                keys
            }
            Due::All => {
                self.published.addresses = OrdMap::new();
                self.vips.keys().chain(self.held_addresses.keys()).copied().collect()
            }
        };
        if !scope.is_empty() {
            self.change_addresses(kernel, &scope, now_ms).await;
        }
        Ok(None)
    }

    async fn change_addresses(&mut self, kernel: &Kernel, scope: &BTreeSet<IpAddr>, now_ms: u64) {
        // Beyond the limit the highest addresses stay unbound.
        let limit = beyond(&self.vips, ADDRESSES_MAX);
        // No interface has index 0: without one, nothing is wanted.
        let interface = self.interface.unwrap_or(0);
        let mut plan = AddressPlan::default();
        for &address in scope {
            let fits = limit.is_none_or(|limit| address < limit);
            let listed = self.vips.contains_key(&address) && self.interface.is_some();
            let held = &self.held_addresses;
            let decision = address::decide(address, listed && fits, interface, held, &mut plan);
            if listed && !fits {
                let reason = format!("more than {ADDRESSES_MAX} addresses");
                self.show_address(address, AddressState::Skipped, Some(reason));
            } else {
                self.show_decision(address, decision);
            }
        }
        plan.add.retain(|address| self.address_retries.is_due(address, now_ms));
        if !self.may_remove {
            plan.remove.clear();
        }
        if !kernel.marks_addresses() {
            self.remembered.update(&plan.add, &[]).await;
        }
        for address in plan.add {
            let result = kernel.add_address(interface, address, Mark::Vip).await;
            self.address_added(interface, address, result, now_ms);
        }
        for held in plan.remove {
            let result = kernel.remove_address(&held).await;
            self.address_removed(&held, result, now_ms);
            if !kernel.marks_addresses() && !self.held_addresses.contains_key(&held.address) {
                self.remembered.update(&[], &[held.address]).await;
            }
        }
    }

    fn show_decision(&mut self, address: IpAddr, decision: AddressDecision) {
        let (state, reason) = match decision {
            AddressDecision::Absent => {
                self.published.addresses.remove(&address);
                self.address_retries.settled(&address);
                return;
            }
            AddressDecision::Add => {
                let refusal = self.address_retries.get(&address);
                let reason = refusal.map(|refusal| refusal.reason.clone());
                self.show_address(address, AddressState::Failing, reason);
                return;
            }
            AddressDecision::Bound => (AddressState::Bound, None),
            AddressDecision::Foreign => {
                (AddressState::Foreign, Some("the host has it from elsewhere; it is left alone"))
            }
            AddressDecision::Unbindable => {
                (AddressState::Skipped, Some("loopback, link-local and multicast are not bound"))
            }
        };
        self.address_retries.settled(&address);
        self.show_address(address, state, reason.map(str::to_owned));
    }

    fn show_address(&mut self, address: IpAddr, state: AddressState, reason: Option<String>) {
        let entry = Entry { state, reason: reason.map(Arc::from) };
        self.published.addresses.insert(address, entry);
    }

    fn address_added(
        &mut self,
        interface: u32,
        address: IpAddr,
        result: Result<(), KernelError>,
        now_ms: u64,
    ) {
        self.metrics.operation("address_add", result.is_ok());
        match result {
            Ok(()) => {
                info!(%address, "address bound");
                let prefix_len = address::host_prefix_len(address);
                let held =
                    HeldAddress { interface, address, prefix_len, ours: true, source: false };
                self.held_addresses.entry(address).or_default().push(held);
                self.address_retries.settled(&address);
                self.show_address(address, AddressState::Bound, None);
            }
            Err(error) => {
                // Somebody was quicker: the dump will tell who.
                if error == KernelError::Exists {
                    self.addresses_due = Due::All;
                }
                self.denied |= error == KernelError::Denied;
                warn!(%address, %error, "address not bound");
                self.show_address(address, AddressState::Failing, Some(error.to_string()));
                self.address_retries.refused(address, error.to_string(), now_ms, jitter());
            }
        }
    }

    fn address_removed(
        &mut self,
        held: &HeldAddress,
        result: Result<(), KernelError>,
        now_ms: u64,
    ) {
        self.metrics.operation("address_remove", result.is_ok());
        match result {
            Ok(()) | Err(KernelError::Gone) => {
                info!(address = %held.address, "address let go");
                address::forget(held, &mut self.held_addresses);
            }
            Err(error) => {
                self.denied |= error == KernelError::Denied;
                warn!(address = %held.address, %error, "address not let go");
                self.address_retries.refused(held.address, error.to_string(), now_ms, jitter());
            }
        }
    }
}
