//! Jobs and pods by the run that they belong to.
//!
//! A reflector's store is keyed by name, so that finding the pods of one run would mean going through all pods.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt::Debug;
use std::sync::{Arc, PoisonError, RwLock};

use futures::{Stream, StreamExt};
use kube::Resource;
use kube::runtime::watcher::{self, Event};
use serde::de::DeserializeOwned;
use stic_contract::RunKind;
use tokio::sync::{mpsc, watch};

use super::objects::prune;
use crate::build::labels;
use crate::run_key::RunKey;

/// Sends runs to the controller of their kind, to be reconciled because something that they depend on changed.
#[derive(Debug, Clone)]
pub struct Triggers {
    pub stage_one: mpsc::UnboundedSender<RunKey>,
    pub stage_two: mpsc::UnboundedSender<RunKey>,
    pub evaluation: mpsc::UnboundedSender<RunKey>,
}

/// The other ends of [`Triggers`].
#[derive(Debug)]
pub struct Triggered {
    pub stage_one: mpsc::UnboundedReceiver<RunKey>,
    pub stage_two: mpsc::UnboundedReceiver<RunKey>,
    pub evaluation: mpsc::UnboundedReceiver<RunKey>,
}

impl Triggers {
    #[must_use]
    pub fn new() -> (Self, Triggered) {
        let (stage_one, ones) = mpsc::unbounded_channel();
        let (stage_two, twos) = mpsc::unbounded_channel();
        let (evaluation, evaluations) = mpsc::unbounded_channel();
        let triggered = Triggered { stage_one: ones, stage_two: twos, evaluation: evaluations };
        (Self { stage_one, stage_two, evaluation }, triggered)
    }

    pub fn send(&self, run: RunKey) {
        let to = match run.kind {
            RunKind::StageOneRun => &self.stage_one,
            RunKind::StageTwoRun => &self.stage_two,
            RunKind::EvaluationRun => &self.evaluation,
        };
        // The receiver is dropped only when the process is shutting down.
        let _ = to.send(run);
    }
}

type ByRun<K> = HashMap<String, BTreeMap<String, Arc<K>>>;

/// The children of one type, by the UID of their run.
#[derive(Debug)]
pub struct Children<K> {
    by_run: RwLock<ByRun<K>>,
    synced: watch::Sender<bool>,
}

impl<K> Default for Children<K> {
    fn default() -> Self {
        Self { by_run: RwLock::default(), synced: watch::Sender::new(false) }
    }
}

impl<K> Children<K> {
    /// The children of the run with this UID, ordered by name.
    #[must_use]
    pub fn of(&self, uid: &str) -> Vec<Arc<K>> {
        let by_run = self.by_run.read().unwrap_or_else(PoisonError::into_inner);
        by_run.get(uid).into_iter().flat_map(|children| children.values().cloned()).collect()
    }

    /// Waits until the first list is complete.
    pub async fn synced(&self) {
        let mut synced = self.synced.subscribe();
        // The sender lives as long as self.
        let _ = synced.wait_for(|synced| *synced).await;
    }
}

impl<K: Resource + Clone> Children<K> {
    /// Adds a child, or replaces it.
    pub fn insert(&self, child: K) {
        let Some((uid, name)) = key(&child) else { return };
        let mut by_run = self.by_run.write().unwrap_or_else(PoisonError::into_inner);
        by_run.entry(uid).or_default().insert(name, Arc::new(child));
    }

    pub fn remove(&self, child: &K) {
        let Some((uid, name)) = key(child) else { return };
        let mut by_run = self.by_run.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(children) = by_run.get_mut(&uid) {
            children.remove(&name);
            if children.is_empty() {
                by_run.remove(&uid);
            }
        }
    }

    /// The children that are not `listed`.
    fn missing(&self, listed: &HashSet<(String, String)>) -> Vec<Arc<K>> {
        let by_run = self.by_run.read().unwrap_or_else(PoisonError::into_inner);
        let missing = |uid: &str, name: &str| !listed.contains(&(uid.to_owned(), name.to_owned()));
        by_run
            .iter()
            .flat_map(|(uid, children)| {
                children.iter().filter(|(name, _)| missing(uid, name)).map(|(_, child)| child.clone())
            })
            .collect()
    }
}

fn key<K: Resource>(child: &K) -> Option<(String, String)> {
    let labels = child.meta().labels.as_ref()?;
    Some((labels.get(labels::RUN_UID)?.clone(), child.meta().name.clone()?))
}

/// The run that a child belongs to, by its labels.
fn run_of<K: Resource>(child: &K) -> Option<RunKey> {
    let labels = child.meta().labels.as_ref()?;
    let kind: RunKind = labels.get(labels::RUN_KIND)?.parse().ok()?;
    Some(RunKey { kind, namespace: child.meta().namespace.clone()?, name: labels.get(labels::RUN)?.clone() })
}

/// Objects per page of a list. A page is held in memory as text and as unpruned objects; with kube's default of 500, the
/// first list used more memory than anything after it.
pub const PAGE_SIZE: u32 = 50;

/// Watches the children of runs until the process ends. `forget` is called with the last state of a deleted child, and
/// removes it.
pub async fn watch_children<K>(
    events: impl Stream<Item = watcher::Result<Event<K>>>,
    children: Arc<Children<K>>,
    triggers: Triggers,
    forget: impl Fn(&K),
) where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + 'static,
{
    process_events(events, &children, &triggers, forget).await;
}

/// Which Jobs and pods are watched.
#[must_use]
pub fn watched() -> watcher::Config {
    // Not by one of Kubernetes' own labels: admission webhooks of platforms overwrite those.
    watcher::Config::default().labels(labels::RUN_UID).page_size(PAGE_SIZE)
}

async fn process_events<K>(
    events: impl Stream<Item = watcher::Result<Event<K>>>,
    children: &Children<K>,
    triggers: &Triggers,
    forget: impl Fn(&K),
) where
    K: Resource + Clone + Debug,
{
    let mut events = std::pin::pin!(events);
    let mut listed = HashSet::new();
    let delete = |child: &K| {
        forget(child);
        run_of(child).into_iter().for_each(|run| triggers.send(run));
    };
    let apply = |mut child: K| {
        let run = run_of(&child);
        prune(child.meta_mut());
        // Insert before triggering, so that the reconciliation finds the child.
        children.insert(child);
        run.into_iter().for_each(|run| triggers.send(run));
    };
    while let Some(event) = events.next().await {
        match event {
            Ok(Event::Init) => listed.clear(),
            Ok(Event::InitApply(child)) => {
                listed.extend(key(&child));
                apply(child);
            }
            Ok(Event::InitDone) => {
                // These were deleted while the watch was down.
                for deleted in children.missing(&std::mem::take(&mut listed)) {
                    delete(&deleted);
                }
                children.synced.send_replace(true);
            }
            Ok(Event::Apply(child)) => apply(child),
            Ok(Event::Delete(mut child)) => {
                prune(child.meta_mut());
                delete(&child);
            }
            Err(error) => tracing::warn!(%error, "watch of Jobs or pods failed; restarting it"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::objects::Job;
    use super::*;
    use kube::ResourceExt as _;
    use serde_json::json;

    fn job(name: &str, uid: &str) -> Job {
        serde_json::from_value(json!({"metadata": {"name": name, "namespace": "n", "labels": {
            labels::RUN_UID: uid, labels::RUN: "a", labels::RUN_KIND: "StageTwoRun"}}}))
        .expect("a Job")
    }

    #[tokio::test]
    async fn children_follow_the_watch_and_a_new_list_removes_those_missing_from_it() {
        let (triggers, Triggered { stage_one: mut ones, stage_two: mut twos, .. }) = Triggers::new();
        let children = Children::default();
        let events = vec![
            Ok(Event::Init),
            Ok(Event::InitApply(job("a", "1"))),
            Ok(Event::InitApply(job("b", "1"))),
            Ok(Event::InitDone),
            Ok(Event::Apply(job("c", "2"))),
            Ok(Event::Delete(job("b", "1"))),
            Ok(Event::Init),
            Ok(Event::InitApply(job("a", "1"))),
            Ok(Event::InitDone),
        ];
        process_events(futures::stream::iter(events), &children, &triggers, |job| children.remove(job)).await;
        children.synced().await;
        let names = |uid: &str| children.of(uid).iter().map(|job| job.name_any()).collect::<Vec<_>>();
        assert_eq!(names("1"), ["a"]);
        assert!(names("2").is_empty(), "the second list does not have it");
        assert!(ones.try_recv().is_err());
        let mut count = 0;
        while let Ok(run) = twos.try_recv() {
            assert_eq!((run.namespace.as_str(), run.name.as_str()), ("n", "a"));
            count += 1;
        }
        assert_eq!(count, 6, "every change triggers its run, including one during an outage of the watch");
    }
}
