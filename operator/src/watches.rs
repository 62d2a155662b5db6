//! Whether the operator can list and watch what it depends on, for `/readyz` and for metrics.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::{Stream, StreamExt};
use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use kube::api::ListParams;
use kube::core::{ApiResource, DynamicObject};
use kube::runtime::watcher::{self, Event};
use kube::{Api, Client};
use stic_crds::{EvaluationRun, StageOneRun, StageTwoRun};

use crate::cluster::objects::{Job, Pod};
use crate::metrics::Metrics;

/// A resource, as `kubectl` names it, and the namespace in which it is watched; none means all.
type Key = (String, Option<String>);

/// The state of each watch.
#[derive(Debug, Clone)]
pub struct Watches {
    states: Arc<Mutex<BTreeMap<Key, State>>>,
    metrics: Metrics,
}

#[derive(Debug, Default)]
struct State {
    /// Whether the resource was listed since the start.
    listed: bool,
    /// Why the last request failed.
    error: Option<String>,
}

fn resources() -> [ApiResource; 6] {
    [
        ApiResource::erase::<StageOneRun>(&()),
        ApiResource::erase::<StageTwoRun>(&()),
        ApiResource::erase::<EvaluationRun>(&()),
        ApiResource::erase::<Job>(&()),
        ApiResource::erase::<Pod>(&()),
        ApiResource::erase::<PersistentVolumeClaim>(&()),
    ]
}

/// The name of a resource, as `kubectl` writes it: `jobs.batch`.
#[must_use]
pub fn name(resource: &ApiResource) -> String {
    let ApiResource { plural, group, .. } = resource;
    if group.is_empty() { plural.clone() } else { format!("{plural}.{group}") }
}

impl Watches {
    /// Everything that is watched, none of it listed yet. Without namespaces, all are watched.
    #[must_use]
    pub fn new(namespaces: &BTreeSet<String>, metrics: Metrics) -> Self {
        let scopes = scopes(namespaces);
        let keys = resources().into_iter().flat_map(|resource| {
            metrics.watch_broken(&name(&resource), false);
            scopes.iter().map(move |scope| (name(&resource), scope.clone())).collect::<Vec<_>>()
        });
        let states = keys.map(|key| (key, State::default())).collect();
        Self { states: Arc::new(Mutex::new(states)), metrics }
    }

    fn record(&self, resource: &str, scope: Option<&str>, listed: bool, error: Option<String>) {
        let mut states = self.states.lock().unwrap_or_else(PoisonError::into_inner);
        let state = states.entry((resource.to_owned(), scope.map(Into::into))).or_default();
        state.listed |= listed;
        state.error = error;
        let broken = states.iter().any(|((of, _), state)| of == resource && state.error.is_some());
        self.metrics.watch_broken(resource, broken);
    }

    /// What was never listed, and why; absent if everything was.
    #[must_use]
    pub fn missing(&self) -> Option<String> {
        let states = self.states.lock().unwrap_or_else(PoisonError::into_inner);
        let missing = states.iter().filter(|(_, state)| !state.listed);
        let lines: Vec<String> = missing
            .map(|((resource, scope), state)| {
                let scope =
                    scope.as_deref().map_or_else(String::new, |scope| format!(" in namespace {scope}"));
                let why = state.error.as_deref().unwrap_or("not yet");
                format!("cannot list {resource}{scope}: {why}\n")
            })
            .collect();
        (!lines.is_empty()).then(|| lines.concat())
    }

    /// Passes events on, and records whether the watch works.
    pub(crate) fn observe<K, S: Stream<Item = watcher::Result<Event<K>>>>(
        &self,
        resource: String,
        scope: Option<String>,
        events: S,
    ) -> impl Stream<Item = watcher::Result<Event<K>>> + use<K, S> {
        let watches = self.clone();
        // Most events change nothing about the watch, and are not recorded.
        let mut may_be_broken = true;
        events.inspect(move |event| match event {
            Ok(event) => {
                let listed = matches!(event, Event::InitDone);
                if listed || std::mem::take(&mut may_be_broken) {
                    watches.record(&resource, scope.as_deref(), listed, None);
                }
            }
            Err(error) => {
                may_be_broken = true;
                watches.metrics.watch_failed(&resource);
                watches.record(&resource, scope.as_deref(), false, Some(error.to_string()));
            }
        })
    }

    /// Lists one object of everything until each list has succeeded, so that also a replica that waits for the lease says
    /// whether it could work.
    pub async fn try_lists(&self, client: &Client) {
        while self.missing().is_some() {
            for resource in resources() {
                let pending: Vec<Option<String>> = {
                    let states = self.states.lock().unwrap_or_else(PoisonError::into_inner);
                    let of = states.iter().filter(|((of, _), state)| *of == name(&resource) && !state.listed);
                    of.map(|((_, scope), _)| scope.clone()).collect()
                };
                for scope in pending {
                    let api: Api<DynamicObject> = match &scope {
                        Some(namespace) => Api::namespaced_with(client.clone(), namespace, &resource),
                        None => Api::all_with(client.clone(), &resource),
                    };
                    match api.list_metadata(&ListParams::default().limit(1)).await {
                        Ok(_) => self.record(&name(&resource), scope.as_deref(), true, None),
                        Err(error) => {
                            let error = match error {
                                kube::Error::Api(status) => status.message.clone(),
                                other => other.to_string(),
                            };
                            tracing::warn!(resource = name(&resource), scope, error, "cannot list");
                            self.record(&name(&resource), scope.as_deref(), false, Some(error));
                        }
                    }
                }
            }
            tokio::time::sleep(Duration::from_secs(2)).await;
        }
    }
}

/// The namespaces to watch, each by itself; `None` stands for all at once.
pub(crate) fn scopes(namespaces: &BTreeSet<String>) -> Vec<Option<String>> {
    if namespaces.is_empty() { vec![None] } else { namespaces.iter().cloned().map(Some).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_never_listed_is_named() {
        let metrics = Metrics::new().expect("names differ");
        let watches = Watches::new(&["a".to_owned(), "b".to_owned()].into(), metrics.clone());
        let broken = || {
            let text = String::from_utf8(metrics.text().expect("it is text")).expect("UTF-8");
            text.contains("stic_watch_broken{resource=\"jobs.batch\"} 1")
        };
        watches.record("jobs.batch", Some("a"), false, Some("forbidden".into()));
        let missing = watches.missing().expect("nothing was listed");
        assert!(missing.contains("cannot list jobs.batch in namespace a: forbidden\n"), "{missing}");
        assert!(missing.contains("cannot list pods in namespace b: not yet\n") && broken(), "{missing}");
        for resource in resources() {
            for scope in ["a", "b"] {
                watches.record(&name(&resource), Some(scope), true, None);
            }
        }
        assert_eq!((watches.missing(), broken()), (None, false));
        watches.record("jobs.batch", Some("b"), false, Some("gone".into()));
        assert_eq!((watches.missing(), broken()), (None, true), "it was ready once");
    }
}
