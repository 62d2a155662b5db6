//! YAML and JSON documents with the line of each field.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};
use serde_saphyr::Spanned;

use crate::error::{Failure, Result};

/// One document of a file.
#[derive(Debug, Clone)]
pub(super) struct Document {
    file: String,
    folder: PathBuf,
    root: SpannedNode,
    line: u64,
}

/// A value in which every item and every field has its line.
#[derive(Debug, Clone)]
enum SpannedNode {
    Scalar(Value),
    List(Vec<(u64, SpannedNode)>),
    Map(Vec<(String, u64, SpannedNode)>),
}

/// The documents of `text`. A List is replaced by its items.
pub(super) fn parse(file: &str, folder: &Path, text: &str) -> Result<Vec<Document>> {
    let nodes: Vec<Spanned<SpannedNode>> = serde_saphyr::from_multiple(text).map_err(|error| {
        let line = error.location().map(|location| format!(":{}", location.line())).unwrap_or_default();
        let reason = error.to_string();
        let reason = reason.lines().next().unwrap_or_default().trim_start_matches("error: ");
        // The line is printed before the reason already, and users cannot set the parser's options.
        let reason = match reason.split_once(": ") {
            Some((place, rest)) if place.starts_with("line ") => rest,
            _ => reason,
        };
        let reason = reason.split(", set DuplicateKeyPolicy").next().unwrap_or(reason);
        Failure::config(format!("nothing was done: {file}{line}: {reason}. Fix the YAML there."))
    })?;
    let documents = nodes.into_iter().map(|node| Document {
        file: file.into(),
        folder: folder.into(),
        line: node.referenced.line(),
        root: node.value,
    });
    Ok(documents.filter(|document| !document.value().is_null()).flat_map(Document::expand_list).collect())
}

impl Document {
    pub(super) fn value(&self) -> Value {
        self.root.value()
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// File and line of a field such as `spec.training.dpo.beta`, or of the innermost field that contains it.
    pub(super) fn location(&self, field: &str) -> String {
        let mut node = &self.root;
        let mut line = self.line;
        let parts = field.split(['.', '[', ']']).filter(|part| !part.is_empty());
        for part in parts {
            let next = match node {
                SpannedNode::Map(fields) => {
                    fields.iter().find(|(name, ..)| name == part).map(|(_, line, node)| (*line, node))
                }
                SpannedNode::List(items) => {
                    part.parse::<usize>().ok().and_then(|i| items.get(i)).map(|(line, node)| (*line, node))
                }
                SpannedNode::Scalar(_) => None,
            };
            let Some((at, inner)) = next else { break };
            (line, node) = (at, inner);
        }
        format!("{}:{line}", self.file)
    }

    fn expand_list(self) -> Vec<Self> {
        let is_list = self.value()["kind"] == "List";
        let items = match &self.root {
            SpannedNode::Map(fields) if is_list => fields.iter().find(|(name, ..)| name == "items"),
            _ => None,
        };
        match items {
            Some((_, _, SpannedNode::List(items))) => items
                .iter()
                .map(|(line, node)| Self { line: *line, root: node.clone(), ..self.clone() })
                .collect(),
            _ => vec![self],
        }
    }
}

impl SpannedNode {
    fn value(&self) -> Value {
        match self {
            Self::Scalar(value) => value.clone(),
            Self::List(items) => items.iter().map(|(_, node)| node.value()).collect(),
            Self::Map(fields) => Value::Object(
                fields.iter().map(|(name, _, node)| (name.clone(), node.value())).collect::<Map<_, _>>(),
            ),
        }
    }
}

impl<'de> Deserialize<'de> for SpannedNode {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        deserializer.deserialize_any(NodeVisitor)
    }
}

struct NodeVisitor;

impl<'de> Visitor<'de> for NodeVisitor {
    type Value = SpannedNode;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_bool<E>(self, value: bool) -> std::result::Result<SpannedNode, E> {
        Ok(SpannedNode::Scalar(value.into()))
    }

    fn visit_i64<E>(self, value: i64) -> std::result::Result<SpannedNode, E> {
        Ok(SpannedNode::Scalar(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> std::result::Result<SpannedNode, E> {
        Ok(SpannedNode::Scalar(value.into()))
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> std::result::Result<SpannedNode, E> {
        let number = Number::from_f64(value).ok_or_else(|| E::custom("a number must be finite"))?;
        Ok(SpannedNode::Scalar(Value::Number(number)))
    }

    fn visit_str<E>(self, value: &str) -> std::result::Result<SpannedNode, E> {
        Ok(SpannedNode::Scalar(value.into()))
    }

    fn visit_unit<E>(self) -> std::result::Result<SpannedNode, E> {
        Ok(SpannedNode::Scalar(Value::Null))
    }

    fn visit_none<E>(self) -> std::result::Result<SpannedNode, E> {
        Ok(SpannedNode::Scalar(Value::Null))
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> std::result::Result<SpannedNode, D::Error> {
        deserializer.deserialize_any(Self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> std::result::Result<SpannedNode, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = access.next_element::<Spanned<SpannedNode>>()? {
            items.push((item.referenced.line(), item.value));
        }
        Ok(SpannedNode::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> std::result::Result<SpannedNode, A::Error> {
        let mut fields: Vec<(String, u64, SpannedNode)> = Vec::new();
        while let Some(name) = access.next_key::<Spanned<String>>()? {
            let value: SpannedNode = access.next_value()?;
            if fields.iter().any(|(other, ..)| *other == name.value) {
                return Err(A::Error::custom(format!("duplicate key {:?}", name.value)));
            }
            fields.push((name.value, name.referenced.line(), value));
        }
        Ok(SpannedNode::Map(fields))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
# a comment
apiVersion: v1
kind: Namespace
---
apiVersion: stic.dev/v1alpha1
spec:
  training: {dpo: {beta: 0.1}}
  list:
  - a
  - b: 1
";

    #[test]
    fn every_field_has_its_line() {
        let documents = parse("f.yaml", Path::new("."), TEXT).expect("it is YAML");
        assert_eq!(documents.len(), 2);
        assert_eq!(documents[0].location(""), "f.yaml:2");
        assert_eq!(documents[1].location("spec.training.dpo.beta"), "f.yaml:7");
        assert_eq!(documents[1].location("spec.list[1].b"), "f.yaml:10");
        assert_eq!(documents[1].location("spec.training.missing.field"), "f.yaml:7");
        assert_eq!(documents[1].value()["spec"]["training"]["dpo"]["beta"], 0.1);
    }

    #[test]
    fn invalid_yaml_is_reported_with_its_line() {
        let failure = parse("f.yaml", Path::new("."), "a: 1\nb: [1\nc: 2\n").expect_err("it is invalid");
        let message = failure.message.expect("a message");
        assert!(message.starts_with("nothing was done: f.yaml:"), "{message}");
    }

    #[test]
    fn a_list_is_replaced_by_its_items() {
        let text = "kind: List\napiVersion: v1\nitems:\n- {kind: A}\n- {kind: B}\n";
        let documents = parse("f.yaml", Path::new("."), text).expect("it is YAML");
        assert_eq!(documents.iter().map(|d| d.location("")).collect::<Vec<_>>(), ["f.yaml:4", "f.yaml:5"]);
    }
}
