//! Data as people have it: what `prepare` makes of it, under the policy Skip, and what it says.

use serde_json::{Value, json};

use crate::config::{describe, images, instructions, pairs, train_on_descriptions};
use crate::sandbox::{Sandbox, instruction, picture};

const ROWS: &str = "instructions/rows.json";
const PAIRS: &str = "instructions/pairs.jsonl";
const LIST: &str = "images/list.txt";

/// What a source holds, which config reads it, and what becomes of it.
struct RowsCase {
    name: &'static str,
    file: &'static str,
    text: String,
    /// Items that are used and that are skipped.
    items: (usize, usize),
    /// What the log says.
    messages: &'static [&'static str],
}

fn skip(file: &str) -> Value {
    match file {
        ROWS => instructions("Skip"),
        LIST => images(Some("list.txt"), "Skip"),
        _ => {
            let mut config = pairs();
            config["task"]["prepare"]["source"]["pairs"]["onUnreadable"] = json!("Skip");
            config
        }
    }
}

fn with(text: Value) -> String {
    json!([instruction("g1", "a.jpg"), instruction("g2", "b.jpg"), text]).to_string()
}

fn turns(turns: Value) -> Value {
    json!({"id": "x", "image": "c.png", "conversations": turns})
}

fn instruction_cases() -> Vec<RowsCase> {
    let human = json!({"from": "human", "value": "<image>\nq"});
    let gpt = json!({"from": "gpt", "value": "a"});
    let case = |name, text, items, messages| RowsCase { name, file: ROWS, text, items, messages };
    vec![
        case(
            "a repeated id",
            with(instruction("g1", "c.png")),
            (3, 0),
            &["1 row has the id of an earlier one", "#2"],
        ),
        case(
            "an image list of one",
            with(json!({"id": "x", "image": ["c.png"], "conversations": [human, gpt]})),
            (3, 0),
            &[],
        ),
        case(
            "several images",
            with(json!({"id": "x", "image": ["c.png", "a.jpg"], "conversations": [human, gpt]})),
            (2, 1),
            &["rows.json:1: image lists 2 paths"],
        ),
        case(
            "the model first",
            with(turns(json!([gpt, human, gpt]))),
            (3, 0),
            &["conversations[0].from is \"gpt\" where \"human\" is expected", "rows.json:1: item \"x\""],
        ),
        case(
            "a system turn",
            with(turns(json!([{"from": "system", "value": "s"}, human, gpt]))),
            (2, 1),
            &["conversations[0].from is \"system\"; system turns are not supported, remove it"],
        ),
        case(
            "an empty answer",
            with(turns(json!([human, {"from": "gpt", "value": ""}]))),
            (2, 1),
            &["rows.json:1: conversations[1].value is empty"],
        ),
        case(
            "a text-only row with an empty answer",
            with(json!({"id": "t", "conversations": [human, {"from": "gpt", "value": ""}]})),
            (2, 0),
            &[],
        ),
        case(
            "a text-only row that says <image>",
            with(json!({"id": "t", "conversations": [human, human]})),
            (2, 0),
            &[],
        ),
        case(
            "NaN for an image",
            with(json!({"id": "t", "image": "NaN"})).replace("\"NaN\"", "NaN"),
            (2, 0),
            &["1 item has NaN for image, which is not JSON and is read as null"],
        ),
        case(
            "NaN for a text",
            with(turns(json!([human, {"from": "gpt", "value": "NaN"}]))).replace("\"NaN\"", "NaN"),
            (2, 1),
            &["value: NaN is not JSON, at column "],
        ),
        case(
            "a wrapped array",
            format!("{{\"version\": 2, \"data\": {}}}", with(instruction("x", "c.png"))),
            (3, 0),
            &[],
        ),
        case(
            "no id",
            with(json!({"image": "c.png", "conversations": [human, gpt]})),
            (2, 1),
            &["missing field `id`"],
        ),
        case("no object", with(json!(3)), (2, 1), &["rows.json:1: invalid type: integer `3`"]),
    ]
}

fn other_cases() -> Vec<RowsCase> {
    let pair = |id: &str, chosen: &str| json!({"id": id, "image": "a.jpg", "prompt": "q", "chosen": chosen, "rejected": "no"});
    let case = |name, file, text, items, messages| RowsCase { name, file, text, items, messages };
    vec![
        case(
            "pairs in an array",
            PAIRS,
            json!([pair("a", "yes"), pair("b", "maybe")]).to_string(),
            (2, 0),
            &[],
        ),
        case("wrapped pairs", PAIRS, json!({"data": [pair("a", "yes")]}).to_string(), (1, 0), &[]),
        case(
            "pairs with the same id",
            PAIRS,
            json!([pair("a", "yes"), pair("a", "maybe")]).to_string(),
            (2, 0),
            &["1 row has the id of an earlier one"],
        ),
        case(
            "chosen is rejected",
            PAIRS,
            json!([pair("a", "yes"), pair("b", "no")]).to_string(),
            (2, 0),
            &[
                "1 pair has the same text as chosen and as rejected, from which DPO learns nothing",
                "pairs.jsonl:1: item \"b\"",
            ],
        ),
        case(
            "an empty response",
            PAIRS,
            json!([pair("a", "yes"), pair("b", " ")]).to_string(),
            (1, 1),
            &["chosen is empty"],
        ),
        case(
            "a list as an array with repeats",
            LIST,
            json!(["a.jpg", "b.jpg", "a.jpg", "c.png"]).to_string(),
            (3, 0),
            &["1 entry repeats an earlier one; each image is used once"],
        ),
        case(
            "a list with repeats",
            LIST,
            "a.jpg\n./a.jpg\nb.jpg\na.jpg\n".into(),
            (2, 0),
            &["2 entries repeat an earlier one"],
        ),
        case(
            "a list with a number",
            LIST,
            json!(["a.jpg", 3]).to_string(),
            (1, 1),
            &["an entry must be a path"],
        ),
        case("a wrapped list", LIST, json!({"data": ["a.jpg"]}).to_string(), (1, 0), &[]),
    ]
}

#[test]
fn rows_as_people_have_them_are_used_or_skipped_with_the_reason() {
    for RowsCase { name, file, text, items: (used, skipped), messages } in
        instruction_cases().into_iter().chain(other_cases())
    {
        let sandbox = Sandbox::new();
        sandbox.put(file, text);
        let result = sandbox.step(&skip(file)).expect_exit(name, 0, messages).result();
        assert_eq!(
            result["items"],
            json!({"total": used + skipped, "done": used, "skipped": skipped}),
            "{name}"
        );
        let files = sandbox.files("stic");
        let (_, recorded) = files.iter().find(|(path, _)| path.ends_with("skipped.jsonl")).unwrap();
        let recorded: Vec<Value> = String::from_utf8_lossy(recorded)
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        assert_eq!(recorded.len(), skipped, "{name}");
        for row in recorded {
            assert_eq!(
                (&row["file"], &row["line"]),
                (&json!(file.split_once('/').unwrap().1), &json!(1)),
                "{name}"
            );
            assert!(
                row["id"].is_string() && row["reason"].as_str().is_some_and(|reason| !reason.is_empty()),
                "{row}"
            );
        }
    }
}

#[test]
fn under_fail_every_unusable_row_is_listed() {
    let sandbox = Sandbox::new();
    let mut rows: Vec<String> = (0..6).map(|i| instruction(&format!("i{i}"), "a.jpg").to_string()).collect();
    rows[1] = "{\"id\": \"cut".into();
    rows[3] = instruction("x", "gone.jpg").to_string();
    rows[4] = json!({"id": "y", "image": "a.jpg", "conversations": []}).to_string();
    sandbox.put(ROWS, rows.join("\n"));
    let failed = sandbox.step(&instructions("Fail")).expect_exit("", 65, &["3 of 6 items cannot be used"]);
    let places: Vec<usize> =
        ["rows.json:2: id: EOF", "rows.json:4: item \"x\"", "rows.json:5: conversations is empty"]
            .into_iter()
            .map(|place| failed.err.rfind(place).unwrap_or_else(|| panic!("{place}: {}", failed.err)))
            .collect();
    assert!(places.is_sorted(), "{}", failed.err);
}

#[test]
fn more_than_the_tolerated_share_ends_the_step() {
    let sandbox = Sandbox::new();
    sandbox.put(ROWS, with(json!({"id": "x", "image": "gone.jpg", "conversations": []})));
    let mut config = instructions("Skip");
    let mut with_share = |share: f64| {
        config["task"]["prepare"]["source"]["instructions"]["maxSkippedShare"] = json!(share);
        sandbox.step(&config)
    };
    with_share(0.3).expect_exit(
        "a third",
        65,
        &[
            "1 of 3 items cannot be used so far, a larger share than images.maxSkippedShare allows (0.3)",
            "rows.json:1: conversations is empty",
        ],
    );
    with_share(0.34).expect_exit("a third", 0, &[]);
}

/// A row that no draw selects may be broken in any way.
#[test]
fn rows_that_a_limit_leaves_out_are_not_checked() {
    let sandbox = Sandbox::new();
    let rows: Vec<String> = (0..4)
        .map(|i| instruction(&format!("i{i}"), "a.jpg").to_string())
        .chain(["{\"id\": \"cut".into(), instruction("x", "gone.jpg").to_string()])
        .collect();
    sandbox.put(ROWS, rows.join("\n"));
    let mut config = instructions("Fail");
    config["task"]["prepare"]["source"]["instructions"]["order"] = json!("FirstN");
    config["task"]["prepare"]["source"]["instructions"]["limit"] = json!(4);
    assert_eq!(sandbox.step(&config).expect_exit("", 0, &[]).result()["items"]["done"], 4);
}

#[test]
fn rows_that_are_too_long_are_skipped_or_truncated_and_counted() {
    let sandbox = Sandbox::new();
    let long =
        |answer: &str| turns(json!([{"from": "human", "value": "q"}, {"from": "gpt", "value": answer}]));
    sandbox.put(ROWS, with(long(&"a red circle and ".repeat(600))));
    let skipped = sandbox.step(&instructions("Skip")).expect_exit(
        "too long",
        0,
        &["item \"x\": its conversation with a description needs ", "set training.maxLength to truncate it"],
    );
    assert_eq!(skipped.result()["items"], json!({"total": 3, "done": 2, "skipped": 1}));
    let message = skipped.result()["message"].to_string();
    assert!(message.contains("and 2 of 3 surely fit"), "{message}");

    let mut config = instructions("Skip");
    let mut with_limit = |limit: u64| {
        config["task"]["prepare"]["train"]["maxLength"] = json!(limit);
        sandbox.step(&config)
    };
    let truncated = with_limit(500).expect_exit("truncated", 0, &[]).result();
    assert_eq!(truncated["items"], json!({"total": 3, "done": 3, "skipped": 0}));
    let message = truncated["message"].to_string();
    assert!(
        message.contains("training.maxLength is 500, and 2 of 3 surely fit; 1 may be truncated"),
        "{message}"
    );
    with_limit(4).expect_exit("nothing to learn", 65, &["the text before its first answer needs "]);
}

#[test]
fn files_without_an_images_name_are_counted_and_jfif_and_jpe_are_read() {
    let sandbox = Sandbox::new();
    for name in ["x.jfif", "x.jpe"] {
        sandbox.put(&format!("images/{name}"), picture(24, 24, "x.jpg"));
    }
    for name in ["y.avif", "noext", "z.AVIF"] {
        sandbox.put(&format!("images/{name}"), "anything");
    }
    let expected = "3 files have no name of an image (.avif 2, no extension 1) and were passed over";
    let result = sandbox.step(&images(None, "Fail")).expect_exit("", 0, &[expected]).result();
    assert_eq!(result["items"]["done"], 6);
}

/// What a description leaves no room for is known only once it is written.
#[test]
fn an_item_whose_description_leaves_no_answer_is_left_out_of_the_training_and_counted() {
    let sandbox = Sandbox::new();
    let long =
        json!([{"from": "human", "value": "which of them ".repeat(20)}, {"from": "gpt", "value": "a cat"}]);
    sandbox.put(ROWS, with(turns(long)));
    let with_limit = |mut config: Value, step: &str, limit: u64| {
        let recipe = if step == "prepare" { "train" } else { "recipe" };
        config["task"][step][recipe]["maxLength"] = json!(limit);
        sandbox.step(&config)
    };
    let prepare = |limit| with_limit(instructions("Skip"), "prepare", limit);
    let uses_all = |limit| prepare(limit).out.contains("\"done\":3");
    // The smallest limit under which an answer would begin if the description were empty.
    let (mut too_small, mut limit) = (1, 2000);
    while limit - too_small > 1 {
        let middle = u64::midpoint(too_small, limit);
        if uses_all(middle) { limit = middle } else { too_small = middle }
    }
    let prepared = prepare(limit).expect_exit("prepare", 0, &[]).result();
    assert_eq!(prepared["items"]["done"], 3);
    let described = sandbox.step(&describe(&prepared)).expect_exit("describe", 0, &[]).result();
    let train = || {
        let config = train_on_descriptions(&prepared, &described);
        with_limit(config, "train", limit)
    };
    let reason = "left out item \"x\": with its description, no answer begins within the first";
    let trained = train().expect_exit("train", 0, &[reason, "lower description.sampling.maxNewTokens"]);
    let again = train().expect_exit("reused", 0, &[]).result();
    for result in [trained.result(), again] {
        assert_eq!(result["items"], json!({"total": 3, "done": 2, "skipped": 1}));
        let message = result["message"].as_str().unwrap_or_default();
        assert!(message.starts_with("1 of 3 items were too long to train on; raise "), "{message}");
    }
}

#[test]
fn a_prompt_that_fills_the_length_limit_is_refused_before_pairs_are_generated() {
    let mut config = images(None, "Skip");
    config["task"]["prepare"]["train"]["maxLength"] = json!(4);
    let messages = ["none of the 4 items can be used", "the text before its first answer needs "];
    Sandbox::new().step(&config).expect_exit("", 65, &messages);
}
