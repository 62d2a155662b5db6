//! What the API server and its webhooks say about objects that the operator writes.

use k8s_openapi::api::admissionregistration::v1::{
    ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding, ValidatingWebhookConfiguration,
};
use k8s_openapi::api::events::v1::Event;
use kube::Api;
use kube::api::{DeleteParams, ListParams, PostParams};
use serde_json::json;
use stic_crds::{ConditionType, RunStatus};

use crate::kubelet::PodAction;
use crate::node::from;
use crate::runs::{phase, text};
use crate::test_env::{TestEnv, until};

/// How often a warning with this reason was published about a run.
async fn warnings(env: &TestEnv, run: &str, reason: &str) -> usize {
    let of_run = ListParams::default().fields(&format!("regarding.name={run},reason={reason},type=Warning"));
    env.api::<Event>().list(&of_run).await.expect("events").items.len()
}

/// Waits until the API server denies a Job of the step generate: what denies it takes effect with a delay.
async fn until_jobs_are_denied(env: &TestEnv) {
    let job = json!({"metadata": {"generateName": "probe-", "labels": {"stic.dev/step": "generate"}}, "spec": {
        "suspend": true, "template": {"spec": {"restartPolicy": "Never", "containers": [{"name": "a", "image": "a"}]}}}});
    let dry = PostParams { dry_run: true, ..PostParams::default() };
    until("Jobs are denied", async || {
        env.api::<k8s_openapi::api::batch::v1::Job>().create(&dry, &from(job.clone())).await.err().map(drop)
    })
    .await;
}

#[tokio::test]
#[ignore = "needs a control plane: make controller-test"]
async fn a_policy_that_denies_a_later_step_is_quoted_until_it_is_gone() {
    let mut env = TestEnv::new(|_, _| PodAction::Succeed).await;
    let name = format!("deny-{}", env.namespace);
    let policy: ValidatingAdmissionPolicy = from(json!({"metadata": {"name": name}, "spec": {
        "failurePolicy": "Fail",
        "matchConstraints": {
            "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": env.namespace}},
            "resourceRules": [{"apiGroups": ["batch"], "apiVersions": ["v1"], "operations": ["CREATE"],
                "resources": ["jobs"]}]},
        // Neither 403 nor 422, as a webhook that answers without a code.
        "validations": [{"expression": "object.metadata.labels['stic.dev/step'] != 'generate'",
            "reason": "RequestEntityTooLarge", "message": "policy require-team: label team is required"}]}}));
    let binding: ValidatingAdmissionPolicyBinding = from(json!({"metadata": {"name": name}, "spec": {
        "policyName": name, "validationActions": ["Deny"]}}));
    let policies: Api<ValidatingAdmissionPolicy> = Api::all(env.client.clone());
    let bindings: Api<ValidatingAdmissionPolicyBinding> = Api::all(env.client.clone());
    policies.create(&PostParams::default(), &policy).await.expect("a policy");
    bindings.create(&PostParams::default(), &binding).await.expect("a binding");
    until_jobs_are_denied(&env).await;
    env.start();
    env.one("one", "").await;
    let status = env.until_one("one", "denied", |status| phase(status) == "JobRejected").await;
    let message = text(&status, ConditionType::Succeeded);
    assert!(message.contains("policy require-team: label team is required"), "{message}");
    until("a warning", async || (warnings(&env, "one", "JobRejected").await == 1).then_some(())).await;
    bindings.delete(&name, &DeleteParams::default()).await.expect("a binding");
    policies.delete(&name, &DeleteParams::default()).await.expect("a policy");
    env.until_one("one", "done", |status| phase(status) == "Succeeded").await;
}

#[tokio::test]
#[ignore = "needs a control plane: make controller-test"]
async fn a_webhook_that_is_down_is_named_in_conditions_and_one_warning_until_it_is_up() {
    let mut env = TestEnv::new(|_, _| PodAction::Succeed).await;
    let name = format!("down-{}", env.namespace);
    let webhook: ValidatingWebhookConfiguration = from(json!({"metadata": {"name": name}, "webhooks": [{
        "name": "down.example.com", "admissionReviewVersions": ["v1"], "sideEffects": "None", "failurePolicy": "Fail",
        "clientConfig": {"url": "https://127.0.0.1:1/nobody-listens"},
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": env.namespace}},
        "rules": [{"apiGroups": ["batch"], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["jobs"]}]}]}));
    let webhooks: Api<ValidatingWebhookConfiguration> = Api::all(env.client.clone());
    webhooks.create(&PostParams::default(), &webhook).await.expect("a webhook");
    until_jobs_are_denied(&env).await;
    env.start();
    env.one("one", "").await;
    let status = env.until_one("one", "reported", |status| phase(status) == "ReconcileFailed").await;
    let message = text(&status, ConditionType::Succeeded);
    assert!(
        message.starts_with("the API server could not create the Job: failed calling webhook")
            && message.ends_with("; it is tried again"),
        "{message}"
    );
    let is = |status: &RunStatus, kind| status.condition(kind).map(|condition| condition.status.clone());
    assert_eq!(is(&status, ConditionType::Reconciling).as_deref(), Some("True"), "it does not look healthy");
    assert_eq!(is(&status, ConditionType::Stalled).as_deref(), Some("False"), "it has not failed");
    until("a warning", async || (warnings(&env, "one", "ReconcileFailed").await == 1).then_some(())).await;
    webhooks.delete(&name, &DeleteParams::default()).await.expect("a webhook");
    let status = env.until_one("one", "done", |status| phase(status) == "Succeeded").await;
    assert_eq!(is(&status, ConditionType::Reconciling).as_deref(), Some("False"));
    assert_eq!(warnings(&env, "one", "ReconcileFailed").await, 1, "it was published once");
}
