//! EvaluationRuns, the runs that they evaluate, and their judge.

use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::json;
use stic_contract::StepName;
use stic_contract::evaluation::{JUDGE_API_KEY, JUDGE_PROMPTS};
use stic_crds::status::RunStatus;
use stic_crds::{ConditionType, EvaluationRun};

use crate::common::JUDGE;
use crate::kubelet::{PodAction, step};
use crate::runs::{phase, text};
use crate::scripted_pods::ScriptedPods;
use crate::test_env::TestEnv;

#[tokio::test]
#[ignore = "needs a control plane: make controller-test"]
async fn an_evaluation_waits_for_the_runs_that_it_names_and_reports_their_scores() {
    let mut env = TestEnv::new(|_, _| PodAction::Run).await;
    let pods_script =
        ScriptedPods::start(&env, |scripted| match (scripted.run.as_str(), scripted.step, scripted.nth) {
            ("one", StepName::Train, 1) => PodAction::Exit(65, "invalid row; fix it"),
            _ => PodAction::Succeed,
        })
        .await;
    env.start();
    env.evaluation("tables", ["one", "two"], "").await;
    let waits = |status: &RunStatus| phase(status) == "StageOneNotSucceeded";
    let status = env.until_evaluation("tables", "waiting", waits).await;
    let message = text(&status, ConditionType::InputsReady);
    assert!(message.contains("StageOneRun one does not exist"), "{message}");
    env.one("one", "").await;
    env.until_evaluation("tables", "reported", |status| phase(status) == "StageOneFailed").await;
    env.edit("one", json!({"spec": {"retry": 1}})).await;
    let waits = |status: &RunStatus| phase(status) == "StageTwoNotSucceeded";
    env.until_evaluation("tables", "waiting for stage 2", waits).await;
    assert!(env.jobs_of("tables").await.is_empty(), "it holds no GPU while it waits");
    env.two("two", "one").await;
    let status = env.until_evaluation("tables", "done", |status| phase(status) == "Succeeded").await;
    let names: Vec<_> = status.steps.iter().map(|step| step.name.as_str()).collect();
    assert_eq!(names, ["prepare", "answer", "score"], "nobody judges");
    assert_eq!(env.jobs_of("tables").await.len(), 3);
    assert_eq!(status.results.len(), 3);
    let display = status.display.expect("there are columns");
    assert_eq!(display.difference.as_deref(), Some("+6.4 (+4.9 to +7.9)"));
    pods_script.check().await;
}

#[tokio::test]
#[ignore = "needs a control plane: make controller-test"]
async fn a_judge_whose_budget_is_used_up_continues_with_a_larger_one_and_alone_has_the_secret() {
    let mut env = TestEnv::new(|_, _| PodAction::Run).await;
    let used_up = "spec.judge.maxRequests: all 500 requests are used up, and 12 answers are left";
    let pods_script = ScriptedPods::start(&env, move |scripted| match (scripted.step, scripted.nth) {
        (StepName::Judge, 1) => PodAction::Exit(77, used_up),
        _ => PodAction::Succeed,
    })
    .await;
    env.start();
    env.one("one", "").await;
    env.two("two", "one").await;
    env.evaluation("judged", ["one", "two"], JUDGE).await;
    let failed = |status: &RunStatus| status.succeeded() == Some(false);
    let status = env.until_evaluation("judged", "failed", failed).await;
    assert_eq!(phase(&status), "JudgeStopped");
    let message = text(&status, ConditionType::Stalled);
    assert!(message.contains(used_up), "{message}");
    let api: Api<EvaluationRun> = env.api();
    let more = json!({"spec": {"judge": {"maxRequests": 1000}, "retry": 1}});
    api.patch("judged", &PatchParams::default(), &Patch::Merge(more)).await.expect("a budget may be raised");
    let status = env.until_evaluation("judged", "done", |status| phase(status) == "Succeeded").await;
    let attempts: Vec<_> = status.steps.iter().map(|step| (step.name.as_str(), step.attempts)).collect();
    assert_eq!(
        attempts,
        [("prepare", 1), ("answer", 1), ("judge", 2), ("score", 1)],
        "nothing is answered again"
    );
    for pod in env.pods_of("judged").await {
        let text = serde_json::to_string(&pod.spec).expect("JSON");
        let judges = step(&pod) == StepName::Judge;
        for own in ["secretKeyRef", JUDGE_API_KEY, JUDGE_PROMPTS] {
            assert_eq!(text.contains(own), judges, "{own} in a pod of {}", step(&pod));
        }
    }
    pods_script.check().await;
}
