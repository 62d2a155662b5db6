//! Jobs and pods by the run they belong to.
//!
//! A reflector's store is keyed by name, and to find the pods of a run in it means to walk over all of them; here it
//! costs the same for the first run and the five thousandth.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt::Debug;
use std::sync::{Arc, PoisonError, RwLock};

use futures::{Stream, StreamExt};
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Resource};
use serde::de::DeserializeOwned;
use stic_contract::RunKind;
use tokio::sync::{mpsc, watch};

use super::objects::prune;
use crate::build::labels;

/// A run to reconcile because one of its children changed.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Touched {
    /// Its kind.
    pub kind: RunKind,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

/// Where touched runs go, by kind.
#[derive(Debug, Clone)]
pub struct Triggers {
    /// To the controller of `StageOneRun`.
    pub stage_one: mpsc::UnboundedSender<Touched>,
    /// To the controller of `StageTwoRun`.
    pub stage_two: mpsc::UnboundedSender<Touched>,
}

impl Triggers {
    /// Has `touched` reconciled. Nobody listens any more only while the process ends.
    pub fn send(&self, touched: Touched) {
        let to = match touched.kind {
            RunKind::StageOneRun => &self.stage_one,
            RunKind::StageTwoRun => &self.stage_two,
        };
        let _ = to.send(touched);
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
    /// The children of the run of `uid`, by name.
    #[must_use]
    pub fn of(&self, uid: &str) -> Vec<Arc<K>> {
        let by_run = self.by_run.read().unwrap_or_else(PoisonError::into_inner);
        by_run.get(uid).into_iter().flat_map(|children| children.values().cloned()).collect()
    }

    /// Waits until all that existed at the start is here.
    pub async fn synced(&self) {
        let mut synced = self.synced.subscribe();
        // The sender lives as long as self.
        let _ = synced.wait_for(|synced| *synced).await;
    }
}

impl<K: Resource + Clone> Children<K> {
    /// Takes a child in, in the place of what was known of it.
    pub fn put(&self, child: K) {
        let Some((uid, name)) = key(&child) else { return };
        let mut by_run = self.by_run.write().unwrap_or_else(PoisonError::into_inner);
        by_run.entry(uid).or_default().insert(name, Arc::new(child));
    }

    /// Forgets a child.
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

    /// What is known and not `listed`.
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

/// The run a child belongs to.
fn run_of<K: Resource>(child: &K) -> Option<Touched> {
    let labels = child.meta().labels.as_ref()?;
    let kind = match labels.get(labels::RUN_KIND)?.as_str() {
        "StageOneRun" => RunKind::StageOneRun,
        "StageTwoRun" => RunKind::StageTwoRun,
        _ => return None,
    };
    Some(Touched { kind, namespace: child.meta().namespace.clone()?, name: labels.get(labels::RUN)?.clone() })
}

/// Objects a page of a first list. A page is in memory whole, as text and as objects that are not pruned yet: with kube's
/// 500 the start was the peak of all memory.
pub const PAGE: u32 = 50;

/// Watches the children of our runs until the process ends. `forget` is told of one that was deleted, as it was last,
/// and takes it out.
pub async fn follow<K>(api: Api<K>, children: Arc<Children<K>>, triggers: Triggers, forget: impl Fn(&K))
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + 'static,
{
    let selector = format!("{}={}", labels::MANAGED_BY, labels::OPERATOR);
    let config = watcher::Config::default().labels(&selector).page_size(PAGE);
    take_in(watcher(api, config).default_backoff(), &children, &triggers, forget).await;
}

async fn take_in<K>(
    events: impl Stream<Item = watcher::Result<Event<K>>>,
    children: &Children<K>,
    triggers: &Triggers,
    forget: impl Fn(&K),
) where
    K: Resource + Clone + Debug,
{
    let mut events = std::pin::pin!(events);
    let mut listed = HashSet::new();
    let went = |child: &K| {
        forget(child);
        run_of(child).into_iter().for_each(|touched| triggers.send(touched));
    };
    // A run that is looked at because of a child must find it.
    let take = |mut child: K| {
        let touched = run_of(&child);
        prune(child.meta_mut());
        children.put(child);
        touched.into_iter().for_each(|touched| triggers.send(touched));
    };
    while let Some(event) = events.next().await {
        match event {
            Ok(Event::Init) => listed.clear(),
            Ok(Event::InitApply(child)) => {
                listed.extend(key(&child));
                take(child);
            }
            Ok(Event::InitDone) => {
                // What was deleted while nobody watched.
                for gone in children.missing(&std::mem::take(&mut listed)) {
                    went(&gone);
                }
                children.synced.send_replace(true);
            }
            Ok(Event::Apply(child)) => take(child),
            Ok(Event::Delete(mut child)) => {
                prune(child.meta_mut());
                went(&child);
            }
            Err(error) => tracing::warn!(%error, "a watch broke off and is started again"),
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
    async fn children_follow_the_watch_and_a_new_list_forgets_what_went_meanwhile() {
        let (stage_one, mut ones) = mpsc::unbounded_channel();
        let (stage_two, mut twos) = mpsc::unbounded_channel();
        let triggers = Triggers { stage_one, stage_two };
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
        take_in(futures::stream::iter(events), &children, &triggers, |job| children.remove(job)).await;
        children.synced().await;
        let names = |uid: &str| children.of(uid).iter().map(|job| job.name_any()).collect::<Vec<_>>();
        assert_eq!(names("1"), ["a"]);
        assert!(names("2").is_empty(), "it was gone from the second list");
        assert!(ones.try_recv().is_err());
        let mut count = 0;
        while let Ok(touched) = twos.try_recv() {
            assert_eq!((touched.namespace.as_str(), touched.name.as_str()), ("n", "a"));
            count += 1;
        }
        assert_eq!(count, 6, "every change reconciles its run, also one that nobody saw");
    }
}
