//! Leader election by a Lease, with the rules of client-go.
//!
//! kube-lease-manager does this too, but a leader that cannot reach the API server stays leader there until it can; here
//! it has until its renewal deadline, which is before anybody else may take over, and then the process ends.

use std::time::{Duration, Instant};

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use kube::api::PostParams;
use kube::{Api, Client, Error};

/// Others take over when nothing was renewed for this long.
const DURATION: Duration = Duration::from_secs(15);
/// The leader gives up when it could not renew for this long.
const RENEW_DEADLINE: Duration = Duration::from_secs(10);
/// Between two tries.
const RETRY: Duration = Duration::from_secs(2);

/// A candidate for the leadership.
pub struct Candidate {
    api: Api<Lease>,
    name: String,
    identity: String,
    /// The last record seen and when it was, by our own clock: clocks of others are not trusted.
    seen: Option<(Record, Instant)>,
    /// When the request that renewed last was begun: what others count from comes after it.
    renewed: Instant,
}

#[derive(Debug, Clone, PartialEq)]
struct Record {
    holder: String,
    renewed: Option<MicroTime>,
    transitions: i32,
}

impl Candidate {
    /// A candidate called `identity` for the lease `name` in `namespace`.
    #[must_use]
    pub fn new(client: Client, namespace: &str, name: &str, identity: &str) -> Self {
        Self {
            api: Api::namespaced(client, namespace),
            name: name.to_owned(),
            identity: identity.to_owned(),
            seen: None,
            renewed: Instant::now(),
        }
    }

    /// Returns once this candidate leads.
    pub async fn acquire(&mut self) {
        loop {
            match self.renew().await {
                Ok(true) if self.is_held() => return,
                Ok(_) => {}
                Err(error) => tracing::warn!(%error, lease = self.name, "cannot take the lease"),
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    /// Renews for as long as that works, and returns why it no longer does.
    pub async fn hold(&mut self) -> &'static str {
        loop {
            tokio::time::sleep(RETRY).await;
            let left = RENEW_DEADLINE.saturating_sub(self.renewed.elapsed());
            match tokio::time::timeout(left, self.renew()).await {
                // An answer may come late although it was awaited in time: this process may have stood still.
                Ok(Ok(true)) if self.is_held() => {}
                Ok(Ok(false)) if self.seen.as_ref().is_some_and(|(seen, _)| seen.holder != self.identity) => {
                    return "another replica leads";
                }
                // Somebody wrote in between; the next try sees what.
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

    /// Lets others take over at once.
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
            tracing::debug!(%error, "the lease runs out by itself");
        }
    }

    async fn renew(&mut self) -> kube::Result<bool> {
        let began = Instant::now();
        let leads = self.try_lease().await?;
        if leads {
            self.renewed = began;
        }
        Ok(leads)
    }

    async fn try_lease(&mut self) -> kube::Result<bool> {
        let now = MicroTime(Timestamp::now());
        let Some(mut lease) = self.api.get_opt(&self.name).await? else {
            let spec = self.spec(&now, Some(now.clone()), 0);
            let metadata = ObjectMeta { name: Some(self.name.clone()), ..ObjectMeta::default() };
            let lease = Lease { metadata, spec: Some(spec) };
            return self.written(self.api.create(&PostParams::default(), &lease).await);
        };
        let record = Record {
            holder: holder(&lease).to_owned(),
            renewed: lease.spec.as_ref().and_then(|spec| spec.renew_time.clone()),
            transitions: lease.spec.as_ref().and_then(|spec| spec.lease_transitions).unwrap_or_default(),
        };
        if self.seen.as_ref().is_none_or(|(seen, _)| *seen != record) {
            self.seen = Some((record.clone(), Instant::now()));
        }
        let mine = record.holder == self.identity;
        let expired = self.seen.as_ref().is_none_or(|(_, since)| since.elapsed() > DURATION);
        if !mine && !record.holder.is_empty() && !expired {
            return Ok(false);
        }
        let acquired = if mine {
            lease.spec.as_ref().and_then(|spec| spec.acquire_time.clone())
        } else {
            Some(now.clone())
        };
        lease.spec = Some(self.spec(&now, acquired, record.transitions + i32::from(!mine)));
        // The resource version is in it: whoever writes second gets a conflict.
        self.written(self.api.replace(&self.name, &PostParams::default(), &lease).await)
    }

    fn written(&self, answer: kube::Result<Lease>) -> kube::Result<bool> {
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
