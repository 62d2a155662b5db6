//! Neither the number of responses that are written at once nor that of shards changes a byte of a row.

use serde_json::{Value, json};

use crate::bench::Bench;
use crate::config::{generate, images};

/// The rows of all shards, sorted.
fn rows(bench: &Bench, config: &Value, at_once: u32, shards: u32) -> Vec<String> {
    let mut config = config.clone();
    config["task"]["generate"]["shards"] = json!(shards);
    bench.put("config.json", config.to_string());
    for shard in 0..shards {
        let [at_once, shard] = [at_once, shard].map(|n| n.to_string());
        let step = ["step", "--config", "config.json", "--volumes", ".", "--shard-index", &shard];
        bench.run(&[&step[..], &["--responses-at-once", &at_once]].concat()).ended("generate", 0, &[]);
    }
    let journals = bench.files("stic").into_iter().filter(|(name, _)| name.contains("/shard-"));
    let text: Vec<String> = journals.map(|(_, bytes)| String::from_utf8(bytes).unwrap()).collect();
    assert_eq!(text.len(), shards as usize);
    bench.remove("stic/out/.partial");
    let mut rows: Vec<String> = text.iter().flat_map(|text| text.lines().map(str::to_owned)).collect();
    rows.sort();
    rows
}

#[test]
fn rows_are_the_same_for_every_number_of_responses_at_once_and_of_shards() {
    let bench = Bench::new();
    let prepared = bench.step(&images(None, "Fail")).ended("prepare", 0, &[]).result();
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
        let expected = rows(&bench, &config, 1, 1);
        let parsed: Vec<Value> = expected.iter().map(|row| serde_json::from_str(row).unwrap()).collect();
        let corrupted = parsed.iter().filter(|row| !row["rejected"]["corruption"].is_null()).count();
        assert!((1..4).contains(&corrupted), "{corrupted} of 4 images are corrupted");
        for (at_once, shards) in [(3, 1), (8, 1), (3, 2), (0, 1)] {
            assert_eq!(
                rows(&bench, &config, at_once, shards),
                expected,
                "{at_once} at once, {shards} shards"
            );
        }
    }
}

fn recipe_of(config: &mut Value) -> &mut Value {
    &mut config["task"]["generate"]["recipe"]
}
