//! Instructions in LLaVA's conversation format, and preference pairs from a file.

use std::io::{BufReader, Read};
use std::path::Path;

use serde::{Deserialize, Deserializer};

use crate::data::names::{Names, Repeated};
use crate::data::template::{IMAGE_PLACEHOLDER, Role, Turn};
use crate::data::{array, files, jsonl};
use crate::{Error, Result};

/// One item of an instruction file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Instruction {
    /// Unique in its file.
    pub id: String,
    /// Relative to the image folder; `None` for a text-only item.
    pub image: Option<String>,
    /// From the human's first to the model's last; `<image>` is stripped, and the first turn shows the image.
    pub turns: Vec<Turn>,
    /// Where the item begins in its file, from 1.
    pub line: usize,
}

/// A preference pair that a file holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FilePair {
    /// Unique in its file.
    pub id: String,
    /// Relative to the image folder.
    pub image: String,
    /// The question, without `<image>`.
    pub prompt: String,
    /// The better answer.
    pub chosen: String,
    /// The worse answer.
    pub rejected: String,
    /// From 1.
    pub line: usize,
}

/// As it stands in the file; other fields are passed over.
#[derive(Deserialize)]
struct RawInstruction {
    #[serde(deserialize_with = "id")]
    id: String,
    #[serde(default)]
    image: Option<String>,
    conversations: Vec<RawTurn>,
}

#[derive(Deserialize)]
struct RawTurn {
    from: String,
    value: String,
}

#[derive(Deserialize)]
struct RawPair {
    #[serde(deserialize_with = "id")]
    id: String,
    image: String,
    prompt: String,
    chosen: String,
    rejected: String,
}

/// An id is a text or a whole number.
fn id<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "an id must be a text or a whole number")]
    enum Id {
        Text(String),
        Number(i64),
    }
    Ok(match Id::deserialize(deserializer)? {
        Id::Text(text) => text,
        Id::Number(number) => number.to_string(),
    })
}

/// Hands the instructions of a JSON array or of JSON Lines to `take`, in the file's order, and says how many there are.
/// An id that stands twice is refused; it is sought with files in `scratch`.
///
/// # Errors
/// [`Error::Data`] naming file, line and field; [`Error::Storage`] where the file cannot be read; those of `take`.
pub fn read(path: &Path, scratch: &Path, mut take: impl FnMut(Instruction) -> Result<()>) -> Result<u64> {
    let mut ids = Ids::new(path, scratch);
    let mut check = |line: usize, raw: RawInstruction| {
        ids.add(line, &raw.id)?;
        take(instruction(line, raw).map_err(|reason| at(path, line, &reason))?)
    };
    if is_array(path)? {
        array::each(path, |line, item| check(line, jsonl::parse(path, line, item)?))?;
    } else {
        for row in jsonl::read(path)? {
            let (line, raw) = row?;
            check(line, raw)?;
        }
    }
    match ids.finish()? {
        0 => Err(Error::Data(format!(
            "{}: holds no instruction; add some or correct the path",
            path.display()
        ))),
        count => Ok(count),
    }
}

/// Hands the pairs of JSON Lines `{id, image, prompt, chosen, rejected}` to `take`, in the file's order.
///
/// # Errors
/// As [`read`].
pub fn read_pairs(path: &Path, scratch: &Path, mut take: impl FnMut(FilePair) -> Result<()>) -> Result<()> {
    let mut ids = Ids::new(path, scratch);
    for row in jsonl::read(path)? {
        let (line, raw): (usize, RawPair) = row?;
        ids.add(line, &raw.id)?;
        take(pair(line, raw).map_err(|reason| at(path, line, &reason))?)?;
    }
    match ids.finish()? {
        0 => Err(Error::Data(format!("{}: holds no pair; add some or correct the path", path.display()))),
        _ => Ok(()),
    }
}

/// `text` without its `<image>` and the line break beside it.
#[must_use]
pub fn strip_image_placeholder(text: &str) -> String {
    let Some((before, after)) = text.split_once(IMAGE_PLACEHOLDER) else { return text.to_owned() };
    let stripped = match after.strip_prefix('\n') {
        Some(after) => format!("{before}{after}"),
        None => format!("{}{after}", before.strip_suffix('\n').unwrap_or(before)),
    };
    stripped.trim().to_owned()
}

fn instruction(line: usize, raw: RawInstruction) -> Result<Instruction, String> {
    let RawInstruction { id, image, conversations } = raw;
    check_image(image.as_deref())?;
    if conversations.is_empty() {
        return Err("conversations is empty; give a human's and a gpt's turn".into());
    }
    if conversations.len() % 2 == 1 {
        return Err("conversations ends with the human; add the gpt's answer or remove the last turn".into());
    }
    let turns = conversations
        .into_iter()
        .enumerate()
        .map(|(index, RawTurn { from, value })| {
            let (role, expected) =
                if index % 2 == 0 { (Role::User, "human") } else { (Role::Assistant, "gpt") };
            if from != expected {
                return Err(format!(
                    "conversations[{index}].from is {from:?} where {expected:?} is expected: turns alternate between \
                     human and gpt; reorder them"
                ));
            }
            let placeholders = value.matches(IMAGE_PLACEHOLDER).count();
            let allowed = usize::from(index == 0 && image.is_some());
            if placeholders > allowed {
                return Err(format!(
                    "conversations[{index}].value holds {IMAGE_PLACEHOLDER} {placeholders} times where {allowed} is \
                     allowed: an item shows one image, in its first turn; remove it or set image"
                ));
            }
            let text = if placeholders == 0 { value } else { strip_image_placeholder(&value) };
            if text.trim().is_empty() {
                return Err(format!("conversations[{index}].value is empty; give the turn's text"));
            }
            Ok(Turn { role, text, image: index == 0 && image.is_some() })
        })
        .collect::<Result<Vec<_>, String>>()?;
    Ok(Instruction { id, image, turns, line })
}

fn pair(line: usize, raw: RawPair) -> Result<FilePair, String> {
    let RawPair { id, image, prompt, chosen, rejected } = raw;
    check_image(Some(&image))?;
    if prompt.matches(IMAGE_PLACEHOLDER).count() > 1 {
        return Err(format!("prompt holds {IMAGE_PLACEHOLDER} more than once; an item shows one image"));
    }
    let prompt = strip_image_placeholder(&prompt);
    for (field, text) in [("prompt", &prompt), ("chosen", &chosen), ("rejected", &rejected)] {
        if text.trim().is_empty() {
            return Err(format!("{field} is empty; give its text or remove the pair"));
        }
    }
    for (field, text) in [("chosen", &chosen), ("rejected", &rejected)] {
        if text.contains(IMAGE_PLACEHOLDER) {
            return Err(format!("{field} holds {IMAGE_PLACEHOLDER}, which stands for the image; remove it"));
        }
    }
    Ok(FilePair { id, image, prompt, chosen, rejected, line })
}

fn check_image(image: Option<&str>) -> Result<(), String> {
    match image {
        Some("") => Err("image is empty; give its path, or leave the field out for a text-only item".into()),
        _ => Ok(()),
    }
}

fn at(path: &Path, line: usize, reason: &str) -> Error {
    Error::Data(format!("{}:{line}: {reason}", path.display()))
}

/// The ids seen so far and their lines.
struct Ids<'a> {
    path: &'a Path,
    names: Names,
}

impl<'a> Ids<'a> {
    fn new(path: &'a Path, scratch: &Path) -> Self {
        Self { path, names: Names::new(scratch) }
    }

    fn add(&mut self, line: usize, id: &str) -> Result<()> {
        if id.is_empty() {
            return Err(at(self.path, line, "id is empty; give each item an id of its own"));
        }
        self.names.add(id.as_bytes(), line, id)
    }

    /// How many there are, each of them once.
    fn finish(self) -> Result<u64> {
        let count = self.names.count();
        match self.names.repeated()? {
            None => Ok(count),
            Some(Repeated { first, line, written }) => Err(at(
                self.path,
                line,
                &format!(
                    "id {written:?} is that of the item on line {first}; give each item an id of its own"
                ),
            )),
        }
    }
}

/// Whether the file's first character that is no white space opens an array.
fn is_array(path: &Path) -> Result<bool> {
    let file = files::open(path)?;
    for byte in BufReader::new(file).bytes() {
        match byte.map_err(Error::storage(path))? {
            // White space and a byte order mark.
            b' ' | b'\t' | b'\r' | b'\n' | 0xef | 0xbb | 0xbf => {}
            first => return Ok(first == b'['),
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What `read` hands on of a file with `text`.
    fn with_file<T>(
        text: &str,
        read: impl Fn(&Path, &Path, &mut dyn FnMut(T) -> Result<()>) -> Result<()>,
    ) -> Result<Vec<T>, String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("data.json");
        std::fs::write(&path, text).unwrap();
        let mut found = Vec::new();
        let mut take = |item| {
            found.push(item);
            Ok(())
        };
        let read = read(&path, dir.path(), &mut take);
        read.map_err(|error| error.to_string().replace(&format!("{}/", dir.path().display()), ""))?;
        Ok(found)
    }

    fn instructions(text: &str) -> Result<Vec<Instruction>, String> {
        with_file(text, |path, scratch, take| read(path, scratch, take).map(|_| ()))
    }

    fn pairs(text: &str) -> Result<Vec<FilePair>, String> {
        with_file(text, |path, scratch, take| read_pairs(path, scratch, take))
    }

    const ARRAY: &str = r#"[
  {"id": "000000033471", "image": "coco/a.jpg", "conversations": [
    {"from": "human", "value": "<image>\nWhat is it?"},
    {"from": "gpt", "value": "A bus."},
    {"from": "human", "value": "Which colour?"},
    {"from": "gpt", "value": "Red."}]},
  {"id": 7, "model": "x", "conversations": [
    {"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]}
]"#;

    #[test]
    fn an_array_and_lines_read_alike() {
        let items = instructions(ARRAY).unwrap();
        assert_eq!(items.len(), 2);
        assert_eq!((items[0].id.as_str(), items[0].line), ("000000033471", 2));
        assert_eq!(items[0].image.as_deref(), Some("coco/a.jpg"));
        assert_eq!(
            items[0].turns,
            [
                Turn::user_with_image("What is it?"),
                Turn::assistant("A bus."),
                Turn::user("Which colour?"),
                Turn::assistant("Red.")
            ]
        );
        assert_eq!((items[1].id.as_str(), items[1].line, &items[1].image), ("7", 7, &None));
        assert!(!items[1].turns[0].image);

        let values: Vec<serde_json::Value> = serde_json::from_str(ARRAY).unwrap();
        let lines: Vec<String> = values.iter().map(ToString::to_string).collect();
        let from_lines = instructions(&lines.join("\n")).unwrap();
        let without_lines = |items: Vec<Instruction>| -> Vec<_> {
            items.into_iter().map(|item| Instruction { line: 0, ..item }).collect()
        };
        assert_eq!(without_lines(from_lines), without_lines(items));
    }

    #[test]
    fn the_placeholder_is_stripped_wherever_it_stands() {
        for text in ["<image>\nWhat?", "What?\n<image>", "<image>What?", "What?<image>", " <image>\n What? "]
        {
            assert_eq!(strip_image_placeholder(text), "What?", "{text:?}");
        }
        assert_eq!(strip_image_placeholder("One\n<image>\ntwo"), "One\ntwo");
        assert_eq!(strip_image_placeholder(" as it is "), " as it is ");
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
            (
                conversation(gpt, human),
                "data.json:2: conversations[0].from is \"gpt\" where \"human\" is expected",
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
                conversation(r#""human", "value": "<image>\n""#, gpt),
                "data.json:2: conversations[0].value is empty",
            ),
            (
                conversation(human, r#""gpt", "value": 3"#),
                "data.json:2: conversations[1].value: invalid type",
            ),
            ("[\n\n{\"image\": \"a\", \"conversations\": []}]".into(), "data.json:3: missing field `id`"),
            ("[{\"id\": \"a\", \"conversations\": []}]".into(), "data.json:1: conversations is empty"),
            (
                "[{\"id\": 1.5, \"conversations\": []}]".into(),
                "data.json:1: id: an id must be a text or a whole",
            ),
            ("[{\"id\": \"\", \"conversations\": []}]".into(), "data.json:1: id is empty"),
            ("[\n{\"id\": \"a\"\n,,}]".into(), "data.json:3: "),
            ("[]".into(), "data.json: holds no instruction"),
            (
                "{\"id\":1,\"conversations\":[{\"from\":\"human\",\"value\":\"q\"}]}".into(),
                "data.json:1: conversations ends with the human",
            ),
        ] {
            let message = instructions(&text).unwrap_err();
            assert!(message.starts_with(expected), "{message}");
        }
    }

    #[test]
    fn duplicate_ids_name_both_lines() {
        let line =
            r#"{"id": "a", "conversations": [{"from":"human","value":"q"},{"from":"gpt","value":"a"}]}"#;
        let message = instructions(&format!("{line}\n\n{line}\n")).unwrap_err();
        assert_eq!(
            message,
            "data.json:3: id \"a\" is that of the item on line 1; give each item an id of its own"
        );
    }

    #[test]
    fn pairs_are_read_and_checked() {
        let good = r#"{"id":"p","image":"a.jpg","prompt":"<image>\nQ","chosen":"yes","rejected":"no"}"#;
        let read = pairs(good).unwrap();
        assert_eq!((read[0].prompt.as_str(), read[0].line), ("Q", 1));
        for (text, expected) in [
            (good.replace("yes", " "), "data.json:1: chosen is empty"),
            (good.replace("no", "<image>"), "data.json:1: rejected holds <image>"),
            (good.replace("\"a.jpg\"", "\"\""), "data.json:1: image is empty"),
            (good.replace("\"prompt\"", "\"question\""), "data.json:1: missing field `prompt`"),
            (format!("{good}\n{good}"), "data.json:2: id \"p\" is that of the item on line 1"),
        ] {
            let message = pairs(&text).unwrap_err();
            assert!(message.starts_with(expected), "{message}");
        }
    }
}
