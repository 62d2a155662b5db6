//! Claims whose volume is created once a pod is scheduled.

use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use k8s_openapi::api::storage::v1::StorageClass;
use kube::api::PostParams;
use kube::{Api, ResourceExt};
use serde_json::json;
use stic_contract::StepName;
use stic_crds::ConditionType;

use crate::kubelet::PodAction;
use crate::node::{Node, bind, from};
use crate::runs::{phase, text};
use crate::test_env::TestEnv;

#[tokio::test]
#[ignore = "needs a control plane: make controller-test"]
async fn a_provisioner_that_creates_no_volume_is_named() {
    let mut env = TestEnv::new(|step, _| match step {
        StepName::Prepare => PodAction::Pend,
        _ => PodAction::Succeed,
    })
    .await;
    let node = Node::new(&env).await;
    for claim in ["models", "stic"] {
        bind(&env, claim).await;
    }
    let class: StorageClass = from(json!({"metadata": {"name": format!("late-{}", env.namespace)},
        "provisioner": "storage.example.com", "volumeBindingMode": "WaitForFirstConsumer"}));
    Api::all(env.client.clone()).create(&PostParams::default(), &class).await.expect("a class");
    let claims = env.api::<PersistentVolumeClaim>();
    let late: PersistentVolumeClaim = from(json!({"metadata": {"name": "late"}, "spec": {
        "storageClassName": class.name_any(), "accessModes": ["ReadWriteMany"],
        "resources": {"requests": {"storage": "1Gi"}}}}));
    claims.create(&PostParams::default(), &late).await.expect("a claim");
    env.start();
    let spec = crate::common::STAGE_ONE.replace("claimName: coco,", "claimName: late,");
    env.one_of("one", &format!("{spec}  pod: {}\n", node.pod_settings())).await;
    // The scheduler has chosen the node, waits for the volume, and reports nothing about the pod.
    let status = env.until_one("one", "reported", |status| phase(status) == "ClaimUnbound").await;
    let message = text(&status, ConditionType::Succeeded);
    assert!(message.starts_with("PersistentVolumeClaim late has no volume"), "{message}");
    assert!(message.contains("provisioner storage.example.com"), "{message}");
    node.remove().await;
}
