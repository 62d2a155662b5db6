//! Paths of fields, such as `spec.preferences.corruptions[1].hue`.

use serde_json::Value;

/// The value at `path` in `object`; `None` if there is none.
#[must_use]
pub fn value_at<'a>(object: &'a Value, path: &str) -> Option<&'a Value> {
    let mut node = object;
    for part in path.split('.').filter(|part| !part.is_empty()) {
        let (name, indexes) = part.split_once('[').map_or((part, ""), |(name, rest)| (name, rest));
        node = node.get(name)?;
        for index in indexes.split(['[', ']']).filter(|index| !index.is_empty()) {
            node = node.get(index.parse::<usize>().ok()?)?;
        }
    }
    Some(node)
}

/// `path` with the field `name` appended.
pub(super) fn join(path: &str, name: &str) -> String {
    if path.is_empty() { name.into() } else { format!("{path}.{name}") }
}

/// The path of a JSON pointer.
pub(super) fn from_pointer(pointer: &str) -> String {
    pointer.split('/').skip(1).fold(String::new(), |path, part| {
        let part = part.replace("~1", "/").replace("~0", "~");
        if part.parse::<usize>().is_ok() { format!("{path}[{part}]") } else { join(&path, &part) }
    })
}
