//! Drives one cluster's election.

use std::time::{Duration, Instant};

use haflinger_kubernetes::describe;
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::api::{ObjectMeta, PostParams};
use kube::{Api, Client};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::election::{Election, Intent, Record};
use crate::settings::ClusterSettings;
use crate::status::Board;

/// How long a stopping leader tries to give the Lease back. Others otherwise wait for its end.
const RELEASE_MAX: Duration = Duration::from_secs(2);

/// Retries are spread over up to this share of the period (client-go's jitter factor).
const JITTER: f64 = 0.2;

/// Stands for election until `stop`, then gives the Lease back.
pub(crate) async fn stand(
    client: Client,
    settings: &ClusterSettings,
    identity: &str,
    leader: &watch::Sender<bool>,
    board: &Board,
    stop: &CancellationToken,
) {
    let leases: Api<Lease> = Api::namespaced(client, &settings.lease_namespace);
    let candidate = Candidate { leases, name: &settings.lease_name };
    let mut election = Election::new(identity, settings.timing());
    loop {
        let timing = election.timing();
        // Half of what a leader may lose, so that there is time for a second attempt; and
        // never beyond the end of the term, which must be noticed in time.
        let mut limit = timing.renew_deadline / 2;
        if let Some(end) = election.term_ends().filter(|_| *leader.borrow()) {
            limit = limit.min(end.saturating_duration_since(Instant::now()));
        }
        let attempt = tokio::select! {
            () = stop.cancelled() => break,
            attempt = tokio::time::timeout(limit, candidate.attempt(&mut election)) => attempt,
        };
        let error = match attempt {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(error),
            Err(_) => Some(format!("the API server did not answer within {limit:?}")),
        };
        if let Some(error) = &error {
            tracing::warn!(cluster = %board.cluster, error, "election: Lease cannot be had");
        }
        board.lease_error(error);
        board.holder(election.holder());
        announce(election.leads(Instant::now()), leader, board);
        let mut wait = timing.retry_period.mul_f64(1.0 + JITTER * rand::random::<f64>());
        if let Some(end) = election.term_ends().filter(|_| *leader.borrow()) {
            wait = wait.min(end.saturating_duration_since(Instant::now()));
        }
        tokio::select! {
            () = stop.cancelled() => break,
            () = tokio::time::sleep(wait) => {}
        }
        // The term may have ended while waiting.
        announce(election.leads(Instant::now()), leader, board);
    }
    let release = election.release(Instant::now(), now());
    // Stop acting before anybody else may begin.
    announce(false, leader, board);
    if let Some((record, version)) = release {
        let release = candidate.write(record, Some(version));
        match tokio::time::timeout(RELEASE_MAX, release).await {
            Ok(Ok(_)) => tracing::info!(cluster = %board.cluster, "election: Lease given back"),
            Ok(Err(error)) => {
                let error = describe(&error);
                tracing::warn!(cluster = %board.cluster, error, "election: Lease not given back");
            }
            Err(_) => tracing::warn!(cluster = %board.cluster, "election: Lease not given back"),
        }
    }
}

fn announce(leads: bool, leader: &watch::Sender<bool>, board: &Board) {
    let changed = leader.send_if_modified(|current| std::mem::replace(current, leads) != leads);
    if changed {
        board.leads(leads);
        tracing::info!(cluster = %board.cluster, leads, "election: leadership changed");
    }
}

struct Candidate<'a> {
    leases: Api<Lease>,
    name: &'a str,
}

impl Candidate<'_> {
    /// One attempt to take or to keep the Lease. May be dropped: at worst a renewal has
    /// succeeded that nobody counts.
    async fn attempt(&self, election: &mut Election) -> Result<(), String> {
        let lease = self.leases.get_opt(self.name).await.map_err(|error| describe(&error))?;
        election.observe(Instant::now(), lease.map(observed));
        let began = Instant::now();
        match election.intent(began, now()) {
            Intent::Wait => Ok(()),
            Intent::Write { record, version } => {
                match self.write(record.clone(), version).await {
                    Ok(version) => {
                        election.wrote(began, record, version);
                        Ok(())
                    }
                    // Another candidate was faster; the next reading shows who.
                    Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
                    Err(error) => Err(describe(&error)),
                }
            }
        }
    }

    async fn write(&self, record: Record, version: Option<String>) -> kube::Result<String> {
        let exists = version.is_some();
        let lease = Lease {
            metadata: ObjectMeta {
                name: Some(self.name.to_owned()),
                resource_version: version,
                ..ObjectMeta::default()
            },
            spec: Some(LeaseSpec {
                holder_identity: Some(record.holder),
                lease_duration_seconds: i32::try_from(record.duration.as_secs()).ok(),
                acquire_time: record.acquired.map(MicroTime),
                renew_time: record.renewed.map(MicroTime),
                lease_transitions: Some(record.transitions),
                ..LeaseSpec::default()
            }),
        };
        let written = if exists {
            self.leases.replace(self.name, &PostParams::default(), &lease).await?
        } else {
            self.leases.create(&PostParams::default(), &lease).await?
        };
        Ok(written.metadata.resource_version.unwrap_or_default())
    }
}

fn observed(lease: Lease) -> (Record, String) {
    let spec = lease.spec.unwrap_or_default();
    let secs = spec.lease_duration_seconds.and_then(|secs| u64::try_from(secs).ok());
    let record = Record {
        holder: spec.holder_identity.unwrap_or_default(),
        duration: Duration::from_secs(secs.unwrap_or_default()),
        acquired: spec.acquire_time.map(|time| time.0),
        renewed: spec.renew_time.map(|time| time.0),
        transitions: spec.lease_transitions.unwrap_or_default(),
    };
    (record, lease.metadata.resource_version.unwrap_or_default())
}

/// The wall clock, as exact as a Lease keeps it.
fn now() -> Timestamp {
    let now = Timestamp::now();
    Timestamp::from_microsecond(now.as_microsecond()).unwrap_or(now)
}
