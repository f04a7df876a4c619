//! What `haflinger status` shows of the data path.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Serialize;

use crate::control::Fill;
use crate::engine::{InterfaceStatus, lock};
use crate::xdp::Shared;

/// The data path at one time.
#[derive(Clone, Debug, Serialize)]
pub struct XdpStatus {
    /// Whether it is wanted.
    pub enabled: bool,
    /// Why no packet is forwarded by XDP.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fault: Option<Arc<str>>,
    /// Version of what program and daemon share; under it the maps are pinned.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub layout: Option<String>,
    /// Interfaces that are asked for, and others that matter.
    pub interfaces: Vec<InterfaceStatus>,
    /// How full the maps are.
    pub fill: BTreeMap<&'static str, Fill>,
}

impl XdpStatus {
    pub(crate) fn of(shared: &Shared) -> Self {
        let enabled = shared.settings.borrow().enabled;
        let fault = lock(&shared.fault).clone();
        let engine = lock(&shared.engine).clone();
        let Some(engine) = engine else {
            let (interfaces, fill) = (Vec::new(), BTreeMap::new());
            return Self { enabled, fault, layout: None, interfaces, fill };
        };
        let control = lock(&engine.control);
        Self {
            enabled,
            fault,
            layout: Some(engine.loaded.layout.version.clone()),
            interfaces: engine.interfaces(),
            fill: control.fill().into(),
        }
    }
}
