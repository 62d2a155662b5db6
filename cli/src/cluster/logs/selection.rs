//! Which pods' logs are printed.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use stic_contract::StepName;

use crate::cluster::owned_jobs::{self, OwnedJobs};

/// The selection on the command line.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Selection {
    pub step: Option<StepName>,
    pub shard: Option<u32>,
}

impl Selection {
    pub(super) fn includes_shard(self, pod: &Pod) -> bool {
        self.shard.is_none_or(|selected| owned_jobs::shard(pod).unwrap_or_default() == selected)
    }
}

/// A pod that has a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct LogSource {
    pub uid: String,
    pub pod: String,
    /// The step, and the shard if there are several.
    pub label: String,
}

impl LogSource {
    pub(super) fn new(pod: &Pod, step: StepName, is_sharded: bool) -> Self {
        let shard = owned_jobs::shard(pod).filter(|_| is_sharded);
        Self {
            uid: pod.uid().unwrap_or_default(),
            pod: pod.name_any(),
            label: shard.map_or_else(|| step.to_string(), |shard| format!("{step} {shard}")),
        }
    }
}

/// The latest pod of each shard of the selected step, or of the current step; with `previous`, the pod before that one.
pub(super) fn latest(jobs: &OwnedJobs, selection: Selection, previous: bool) -> Vec<LogSource> {
    let Some(step) = selection.step.or_else(|| current_step(jobs)) else { return Vec::new() };
    let mut by_shard: BTreeMap<Option<u32>, Vec<LogSource>> = BTreeMap::new();
    // Jobs are ordered by age, and so are the pods of a shard.
    for (job, pods) in jobs.of_step(step) {
        for pod in pods.iter().filter(|pod| owned_jobs::has_started(pod)) {
            if selection.includes_shard(pod) {
                let source = LogSource::new(pod, step, owned_jobs::shards(job) > 1);
                by_shard.entry(owned_jobs::shard(pod)).or_default().push(source);
            }
        }
    }
    let from_end = if previous { 2 } else { 1 };
    by_shard
        .into_values()
        .filter_map(|mut pods| pods.len().checked_sub(from_end).map(|i| pods.swap_remove(i)))
        .collect()
}

/// The step of the newest Job that has a pod with a log.
pub(super) fn current_step(jobs: &OwnedJobs) -> Option<StepName> {
    let with_log = jobs.jobs.iter().rev().find(|(_, pods)| pods.iter().any(owned_jobs::has_started));
    with_log.and_then(|(job, _)| owned_jobs::step_of(&job.metadata))
}

/// The UIDs of all started pods except `latest`, which following does not print.
pub(super) fn history(jobs: &OwnedJobs, latest: &[LogSource]) -> BTreeSet<String> {
    let latest: BTreeSet<&str> = latest.iter().map(|source| source.uid.as_str()).collect();
    jobs.jobs
        .iter()
        .flat_map(|(_, pods)| pods)
        .filter(|pod| owned_jobs::has_started(pod))
        .filter_map(ResourceExt::uid)
        .filter(|uid| !latest.contains(uid.as_str()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn jobs() -> OwnedJobs {
        let value: serde_json::Value =
            serde_json::from_str(include_str!("../tree/generating.json")).expect("JSON");
        let uid = value["run"]["metadata"]["uid"].as_str().expect("a UID").to_owned();
        let jobs = serde_json::from_value(value["jobs"].clone()).expect("Jobs");
        let pods = serde_json::from_value(value["pods"].clone()).expect("pods");
        OwnedJobs::new(&uid, jobs, pods)
    }

    fn names(sources: &[LogSource]) -> Vec<(&str, &str)> {
        sources.iter().map(|source| (source.pod.as_str(), source.label.as_str())).collect()
    }

    #[test]
    fn the_latest_pod_of_each_shard_of_the_current_step_is_selected() {
        let jobs = jobs();
        let all = latest(&jobs, Selection::default(), false);
        assert_eq!(names(&all), [("generate-0-b", "generate 0"), ("generate-1-a", "generate 1")]);
        let one = latest(&jobs, Selection { shard: Some(1), ..Selection::default() }, false);
        assert_eq!(names(&one), [("generate-1-a", "generate 1")]);
        let previous = latest(&jobs, Selection::default(), true);
        assert_eq!(names(&previous), [("generate-0-a", "generate 0")], "shard 1 has had one pod only");
        let prepare = Selection { step: Some(StepName::Prepare), ..Selection::default() };
        assert_eq!(names(&latest(&jobs, prepare, false)), [("prepare-a", "prepare")]);
        let train = Selection { step: Some(StepName::Train), ..Selection::default() };
        assert!(latest(&jobs, train, false).is_empty());
    }

    #[test]
    fn following_leaves_out_the_logs_of_earlier_pods() {
        let jobs = jobs();
        let earlier = history(&jobs, &latest(&jobs, Selection::default(), false));
        assert_eq!(
            earlier.iter().map(String::as_str).collect::<Vec<_>>(),
            ["uid-generate-0-a", "uid-prepare-a"]
        );
    }
}
