//! The text of description-infused instructions (Algorithm 2), which describe-and-respond uses too.

/// Fills in `{description}` and `{question}`. A leading `<image>` line is dropped: the chat template places
/// the image.
#[must_use]
pub fn infuse(template: &str, description: &str, question: &str) -> String {
    let text = template.strip_prefix("<image>\n").unwrap_or(template);
    let mut out = String::with_capacity(text.len() + description.len() + question.len());
    let mut rest = text;
    // A single pass, so that a placeholder within a description is not filled in.
    while let Some(at) = rest.find('{') {
        let (before, from) = rest.split_at(at);
        out.push_str(before);
        if let Some(after) = from.strip_prefix("{description}") {
            out.push_str(description);
            rest = after;
        } else if let Some(after) = from.strip_prefix("{question}") {
            out.push_str(question);
            rest = after;
        } else {
            out.push('{');
            rest = &from[1..];
        }
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use stic_contract::prompts::INFUSION;

    use super::infuse;

    #[test]
    fn the_default_equals_the_released_code() {
        assert_eq!(infuse(INFUSION, "A cat.", "What is it?"), "Image description:\nA cat.\n\nWhat is it?");
    }

    #[test]
    fn placeholders_within_a_description_are_kept() {
        assert_eq!(infuse("{description} {x} {question}", "{question}", "q"), "{question} {x} q");
    }
}
