//! What a spec means: the paper's and the released code's settings, precision, pods, and what is refused.

use std::num::NonZeroU32;

use crate::common::{UID, admitted, artifact, at, metadata, stage_one, stage_two, training};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use serde_json::json;
use stic_contract::config::{DataRecipe, ItemSource};
use stic_contract::recipe::{
    ChatTemplate, ImageLayout, Negatives, Objective, Precision, PreferenceRecipe, RejectedTerm,
};
use stic_contract::{ArtifactKind, Digest, StepName};
use stic_crds::status::{ArtifactState, ArtifactStatus, InputFolder, Inputs, Resolved, RunStatus};
use stic_crds::volumes::VolumeFolder;
use stic_crds::{ConditionType, Reason, StageOneRun, StageTwoRun};
use stic_operator::controllers::upstream::Upstream;
use stic_operator::controllers::{stage_one as one, stage_two as two};
use stic_operator::decision::Verdict;
use stic_operator::status::status;
use stic_operator::trainer_images::TrainerImages;
use stic_operator::validated::Hardware;
use stic_operator::{Refusal, Validated};

fn valid(extra: &str) -> Validated {
    one::validate(&stage_one(extra), Hardware::OfPods).expect("it is valid")
}

fn recipe(run: &Validated) -> &PreferenceRecipe {
    match &training(run).data {
        DataRecipe::Preferences(recipe) => recipe,
        DataRecipe::Descriptions(_) => panic!("stage 1 makes preferences"),
    }
}

#[test]
fn the_paper_is_the_default() {
    let run = valid("");
    assert_eq!(recipe(&run).corrupted_share, 0.5);
    assert_eq!(recipe(&run).corruptions.len(), 2);
    assert_eq!(recipe(&run).chat_template, ChatTemplate::Auto);
    assert_eq!(training(&run).train.chat_template, ChatTemplate::Auto);
    assert_eq!(training(&run).layouts.training, ImageLayout::Model);
    assert!(training(&run).train.with_image);
    assert_eq!(training(&run).train.max_length, None);
    assert_eq!(training(&run).train.lora.as_ref().map(|lora| (lora.rank, lora.alpha)), Some((128, 256.0)));
    assert_eq!(training(&run).train.optimizer.learning_rate, 1e-7);
    let Objective::Dpo(dpo) = &training(&run).train.objective else { panic!("the objective is not DPO") };
    assert_eq!((dpo.beta, dpo.chosen_log_prob_weight), (0.1, 1.0 / 1024.0));
    assert_eq!(dpo.rejected_term, RejectedTerm::LogProb);
}

#[test]
fn settings_of_the_preferences_that_have_no_effect_are_named() {
    let corruption = "corruptions: [{kind: LowResolution, shortSide: 30}]";
    let pairs = "source: File, pairs: {volume: {claimName: p}, file: p.jsonl}";
    for (profile, preferences, expected) in [
        ("Paper", corruption.to_owned(), &[] as &[&str]),
        ("Paper", "negatives: PromptsOnly, hallucinationPrompts: [\"Lie.\"]".to_owned(), &[]),
        (
            "OfficialCompat",
            corruption.to_owned(),
            &["corruptions has no effect with spec.profile: OfficialCompat"],
        ),
        (
            "Paper",
            format!("negatives: PromptsOnly, {corruption}"),
            &["corruptions has no effect with spec.preferences.negatives: PromptsOnly"],
        ),
        (
            "Paper",
            "negatives: ImagesOnly, hallucinationPrompts: [\"Lie.\"]".to_owned(),
            &["hallucinationPrompts has no effect with spec.preferences.negatives: ImagesOnly"],
        ),
        (
            "Paper",
            format!("{pairs}, captionPrompts: [\"What?\"], corruptedShare: \"0.1\", sampling: {{topK: 5}}"),
            &[
                "captionPrompts has no effect with spec.preferences.source: File",
                "sampling has no effect with spec.preferences.source: File",
                "corruptedShare has no effect with spec.preferences.source: File",
            ],
        ),
        // POVID's noise is part of the training.
        ("Paper", format!("{pairs}, corruptions: [{{kind: GaussianNoise, steps: 500, at: Training}}]"), &[]),
    ] {
        let run = valid(&format!("  profile: {profile}\n  preferences: {{{preferences}}}\n"));
        let expected: Vec<String> = expected.iter().map(|text| format!("spec.preferences.{text}")).collect();
        assert_eq!(run.ineffective, expected, "{preferences}");
    }
}

#[test]
fn official_compat_is_the_released_code() {
    let run = valid("  profile: OfficialCompat\n");
    assert_eq!(recipe(&run).corrupted_share, 0.5);
    assert!(recipe(&run).corruptions.is_empty(), "its corruption flag is never passed");
    assert_eq!(recipe(&run).chat_template, ChatTemplate::MistralInstruct);
    assert_eq!(training(&run).train.chat_template, ChatTemplate::VicunaV1);
    assert_eq!(
        (training(&run).layouts.generation, training(&run).layouts.training),
        (ImageLayout::Model, ImageLayout::Pad)
    );
    assert!(!training(&run).train.with_image);
    assert_eq!(training(&run).train.max_length, Some(1048));
    let Objective::Dpo(dpo) = &training(&run).train.objective else { panic!("the objective is not DPO") };
    assert_eq!(dpo.rejected_term, RejectedTerm::TopLogit);

    let base = "  profile: OfficialCompat\n  initFrom: {baseModel: {volume: {claimName: models}}}\n";
    let object: StageTwoRun = admitted(
        "StageTwoRun",
        &crate::common::STAGE_TWO.replace("  initFrom: {stageOneRunRef: {name: coco-6k}}\n", base),
        &metadata(),
    );
    let run = two::validate(&object, Upstream::Missing, Hardware::OfPods).expect("it is valid");
    assert_eq!(training(&run).train.max_length, Some(2048));
    assert!(
        training(&run).train.with_image
            && training(&run).train.lora.is_some()
            && training(&run).adapter.is_none()
    );
}

#[test]
fn the_spec_may_limit_length_and_skipped_share_under_every_profile() {
    for profile in ["Paper", "OfficialCompat"] {
        let spec = crate::common::STAGE_ONE
            .replace("path: train2014}", "path: train2014}, maxSkippedShare: \"0.01\"");
        let extra = format!("  profile: {profile}\n  training: {{maxLength: 4096}}\n");
        let object: StageOneRun = admitted("StageOneRun", &format!("{spec}{extra}"), &metadata());
        let run = one::validate(&object, Hardware::OfPods).expect("it is valid");
        assert_eq!(training(&run).train.max_length, Some(4096), "{profile}");
        let ItemSource::Images { max_skipped_share, .. } = training(&run).items else {
            panic!("stage 1 lists images")
        };
        assert_eq!(max_skipped_share, Some(0.01), "{profile}");
    }
}

#[test]
fn a_template_that_the_spec_names_is_used_throughout() {
    let spec = crate::common::STAGE_ONE.replace("path: llava}}", "path: llava}, chatTemplate: VicunaV1}");
    let object: StageOneRun =
        admitted("StageOneRun", &format!("{spec}  profile: OfficialCompat\n"), &metadata());
    let run = one::validate(&object, Hardware::OfPods).expect("it is valid");
    assert_eq!(recipe(&run).chat_template, ChatTemplate::VicunaV1);
    assert_eq!(training(&run).train.chat_template, ChatTemplate::VicunaV1);
}

#[test]
fn the_ablations_are_what_their_tables_say() {
    let share = |extra: &str| {
        let run = valid(extra);
        (recipe(&run).negatives, recipe(&run).corrupted_share)
    };
    assert_eq!(share("  preferences: {negatives: PromptsOnly}\n"), (Negatives::PromptsOnly, 0.0));
    assert_eq!(share("  preferences: {negatives: ImagesOnly}\n"), (Negatives::ImagesOnly, 1.0));
    assert_eq!(share("  preferences: {corruptedShare: \"0.25\"}\n"), (Negatives::Both, 0.25));
    let run = valid("  preferences: {negatives: None}\n  training: {method: SFT}\n");
    assert_eq!(training(&run).train.objective, Objective::Sft { infusion: None });
    assert_eq!(training(&run).train.optimizer.learning_rate, 2e-5, "SFT has its own learning rate");
}

#[test]
fn povid_and_spin_are_combinations_of_options() {
    let run = valid(
        "  preferences: {source: File, pairs: {volume: {claimName: povid, path: p/}, file: pairs.jsonl}, corruptions: [{kind: GaussianNoise, steps: 500, at: Training}]}\n",
    );
    let Objective::Dpo(dpo) = &training(&run).train.objective else { panic!("the objective is not DPO") };
    assert_eq!(dpo.rejected_image_noise_steps, Some(500));
    assert!(recipe(&run).corruptions.is_empty());
    assert!(matches!(&training(&run).items, ItemSource::Pairs { location, .. } if location.path == "p"));
    let run = valid(
        "  preferences: {source: Instructions, instructions: {volume: {claimName: llava}, file: mix.json}}\n",
    );
    assert!(
        matches!(&training(&run).items, ItemSource::Instructions(instructions) if instructions.images.volume == "coco")
    );
    assert_eq!(run.input_claims().into_iter().collect::<Vec<_>>(), ["coco", "llava", "models"]);
}

#[test]
fn an_adapter_that_is_continued_keeps_its_shape() {
    let run = valid(
        "  initFrom: {adapter: {volume: {claimName: stic, path: old}}}\n  training: {reference: InitialAdapter}\n",
    );
    assert_eq!(training(&run).train.lora, None);
    assert_eq!(training(&run).adapter.as_ref().map(|adapter| adapter.location.path.as_str()), Some("old"));
}

#[test]
fn precision_follows_the_pods_and_prepare_holds_no_gpu() {
    let gpu =
        "  pod: {resources: {limits: {nvidia.com/gpu: 1, memory: 32Gi}}, nodeSelector: {gpu: \"yes\"}}\n";
    let run = valid(gpu);
    assert_eq!(run.precision, Precision::Bf16);
    let prepare = run.pod(StepName::Prepare);
    let limits = prepare.resources.and_then(|resources| resources.limits).expect("memory stays");
    assert_eq!(limits.keys().collect::<Vec<_>>(), ["memory"]);
    assert!(prepare.node_selector.is_some());
    assert_eq!(valid("").precision, Precision::F32);
    assert_eq!(valid("  training: {precision: BF16}\n").precision, Precision::Bf16);
    let only_training = "  pod: {training: {resources: {limits: {nvidia.com/gpu: 1}}}}\n";
    assert_eq!(valid(only_training).precision, Precision::F32, "one number format for a run");
    for (pod, expected, why) in [
        ("{limits: {nvidia.com/mig-1g.10gb: 1}}", Precision::Bf16, "request a GPU (nvidia.com/mig-1g.10gb)"),
        ("{limits: {rdma/hca: 1}}", Precision::F32, "the pods of step generate request no GPU"),
        (
            "{claims: [{name: device}]}",
            Precision::F32,
            "claims (device) tell; set spec.training.precision to BF16",
        ),
        (
            "{claims: [{name: device, request: gpu-0}]}",
            Precision::Bf16,
            "request a GPU (resource claim device)",
        ),
        ("{claims: [{name: nic}, {name: large}]}", Precision::Bf16, "resource claim large"),
    ] {
        let claims =
            "[{name: device, resourceClaimName: a}, {name: nic, resourceClaimTemplateName: rdma-nic},
            {name: large, resourceClaimTemplateName: two-gpus}]";
        let run = valid(&format!("  pod: {{resourceClaims: {claims}, resources: {pod}}}\n"));
        assert_eq!(run.precision, expected, "{pod}");
        assert!(run.precision_reason.contains(why), "{}", run.precision_reason);
    }
    assert_eq!(valid("  training: {precision: BF16}\n").precision_reason, "spec.training.precision is BF16");
    let here = one::validate(&stage_one(gpu), Hardware::Cpu).expect("it is valid");
    assert_eq!(here.precision, Precision::F32, "a laptop has no pods");
}

#[test]
fn each_step_gets_the_image_for_what_its_pods_request() {
    let images = TrainerImages { cpu: "cpu".into(), gpu: "gpu".into() };
    let of = |extra: &str| {
        let run = valid(extra);
        let steps = [StepName::Prepare, StepName::Generate, StepName::Train];
        steps.map(|step| (images.clone().of_step(&run, step), run.gpus(step).map_or(0, NonZeroU32::get)))
    };
    let (cpu, gpu) = (|| ("cpu".to_owned(), 0), |gpus| ("gpu".to_owned(), gpus));
    assert_eq!(of(""), [cpu(), cpu(), cpu()]);
    assert_eq!(of("  pod: {resources: {limits: {nvidia.com/gpu: 1}}}\n"), [cpu(), gpu(1), gpu(1)]);
    let several = "  pod: {generation: {resources: {limits: {nvidia.com/gpu: 4}}}}\n";
    assert_eq!(of(several), [cpu(), gpu(4), cpu()]);
    assert_eq!(of("  pod: {prepare: {resources: {limits: {nvidia.com/gpu: 1}}}}\n"), [cpu(), cpu(), cpu()]);
    let shares = "{nvidia.com/gpu: 1, nvidia.com/gpumem: 3000, nvidia.com/gpucores: 30}";
    for one in [shares, "{nvidia.com/mig-1g.10gb: 2}", "{volcano.sh/vgpu-memory: 8}"] {
        let run = format!("  pod: {{resources: {{limits: {one}}}}}\n");
        assert_eq!(of(&run), [cpu(), gpu(1), gpu(1)], "{one}");
    }
    assert_eq!(of("  pod: {resources: {limits: {nvidia.com/gpu: 0}}}\n"), [cpu(), cpu(), cpu()]);
    let claim = "  pod: {resourceClaims: [{name: device, resourceClaimName: a}], resources: {claims: [{name: device}]}}\n";
    assert_eq!(of(claim), [cpu(), cpu(), cpu()], "it may be anything");
    assert_eq!(of(&format!("{claim}  training: {{precision: BF16}}\n")), [cpu(), gpu(1), gpu(1)]);
}

#[test]
fn a_run_that_is_under_way_keeps_its_images() {
    let images = TrainerImages { cpu: "new".into(), gpu: "new-gpu".into() };
    let resolved = |gpu: Option<&str>| {
        let old = TrainerImages { cpu: "old".into(), gpu: "old-gpu".into() };
        let snapshot = crate::common::snapshot("");
        let status = status(&snapshot, &Verdict::running(StepName::Prepare), None, Some(&old));
        let mut resolved = status.resolved.expect("it is resolved");
        resolved.trainer_gpu_image = gpu.map(Into::into);
        resolved
    };
    let pinned = |resolved: Option<&Resolved>| {
        let TrainerImages { cpu, gpu } = images.pinned(resolved);
        (cpu, gpu)
    };
    let pair = |cpu: &str, gpu: &str| (cpu.to_owned(), gpu.to_owned());
    assert_eq!(pinned(None), pair("new", "new-gpu"));
    assert_eq!(pinned(Some(&resolved(Some("old-gpu")))), pair("old", "old-gpu"));
    assert_eq!(pinned(Some(&resolved(None))), pair("old", "old"), "an earlier version had one image");
}

#[test]
fn devices_that_the_trainer_cannot_use_are_refused_by_name() {
    let refusal = |pod: &str| {
        let run = one::validate(&stage_one(&format!("  pod: {pod}\n")), Hardware::OfPods);
        run.map(drop).map_err(|refusal| refusal.to_string())
    };
    for name in [
        "amd.com/gpu",
        "gpu.intel.com/i915",
        "habana.ai/gaudi",
        "google.com/tpu",
        "aws.amazon.com/neuroncore",
    ] {
        let refused =
            refusal(&format!("{{resources: {{limits: {{{name}: 1}}}}}}")).expect_err("not NVIDIA's");
        assert!(
            refused.starts_with("spec.pod.resources.limits")
                && refused.contains(&format!("cannot use {name}")),
            "{refused}"
        );
    }
    let refused = refusal("{training: {resources: {limits: {nvidia.com/gpu: 2}}}}").expect_err("one at most");
    assert!(
        refused.starts_with("spec.pod.training.resources.limits") && refused.contains("its pod requests 2"),
        "{refused}"
    );
    for pod in [
        "{resources: {limits: {intel.com/qat: 1, amd.com/nic: 1}}}",
        "{prepare: {resources: {limits: {amd.com/gpu: 1}}}}",
    ] {
        assert_eq!(refusal(pod), Ok(()), "{pod}");
    }
}

#[test]
fn a_spec_that_can_never_run_is_rejected_with_its_field_and_a_remedy() {
    let model = |source: &str| {
        let spec = crate::common::STAGE_ONE.replace("{volume: {claimName: models, path: llava}}", source);
        let object: StageOneRun = admitted("StageOneRun", &spec, &metadata());
        one::validate(&object, Hardware::OfPods)
    };
    let hub =
        model("{huggingFace: {repository: llava-hf/x, revision: 0a23456789012345678901234567890123456789}}");
    assert!(
        matches!(&hub, Err(Refusal::Invalid { reason: Reason::ModelSourceUnsupported, field, .. }) if field == "spec.model.huggingFace")
    );
    assert!(hub.expect_err("it is refused").to_string().ends_with("and name it in volume"));
    let image =
        model("{image: {reference: \"registry/llava@sha256:00\", path: model}}").expect("it is valid");
    assert_eq!(training(&image).model.location.to_string(), "model-image:model");

    let spec = crate::common::STAGE_ONE.replace(
        "{volume: {claimName: stic, path: coco-6k}}",
        "{volumeClaimTemplate: {accessModes: [ReadWriteOncePod], resources: {requests: {storage: 1Gi}}}}",
    );
    let object: StageOneRun =
        admitted("StageOneRun", &format!("{spec}  preferences: {{shards: 2}}\n"), &metadata());
    let refusal = one::validate(&object, Hardware::OfPods).expect_err("two pods, one mount");
    assert!(matches!(refusal, Refusal::Invalid { reason: Reason::ClaimNotShareable, .. }));
}

fn upstream(status: Option<RunStatus>) -> StageOneRun {
    let mut run = stage_one("");
    run.status = status;
    run
}

fn condition(status: &str, reason: &str, message: &str) -> Condition {
    Condition {
        type_: ConditionType::Succeeded.as_str().into(),
        status: status.into(),
        reason: reason.into(),
        message: message.into(),
        observed_generation: None,
        last_transition_time: at("2026-11-24T00:00:00Z"),
    }
}

#[test]
fn stage_two_waits_for_stage_one_and_reports_why() {
    let refused = |found: Upstream<'_, StageOneRun>, wanted: &str| match two::validate(
        &stage_two(""),
        found,
        Hardware::OfPods,
    ) {
        Err(Refusal::Wait { reason, message }) => {
            assert!(message.contains(wanted), "{message}");
            reason
        }
        other => panic!("{other:?}"),
    };
    let waits = |found: Upstream<'_, StageOneRun>, wanted: &str| {
        assert_eq!(refused(found, wanted), Reason::StageOneNotSucceeded);
    };
    waits(Upstream::Missing, "does not exist; apply it in this namespace");
    waits(Upstream::Found(&upstream(None)), "has not finished (phase Pending)");
    let running =
        RunStatus { conditions: vec![condition("Unknown", "Training", "")], ..RunStatus::default() };
    waits(Upstream::Found(&upstream(Some(running))), "has not finished (phase Training)");
    let failed = RunStatus {
        conditions: vec![condition("False", "DataInvalid", "bad image")],
        ..RunStatus::default()
    };
    let reason = refused(
        Upstream::Found(&upstream(Some(failed))),
        "failed: bad image; fix that and raise its spec.retry",
    );
    assert_eq!(reason, Reason::StageOneFailed);
}

#[test]
fn stage_two_pins_model_and_adapter_of_a_finished_stage_one() {
    let adapter = artifact(ArtifactKind::Adapter, StepName::Train);
    let model = Digest::of(b"model");
    let status = RunStatus {
        conditions: vec![condition("True", "Succeeded", "")],
        inputs: Some(Inputs {
            model: Some(InputFolder { volume: None, image: None, digest: Some(model.to_string()) }),
            ..Inputs::default()
        }),
        artifacts: vec![ArtifactStatus {
            kind: adapter.kind,
            volume: VolumeFolder { claim_name: "stic".into(), path: adapter.location.path.clone() },
            digest: adapter.digest.to_string(),
            size_bytes: 1,
            step: StepName::Train,
            state: ArtifactState::Created,
        }],
        ..RunStatus::default()
    };
    let run = upstream(Some(status));
    let run = two::validate(&stage_two(""), Upstream::Found(&run), Hardware::OfPods).expect("it is valid");
    let pinned = training(&run).adapter.clone().expect("an adapter");
    assert_eq!((pinned.location, pinned.digest), (adapter.location, Some(adapter.digest)));
    assert_eq!(training(&run).model.location.to_string(), "models:llava");
    assert_eq!(training(&run).model.digest, Some(model));
    assert_eq!(training(&run).train.lora, None);
    assert_eq!(training(&run).train.optimizer.learning_rate, 2e-5);
    assert_eq!(run.run.uid, UID);
}

#[test]
fn only_kueues_labels_are_copied() {
    let mut meta = metadata();
    meta["labels"] = json!({"kueue.x-k8s.io/queue-name": "research", "team": "a"});
    let object: StageOneRun = admitted("StageOneRun", crate::common::STAGE_ONE, &meta);
    let run = one::validate(&object, Hardware::OfPods).expect("it is valid");
    assert_eq!(run.operation.queue_labels.keys().collect::<Vec<_>>(), ["kueue.x-k8s.io/queue-name"]);
}

#[test]
fn examples_are_valid() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples");
    let mut count = 0;
    for folder in ["quickstart", "paper/base", "ablations"] {
        for entry in std::fs::read_dir(root.join(folder)).expect("the folder is there") {
            let path = entry.expect("it can be listed").path();
            let is_manifest = path.extension().is_some_and(|extension| extension == "yaml")
                && path.file_stem().is_some_and(|stem| stem != "kustomization");
            if !is_manifest {
                continue;
            }
            let text = std::fs::read_to_string(&path).expect("it can be read");
            let objects: Vec<serde_json::Value> = serde_saphyr::from_multiple(&text).expect("it is YAML");
            for mut object in objects {
                object["metadata"]["namespace"] = json!("default");
                object["metadata"]["uid"] = json!(UID);
                let kind = object["kind"].as_str().unwrap_or_default().to_owned();
                let admission = stic_crds::admission::Admission::of(kind.parse().expect("a kind"))
                    .expect("the kind is ours");
                let stored =
                    admission.admit(&object, None).unwrap_or_else(|e| panic!("{}: {e:#?}", path.display()));
                if kind == "StageOneRun" {
                    let run = serde_json::from_value(stored).expect("the types agree");
                    one::validate(&run, Hardware::OfPods)
                        .unwrap_or_else(|e| panic!("{}: {e}", path.display()));
                }
                count += 1;
            }
        }
    }
    assert!(count >= 8, "{count}");
}
