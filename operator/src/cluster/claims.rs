//! Which runs wait for which claims, and which claims are being deleted.
//!
//! Claims themselves are not cached: a cluster may have very many, and a run reads the few that it needs.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use futures::{Stream, StreamExt};
use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use kube::Resource;
use kube::core::PartialObjectMeta;
use kube::runtime::watcher::{self, Event};
use stic_contract::RunIdentity;

use super::children::Triggers;
use crate::run_key::RunKey;

/// A namespace and a claim's name.
type Key = (String, String);

/// The runs that wait for each claim, and the claims that are being deleted.
#[derive(Debug, Default)]
pub struct Claims {
    state: Mutex<ClaimState>,
}

#[derive(Debug, Default)]
struct ClaimState {
    waiting: HashMap<Key, HashSet<RunKey>>,
    terminating: HashSet<Key>,
}

impl Claims {
    fn lock(&self) -> MutexGuard<'_, ClaimState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Registers `run` to be reconciled when one of `claims` changes.
    pub fn subscribe<'a>(&self, run: &RunIdentity, claims: impl Iterator<Item = &'a str>) {
        let mut state = self.lock();
        for claim in claims {
            let key = (run.namespace.clone(), claim.to_owned());
            state.waiting.entry(key).or_default().insert(run.into());
        }
    }

    /// Removes the registration of `run`.
    pub fn unsubscribe<'a>(&self, run: &RunIdentity, claims: impl Iterator<Item = &'a str>) {
        let mut state = self.lock();
        for claim in claims {
            let key = (run.namespace.clone(), claim.to_owned());
            if let Some(waiting) = state.waiting.get_mut(&key) {
                waiting.remove(&RunKey::from(run));
                if waiting.is_empty() {
                    state.waiting.remove(&key);
                }
            }
        }
    }

    /// The first of `claims` that was deleted and exists only as long as pods use it.
    pub fn terminating<'a>(
        &self,
        namespace: &str,
        mut claims: impl Iterator<Item = &'a str>,
    ) -> Option<&'a str> {
        let state = self.lock();
        claims.find(|claim| state.terminating.contains(&(namespace.to_owned(), (*claim).to_owned())))
    }

    /// Processes a change and returns the runs to reconcile because of it. They subscribe again if they still wait.
    fn changed(&self, claim: &impl Resource, deleted: bool) -> HashSet<RunKey> {
        let metadata = claim.meta();
        let (Some(namespace), Some(name)) = (&metadata.namespace, &metadata.name) else {
            return HashSet::new();
        };
        let key = (namespace.clone(), name.clone());
        let mut state = self.lock();
        let waiting = state.waiting.remove(&key).unwrap_or_default();
        if metadata.deletion_timestamp.is_some() && !deleted {
            state.terminating.insert(key);
        } else {
            state.terminating.remove(&key);
        }
        waiting
    }
}

/// Watches claims until the process ends.
pub async fn watch_claims(
    events: impl Stream<Item = watcher::Result<Event<PartialObjectMeta<PersistentVolumeClaim>>>>,
    claims: &Claims,
    triggers: &Triggers,
) {
    process_events(events, claims, triggers).await;
}

async fn process_events<K: Resource>(
    events: impl Stream<Item = watcher::Result<Event<K>>>,
    claims: &Claims,
    triggers: &Triggers,
) {
    let mut events = std::pin::pin!(events);
    while let Some(event) = events.next().await {
        let runs = match event {
            Ok(Event::InitApply(claim) | Event::Apply(claim)) => claims.changed(&claim, false),
            Ok(Event::Delete(claim)) => claims.changed(&claim, true),
            Ok(Event::Init) => {
                // The new list has every claim that is still being deleted.
                claims.lock().terminating.clear();
                continue;
            }
            Ok(Event::InitDone) => continue,
            Err(error) => {
                tracing::warn!(%error, "watch of claims failed; restarting it");
                continue;
            }
        };
        runs.into_iter().for_each(|run| triggers.send(run));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use stic_contract::RunKind;

    fn claim(name: &str, terminating: bool) -> PersistentVolumeClaim {
        let time = terminating.then_some("2026-11-26T12:00:00Z");
        serde_json::from_value(
            json!({"metadata": {"name": name, "namespace": "n", "deletionTimestamp": time}}),
        )
        .expect("a claim")
    }

    #[tokio::test]
    async fn a_change_triggers_a_subscribed_run_once_and_deletions_are_tracked() {
        let (triggers, mut triggered) = Triggers::new();
        let ones = &mut triggered.stage_one;
        let claims = Claims::default();
        let run = RunIdentity {
            kind: RunKind::StageOneRun,
            namespace: "n".into(),
            name: "a".into(),
            uid: "u".into(),
            rerun: 0,
        };
        let events =
            |list: Vec<Event<PersistentVolumeClaim>>| futures::stream::iter(list.into_iter().map(Ok));
        claims.subscribe(&run, ["a", "b"].into_iter());
        process_events(events(vec![Event::Apply(claim("c", false))]), &claims, &triggers).await;
        assert!(ones.try_recv().is_err(), "no run waits for c");
        let twice = vec![Event::Apply(claim("a", true)), Event::Apply(claim("a", true))];
        process_events(events(twice), &claims, &triggers).await;
        assert_eq!(ones.try_recv().map(|run| run.name), Ok("a".into()));
        assert!(ones.try_recv().is_err(), "it has not subscribed again");
        assert_eq!(claims.terminating("n", ["b", "a"].into_iter()), Some("a"));
        process_events(events(vec![Event::Delete(claim("a", true))]), &claims, &triggers).await;
        assert_eq!(claims.terminating("n", ["b", "a"].into_iter()), None);
        claims.unsubscribe(&run, ["b"].into_iter());
        process_events(events(vec![Event::Apply(claim("b", false))]), &claims, &triggers).await;
        assert!(ones.try_recv().is_err(), "it has unsubscribed");
    }
}
