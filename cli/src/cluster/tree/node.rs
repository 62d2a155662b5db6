//! Lines with branches, as `tree` prints them.

pub(super) struct TreeNode {
    pub text: String,
    pub children: Vec<Self>,
}

impl TreeNode {
    pub(super) fn leaf(text: String) -> Self {
        Self { text, children: Vec::new() }
    }

    /// Appends a line for every node below this one.
    pub(super) fn append_children(&self, indent: &str, lines: &mut Vec<String>) {
        for (i, node) in self.children.iter().enumerate() {
            let is_last = i + 1 == self.children.len();
            let (branch, rest) = if is_last { ("└─ ", "   ") } else { ("├─ ", "│  ") };
            lines.push(format!("{indent}{branch}{}", node.text).trim_end().to_owned());
            node.append_children(&format!("{indent}{rest}"), lines);
        }
    }
}
