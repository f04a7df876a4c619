//! What is counted about answers that are not passed on as they are.

use haflinger_core::Coding;
use prometheus::{IntCounter, IntCounterVec, Opts, Registry};

/// Bytes before and after, looked up once.
#[derive(Clone, Debug)]
pub(crate) struct CodingMetrics {
    plain: [IntCounter; 3],
    coded: [IntCounter; 3],
    full: IntCounter,
    /// Answers of backends that were longer than they may be.
    pub(crate) too_long: IntCounter,
    /// Pages in the place of what backends answered.
    pub(crate) intercepted: IntCounter,
}

impl CodingMetrics {
    pub(crate) fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let bytes = IntCounterVec::new(
            Opts::new(
                "haflinger_proxy_compression_bytes_total",
                "Bytes of answers that were compressed, by coding: as the backend sent them (in), \
                 and as the client got them (out).",
            ),
            &["coding", "side"],
        )?;
        let full = IntCounter::new(
            "haflinger_proxy_compression_refused_total",
            "Answers that went as they were, since a worker compressed as many as it may (256).",
        )?;
        let too_long = IntCounter::new(
            "haflinger_proxy_answers_too_long_total",
            "Answers of backends that were longer than the rule lets them be: 502 where they said \
             so, otherwise cut off.",
        )?;
        let intercepted = IntCounter::new(
            "haflinger_proxy_pages_intercepted_total",
            "Answers of backends that were replaced by an error page.",
        )?;
        registry.register(Box::new(too_long.clone()))?;
        registry.register(Box::new(intercepted.clone()))?;
        registry.register(Box::new(bytes.clone()))?;
        registry.register(Box::new(full.clone()))?;
        let of = |side| {
            [Coding::Gzip, Coding::Brotli, Coding::Zstd]
                .map(|coding| bytes.with_label_values(&[coding.as_str(), side]))
        };
        Ok(Self { plain: of("in"), coded: of("out"), full, too_long, intercepted })
    }

    /// A piece was compressed.
    pub(crate) fn coded(&self, coding: Coding, plain_bytes: usize, coded_bytes: usize) {
        self.plain[coding as usize].inc_by(plain_bytes as u64);
        self.coded[coding as usize].inc_by(coded_bytes as u64);
    }

    /// There was no place.
    pub(crate) fn full(&self) {
        self.full.inc();
    }
}
