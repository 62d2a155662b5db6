//! Kueue's Workloads: the one of a Job, and what Kueue says about it.

use std::sync::{PoisonError, RwLock};

use kube::api::ListParams;
use kube::core::{ApiResource, DynamicObject};
use kube::error::DiscoveryError;
use kube::{Api, Client, Error, ResourceExt, discovery};
use serde_json::Value;
use stic_contract::StepName;
use stic_crds::Reason;

use super::objects::{Condition, Job};
use crate::build::job::{QUEUE_NAME, SUSPENDED_BY};
use crate::snapshot::StepOutcome;

/// Finds the Workloads of Jobs.
pub struct WorkloadClient {
    client: Client,
    /// Workload in the version that the cluster prefers, once it was discovered.
    resource: RwLock<Option<ApiResource>>,
}

/// What was found when looking for the Workload of a Job.
#[derive(Debug, Clone, PartialEq)]
pub enum Found {
    NotInstalled,
    /// The operator may not list Workloads. The API server's message says so.
    Forbidden(String),
    Workloads(Vec<Workload>),
}

/// The parts of a Workload that the operator reads.
#[derive(Debug, Clone, PartialEq)]
pub struct Workload {
    pub name: String,
    pub namespace: String,
    pub resource: ApiResource,
    pub is_active: bool,
    /// Whether the operator deactivated it, because its run is suspended.
    pub is_held: bool,
    pub conditions: Vec<Condition>,
}

impl WorkloadClient {
    #[must_use]
    pub const fn new(client: Client) -> Self {
        Self { client, resource: RwLock::new(None) }
    }

    /// The Workloads of a Job. There is one at most, except while Kueue replaces it.
    ///
    /// # Errors
    /// A request failed.
    pub async fn of_job(&self, job: &Job) -> kube::Result<Found> {
        let cached = self.resource.read().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(resource) = cached {
            match self.list(&resource, job).await {
                // Kueue was removed, or serves another version now.
                Err(Error::Api(status)) if status.code == 404 => {}
                found => return found,
            }
        }
        let resource = match discovery::group(&self.client, "kueue.x-k8s.io").await {
            Ok(group) => group.recommended_kind("Workload").map(|(resource, _)| resource),
            Err(Error::Discovery(DiscoveryError::MissingApiGroup(_))) => None,
            Err(error) => return Err(error),
        };
        self.resource.write().unwrap_or_else(PoisonError::into_inner).clone_from(&resource);
        match resource {
            Some(resource) => self.list(&resource, job).await,
            None => Ok(Found::NotInstalled),
        }
    }

    async fn list(&self, resource: &ApiResource, job: &Job) -> kube::Result<Found> {
        let namespace = job.namespace().unwrap_or_default();
        let api: Api<DynamicObject> = Api::namespaced_with(self.client.clone(), &namespace, resource);
        let of_job = format!("kueue.x-k8s.io/job-uid={}", job.uid().unwrap_or_default());
        match api.list(&ListParams::default().labels(&of_job)).await {
            Ok(list) => Ok(Found::Workloads(
                list.items.iter().map(|object| Workload::new(object, resource)).collect(),
            )),
            Err(Error::Api(status)) if status.code == 403 => Ok(Found::Forbidden(status.message.clone())),
            Err(error) => Err(error),
        }
    }
}

impl Workload {
    fn new(object: &DynamicObject, resource: &ApiResource) -> Self {
        let conditions = object.data["status"]["conditions"].as_array().cloned().unwrap_or_default();
        Self {
            name: object.name_any(),
            namespace: object.namespace().unwrap_or_default(),
            resource: resource.clone(),
            is_active: object.data["spec"]["active"].as_bool().unwrap_or(true),
            is_held: object.annotations().contains_key(SUSPENDED_BY),
            conditions: conditions.into_iter().filter_map(condition).collect(),
        }
    }

    fn condition(&self, kind: &str, status: &str) -> Option<&Condition> {
        self.conditions.iter().find(|condition| condition.is(kind, status))
    }

    #[must_use]
    pub fn is_evicted(&self) -> bool {
        self.condition("Evicted", "True").is_some()
    }

    /// Why Kueue itself has deactivated the Workload, which it never reverts. An administrator may activate a Workload
    /// again that one deactivated.
    fn deactivated_by_kueue(&self) -> Option<String> {
        // What the operator deactivated may have been deactivated before by Kueue, and activated again.
        if self.is_active || self.is_held {
            return None;
        }
        let evicted = self.condition("Evicted", "True").filter(|condition| {
            condition.reason.as_deref().is_some_and(|reason| reason.starts_with("DeactivatedDueTo"))
        });
        self.condition("DeactivationTarget", "True").or(evicted).map(words)
    }

    /// What Kueue says about a Workload that is not admitted, and what helps.
    fn explain(&self) -> String {
        let Self { name, namespace, .. } = self;
        if !self.is_active && self.is_held {
            return format!("Workload {name} is held back by the operator until the run is resumed");
        }
        if !self.is_active {
            return format!(
                "Workload {name} was deactivated; once an administrator allows it, run: kubectl -n {namespace} patch workload {name} --type=merge -p '{{\"spec\":{{\"active\":true}}}}'"
            );
        }
        let evicted = self.condition("Evicted", "True");
        let pending =
            self.condition("QuotaReserved", "False").or_else(|| self.condition("Admitted", "False"));
        let says = match (evicted, pending) {
            (Some(evicted), Some(pending)) => {
                format!("was evicted ({}) and waits: {}", words(evicted), words(pending))
            }
            (Some(evicted), None) => format!("was evicted: {}", words(evicted)),
            (None, Some(pending)) => format!("waits: {}", words(pending)),
            (None, None) => "was not evaluated by Kueue yet; check that Kueue runs".to_owned(),
        };
        let remedy = pending.map_or("", remedy);
        format!("Workload {name} {says}{remedy}")
    }
}

fn condition(value: Value) -> Option<Condition> {
    serde_json::from_value(value).ok()
}

/// A condition's reason and message.
fn words(condition: &Condition) -> String {
    let reason = condition.reason.as_deref().unwrap_or_default();
    match condition.message.as_deref().map(|message| message.trim().trim_end_matches('.')) {
        None | Some("") => reason.to_owned(),
        Some(message) => format!("{reason}: {message}"),
    }
}

/// What helps. By default, Kueue 0.19 gives two reasons, `Pending` and `Inadmissible`, for everything, so that only the
/// message tells.
fn remedy(pending: &Condition) -> &'static str {
    let message = pending.message.as_deref().unwrap_or_default();
    let says = |words: &[&str]| words.iter().any(|words| message.contains(words));
    if says(&["doesn't exist", "is terminating or missing"]) {
        "; create it, or label the run with another queue, to which its Job then moves"
    } else if says(&["is stopped", "is inactive"]) {
        "; have its administrator start it, or label the run with another queue"
    } else if says(&["doesn't match ClusterQueue selector"]) {
        "; have the ClusterQueue select this namespace, or label the run with another queue"
    } else if says(&["maximum capacity"]) || pending.reason.as_deref() == Some("ExceedsMaxQuota") {
        "; request less in spec.pod, or have the quota raised"
    } else {
        ""
    }
}

/// The outcome of a step whose Job is suspended by something that is not `spec.suspend`. `last_problem` is what kept its
/// pods from running before.
#[must_use]
pub fn suspended_step(step: StepName, job: &Job, found: &Found, last_problem: Option<&str>) -> StepOutcome {
    let problem = last_problem
        .map(|problem| format!("; the last problem of its pods was: {problem}"))
        .unwrap_or_default();
    if let Found::Workloads(workloads) = found
        && let Some((workload, why)) = workloads.iter().find_map(|it| Some((it, it.deactivated_by_kueue()?)))
    {
        return StepOutcome::Failed {
            reason: Reason::WorkloadDeactivated,
            exhausted: true,
            message: format!(
                "Kueue deactivated its Workload {} for good ({why}){problem}; fix that and raise spec.retry",
                workload.name
            ),
        };
    }
    let elsewhere = if job.is_delegated() {
        "; this queue dispatches Jobs to other clusters, where the ConfigMap and the volumes of the run are missing: label the run with another queue"
    } else {
        ""
    };
    let queue = job.metadata.labels.as_ref().and_then(|labels| labels.get(QUEUE_NAME));
    let why = match queue {
        Some(queue) => format!("step {step} waits in queue {queue}{}{elsewhere}", queued(job, found)),
        None => unlabelled(step, job, found),
    };
    StepOutcome::Waiting { reason: Reason::Queued, message: format!("{why}{problem}") }
}

fn queued(job: &Job, found: &Found) -> String {
    let namespace = job.namespace().unwrap_or_default();
    match found {
        Found::NotInstalled => {
            ", but Kueue is not installed; install it, or create the run without the label kueue.x-k8s.io/queue-name"
                .to_owned()
        }
        Found::Forbidden(_) => format!(
            "; set the chart value kueue.enabled to true to see here why, or run: kubectl -n {namespace} describe workloads"
        ),
        Found::Workloads(workloads) => match workloads.iter().find(|it| it.is_active).or(workloads.first()) {
            Some(workload) => format!(": {}", workload.explain()),
            None => format!(
                ", but Kueue has created no Workload for Job {}; check that Kueue runs, that its webhooks respond, and that it manages namespace {namespace}",
                job.name_any()
            ),
        },
    }
}

fn unlabelled(step: StepName, job: &Job, found: &Found) -> String {
    let (namespace, name) = (job.namespace().unwrap_or_default(), job.name_any());
    let by_kueue = match found {
        Found::Workloads(workloads) => workloads.first(),
        _ => None,
    };
    match by_kueue {
        Some(workload) => format!(
            "step {step} waits because Kueue manages Jobs without a queue here and has suspended Job {name}: {}; label the run with kueue.x-k8s.io/queue-name, or exclude the namespace from Kueue's manageJobsWithoutQueueName",
            workload.explain()
        ),
        None => format!(
            "step {step} waits because something suspended Job {name} that is not spec.suspend, such as a Kueue that manages Jobs without a queue; label the run with kueue.x-k8s.io/queue-name, or run: kubectl -n {namespace} patch job {name} --type=merge -p '{{\"spec\":{{\"suspend\":false}}}}'"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kube::core::GroupVersionKind;
    use serde_json::json;

    fn workload(active: bool, held: bool, conditions: &Value) -> Found {
        let resource = ApiResource::from_gvk(&GroupVersionKind::gvk("kueue.x-k8s.io", "v1beta2", "Workload"));
        let mut object = DynamicObject::new("job-r", &resource).within("ns");
        object.data = json!({"spec": {"active": active}, "status": {"conditions": conditions}});
        if held {
            object.annotations_mut().insert(SUSPENDED_BY.into(), "stic-operator".into());
        }
        Found::Workloads(vec![Workload::new(&object, &resource)])
    }

    fn is(kind: &str, status: &str, reason: &str, message: &str) -> Value {
        json!({"type": kind, "status": status, "reason": reason, "message": message})
    }

    fn outcome(labelled: bool, found: &Found, problem: Option<&str>) -> (Reason, String) {
        let labels = if labelled { json!({QUEUE_NAME: "gpu"}) } else { json!({}) };
        let job = json!({"metadata": {"name": "r-train-0", "namespace": "ns", "labels": labels}, "spec": {"suspend": true}});
        let job: Job = serde_json::from_value(job).expect("a Job");
        match suspended_step(StepName::Train, &job, found, problem) {
            StepOutcome::Waiting { reason, message } | StepOutcome::Failed { reason, message, .. } => {
                (reason, message)
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_queued_step_says_what_kueue_says_about_its_workload() {
        let quota = is("QuotaReserved", "False", "WaitingForQuota", "insufficient unused quota for cpu");
        let by = "Preempted to accommodate a workload (UID: u, JobUID: j) due to prioritization";
        // What Kueue 0.19 says unless a feature gate makes it more precise.
        let pending =
            |message: &str| workload(true, false, &json!([is("QuotaReserved", "False", "Pending", message)]));
        let cases = [
            (workload(true, false, &json!([quota])), "Workload job-r waits: WaitingForQuota: insufficient"),
            (
                workload(true, false, &json!([is("Evicted", "True", "Preempted", by), quota])),
                "was evicted (Preempted: Preempted to accommodate a workload (UID: u, JobUID: j) due to",
            ),
            (
                workload(
                    true,
                    false,
                    &json!([is("QuotaReserved", "False", "Misconfigured", "LocalQueue gpu doesn't exist")]),
                ),
                "LocalQueue gpu doesn't exist; create it, or label the run with another queue",
            ),
            (
                workload(
                    true,
                    false,
                    &json!([is("QuotaReserved", "False", "Suspended", "LocalQueue gpu is stopped")]),
                ),
                "LocalQueue gpu is stopped; have its administrator start it",
            ),
            (pending("... current podset request (1) > maximum capacity (0)"), "have the quota raised"),
            (pending("LocalQueue gpu is terminating or missing"), "missing; create it"),
            (
                pending("Workload namespace doesn't match ClusterQueue selector"),
                "have the ClusterQueue select",
            ),
            (
                workload(
                    true,
                    false,
                    &json!([is("Admitted", "False", "UnsatisfiedAdmissionChecks", "checks")]),
                ),
                "waits: UnsatisfiedAdmissionChecks: checks",
            ),
            (workload(true, false, &json!([])), "Workload job-r was not evaluated by Kueue yet"),
            (
                workload(
                    false,
                    false,
                    &json!([is("Evicted", "True", "Deactivated", "The workload is deactivated")]),
                ),
                "kubectl -n ns patch workload job-r",
            ),
            (workload(false, true, &json!([])), "held back by the operator"),
            (Found::Workloads(vec![]), "Kueue has created no Workload for Job r-train-0"),
            (Found::NotInstalled, "Kueue is not installed"),
            (Found::Forbidden("no".into()), "set the chart value kueue.enabled to true"),
        ];
        for (found, expected) in cases {
            let (reason, message) = outcome(true, &found, None);
            assert_eq!(reason, Reason::Queued, "{message}");
            assert!(
                message.starts_with("step train waits in queue gpu") && message.contains(expected),
                "{message}"
            );
        }
    }

    #[test]
    fn a_workload_that_kueue_deactivated_fails_the_step_with_the_last_problem_of_its_pods() {
        let reason = "DeactivatedDueToRequeuingLimitExceeded";
        let found = workload(false, false, &json!([is("Evicted", "True", reason, "exceeding the limit")]));
        let (reason, message) = outcome(true, &found, Some("cannot start image x"));
        assert_eq!(reason, Reason::WorkloadDeactivated);
        assert!(
            message.contains("exceeding the limit") && message.contains("cannot start image x"),
            "{message}"
        );
        // Somebody activated it again, and then the run was suspended.
        let held = workload(false, true, &json!([is("Evicted", "True", "DeactivatedDueToX", "")]));
        assert_eq!(outcome(true, &held, None).0, Reason::Queued);
    }

    #[test]
    fn a_job_that_somebody_else_suspended_names_the_causes() {
        let (reason, message) = outcome(false, &Found::NotInstalled, None);
        assert_eq!(reason, Reason::Queued);
        assert!(message.contains("that is not spec.suspend"), "{message}");
        let (_, message) = outcome(false, &workload(true, false, &json!([])), None);
        assert!(message.contains("manageJobsWithoutQueueName"), "{message}");
    }
}
