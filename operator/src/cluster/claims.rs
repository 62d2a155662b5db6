//! What happens to claims while runs wait for them or use them.
//!
//! Nothing of a claim is kept but that it goes: a cluster may have very many, and runs read those they need.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use futures::{Stream, StreamExt};
use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use kube::core::PartialObjectMeta;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Resource};
use stic_contract::RunIdentity;

use super::children::{Touched, Triggers};

/// A namespace and a claim's name.
type Key = (String, String);

/// Who waits for which claim, and which claims go.
#[derive(Debug, Default)]
pub struct Claims {
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    awaited: HashMap<Key, HashSet<Touched>>,
    going: HashSet<Key>,
}

impl Claims {
    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has `run` reconciled when something happens to one of `claims`.
    pub fn await_for<'a>(&self, run: &RunIdentity, claims: impl Iterator<Item = &'a str>) {
        let mut known = self.lock();
        for claim in claims {
            known.awaited.entry((run.namespace.clone(), claim.to_owned())).or_default().insert(touched(run));
        }
    }

    /// `run` waits no longer.
    pub fn forget<'a>(&self, run: &RunIdentity, claims: impl Iterator<Item = &'a str>) {
        let mut known = self.lock();
        for claim in claims {
            let key = (run.namespace.clone(), claim.to_owned());
            if let Some(waiting) = known.awaited.get_mut(&key) {
                waiting.remove(&touched(run));
                if waiting.is_empty() {
                    known.awaited.remove(&key);
                }
            }
        }
    }

    /// The first of `claims` that was deleted and is kept only while pods use it.
    pub fn going<'a>(&self, namespace: &str, mut claims: impl Iterator<Item = &'a str>) -> Option<&'a str> {
        let known = self.lock();
        claims.find(|claim| known.going.contains(&(namespace.to_owned(), (*claim).to_owned())))
    }

    /// Takes in a change and returns who is to be reconciled because of it. They wait anew if they still have to.
    fn changed(&self, claim: &impl Resource, gone: bool) -> HashSet<Touched> {
        let metadata = claim.meta();
        let (Some(namespace), Some(name)) = (&metadata.namespace, &metadata.name) else {
            return HashSet::new();
        };
        let key = (namespace.clone(), name.clone());
        let mut known = self.lock();
        let waiting = known.awaited.remove(&key).unwrap_or_default();
        if metadata.deletion_timestamp.is_some() && !gone {
            known.going.insert(key);
        } else {
            known.going.remove(&key);
        }
        waiting
    }
}

fn touched(run: &RunIdentity) -> Touched {
    Touched { kind: run.kind, namespace: run.namespace.clone(), name: run.name.clone() }
}

/// Watches claims until the process ends.
pub async fn follow(
    api: Api<PartialObjectMeta<PersistentVolumeClaim>>,
    claims: &Claims,
    triggers: &Triggers,
) {
    take_in(watcher(api, watcher::Config::default()).default_backoff(), claims, triggers).await;
}

async fn take_in<K: Resource>(
    events: impl Stream<Item = watcher::Result<Event<K>>>,
    claims: &Claims,
    triggers: &Triggers,
) {
    let mut events = std::pin::pin!(events);
    while let Some(event) = events.next().await {
        let touched = match event {
            Ok(Event::InitApply(claim) | Event::Apply(claim)) => claims.changed(&claim, false),
            Ok(Event::Delete(claim)) => claims.changed(&claim, true),
            Ok(Event::Init) => {
                // What goes is listed anew.
                claims.lock().going.clear();
                continue;
            }
            Ok(Event::InitDone) => continue,
            Err(error) => {
                tracing::warn!(%error, "a watch of claims broke off and is started again");
                continue;
            }
        };
        touched.into_iter().for_each(|run| triggers.send(run));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use stic_contract::RunKind;
    use tokio::sync::mpsc;

    fn claim(name: &str, going: bool) -> PersistentVolumeClaim {
        let time = going.then_some("2026-11-26T12:00:00Z");
        serde_json::from_value(
            json!({"metadata": {"name": name, "namespace": "n", "deletionTimestamp": time}}),
        )
        .expect("a claim")
    }

    #[tokio::test]
    async fn a_change_wakes_who_waits_once_and_what_goes_is_known_until_it_is_gone() {
        let (stage_one, mut ones) = mpsc::unbounded_channel();
        let (stage_two, _twos) = mpsc::unbounded_channel();
        let triggers = Triggers { stage_one, stage_two };
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
        claims.await_for(&run, ["a", "b"].into_iter());
        take_in(events(vec![Event::Apply(claim("c", false))]), &claims, &triggers).await;
        assert!(ones.try_recv().is_err(), "nobody waits for c");
        let twice = vec![Event::Apply(claim("a", true)), Event::Apply(claim("a", true))];
        take_in(events(twice), &claims, &triggers).await;
        assert_eq!(ones.try_recv().map(|touched| touched.name), Ok("a".into()));
        assert!(ones.try_recv().is_err(), "it has not said that it still waits");
        assert_eq!(claims.going("n", ["b", "a"].into_iter()), Some("a"));
        take_in(events(vec![Event::Delete(claim("a", true))]), &claims, &triggers).await;
        assert_eq!(claims.going("n", ["b", "a"].into_iter()), None);
        claims.forget(&run, ["b"].into_iter());
        take_in(events(vec![Event::Apply(claim("b", false))]), &claims, &triggers).await;
        assert!(ones.try_recv().is_err(), "it waits no longer");
    }
}
