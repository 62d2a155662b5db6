//! Unusable instructions and pairs end with exit code 65, naming file and line.

use serde_json::{Value, json};

use crate::config::{instructions, pairs};
use crate::sandbox::{Case, IMAGES, Sandbox, Spoil, check, instruction, picture};

const ROWS: &str = "instructions/rows.json";
const PAIRS: &str = "instructions/pairs.jsonl";

/// The good rows as JSON Lines, one of them replaced.
fn lines(at: usize, text: &str) -> String {
    let mut rows: Vec<String> =
        (0..4).map(|i| instruction(&format!("i{i}"), IMAGES[i]).to_string()).collect();
    rows[at] = text.to_owned();
    rows.join("\n")
}

fn turns(turns: Value) -> String {
    json!({"id": "x", "image": "a.jpg", "conversations": turns}).to_string()
}

#[test]
fn an_invalid_instruction_is_named_by_its_line() {
    let human = json!({"from": "human", "value": "<image>\nq"});
    let gpt = json!({"from": "gpt", "value": "a"});
    let line_3: &[(&str, String, &[&str])] = &[
        ("broken", "{\"id\": \"x\", \"conv".into(), &["EOF while parsing", "fix or remove this record"]),
        ("two on a line", format!("{} {}", turns(json!([human, gpt])), "{}"), &["trailing characters"]),
        ("no object", "17".into(), &["invalid type: integer `17`, expected an object with id, image and"]),
        (
            "no id",
            json!({"image": "a.jpg", "conversations": [human, gpt]}).to_string(),
            &["missing field `id`"],
        ),
        (
            "an id of half",
            json!({"id": 1.5, "image": "a.jpg", "conversations": []}).to_string(),
            &["id: an id must be"],
        ),
        (
            "no conversations",
            json!({"id": "x", "image": "a.jpg"}).to_string(),
            &["missing field `conversations`"],
        ),
        ("no turns", turns(json!([])), &["conversations is empty"]),
        (
            "the wrong order",
            turns(json!([human, human])),
            &["conversations[1].from is \"human\" where \"gpt\"", "reorder them"],
        ),
        (
            "a system turn",
            turns(json!([{"from": "system", "value": "Be brief."}, human, gpt])),
            &["conversations[0].from is \"system\"; system turns are not supported, remove it"],
        ),
        (
            "half a character",
            turns(json!([human, gpt])).replace("\"a\"", "\"\\ud83d\""),
            &["value: \\ud83d is half of a surrogate pair, which is no character, at column "],
        ),
        (
            "NaN",
            turns(json!([human, gpt])).replace("\"a\"", "NaN"),
            &["value: NaN is not JSON, at column ", "write null"],
        ),
        ("no answer", turns(json!([human])), &["conversations ends with the human", "add the gpt's answer"]),
        (
            "a number for a text",
            turns(json!([human, {"from": "gpt", "value": 3}])),
            &["conversations[1].value: invalid type"],
        ),
        (
            "two images",
            turns(json!([{"from": "human", "value": "<image><image>"}, gpt])),
            &["conversations[0].value holds <image> 2 times"],
        ),
        (
            "several images",
            json!({"id": "x", "image": ["a.jpg", "b.jpg"], "conversations": [human, gpt]}).to_string(),
            &["image lists 2 paths: an item shows one image"],
        ),
        (
            "an image that is not there",
            instruction("x", "gone.jpg").to_string(),
            &["item \"x\": image \"gone.jpg\" in ", "does not exist", "remove the item"],
        ),
        (
            "an image out of its folder",
            instruction("x", "../models/m/config.json").to_string(),
            &["item \"x\": image \"../models/", "must be relative"],
        ),
        (
            "an image from the root",
            instruction("x", "/etc/hostname").to_string(),
            &["item \"x\": image \"/etc/hostname\"", "must be relative"],
        ),
    ];
    for (name, line, messages) in line_3 {
        let messages = [*messages, &["instructions/rows.json:3: "]].concat();
        let spoil = |b: &Sandbox| b.put(ROWS, lines(2, line));
        check(&instructions("Fail"), &[Case { name, spoil: &spoil, code: 65, messages: &messages }]);
    }
}

#[test]
fn a_file_without_instructions_is_named() {
    let array = json!([instruction("a", "a.jpg"), instruction("b", "b.jpg")])
        .to_string()
        .replace("},{\"conv", "},\n{\"conv");
    let text_only = json!([{"id": "t", "conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]}]);
    let cases: &[Spoil<'_>] = &[
        (
            "gone",
            &|b| b.remove(ROWS),
            &["spec.instructions.file: ", "rows.json does not exist; ", "contains nothing; correct the path"],
        ),
        ("a folder", &|b| b.folder(ROWS), &["rows.json: is a folder"]),
        ("a pipe", &|b| b.pipe(ROWS), &["rows.json: is not a regular file"]),
        ("empty", &|b| b.put(ROWS, ""), &["rows.json: holds no instruction"]),
        ("an empty array", &|b| b.put(ROWS, "[]"), &["rows.json: holds no instruction"]),
        (
            "an array that is cut",
            &|b| b.put(ROWS, &array[..array.len() - 20]),
            &["rows.json:2: EOF while parsing", "fix the JSON there"],
        ),
        ("an array not UTF-8", &|b| b.put(ROWS, b"[\"\xff\"]"), &["rows.json:1: is not UTF-8 at column 3"]),
        (
            "text only",
            &|b| b.put(ROWS, text_only.to_string()),
            &["rows.json: none of its 1 items has an image"],
        ),
        (
            "another object",
            &|b| b.put(ROWS, json!({"annotations": [instruction("a", "a.jpg")]}).to_string()),
            &[
                "rows.json:1: the file is a JSON object with the field \"annotations\", at column 1",
                "give an array of items, one item a line",
            ],
        ),
        (
            "a Git LFS pointer",
            &|b| b.put(ROWS, "version https://git-lfs.github.com/spec/v1\n"),
            &["rows.json: it is a Git LFS pointer instead of the file: run git lfs pull"],
        ),
    ];
    for (name, spoil, messages) in cases {
        check(&instructions("Fail"), &[Case { name, spoil: *spoil, code: 65, messages }]);
    }
}

#[test]
fn a_file_may_have_crlf_a_byte_order_mark_and_blank_lines() {
    let sandbox = Sandbox::new();
    sandbox.put(
        ROWS,
        format!("\u{feff}{}\r\n\r\n", lines(0, &instruction("x", "a.jpg").to_string()).replace('\n', "\r\n")),
    );
    assert_eq!(sandbox.step(&instructions("Fail")).expect_exit("", 0, &[]).result()["items"]["done"], 4);
    // Errors name the line that an editor shows.
    sandbox.put(ROWS, format!("\u{feff}\r\n{}", lines(1, "{").replace('\n', "\r\n")));
    sandbox.step(&instructions("Fail")).expect_exit("", 65, &["rows.json:3: EOF"]);
}

#[test]
fn under_skip_an_instruction_with_an_unreadable_image_is_skipped() {
    let sandbox = Sandbox::new();
    sandbox.put("images/a.jpg", &picture(99, 99, "x.jpg")[..900]);
    sandbox.put(ROWS, lines(1, &instruction("x", "gone.jpg").to_string()));
    let ran = sandbox.step(&instructions("Skip")).expect_exit(
        "",
        0,
        &["rows.json:2: item \"x\": ", "rows.json:1: item \"i0\": "],
    );
    assert_eq!(ran.result()["items"], json!({"total": 4, "done": 2, "skipped": 2}));
}

#[test]
fn an_invalid_pair_is_named_by_its_line() {
    let pair =
        |id: &str| json!({"id": id, "image": "a.jpg", "prompt": "q", "chosen": "yes", "rejected": "no"});
    let with = |key: &str, value: Value| {
        let mut pair = pair("b");
        pair[key] = value;
        format!(
            "{}\n{pair}\n",
            json!({"id": "a", "image": "b.jpg", "prompt": "q", "chosen": "yes", "rejected": "no"})
        )
    };
    let cases: &[(&str, String, &[&str])] = &[
        ("broken", format!("{}\n{{\"id\": ", pair("a")), &["pairs.jsonl:2: id: EOF"]),
        ("empty", with("chosen", json!(" ")), &["pairs.jsonl:2: chosen is empty"]),
        ("a list", with("rejected", json!([])), &["pairs.jsonl:2: rejected has 0 messages"]),
        ("a number", with("rejected", json!(3)), &["pairs.jsonl:2: rejected: a response must be a text"]),
        (
            "no image there",
            with("image", json!("x.jpg")),
            &["pairs.jsonl:2: item \"b\": image \"x.jpg\"", "does not exist"],
        ),
        (
            "out of the folder",
            with("image", json!("../x.jpg")),
            &["pairs.jsonl:2: item \"b\": image \"../x.jpg\"", "must be relative"],
        ),
        ("no pair", "\n".into(), &["pairs.jsonl: holds no pair"]),
    ];
    let sandbox = Sandbox::new();
    for (name, text, messages) in cases {
        sandbox.put(PAIRS, text);
        sandbox.step(&pairs()).expect_exit(name, 65, messages);
        assert!(sandbox.files("stic").is_empty(), "{name}");
    }
    sandbox.put(PAIRS, pair("a").to_string());
    sandbox.step(&pairs()).expect_exit("fixed", 0, &[]);
}
