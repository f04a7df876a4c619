//! Why the relay cannot be had.

/// A relay could not be made or reconfigured.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A setting that must be positive is 0.
    #[error("relay setting {field} is 0: set it to 1 or more")]
    ZeroSetting {
        /// The setting's name.
        field: &'static str,
    },
    /// A metric's name is taken in the registry.
    #[error("cannot register the relay's metrics")]
    Metrics(#[from] prometheus::Error),
}
