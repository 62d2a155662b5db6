//! The turns of a conversation, and the placeholder for its image.

/// Stands for the image in texts and rendered prompts.
pub const IMAGE_PLACEHOLDER: &str = "<image>";

/// Who speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    User,
    /// The model.
    Assistant,
}

/// One turn of a conversation.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Turn {
    pub role: Role,
    /// Without `<image>`.
    pub text: String,
    /// Whether the image stands before the text.
    pub image: bool,
}

impl Turn {
    /// A user's turn without image.
    #[must_use]
    pub fn user(text: impl Into<String>) -> Self {
        Self { role: Role::User, text: text.into(), image: false }
    }

    /// A user's turn that shows the image.
    #[must_use]
    pub fn user_with_image(text: impl Into<String>) -> Self {
        Self { image: true, ..Self::user(text) }
    }

    /// The model's turn.
    #[must_use]
    pub fn assistant(text: impl Into<String>) -> Self {
        Self { role: Role::Assistant, text: text.into(), image: false }
    }

    /// The turn's text, after `<image>\n` where the turn shows the image.
    pub(super) fn text_with_placeholder(&self) -> String {
        if self.image { format!("{IMAGE_PLACEHOLDER}\n{}", self.text) } else { self.text.clone() }
    }
}

/// `text` without its `<image>` and the line break next to it.
#[must_use]
pub fn strip_image_placeholder(text: &str) -> String {
    let Some((before, after)) = text.split_once(IMAGE_PLACEHOLDER) else { return text.to_owned() };
    let stripped = match after.strip_prefix('\n') {
        Some(after) => format!("{before}{after}"),
        None => format!("{}{after}", before.strip_suffix('\n').unwrap_or(before)),
    };
    stripped.trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_placeholder_is_stripped_at_any_place() {
        for text in ["<image>\nWhat?", "What?\n<image>", "<image>What?", "What?<image>", " <image>\n What? "]
        {
            assert_eq!(strip_image_placeholder(text), "What?", "{text:?}");
        }
        assert_eq!(strip_image_placeholder("One\n<image>\ntwo"), "One\ntwo");
        assert_eq!(strip_image_placeholder(" as it is "), " as it is ");
    }
}
