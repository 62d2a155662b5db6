//! Admission as an API server does it: what is accepted, which defaults are filled in, and the message for each mistake.
#![cfg(feature = "admission")]
#![expect(clippy::expect_used, reason = "a test fails by panicking")]

use serde_json::{Value, json};
use stic_crds::admission::{Admission, value_at};

const STAGE_ONE: &str = "
apiVersion: stic.dev/v1alpha1
kind: StageOneRun
metadata: {name: coco-6k}
spec:
  model: {volume: {claimName: models, path: llava}}
  images: {volume: {claimName: coco, path: train2014}}
  output: {volume: {claimName: stic}}
";

const STAGE_TWO: &str = "
apiVersion: stic.dev/v1alpha1
kind: StageTwoRun
metadata: {name: coco-6k}
spec:
  initFrom: {stageOneRunRef: {name: coco-6k}}
  instructions: {volume: {claimName: llava}, file: mix.json}
  images: {volume: {claimName: llava, path: images}}
  output: {volume: {claimName: stic}}
";

fn object(text: &str) -> Value {
    serde_saphyr::from_str(text).expect("YAML")
}

fn admission(object: &Value) -> Admission {
    let kind = object["kind"].as_str().expect("a kind").parse().expect("a kind of run");
    Admission::of(kind).expect("the schema is usable")
}

fn admit(object: &Value, old: Option<&Value>) -> Result<Value, Vec<String>> {
    admission(object).admit(object, old).map_err(|errors| errors.iter().map(ToString::to_string).collect())
}

/// Sets the value at a path, and creates the objects on the way.
fn set(object: &mut Value, path: &str, value: Value) {
    let mut node = object;
    for part in path.split('.') {
        node = &mut node[part];
    }
    *node = value;
}

#[test]
fn a_minimal_stage_one_run_gets_the_defaults_of_the_paper() {
    let stored = admit(&object(STAGE_ONE), None).expect("it is valid");
    for (path, wanted) in [
        ("spec.profile", json!("Paper")),
        ("spec.seed", json!(0)),
        ("spec.images.onUnreadable", json!("Skip")),
        ("spec.preferences.negatives", json!("Both")),
        ("spec.preferences.sampling.temperature", json!("0.2")),
        ("spec.preferences.sampling.maxNewTokens", json!(1024)),
        ("spec.preferences.corruptions[0].shortSide", json!(20)),
        ("spec.preferences.corruptions[1].hue", json!("0.3")),
        ("spec.training.method", json!("DPO")),
        ("spec.training.dpo.beta", json!("0.1")),
        ("spec.training.dpo.chosenLogProbWeight", json!("0.0009765625")),
        ("spec.training.optimizer.learningRate", json!("1e-7")),
        ("spec.training.globalBatchSize", json!(8)),
        ("spec.training.saveSteps", json!(50)),
        ("spec.training.activationCheckpointing", json!("Auto")),
        ("spec.backoff.limit", json!(3)),
        ("spec.retention.whenDeleted", json!("Retain")),
        ("spec.output.volume.path", json!("")),
        ("status.observedGeneration", json!(-1)),
    ] {
        assert_eq!(value_at(&stored, path), Some(&wanted), "{path}");
    }
    assert_eq!(value_at(&stored, "spec.preferences.captionPrompts[7]").map(Value::is_string), Some(true));
    // These depend on the profile, and lora on whether the adapter is new.
    for path in ["spec.preferences.corruptedShare", "spec.model.chatTemplate", "spec.training.lora"] {
        assert_eq!(value_at(&stored, path), None, "{path}");
    }
    let typed: stic_crds::StageOneRun = serde_json::from_value(stored.clone()).expect("the types agree");
    assert_eq!(serde_json::to_value(&typed).expect("it is JSON")["spec"], stored["spec"]);
}

#[test]
fn a_minimal_stage_two_run_gets_the_defaults_of_the_paper() {
    let stored = admit(&object(STAGE_TWO), None).expect("it is valid");
    for (path, wanted) in [
        ("spec.training.optimizer.learningRate", json!("2e-5")),
        ("spec.training.globalBatchSize", json!(32)),
        ("spec.images.onUnreadable", json!("Fail")),
        ("spec.instructions.order", json!("Seeded")),
        ("spec.infusion.template", json!(stic_contract::prompts::INFUSION)),
    ] {
        assert_eq!(value_at(&stored, path), Some(&wanted), "{path}");
    }
    let typed: stic_crds::StageTwoRun = serde_json::from_value(stored.clone()).expect("the types agree");
    assert_eq!(serde_json::to_value(&typed).expect("it is JSON")["spec"], stored["spec"]);
}

#[test]
fn rust_types_have_the_defaults_of_the_schema() {
    let bare: stic_crds::StageOneRun = serde_json::from_value(object(STAGE_ONE)).expect("defaults fill it");
    let stored = admit(&object(STAGE_ONE), None).expect("it is valid");
    assert_eq!(serde_json::to_value(&bare).expect("it is JSON")["spec"], stored["spec"]);
}

#[test]
fn null_means_absent() {
    let mut run = object(STAGE_ONE);
    set(&mut run, "spec.seed", Value::Null);
    set(&mut run, "spec.images.limit", Value::Null);
    let stored = admit(&run, None).expect("it is valid");
    assert_eq!(stored["spec"]["seed"], 0);
    assert_eq!(stored["spec"]["images"].get("limit"), None);
}

#[test]
fn every_notation_of_decimals_is_accepted() {
    for text in ["1e-7", "1E-7", "0.0000001", "2.5e-05", "1"] {
        let mut run = object(STAGE_ONE);
        set(&mut run, "spec.training.optimizer.learningRate", json!(text));
        admit(&run, None).unwrap_or_else(|errors| panic!("{text}: {errors:?}"));
    }
}

fn refused(base: &str, path: &str, value: Value, wanted: &str) {
    let mut run = object(base);
    set(&mut run, path, value.clone());
    let errors = admit(&run, None).expect_err(&format!("{path} = {value} is wrong"));
    assert!(errors.iter().any(|error| error.starts_with(wanted)), "{path} = {value}:\n{errors:#?}\n{wanted}");
}

#[test]
fn mistakes_in_a_stage_one_run_have_the_api_server_s_messages() {
    let long = "x".repeat(2049);
    for (path, value, wanted) in [
        ("spec.modell", json!({}), "spec.modell: unknown field \"spec.modell\": did you mean model?"),
        (
            "spec.training.dpo.Beta",
            json!("0.1"),
            "spec.training.dpo.Beta: unknown field \"spec.training.dpo.Beta\": did you mean beta?",
        ),
        (
            "metadata.label",
            json!({}),
            "metadata.label: unknown field \"metadata.label\": did you mean labels?",
        ),
        ("spec.output", Value::Null, "spec.output: Required value"),
        ("metadata.name", json!("Coco"), "metadata.name: Invalid value: \"Coco\": must have at most 40"),
        (
            "metadata.name",
            json!("coco.6k"),
            "metadata.name: Invalid value: \"coco.6k\": must have at most 40",
        ),
        ("metadata.name", json!("a".repeat(41)), "metadata.name: Invalid value: \"aaaa"),
        (
            "spec.profile",
            json!("Papers"),
            "spec.profile: Unsupported value: \"Papers\": supported values: \"Paper\", \"OfficialCompat\"",
        ),
        (
            "spec.training.dpo.beta",
            json!(0.1),
            "spec.training.dpo.beta: Invalid value: \"number\": spec.training.dpo.beta in body must be of type string: \"number\": put it in quotes: \"0.1\"",
        ),
        (
            "spec.training.dpo.beta",
            json!("much"),
            "spec.training.dpo.beta: Invalid value: \"much\": spec.training.dpo.beta in body should match",
        ),
        (
            "spec.training.dpo.beta",
            json!("0"),
            "spec.training.dpo.beta: Invalid value: \"0\": must be greater than 0",
        ),
        (
            "spec.training.dpo.labelSmoothing",
            json!("0.6"),
            "spec.training.dpo.labelSmoothing: Invalid value: \"0.6\": must be between 0 and 0.5",
        ),
        (
            "spec.training.optimizer.learningRate",
            json!("-1"),
            "spec.training.optimizer.learningRate: Invalid value: \"-1\": must be greater than 0",
        ),
        (
            "spec.training.epochs",
            json!(0),
            "spec.training.epochs: Invalid value: 0: spec.training.epochs in body should be greater than or equal to 1",
        ),
        (
            "spec.training.epochs",
            json!("1"),
            "spec.training.epochs: Invalid value: \"string\": spec.training.epochs in body must be of type integer",
        ),
        (
            "spec.training.lora",
            json!({"targets": ["q_proj", "q_proj"]}),
            "spec.training.lora.targets[1]: Duplicate value: \"q_proj\"",
        ),
        (
            "spec.training.lora",
            json!({"targets": ["lm_head"]}),
            "spec.training.lora.targets[0]: Unsupported value: \"lm_head\"",
        ),
        (
            "spec.training.method",
            json!("SFT"),
            "spec.training.method: Invalid value: \"SFT\": method SFT requires preferences.negatives None",
        ),
        (
            "spec.training.reference",
            json!("InitialAdapter"),
            "spec.training.reference: Invalid value: \"InitialAdapter\": reference InitialAdapter needs an adapter",
        ),
        (
            "spec.preferences.negatives",
            json!("None"),
            "spec.training.method: Invalid value: \"DPO\": method SFT requires",
        ),
        (
            "spec.preferences.source",
            json!("File"),
            "spec.preferences.pairs: Invalid value: null: source: File requires preferences.pairs",
        ),
        (
            "spec.preferences.source",
            json!("Instructions"),
            "spec.preferences.instructions: Invalid value: null: source: Instructions requires preferences.instructions",
        ),
        (
            "spec.preferences.captionPrompts",
            json!([]),
            "spec.preferences.captionPrompts: Invalid value: 0: spec.preferences.captionPrompts in body should have at least 1 items",
        ),
        (
            "spec.preferences.captionPrompts",
            json!(vec!["x"; 33]),
            "spec.preferences.captionPrompts: Too many: 33: must have at most 32 items",
        ),
        (
            "spec.preferences.captionPrompts",
            json!([long]),
            "spec.preferences.captionPrompts[0]: Too long: may not be more than 2048 bytes",
        ),
        (
            "spec.preferences.corruptions",
            json!([{"kind": "LowResolution"}]),
            "spec.preferences.corruptions[0]: Invalid value: \"object\": shortSide is required with kind LowResolution",
        ),
        (
            "spec.preferences.corruptions",
            json!([{"kind": "LowResolution", "shortSide": 20, "hue": "0.1"}]),
            "spec.preferences.corruptions[0]: Invalid value: \"object\": brightness and hue are required with",
        ),
        (
            "spec.preferences.corruptions",
            json!([{"kind": "LowResolution", "shortSide": 20, "at": "Training"}]),
            "spec.preferences.corruptions[0]: Invalid value: \"object\": only kind GaussianNoise can be applied at Training",
        ),
        (
            "spec.preferences.corruptions",
            json!([{"kind": "GaussianNoise", "steps": 500, "at": "Training"}]),
            "spec.preferences.corruptions: Invalid value: \"array\": negatives from corrupted images need",
        ),
        (
            "spec.preferences.corruptions",
            json!([{"kind": "ColorJitter", "brightness": "0.5", "hue": "0.6"}]),
            "spec.preferences.corruptions[0].hue: Invalid value: \"0.6\": must be between 0 and 0.5",
        ),
        (
            "spec.preferences.sampling.topP",
            json!("0"),
            "spec.preferences.sampling.topP: Invalid value: \"0\": must be greater than 0 and at most 1",
        ),
        (
            "spec.preferences.shards",
            json!(300),
            "spec.preferences.shards: Invalid value: 300: spec.preferences.shards in body should be less than or equal to 256",
        ),
        (
            "spec.model.image",
            json!({"reference": "x"}),
            "spec.model: Invalid value: \"object\": exactly one of volume, image, huggingFace must be set",
        ),
        (
            "spec.model",
            json!({"chatTemplate": "Auto"}),
            "spec.model: Invalid value: \"object\": exactly one of",
        ),
        (
            "spec.model",
            json!({"huggingFace": {"repository": "a/b", "revision": "main"}}),
            "spec.model.huggingFace.revision: Invalid value: \"main\": must be a commit of 40 hexadecimal digits",
        ),
        (
            "spec.model",
            json!({"huggingFace": {"repository": "llava", "revision": "0".repeat(40)}}),
            "spec.model.huggingFace.repository: Invalid value: \"llava\": must be the owner and the name of",
        ),
        (
            "spec.images.volume.claimName",
            json!("My Claim"),
            "spec.images.volume.claimName: Invalid value: \"My Claim\": must be the name of a PersistentVolumeClaim",
        ),
        (
            "spec.output",
            json!({"volumeClaimTemplate": {"resources": {"requests": {"storage": "50 GB"}}}}),
            "spec.output.volumeClaimTemplate.resources.requests.storage: Invalid value: \"50 GB\": must be a quantity greater than 0, such as 50Gi",
        ),
        (
            "spec.output",
            json!({"volumeClaimTemplate": {"resources": {"requests": {"storage": "0.0Gi"}}}}),
            "spec.output.volumeClaimTemplate.resources.requests.storage: Invalid value: \"0.0Gi\": must be a quantity greater than 0",
        ),
        (
            "spec.pod",
            json!({"resources": {"limits": {"memory": "16 Gigs"}}}),
            "spec.pod.resources.limits.memory: Invalid value: \"16 Gigs\": spec.pod.resources.limits.memory in body should match",
        ),
        (
            "spec.training.dpo.beta",
            json!("1e400"),
            "spec.training.dpo.beta: Invalid value: \"1e400\": spec.training.dpo.beta in body should match",
        ),
        (
            "spec.output.volumeClaimTemplate",
            json!({"resources": {"requests": {"storage": "1Gi"}}}),
            "spec.output: Invalid value: \"object\": exactly one of volume, volumeClaimTemplate must be set",
        ),
        (
            "spec.images.volume.path",
            json!("../other"),
            "spec.images.volume.path: Invalid value: \"../other\": must be a relative path inside the volume",
        ),
        (
            "spec.images.volume.path",
            json!("/abs"),
            "spec.images.volume.path: Invalid value: \"/abs\": must be a relative path inside the volume",
        ),
        (
            "spec.images.limit",
            json!(0),
            "spec.images.limit: Invalid value: 0: spec.images.limit in body should be greater than or equal to 1",
        ),
        (
            "spec.retention.afterFinishedSeconds",
            json!(60),
            "spec.retention: Invalid value: \"object\": afterFinishedSeconds is only allowed with children Delete",
        ),
        ("spec.pod.prepare.gpu", json!(1), "spec.pod.prepare.gpu: unknown field"),
        (
            "spec.pod.nodeSelector",
            json!({"zone": 1}),
            "spec.pod.nodeSelector.zone: Invalid value: \"integer\": spec.pod.nodeSelector.zone in body must be of type string",
        ),
    ] {
        refused(STAGE_ONE, path, value, wanted);
    }
    let mut both = object(STAGE_ONE);
    set(&mut both, "spec.initFrom", json!({"adapter": {"volume": {"claimName": "stic", "path": "a"}}}));
    admit(&both, None).expect("an adapter can be continued");
    set(&mut both, "spec.training.lora", json!({"rank": 8}));
    let errors = admit(&both, None).expect_err("both are set");
    assert!(
        errors[0]
            .starts_with("spec.training.lora: Invalid value: \"object\": lora is not allowed with initFrom"),
        "{errors:?}"
    );
    let mut share = object(STAGE_ONE);
    set(&mut share, "spec.preferences", json!({"negatives": "ImagesOnly", "corruptedShare": "0.5"}));
    let errors = admit(&share, None).expect_err("negatives is not Both");
    assert!(errors[0].starts_with("spec.preferences.corruptedShare: Invalid value: \"0.5\": "), "{errors:?}");
}

#[test]
fn mistakes_in_a_stage_two_run_have_the_api_server_s_messages() {
    for (path, value, wanted) in [
        (
            "spec.initFrom.adapter",
            json!({"volume": {"claimName": "a"}, "model": {"volume": {"claimName": "m"}}}),
            "spec.initFrom: Invalid value: \"object\": exactly one of stageOneRunRef, adapter, baseModel must be set",
        ),
        ("spec.initFrom", json!({}), "spec.initFrom: Invalid value: \"object\": exactly one of"),
        (
            "spec.training.lora",
            json!({}),
            "spec.training.lora: Invalid value: \"object\": lora is only allowed with initFrom.baseModel",
        ),
        (
            "spec.training.method",
            json!("DPO"),
            "spec.training.method: Unsupported value: \"DPO\": supported values: \"SFT\"",
        ),
        (
            "spec.infusion.template",
            json!("{description}"),
            "spec.infusion.template: Invalid value: \"{description}\": must contain both {description} and {question}",
        ),
        (
            "spec.infusion.template",
            json!("<image><image>{description}{question}"),
            "spec.infusion.template: Invalid value: \"<image><image>{description}{question}\": must not contain <image> more than once",
        ),
        ("spec.instructions.file", Value::Null, "spec.instructions.file: Required value"),
    ] {
        refused(STAGE_TWO, path, value, wanted);
    }
}

#[test]
fn fields_that_determine_the_result_are_immutable_and_the_message_names_them() {
    for (base, path, value) in [
        (STAGE_ONE, "spec.seed", json!(1)),
        (STAGE_ONE, "spec.profile", json!("OfficialCompat")),
        (STAGE_ONE, "spec.model.volume.path", json!("other")),
        (STAGE_ONE, "spec.model.chatTemplate", json!("Auto")),
        (STAGE_ONE, "spec.images.limit", json!(10)),
        (STAGE_ONE, "spec.preferences.corruptions", json!([{"kind": "LowResolution", "shortSide": 21}])),
        (STAGE_ONE, "spec.preferences.sampling.temperature", json!("0.3")),
        (STAGE_ONE, "spec.training.dpo.beta", json!("0.2")),
        (STAGE_ONE, "spec.training.lora", json!({})),
        (STAGE_ONE, "spec.output.volume.claimName", json!("elsewhere")),
        (STAGE_TWO, "spec.initFrom.stageOneRunRef.name", json!("other")),
        (STAGE_TWO, "spec.instructions.limit", json!(5000)),
        (STAGE_TWO, "spec.training.epochs", json!(10)),
    ] {
        let old = admit(&object(base), None).expect("it is valid");
        let mut new = object(base);
        set(&mut new, path, value);
        let errors = admit(&new, Some(&old)).expect_err(path);
        assert_eq!(errors.len(), 1, "{errors:#?}");
        let wanted = format!(
            ": {path} is immutable, because it determines the result: create a run with a new name instead"
        );
        assert!(errors[0].starts_with(&format!("{path}: ")) && errors[0].ends_with(&wanted), "{errors:?}");
        // A field cannot be removed either.
        let given = admit(&new, None).expect("it is valid on its own");
        let errors = admit(&object(base), Some(&given)).expect_err(path);
        assert!(errors[0].ends_with(&wanted), "{errors:?}");
    }
}

#[test]
fn settings_that_the_method_ignores_are_refused() {
    for (method, path, value, wanted) in [
        (
            "SFT",
            "spec.training.optimizer.learningRate",
            json!("1e-4"),
            "set training.sft.learningRate instead",
        ),
        (
            "DPO",
            "spec.training.sft.learningRate",
            json!("1e-4"),
            "set training.optimizer.learningRate instead",
        ),
        ("SFT", "spec.training.dpo.beta", json!("0.2"), "remove them or change method to DPO"),
    ] {
        let mut run = object(STAGE_ONE);
        set(&mut run, "spec.training.method", json!(method));
        if method == "SFT" {
            set(&mut run, "spec.preferences.negatives", json!("None"));
        }
        let before = admit(&run, None);
        assert!(before.is_ok(), "{before:?}");
        set(&mut run, path, value);
        let errors = admit(&run, None).expect_err(path);
        assert!(errors.len() == 1 && errors[0].ends_with(wanted), "{errors:?}");
    }
}

#[test]
fn fields_that_do_not_determine_the_result_can_change() {
    for (path, value) in [
        ("spec.pod.nodeSelector", json!({"disk": "ssd"})),
        ("spec.pod.resources", json!({"limits": {"nvidia.com/gpu": 1, "memory": "32Gi"}})),
        ("spec.backoff.limit", json!(9)),
        ("spec.activeDeadlineSeconds", json!(60)),
        ("spec.suspend", json!(true)),
        ("spec.retention.children", json!("Delete")),
        ("spec.rerun", json!(1)),
        ("spec.retry", json!(1)),
        ("spec.training.saveSteps", json!(7)),
        ("spec.training.activationCheckpointing", json!("EveryLayer")),
        ("spec.preferences.batchSize", json!(4)),
    ] {
        let old = admit(&object(STAGE_ONE), None).expect("it is valid");
        let mut new = object(STAGE_ONE);
        set(&mut new, path, value);
        admit(&new, Some(&old)).unwrap_or_else(|errors| panic!("{path}: {errors:?}"));
    }
}
