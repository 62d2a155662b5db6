use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;
use stic_contract::recipe::ChatTemplate;
use stic_trainer::Error;
use stic_trainer::data::encode::Encoder;
use stic_trainer::data::template::{Role, Template, Turn};
use stic_trainer::data::tokenizer::Tokenizer;

use crate::fixtures::{json, path};

#[derive(Deserialize)]
struct SentencePiece {
    vocab: usize,
    /// Text, ids, decoded.
    rows: Vec<(String, Vec<u32>, String)>,
}

#[test]
fn a_tokenizer_model_encodes_as_sentencepiece_does() {
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
fn a_tokenizer_json_encodes_as_transformers_does() {
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
fn chat_templates_render_as_transformers_renders_them() {
    let golden: Templates = json("templates.json");
    for row in golden.rows {
        let dir = model_with(&golden.templates[&row.template]);
        let template = Template::load(dir.path(), ChatTemplate::Auto).unwrap();
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
fn built_in_templates_are_llavas() {
    let question = [Turn::user_with_image("Q")];
    let longer = [Turn::user_with_image("Q"), Turn::assistant("A"), Turn::user("R")];
    let system = "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, \
                  detailed, and polite answers to the user's questions.";
    let mistral = Template::MistralInstruct;
    assert_eq!(mistral.render_prompt(&question).unwrap(), "[INST] <image>\nQ [/INST]");
    assert_eq!(mistral.render_prompt(&longer).unwrap(), "[INST] <image>\nQ [/INST] A </s>[INST] R [/INST]");
    let vicuna = Template::VicunaV1;
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
fn a_model_without_template_or_tokenizer_says_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("config.json"), r#"{"model_type": "llava_mistral"}"#).unwrap();
    let message = Template::load(dir.path(), ChatTemplate::Auto).unwrap_err().to_string();
    assert!(
        message.contains("set spec.model.chatTemplate to MistralInstruct (this is a Mistral)"),
        "{message}"
    );
    let message = Tokenizer::from_dir(dir.path()).unwrap_err().to_string();
    assert!(message.contains("looked for tokenizer.json and tokenizer.model"), "{message}");
    let broken = model_with("{% for m in messages %}");
    let message = Template::load(broken.path(), ChatTemplate::Auto).unwrap_err().to_string();
    assert!(message.contains("does not compile"), "{message}");
    let raising = model_with("{{ raise_exception('no images here') }}");
    let template = Template::load(raising.path(), ChatTemplate::Auto).unwrap();
    let message = template.render_prompt(&[Turn::user("Q")]).unwrap_err().to_string();
    assert!(message.contains("no images here"), "{message}");
}

#[test]
fn templates_are_found_in_their_order() {
    let write = |dir: &Path, name: &str, text: &str| std::fs::write(dir.join(name), text).unwrap();
    let prompt = |dir: &Path| {
        Template::load(dir, ChatTemplate::Auto).unwrap().render_prompt(&[Turn::user("Q")]).unwrap()
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
    let own =
        |name: &str| Template::load(model_with(&golden.templates[name]).path(), ChatTemplate::Auto).unwrap();
    let llama = || Tokenizer::from_dir(&path("sentencepiece-bpe")).unwrap();
    vec![
        ("mistral", Encoder::new(tiny(), Template::MistralInstruct, 3)),
        ("vicuna", Encoder::new(tiny(), Template::VicunaV1, 3)),
        ("vicuna, original", Encoder::new(llama(), Template::VicunaV1, 32_000)),
        ("mistral, original", Encoder::new(llama(), Template::MistralInstruct, 32_000)),
        ("tiny", Encoder::new(tiny(), own("tiny"), 3)),
        ("hub mistral", Encoder::new(tiny(), own("hub-mistral"), 3)),
        ("hub vicuna", Encoder::new(tiny(), own("hub-vicuna"), 3)),
    ]
}

#[test]
fn labels_are_the_answers_and_their_ends() {
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
fn a_conversation_of_two_equals_the_template_on_vicuna() {
    let encoder = Encoder::new(tiny(), Template::VicunaV1, 3);
    let turns = [Turn::user("Q"), Turn::assistant("A"), Turn::user("R"), Turn::assistant("B")];
    let text = encoder.template.render_prompt(&turns[..3]).unwrap() + " B</s>";
    assert_eq!(
        encoder.encode_supervised(&turns, None).unwrap().ids,
        encoder.tokenizer.encode(&text, true).unwrap()
    );
}

#[test]
fn images_are_counted() {
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
fn a_joined_answer_is_refused() {
    // Without a space between them, "ASSISTANT" and "S" share a token in a vocabulary that knows the whole.
    let dir = model_with("{% for m in messages %}{{ m['content'] }}{% endfor %}");
    let encoder = Encoder::new(tiny(), Template::load(dir.path(), ChatTemplate::Auto).unwrap(), 3);
    let message = encoder
        .encode_supervised(&[Turn::user("Describ"), Turn::assistant("e")], None)
        .unwrap_err()
        .to_string();
    assert!(message.starts_with("turn 2: the tokenizer joins"), "{message}");
}
