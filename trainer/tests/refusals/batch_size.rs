//! Neither the batch size of generation nor the number of shards changes a byte of a row.

use serde_json::{Value, json};

use crate::config::{generate, images};
use crate::sandbox::Sandbox;

/// The rows of all shards, sorted.
fn rows(sandbox: &Sandbox, config: &Value, batch_size: u32, shards: u32) -> Vec<String> {
    let mut config = config.clone();
    config["task"]["generate"]["shards"] = json!(shards);
    sandbox.put("config.json", config.to_string());
    for shard in 0..shards {
        let [batch_size, shard] = [batch_size, shard].map(|n| n.to_string());
        let step = ["step", "--config", "config.json", "--volumes", ".", "--shard-index", &shard];
        sandbox.run(&[&step[..], &["--responses-at-once", &batch_size]].concat()).expect_exit(
            "generate",
            0,
            &[],
        );
    }
    let journals = sandbox.files("stic").into_iter().filter(|(name, _)| name.contains("/shard-"));
    let text: Vec<String> = journals.map(|(_, bytes)| String::from_utf8(bytes).unwrap()).collect();
    assert_eq!(text.len(), shards as usize);
    sandbox.remove("stic/out/.partial");
    let mut rows: Vec<String> = text.iter().flat_map(|text| text.lines().map(str::to_owned)).collect();
    rows.sort();
    rows
}

#[test]
fn rows_are_the_same_for_every_batch_size_and_number_of_shards() {
    let sandbox = Sandbox::new();
    let prepared = sandbox.step(&images(None, "Fail")).expect_exit("prepare", 0, &[]).result();
    let mut config = generate(&prepared);
    let recipe = recipe_of(&mut config);
    recipe["negatives"] = json!("Both");
    recipe["corruptedShare"] = json!(0.5);
    recipe["corruptions"] = json!([
        {"weight": 1, "corruption": {"lowResolution": {"shortSide": 12}}},
        {"weight": 1, "corruption": {"gaussianNoise": {"steps": 500}}},
    ]);
    for temperature in [0.0, 0.7] {
        recipe_of(&mut config)["sampling"] =
            json!({"temperature": temperature, "topP": 1.0, "topK": 0, "maxNewTokens": 24});
        let expected = rows(&sandbox, &config, 1, 1);
        let parsed: Vec<Value> = expected.iter().map(|row| serde_json::from_str(row).unwrap()).collect();
        let corrupted = parsed.iter().filter(|row| !row["rejected"]["corruption"].is_null()).count();
        assert!((1..4).contains(&corrupted), "{corrupted} of 4 images are corrupted");
        for (batch_size, shards) in [(3, 1), (8, 1), (3, 2), (0, 1)] {
            assert_eq!(
                rows(&sandbox, &config, batch_size, shards),
                expected,
                "batch size {batch_size}, {shards} shards"
            );
        }
    }
}

fn recipe_of(config: &mut Value) -> &mut Value {
    &mut config["task"]["generate"]["recipe"]
}
