//! What the configuration decides for the prober.

/// Limits of the prober. They can change at run time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Probes in flight at once, 1 or more; each costs a descriptor. Further ones that are due
    /// wait for a place, the one due first before the others, and their delay is measured.
    pub probes_in_flight_max: u32,
}

impl Settings {
    pub(crate) fn check(&self) -> Result<(), Error> {
        if self.probes_in_flight_max == 0 {
            return Err(Error::ZeroSetting { field: "probes_in_flight_max" });
        }
        Ok(())
    }
}

/// A prober could not be made or reconfigured.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A setting that must be positive is 0.
    #[error("health setting {field} is 0: set it to 1 or more")]
    ZeroSetting {
        /// The setting's name.
        field: &'static str,
    },
    /// A metric's name is taken in the registry.
    #[error("cannot register the metrics of health checks")]
    Metrics(#[from] prometheus::Error),
}
