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
    rows: Vec<Value>,
}

impl Heldout {
    pub(crate) fn new(dir: &Path, count: usize) -> Self {
        let heldout = dir.join("heldout");
        std::fs::create_dir(&heldout).unwrap();
        let images = volumes().join("heldout/images").canonicalize().unwrap();
        std::os::unix::fs::symlink(images, heldout.join("images")).unwrap();
        let text = std::fs::read_to_string(volumes().join("heldout/questions.jsonl")).unwrap();
        let lines: Vec<&str> = text.lines().take(count).collect();
        std::fs::write(heldout.join("questions.jsonl"), lines.join("\n") + "\n").unwrap();
        let rows = lines.iter().map(|line| serde_json::from_str(line).unwrap()).collect();
        Self { dir: dir.to_owned(), rows }
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
            .args(["--benchmark", &format!("Scenes={}", self.dir.join("heldout").display())])
            .args(["--output".as_ref(), output.as_os_str()])
            .output()
            .unwrap();
        assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
        let read = |name: &str| std::fs::read_to_string(output.join(name)).unwrap();
        let subjects: Vec<Value> = serde_json::from_str(&read("subjects.json")).unwrap();
        let asked = subjects.iter().flat_map(|subject| {
            let answers = read(subject["answers"].as_str().unwrap());
            let rows: Vec<Value> = answers.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
            rows.into_iter().flat_map(|row| self.asked(subject["subject"].as_str().unwrap(), &row))
        });
        // A description is in the answer to each question about its image.
        let mut seen = BTreeSet::new();
        asked.filter(|asked| seen.insert((asked.model.clone(), asked.request.to_string()))).collect()
    }

    /// What was asked for one answer.
    fn asked(&self, model: &str, answer: &Value) -> Vec<Asked> {
        let (id, _) = answer["id"].as_str().unwrap().rsplit_once(' ').unwrap();
        let row =
            self.rows.iter().find(|row| id == format!("Scenes/{}", row["id"].as_str().unwrap())).unwrap();
        let image = volumes().join("heldout").join(row["image"].as_str().unwrap());
        let ask = |question: &str, max_tokens: u32, answer: &Value| Asked {
            model: model.to_owned(),
            request: about(&image, model, question, max_tokens),
            answer: answer.as_str().unwrap().to_owned(),
        };
        let question = row["question"].as_str().unwrap();
        let Some(description) = answer["description"].as_str() else {
            return vec![ask(question, ANSWER_TOKENS, &answer["answer"])];
        };
        let infused = infuse(INFUSION, description, question);
        vec![
            ask(DESCRIBE_AND_RESPOND, DESCRIPTION_TOKENS, &answer["description"]),
            ask(&infused, ANSWER_TOKENS, &answer["answer"]),
        ]
    }
}
