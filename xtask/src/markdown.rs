//! Markdown for reference pages.

/// The first line of a page that nobody should edit by hand.
pub(crate) const DO_NOT_EDIT: &str = "<!-- Written by `cargo xtask generate`. Do not edit. -->\n\n";

/// A table; `|` and line breaks inside cells are escaped.
pub(crate) fn table<const N: usize>(
    header: [&str; N],
    rows: impl IntoIterator<Item = [String; N]>,
) -> String {
    let mut text = format!("| {} |\n|{}\n", header.join(" | "), "---|".repeat(N));
    for row in rows {
        let cells = row.map(|cell| cell.replace('|', "\\|").replace('\n', " "));
        text.push_str(&format!("| {} |\n", cells.join(" | ")));
    }
    text
}

pub(crate) fn code(text: &str) -> String {
    if text.is_empty() { String::new() } else { format!("`{text}`") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_cannot_break_a_table() {
        let text = table(["a", "b"], [[code("x|y"), "one\ntwo".to_owned()]]);
        assert_eq!(text, "| a | b |\n|---|---|\n| `x\\|y` | one two |\n");
    }
}
