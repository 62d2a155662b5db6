use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;
use stic_contract::recipe::ChatTemplate;
use stic_trainer::Error;
use stic_trainer::data::encode::Encoder;
use stic_trainer::data::template::{PromptTemplate, Role, Turn};
use stic_trainer::data::tokenizer::Tokenizer;

use crate::fixtures::{json, path};

#[derive(Deserialize)]
struct SentencePiece {
    vocab: usize,
    /// Text, ids, decoded.
    rows: Vec<(String, Vec<u32>, String)>,
}

#[test]
fn a_tokenizer_model_encodes_as_in_sentencepiece() {
    for (kind, golden) in json::<BTreeMap<String, SentencePiece>>("sentencepiece.json") {
        let tokenizer = Tokenizer::from_dir(&path(&format!("sentencepiece-{kind}"))).unwrap();
        assert_eq!(tokenizer.vocab_size(), golden.vocab);
        assert_eq!(
            (tokenizer.unk_id(), tokenizer.bos_id(), tokenizer.eos_ids()),
            (Some(0), Some(1), [2].as_slice())
        );
        for (text, ids, decoded) in golden.rows {
            assert_eq!(tokenizer.encode(&text, false).unwrap(), ids, "{kind}: {text:?}");
            assert_eq!(tokenizer.decode(&ids, true).unwrap(), decoded, "{kind}: {text:?}");
        }
        assert_eq!(
            tokenizer.encode("a</s>", true).unwrap().last(),
            Some(&2),
            "special tokens are read in text"
        );
    }
}

#[derive(Deserialize)]
struct Rendered {
    template: String,
    conversation: Vec<(String, String, bool)>,
    text: String,
    ids: Vec<u32>,
}

#[derive(Deserialize)]
struct Templates {
    templates: BTreeMap<String, String>,
    rows: Vec<Rendered>,
    encoded: Vec<(String, Vec<u32>)>,
    decoded: Vec<(Vec<u32>, String)>,
}

fn tiny() -> Tokenizer {
    Tokenizer::from_dir(&path("tiny-tokenizer")).unwrap()
}

#[test]
fn a_tokenizer_json_encodes_as_in_transformers() {
    let tokenizer = tiny();
    let golden: Templates = json("templates.json");
    for (text, ids) in golden.encoded {
        assert_eq!(tokenizer.encode(&text, false).unwrap(), ids, "{text:?}");
    }
    for (ids, text) in golden.decoded {
        assert_eq!(tokenizer.decode(&ids, true).unwrap(), text);
    }
    assert_eq!(tokenizer.encode("a", true).unwrap()[0], 1);
    assert_eq!(tokenizer.encode("<s>a", true).unwrap(), tokenizer.encode("a", true).unwrap());
    assert_eq!((tokenizer.pad_id(), tokenizer.eos_id()), (Some(4), 2));
}

#[test]
fn a_tokenizer_json_that_is_no_json_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("tokenizer.json"), r#"{"version":"1.0","decoder":{1:2}}"#).unwrap();
    let error = Tokenizer::from_dir(dir.path()).unwrap_err().to_string();
    assert!(error.contains("tokenizer.json: key must be a string at line 1"), "{error}");
}

fn model_with(template: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for name in ["tokenizer.json", "tokenizer_config.json"] {
        std::fs::copy(path("tiny-tokenizer").join(name), dir.path().join(name)).unwrap();
    }
    std::fs::write(dir.path().join("chat_template.jinja"), template).unwrap();
    dir
}

fn turns(conversation: &[(String, String, bool)]) -> Vec<Turn> {
    conversation
        .iter()
        .map(|(role, text, image)| {
            let role = if role == "user" { Role::User } else { Role::Assistant };
            Turn { role, text: text.clone(), image: *image }
        })
        .collect()
}

#[test]
fn chat_templates_render_as_in_transformers() {
    let golden: Templates = json("templates.json");
    for row in golden.rows {
        let dir = model_with(&golden.templates[&row.template]);
        let template = PromptTemplate::load(dir.path(), ChatTemplate::Auto).unwrap();
        let turns = turns(&row.conversation);
        assert_eq!(template.render_prompt(&turns).unwrap(), row.text, "{}", row.template);

        let image = turns[0].image;
        let encoder = Encoder::new(tiny(), template, 3);
        let encoded = encoder.encode_prompt(&turns, image.then_some(1)).unwrap();
        let with_bos = if row.ids.first() == Some(&1) { row.ids } else { [vec![1], row.ids].concat() };
        assert_eq!(encoded.ids, with_bos, "{}", row.template);
        let wide = encoder.encode_prompt(&turns, image.then_some(52)).unwrap();
        match (encoded.image, wide.image) {
            (Some(one), Some(many)) => {
                assert_eq!((many.start, many.len()), (one.start, 52));
                assert!(wide.ids[many].iter().all(|&id| id == 3));
                assert_eq!(wide.ids.len(), encoded.ids.len() + 51);
            }
            (None, None) => assert!(!image),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_tag_that_is_nothing_but_brackets_does_not_compile() {
    for template in ["{%}", "{% if true %}{%}", "{%-%}", "{%%}"] {
        let error =
            PromptTemplate::load(model_with(template).path(), ChatTemplate::Auto).unwrap_err().to_string();
        assert!(error.contains("the chat template does not compile"), "{template:?}: {error}");
    }
}

#[test]
fn built_in_templates_equal_llavas() {
    let question = [Turn::user_with_image("Q")];
    let longer = [Turn::user_with_image("Q"), Turn::assistant("A"), Turn::user("R")];
    let system = "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, \
                  detailed, and polite answers to the user's questions.";
    let mistral = PromptTemplate::MistralInstruct;
    assert_eq!(mistral.render_prompt(&question).unwrap(), "[INST] <image>\nQ [/INST]");
    assert_eq!(mistral.render_prompt(&longer).unwrap(), "[INST] <image>\nQ [/INST] A </s>[INST] R [/INST]");
    let vicuna = PromptTemplate::VicunaV1;
    assert_eq!(vicuna.render_prompt(&question).unwrap(), format!("{system} USER: <image>\nQ ASSISTANT:"));
    assert_eq!(
        vicuna.render_prompt(&longer).unwrap(),
        format!("{system} USER: <image>\nQ ASSISTANT: A</s>USER: R ASSISTANT:")
    );
    for wrong in [&longer[..2], &longer[1..], &[]] {
        assert!(matches!(vicuna.render_prompt(wrong), Err(Error::Data(_))));
    }
}

#[test]
fn errors_of_missing_templates_and_tokenizers_say_how_to_fix_them() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("config.json"), r#"{"model_type": "llava_mistral"}"#).unwrap();
    let message = PromptTemplate::load(dir.path(), ChatTemplate::Auto).unwrap_err().to_string();
    assert!(
        message.contains("set spec.model.chatTemplate to MistralInstruct (this is a Mistral)"),
        "{message}"
    );
    let message = Tokenizer::from_dir(dir.path()).unwrap_err().to_string();
    assert!(message.contains("looked for tokenizer.json and tokenizer.model"), "{message}");
    let broken = model_with("{% for m in messages %}");
    let message = PromptTemplate::load(broken.path(), ChatTemplate::Auto).unwrap_err().to_string();
    assert!(message.contains("does not compile"), "{message}");
    let raising = model_with("{{ raise_exception('no images here') }}");
    let template = PromptTemplate::load(raising.path(), ChatTemplate::Auto).unwrap();
    let message = template.render_prompt(&[Turn::user("Q")]).unwrap_err().to_string();
    assert!(message.contains("no images here"), "{message}");
}

#[test]
fn templates_are_found_in_order_of_precedence() {
    let write = |dir: &Path, name: &str, text: &str| std::fs::write(dir.join(name), text).unwrap();
    let prompt = |dir: &Path| {
        PromptTemplate::load(dir, ChatTemplate::Auto).unwrap().render_prompt(&[Turn::user("Q")]).unwrap()
    };
    let dir = tempfile::tempdir().unwrap();
    let listed = r#"{"bos_token": {"content": "<s>"}, "chat_template":
        [{"name": "tool", "template": "t"}, {"name": "default", "template": "{{ bos_token }}list"}]}"#;
    write(dir.path(), "tokenizer_config.json", listed);
    assert_eq!(prompt(dir.path()), "<s>list");
    write(dir.path(), "chat_template.json", r#"{"chat_template": "json"}"#);
    assert_eq!(prompt(dir.path()), "json");
    write(dir.path(), "chat_template.jinja", "jinja");
    assert_eq!(prompt(dir.path()), "jinja");
}

fn encoders() -> Vec<(&'static str, Encoder)> {
    let golden: Templates = json("templates.json");
    let own = |name: &str| {
        PromptTemplate::load(model_with(&golden.templates[name]).path(), ChatTemplate::Auto).unwrap()
    };
    let llama = || Tokenizer::from_dir(&path("sentencepiece-bpe")).unwrap();
    vec![
        ("mistral", Encoder::new(tiny(), PromptTemplate::MistralInstruct, 3)),
        ("vicuna", Encoder::new(tiny(), PromptTemplate::VicunaV1, 3)),
        ("vicuna, original", Encoder::new(llama(), PromptTemplate::VicunaV1, 32_000)),
        ("mistral, original", Encoder::new(llama(), PromptTemplate::MistralInstruct, 32_000)),
        ("tiny", Encoder::new(tiny(), own("tiny"), 3)),
        ("hub mistral", Encoder::new(tiny(), own("hub-mistral"), 3)),
        ("hub vicuna", Encoder::new(tiny(), own("hub-vicuna"), 3)),
    ]
}

#[test]
fn the_labels_are_the_answers_and_their_eos() {
    let turns = [
        Turn::user_with_image("What is it?"),
        Turn::assistant("A bus."),
        Turn::user("Which colour?"),
        Turn::assistant("Red."),
    ];
    for (name, encoder) in encoders() {
        let supervised = encoder.encode_supervised(&turns, Some(5)).unwrap();
        assert_eq!(supervised.ids.len(), supervised.labels.len(), "{name}");
        let image = supervised.image.unwrap();
        assert_eq!(image.len(), 5, "{name}");
        assert!(supervised.labels[image.clone()].iter().all(|label| !label), "{name}");
        assert!(supervised.ids[image].iter().all(|&id| id == encoder.image_token_id), "{name}");

        let answers: Vec<Vec<u32>> = supervised
            .ids
            .iter()
            .zip(&supervised.labels)
            .collect::<Vec<_>>()
            .chunk_by(|a, b| a.1 == b.1)
            .filter(|run| *run[0].1)
            .map(|run| run.iter().map(|(id, _)| **id).collect())
            .collect();
        assert_eq!(answers.len(), 2, "{name}");
        for (answer, text) in answers.iter().zip(["A bus.", "Red."]) {
            assert_eq!(answer.last(), Some(&2), "{name}");
            assert_eq!(encoder.tokenizer.decode(answer, true).unwrap().trim(), text, "{name}");
        }

        // The first answer's context is the prompt the model generates from.
        let prompt = encoder.encode_prompt(&turns[..1], Some(5)).unwrap();
        assert!(supervised.ids.starts_with(&prompt.ids), "{name}");
        assert!(supervised.labels[prompt.ids.len()], "{name}");
        assert_eq!(supervised.ids.iter().filter(|&&id| id == 2).count(), 2, "{name}: one EOS an answer");
        let text = encoder.tokenizer.decode(&supervised.ids, true).unwrap();
        assert!(!text.contains("\\s"), "{name}: {text}");
    }
}

#[test]
fn two_exchanges_equal_the_rendered_template_on_vicuna() {
    let encoder = Encoder::new(tiny(), PromptTemplate::VicunaV1, 3);
    let turns = [Turn::user("Q"), Turn::assistant("A"), Turn::user("R"), Turn::assistant("B")];
    let text = encoder.template.render_prompt(&turns[..3]).unwrap() + " B</s>";
    assert_eq!(
        encoder.encode_supervised(&turns, None).unwrap().ids,
        encoder.tokenizer.encode(&text, true).unwrap()
    );
}

#[test]
fn the_number_of_images_is_checked() {
    let (_, encoder) = encoders().remove(1);
    let with = [Turn::user_with_image("Q")];
    let without = [Turn::user("Q")];
    assert!(encoder.encode_prompt(&with, None).is_err());
    assert!(encoder.encode_prompt(&without, Some(4)).is_err());
    assert!(encoder.encode_prompt(&without, None).unwrap().image.is_none());
    let literal = [Turn::user_with_image("see <image>")];
    let message = encoder.encode_prompt(&literal, Some(4)).unwrap_err().to_string();
    assert!(message.contains("turn 1 contains <image>"), "{message}");
    let unanswered = encoder.encode_supervised(&with, Some(4)).unwrap_err().to_string();
    assert!(unanswered.contains("must end with the assistant"), "{unanswered}");
    let empty =
        encoder.encode_supervised(&[Turn::user("Q"), Turn::assistant(" ")], None).unwrap_err().to_string();
    assert!(empty.contains("turn 2 of the conversation is empty"), "{empty}");
}

#[test]
fn an_answer_that_shares_a_token_with_its_prompt_is_refused() {
    // Without a space, the end of the prompt and the answer become one token.
    let dir = model_with("{% for m in messages %}{{ m['content'] }}{% endfor %}");
    let encoder = Encoder::new(tiny(), PromptTemplate::load(dir.path(), ChatTemplate::Auto).unwrap(), 3);
    let message = encoder
        .encode_supervised(&[Turn::user("Describ"), Turn::assistant("e")], None)
        .unwrap_err()
        .to_string();
    assert!(message.starts_with("turn 2: a token spans"), "{message}");
}
