//! Instructions and pairs that cannot be used: 65, with file and line.

use serde_json::{Value, json};

use crate::bench::{Bench, Case, IMAGES, Spoil, check, instruction, picture};
use crate::config::{instructions, pairs};

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
fn a_line_that_is_no_instruction_is_named() {
    let human = json!({"from": "human", "value": "<image>\nq"});
    let gpt = json!({"from": "gpt", "value": "a"});
    let line_3: &[(&str, String, &[&str])] = &[
        ("broken", "{\"id\": \"x\", \"conv".into(), &["EOF while parsing", "mend or remove this record"]),
        ("two on a line", format!("{} {}", turns(json!([human, gpt])), "{}"), &["trailing characters"]),
        ("no object", "17".into(), &["invalid type: integer `17`"]),
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
            "an id of another",
            instruction("i0", "a.jpg").to_string(),
            &["id \"i0\" is that of the item on line 1", "an id of its own"],
        ),
        (
            "no conversations",
            json!({"id": "x", "image": "a.jpg"}).to_string(),
            &["missing field `conversations`"],
        ),
        ("no turns", turns(json!([])), &["conversations is empty"]),
        (
            "the wrong order",
            turns(json!([gpt, human])),
            &["conversations[0].from is \"gpt\" where \"human\"", "reorder them"],
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
            "a list for an image",
            json!({"id": "x", "image": ["a.jpg"], "conversations": [human, gpt]}).to_string(),
            &["image: invalid type: sequence"],
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
    for (name, line, says) in line_3 {
        let says = [*says, &["instructions/rows.json:3: "]].concat();
        let spoil = |b: &Bench| b.put(ROWS, lines(2, line));
        check(&instructions("Fail"), &[Case { name, spoil: &spoil, code: 65, says: &says }]);
    }
}

#[test]
fn a_file_that_holds_no_instructions_is_named() {
    let array = json!([instruction("a", "a.jpg"), instruction("b", "b.jpg")])
        .to_string()
        .replace("},{\"conv", "},\n{\"conv");
    let text_only = json!([{"id": "t", "conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]}]);
    let cases: &[Spoil<'_>] = &[
        ("gone", &|b| b.remove(ROWS), &["rows.json: not found; correct the path"]),
        ("a folder", &|b| b.folder(ROWS), &["rows.json: is a folder"]),
        ("a pipe", &|b| b.pipe(ROWS), &["rows.json: is not a regular file"]),
        ("empty", &|b| b.put(ROWS, ""), &["rows.json: holds no instruction"]),
        ("an empty array", &|b| b.put(ROWS, "[]"), &["rows.json: holds no instruction"]),
        (
            "an array that is cut",
            &|b| b.put(ROWS, &array[..array.len() - 20]),
            &["rows.json:2: EOF while parsing", "mend the JSON there"],
        ),
        ("an array not UTF-8", &|b| b.put(ROWS, b"[\"\xff\"]"), &["rows.json: is not UTF-8"]),
        (
            "text only",
            &|b| b.put(ROWS, text_only.to_string()),
            &["rows.json: none of its 1 items has an image"],
        ),
        (
            "a pointer of Git LFS",
            &|b| b.put(ROWS, "version https://git-lfs.github.com/spec/v1\n"),
            &["rows.json:1: "],
        ),
    ];
    for (name, spoil, says) in cases {
        check(&instructions("Fail"), &[Case { name, spoil: *spoil, code: 65, says }]);
    }
}

#[test]
fn windows_line_ends_a_mark_and_blank_lines_are_no_mistake() {
    let bench = Bench::new();
    bench.put(
        ROWS,
        format!("\u{feff}{}\r\n\r\n", lines(0, &instruction("x", "a.jpg").to_string()).replace('\n', "\r\n")),
    );
    assert_eq!(bench.step(&instructions("Fail")).ended("", 0, &[]).result()["items"]["done"], 4);
    // The line of a mistake is that which an editor shows.
    bench.put(ROWS, format!("\u{feff}\r\n{}", lines(1, "{").replace('\n', "\r\n")));
    bench.step(&instructions("Fail")).ended("", 65, &["rows.json:3: EOF"]);
}

#[test]
fn an_instruction_whose_image_cannot_be_read_is_left_out_where_that_is_asked_for() {
    let bench = Bench::new();
    bench.put("images/a.jpg", &picture(99, 99, "x.jpg")[..900]);
    bench.put(ROWS, lines(1, &instruction("x", "gone.jpg").to_string()));
    let ran = bench.step(&instructions("Skip")).ended(
        "",
        0,
        &["rows.json:2: item \"x\": ", "rows.json:1: item \"i0\": "],
    );
    assert_eq!(ran.result()["items"], json!({"total": 4, "done": 2, "skipped": 2}));
}

#[test]
fn a_line_that_is_no_pair_is_named() {
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
        (
            "an id of another",
            with("id", json!("a")),
            &["pairs.jsonl:2: id \"a\" is that of the item on line 1"],
        ),
        ("empty", with("chosen", json!(" ")), &["pairs.jsonl:2: chosen is empty"]),
        ("a list", with("rejected", json!([])), &["pairs.jsonl:2: rejected: invalid type"]),
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
    let bench = Bench::new();
    for (name, text, says) in cases {
        bench.put(PAIRS, text);
        bench.step(&pairs()).ended(name, 65, says);
        assert!(bench.files("stic").is_empty(), "{name}");
    }
    bench.put(PAIRS, pair("a").to_string());
    bench.step(&pairs()).ended("mended", 0, &[]);
}
