//! Leader election through a Lease, with the rules of client-go.
//!
//! kube-lease-manager offers the same, but lets a leader that cannot reach the API server stay leader until it can. Here
//! the process ends at the renewal deadline, before another replica may take over.

use std::time::{Duration, Instant};

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use kube::api::PostParams;
use kube::{Api, Client, Error};

/// Other replicas may take over after this long without a renewal.
const DURATION: Duration = Duration::from_secs(15);
/// The leader gives up after this long without a successful renewal.
const RENEW_DEADLINE: Duration = Duration::from_secs(10);
/// The time between two attempts to renew.
const RETRY: Duration = Duration::from_secs(2);

/// A replica that takes part in the election.
pub struct Candidate {
    api: Api<Lease>,
    name: String,
    identity: String,
    /// The last record that was read, and when it changed by our own clock: clocks of other machines are not trusted.
    last_read: Option<(LeaseRecord, Instant)>,
    /// When the last successful renewal was sent. Other replicas count from a later time.
    renewed: Instant,
}

#[derive(Debug, Clone, PartialEq)]
struct LeaseRecord {
    holder: String,
    renewed: Option<MicroTime>,
    transitions: i32,
}

impl Candidate {
    #[must_use]
    pub fn new(client: Client, namespace: &str, name: &str, identity: &str) -> Self {
        Self {
            api: Api::namespaced(client, namespace),
            name: name.to_owned(),
            identity: identity.to_owned(),
            last_read: None,
            renewed: Instant::now(),
        }
    }

    /// Waits until this candidate is the leader.
    pub async fn acquire(&mut self) {
        loop {
            match self.renew().await {
                Ok(true) if self.is_held() => return,
                Ok(_) => {}
                Err(error) => tracing::warn!(%error, lease = self.name, "cannot acquire the lease"),
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    /// Renews the lease until that fails, and returns why it failed.
    pub async fn hold(&mut self) -> &'static str {
        loop {
            tokio::time::sleep(RETRY).await;
            let left = RENEW_DEADLINE.saturating_sub(self.renewed.elapsed());
            match tokio::time::timeout(left, self.renew()).await {
                // The response may be old although it was awaited in time: the process may have been paused.
                Ok(Ok(true)) if self.is_held() => {}
                Ok(Ok(false)) if self.is_held_by_another() => {
                    return "another replica is the leader";
                }
                // The lease was changed in between; the next attempt reads it again.
                Ok(Ok(false)) => {}
                Ok(Err(error)) if self.is_held() => {
                    tracing::warn!(%error, lease = self.name, "cannot renew the lease");
                }
                Ok(Ok(true) | Err(_)) | Err(_) => return "the lease could not be renewed in time",
            }
        }
    }

    fn is_held(&self) -> bool {
        self.renewed.elapsed() < RENEW_DEADLINE
    }

    fn is_held_by_another(&self) -> bool {
        self.last_read.as_ref().is_some_and(|(record, _)| record.holder != self.identity)
    }

    /// Releases the lease, so that another replica can take over immediately.
    pub async fn release(&self) {
        let Ok(Some(mut lease)) = self.api.get_opt(&self.name).await else { return };
        if holder(&lease) != self.identity {
            return;
        }
        if let Some(spec) = &mut lease.spec {
            spec.holder_identity = None;
            spec.lease_duration_seconds = Some(1);
        }
        if let Err(error) = self.api.replace(&self.name, &PostParams::default(), &lease).await {
            tracing::debug!(%error, "cannot release the lease; it will expire");
        }
    }

    async fn renew(&mut self) -> kube::Result<bool> {
        let start = Instant::now();
        let is_leader = self.try_acquire_or_renew().await?;
        if is_leader {
            self.renewed = start;
        }
        Ok(is_leader)
    }

    async fn try_acquire_or_renew(&mut self) -> kube::Result<bool> {
        let now = MicroTime(Timestamp::now());
        let Some(mut lease) = self.api.get_opt(&self.name).await? else {
            let spec = self.spec(&now, Some(now.clone()), 0);
            let metadata = ObjectMeta { name: Some(self.name.clone()), ..ObjectMeta::default() };
            let lease = Lease { metadata, spec: Some(spec) };
            return self.is_acquired(self.api.create(&PostParams::default(), &lease).await);
        };
        let record = LeaseRecord {
            holder: holder(&lease).to_owned(),
            renewed: lease.spec.as_ref().and_then(|spec| spec.renew_time.clone()),
            transitions: lease.spec.as_ref().and_then(|spec| spec.lease_transitions).unwrap_or_default(),
        };
        if self.last_read.as_ref().is_none_or(|(last, _)| *last != record) {
            self.last_read = Some((record.clone(), Instant::now()));
        }
        let mine = record.holder == self.identity;
        let expired = self.last_read.as_ref().is_none_or(|(_, since)| since.elapsed() > DURATION);
        if !mine && !record.holder.is_empty() && !expired {
            return Ok(false);
        }
        let acquired = if mine {
            lease.spec.as_ref().and_then(|spec| spec.acquire_time.clone())
        } else {
            Some(now.clone())
        };
        lease.spec = Some(self.spec(&now, acquired, record.transitions + i32::from(!mine)));
        // It has the resource version, so that the second of two writers gets a conflict.
        self.is_acquired(self.api.replace(&self.name, &PostParams::default(), &lease).await)
    }

    fn is_acquired(&self, answer: kube::Result<Lease>) -> kube::Result<bool> {
        match answer {
            Ok(lease) => Ok(holder(&lease) == self.identity),
            Err(Error::Api(status)) if status.code == 409 => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn spec(&self, now: &MicroTime, acquired: Option<MicroTime>, transitions: i32) -> LeaseSpec {
        LeaseSpec {
            holder_identity: Some(self.identity.clone()),
            lease_duration_seconds: i32::try_from(DURATION.as_secs()).ok(),
            acquire_time: acquired,
            renew_time: Some(now.clone()),
            lease_transitions: Some(transitions),
            ..LeaseSpec::default()
        }
    }
}

fn holder(lease: &Lease) -> &str {
    lease.spec.as_ref().and_then(|spec| spec.holder_identity.as_deref()).unwrap_or_default()
}
