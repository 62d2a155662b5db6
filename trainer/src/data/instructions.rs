//! Instruction files in LLaVA's conversation format.

use serde::Deserialize;
use serde_json::value::RawValue;

use super::image_field::ImageField;
use super::row_problem::{self, RowProblem, deserialize_id};
use super::rows::Row;
use super::template::{IMAGE_PLACEHOLDER, Role, Turn, strip_image_placeholder};

/// The fields that tell an item from an object around all items.
pub const FIELDS: &[&str] = &["id", "image", "conversations"];

/// One item of an instruction file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Instruction {
    pub id: String,
    /// The path of the image in the image folder.
    pub image: String,
    /// From the human's first turn to the model's last. `<image>` is stripped; the first turn shows the image.
    pub turns: Vec<Turn>,
    /// Whether the conversation began with the model, whose turn is left out, as LLaVA's own loader does.
    pub dropped_turn: bool,
}

/// What decides whether an item is used, read without checking the rest of it.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct InstructionHead {
    /// `None` where it cannot be read.
    pub id: Option<String>,
    /// False only for an item that certainly has no image.
    pub image: bool,
    /// Whether the image is NaN, which pandas writes for a missing value. It is read as absent.
    pub image_is_nan: bool,
}

/// Reads the head of an item. An item that cannot be read has no id, and may have an image.
#[must_use]
pub fn head(row: &Row<'_>) -> InstructionHead {
    #[derive(Deserialize)]
    struct Head<'a> {
        #[serde(borrow)]
        id: Option<&'a RawValue>,
        #[serde(borrow)]
        image: Option<&'a RawValue>,
    }
    let unreadable = InstructionHead { image: true, ..InstructionHead::default() };
    let Ok(text) = std::str::from_utf8(row.bytes) else { return unreadable };
    let replaced;
    let (head, image_is_nan) = match serde_json::from_str::<Head<'_>>(text) {
        Ok(head) => (head, false),
        Err(_) => {
            let Some(without_nan) = row_problem::nan_to_null(text, "image") else { return unreadable };
            replaced = without_nan;
            let Ok(head) = serde_json::from_str::<Head<'_>>(&replaced) else { return unreadable };
            (head, true)
        }
    };
    let id = head.id.and_then(|id| deserialize_id(id).ok()).filter(|id| !id.is_empty());
    let image = head.image.is_some_and(|image| {
        let items: Option<Vec<&RawValue>> = serde_json::from_str(image.get()).ok();
        !items.is_some_and(|items| items.is_empty())
    });
    InstructionHead { id, image, image_is_nan }
}

/// An item as it stands in the file; other fields are ignored.
#[derive(Deserialize)]
#[serde(expecting = "an object with id, image and conversations")]
struct RawInstruction {
    #[serde(deserialize_with = "deserialize_id")]
    id: String,
    #[serde(default)]
    image: Option<ImageField>,
    conversations: Vec<RawTurn>,
}

#[derive(Deserialize)]
#[serde(expecting = "an object with from and value")]
struct RawTurn {
    from: String,
    value: String,
}

/// Reads and checks an item.
///
/// # Errors
/// [`RowProblem`] naming the field.
pub fn parse(row: &Row<'_>) -> Result<Instruction, RowProblem> {
    let raw = row_problem::parse::<RawInstruction>(row)?;
    instruction(raw).map_err(|reason| RowProblem::new(row, reason))
}

fn instruction(raw: RawInstruction) -> Result<Instruction, String> {
    let RawInstruction { id, image, mut conversations } = raw;
    let image = image.map(ImageField::path).transpose()?.unwrap_or_default();
    if id.is_empty() {
        return Err("id is empty; give each item an id".into());
    }
    if image.is_empty() {
        return Err("image is empty; give its path, or leave the field out for a text-only item".into());
    }
    if conversations.is_empty() {
        return Err("conversations is empty; give a human's and a gpt's turn".into());
    }
    let dropped_turn = conversations.len() > 1 && conversations[0].from == "gpt";
    conversations.drain(..usize::from(dropped_turn));
    let turns = conversations
        .into_iter()
        .enumerate()
        .map(|(index, raw)| turn(index, index + usize::from(dropped_turn), raw))
        .collect::<Result<Vec<_>, String>>()?;
    if turns.len() % 2 == 1 {
        return Err("conversations ends with the human; add the gpt's answer or remove the last turn".into());
    }
    Ok(Instruction { id, image, turns, dropped_turn })
}

/// Turn `index` of those that are kept, which is `conversations[place]` of the file.
fn turn(index: usize, place: usize, raw: RawTurn) -> Result<Turn, String> {
    let RawTurn { from, value } = raw;
    let (role, expected) =
        if index.is_multiple_of(2) { (Role::User, "human") } else { (Role::Assistant, "gpt") };
    if from == "system" {
        return Err(format!(
            "conversations[{place}].from is \"system\"; system turns are not supported, remove it"
        ));
    }
    if from != expected {
        let fix = match from.as_str() {
            "human" | "gpt" => "turns alternate between human and gpt; reorder them",
            _ => "write human or gpt, in turn",
        };
        return Err(format!("conversations[{place}].from is {from:?} where {expected:?} is expected: {fix}"));
    }
    let image = index == 0;
    let allowed = usize::from(image);
    let placeholders = value.matches(IMAGE_PLACEHOLDER).count();
    let text = if image { strip_image_placeholder(&value) } else { value };
    // Stripping one may form another: `<im<image>age>`.
    if text.contains(IMAGE_PLACEHOLDER) {
        let placeholders = placeholders.max(allowed + 1);
        return Err(format!(
            "conversations[{place}].value holds {IMAGE_PLACEHOLDER} {placeholders} times where {allowed} is allowed: an \
             item shows one image, in its first turn; remove it"
        ));
    }
    if text.trim().is_empty() {
        return Err(format!("conversations[{place}].value is empty; give the turn's text"));
    }
    Ok(Turn { role, text, image })
}

#[cfg(test)]
mod tests {
    use super::super::rows;
    use super::*;

    fn instructions(text: &str) -> Result<Vec<Instruction>, String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("data.json");
        std::fs::write(&path, text).unwrap();
        let mut found = Vec::new();
        let read = rows::for_each(&path, FIELDS, |row| {
            found.push(parse(&row).map_err(|problem| problem.into_error(&path))?);
            Ok(())
        });
        read.map_err(|error| error.to_string().replace(&format!("{}/", dir.path().display()), ""))?;
        Ok(found)
    }

    const ARRAY: &str = r#"[
  {"id": "000000033471", "image": "coco/a.jpg", "conversations": [
    {"from": "human", "value": "<image>\nWhat is it?"},
    {"from": "gpt", "value": "A bus."},
    {"from": "human", "value": "Which colour?"},
    {"from": "gpt", "value": "Red."}]},
  {"id": 7, "image": ["b.jpg"], "model": "x", "conversations": [{"from": "gpt", "value": "Welcome"},
    {"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]}
]"#;

    #[test]
    fn every_container_gives_the_same_items() {
        let items = instructions(ARRAY).unwrap();
        assert_eq!(items.len(), 2);
        assert_eq!((items[0].id.as_str(), items[0].image.as_str()), ("000000033471", "coco/a.jpg"));
        assert_eq!(
            items[0].turns,
            [
                Turn::user_with_image("What is it?"),
                Turn::assistant("A bus."),
                Turn::user("Which colour?"),
                Turn::assistant("Red.")
            ]
        );
        assert_eq!((items[1].id.as_str(), items[1].image.as_str()), ("7", "b.jpg"));
        assert!(items[1].dropped_turn && !items[0].dropped_turn);
        assert_eq!(items[1].turns, [Turn::user_with_image("Hi"), Turn::assistant("Hello")]);

        let values: Vec<serde_json::Value> = serde_json::from_str(ARRAY).unwrap();
        let lines: Vec<String> = values.iter().map(ToString::to_string).collect();
        assert_eq!(instructions(&lines.join("\n")).unwrap(), items);
        assert_eq!(instructions(&format!("{{\"data\": {ARRAY}}}")).unwrap(), items);
    }

    #[test]
    fn the_head_says_whether_an_item_is_used_without_checking_it() {
        let of = |text: &str| head(&Row { line: 1, column: 1, bytes: text.as_bytes() });
        let known = |id: &str, image| InstructionHead { id: Some(id.into()), image, image_is_nan: false };
        assert_eq!(of(r#"{"id": "a", "conversations": 3}"#), known("a", false));
        assert_eq!(of(r#"{"id": 7, "image": null}"#), known("7", false));
        assert_eq!(of(r#"{"id": "a", "image": []}"#), known("a", false));
        assert_eq!(of(r#"{"id": "a", "image": ""}"#), known("a", true));
        assert_eq!(of(r#"{"id": "a", "image": 3}"#), known("a", true));
        assert_eq!(
            of(r#"{"id": "t", "image": NaN}"#),
            InstructionHead { image_is_nan: true, ..known("t", false) }
        );
        for unreadable in [r#"{"id": "t", "image": NaN, "x": NaN}"#, "17", "{"] {
            assert_eq!(of(unreadable), InstructionHead { id: None, image: true, image_is_nan: false });
        }
    }

    #[test]
    fn errors_name_line_and_field() {
        let conversation = |first: &str, second: &str| {
            format!(
                "[\n{{\"id\": \"a\", \"image\": \"a.jpg\", \"conversations\": [{{\"from\": {first}}}, {{\"from\": \
                 {second}}}]}}\n]"
            )
        };
        let gpt = r#""gpt", "value": "x""#;
        let human = r#""human", "value": "<image>\nq""#;
        for (text, expected) in [
            (conversation(gpt, human), "data.json:2: conversations ends with the human"),
            (
                conversation(r#""system", "value": "x""#, human),
                "data.json:2: conversations[0].from is \"system\"; system turns are not supported, remove it",
            ),
            (
                conversation(r#""user", "value": "x""#, gpt),
                "data.json:2: conversations[0].from is \"user\" where \"human\" is expected: write human or gpt",
            ),
            (
                conversation(gpt, gpt),
                "data.json:2: conversations[1].from is \"gpt\" where \"human\" is expected",
            ),
            (
                conversation(human, human),
                "data.json:2: conversations[1].from is \"human\" where \"gpt\" is expected",
            ),
            (
                conversation(human, r#""gpt", "value": "<image>""#),
                "data.json:2: conversations[1].value holds <image> 1 times where 0 is allowed",
            ),
            (
                conversation(r#""human", "value": "<image><image> q""#, gpt),
                "data.json:2: conversations[0].value holds <image> 2 times where 1 is allowed",
            ),
            (
                conversation(r#""human", "value": "<im<image>age> q""#, gpt),
                "data.json:2: conversations[0].value holds <image> 2 times where 1 is allowed",
            ),
            (
                conversation(r#""human", "value": "<image>\n""#, gpt),
                "data.json:2: conversations[0].value is empty",
            ),
            (
                conversation(human, r#""gpt", "value": 3"#),
                "data.json:2: conversations[1].value: invalid type",
            ),
            ("[\n\n{\"image\": \"a\", \"conversations\": []}]".into(), "data.json:3: missing field `id`"),
            (
                "[{\"id\": \"a\", \"image\": \"a\", \"conversations\": []}]".into(),
                "data.json:1: conversations is empty",
            ),
            (
                "[{\"id\": \"a\", \"image\": [\"a\", \"b\"], \"conversations\": []}]".into(),
                "data.json:1: image lists 2 paths: an item shows one image",
            ),
            (
                "[{\"id\": \"a\", \"image\": 3, \"conversations\": []}]".into(),
                "data.json:1: image: an image must be a path, or a list of one path",
            ),
            (
                "[{\"id\": 1.5, \"conversations\": []}]".into(),
                "data.json:1: id: an id must be a string or a whole",
            ),
            ("[{\"id\": \"\", \"conversations\": []}]".into(), "data.json:1: id is empty"),
            ("[\n{\"id\": \"a\"\n,,}]".into(), "data.json:3: "),
            (
                "{\"id\":1,\"image\":\"a\",\"conversations\":[{\"from\":\"human\",\"value\":\"q\"}]}".into(),
                "data.json:1: conversations ends with the human",
            ),
        ] {
            let message = instructions(&text).unwrap_err();
            assert!(message.starts_with(expected), "{message}");
        }
    }
}
