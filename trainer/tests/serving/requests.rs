//! Requests about held-out images, and what `evaluate` answers to the same.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};
use stic_contract::prompts::{DESCRIBE_AND_RESPOND, INFUSION};
use stic_trainer::algorithm::infusion::infuse;

use crate::server::{TRAINER, model, volumes};

/// Of answers and descriptions, as `evaluate` limits them.
const ANSWER_TOKENS: u32 = 16;
const DESCRIPTION_TOKENS: u32 = 128;

/// A greedy question without an image.
pub(crate) fn text(model: &str, question: &str) -> Value {
    json!({"model": model, "temperature": 0, "max_tokens": ANSWER_TOKENS,
        "messages": [{"role": "user", "content": question}]})
}

/// A greedy question about the first held-out image.
pub(crate) fn with_image(model: &str, question: &str, max_tokens: u32) -> Value {
    about(&volumes().join("heldout/images/scene-000.jpg"), model, question, max_tokens)
}

fn about(image: &Path, model: &str, question: &str, max_tokens: u32) -> Value {
    let url = format!("data:image/jpeg;base64,{}", base64(&std::fs::read(image).unwrap()));
    let parts = json!([{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": question}]);
    json!({"model": model, "temperature": 0, "max_tokens": max_tokens,
        "messages": [{"role": "user", "content": parts}]})
}

/// Written out, so that the server's decoder is not tested with its own encoder.
fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for group in bytes.chunks(3) {
        let bits = group.iter().fold(0, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - group.len()));
        let digit = |at: usize| ALPHABET[(bits >> (18 - 6 * at)) as usize & 63] as char;
        text.extend((0..4).map(|at| if at <= group.len() { digit(at) } else { '=' }));
    }
    text
}

/// A request, and the answer that it must get.
pub(crate) struct Asked {
    pub(crate) model: String,
    pub(crate) request: Value,
    pub(crate) answer: String,
}

/// The first of the held-out questions.
pub(crate) struct Heldout {
    dir: PathBuf,
    questions: PathBuf,
    rows: Vec<Value>,
}

impl Heldout {
    pub(crate) fn new(dir: &Path, count: usize) -> Self {
        let text = std::fs::read_to_string(volumes().join("heldout/questions.jsonl")).unwrap();
        let lines: Vec<&str> = text.lines().take(count).collect();
        let questions = dir.join("questions.jsonl");
        std::fs::write(&questions, lines.join("\n") + "\n").unwrap();
        let rows = lines.iter().map(|line| serde_json::from_str(line).unwrap()).collect();
        Self { dir: dir.to_owned(), questions, rows }
    }

    pub(crate) fn images(&self) -> usize {
        self.rows.iter().map(|row| row["image"].as_str().unwrap()).collect::<BTreeSet<_>>().len()
    }

    /// Everything that `evaluate` asks, with its answers.
    pub(crate) fn evaluate(&self, adapters: &[String]) -> Vec<Asked> {
        let output = self.dir.join("evaluation");
        let ended = Command::new(TRAINER)
            .args(["evaluate", "--model"])
            .arg(model())
            .args(adapters.iter().flat_map(|adapter| ["--adapter", adapter]))
            .args(["--questions".as_ref(), self.questions.as_os_str()])
            .args(["--images".as_ref(), volumes().join("heldout").as_os_str()])
            .args(["--output".as_ref(), output.as_os_str()])
            .output()
            .unwrap();
        assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
        let mut files = std::fs::read_dir(&output).unwrap().map(|entry| entry.unwrap().path());
        let answers = files.find(|path| path.extension().is_some_and(|kind| kind == "jsonl")).unwrap();
        let answers = std::fs::read_to_string(answers).unwrap();
        answers.lines().flat_map(|line| self.asked(&serde_json::from_str(line).unwrap())).collect()
    }

    /// What was asked for one line of answers.
    fn asked(&self, line: &Value) -> Vec<Asked> {
        let field = |name: &str| line[name].as_str().unwrap();
        let (policy, description) = (field("policy"), field("description"));
        let image = volumes().join("heldout").join(field("image"));
        let ask = |question: &str, max_tokens: u32, answer: &Value| Asked {
            model: policy.to_owned(),
            request: about(&image, policy, question, max_tokens),
            answer: answer.as_str().unwrap().to_owned(),
        };
        let mut asked = vec![ask(DESCRIBE_AND_RESPOND, DESCRIPTION_TOKENS, &line["description"])];
        for answer in line["answers"].as_array().unwrap() {
            let row = self.rows.iter().find(|row| row["id"] == answer[0]).unwrap();
            let question = row["question"].as_str().unwrap();
            asked.push(ask(question, ANSWER_TOKENS, &answer[1]));
            asked.push(ask(&infuse(INFUSION, description, question), ANSWER_TOKENS, &answer[2]));
        }
        asked
    }
}
