//! Description-infused instructions (Algorithm 2) and describe-and-respond share one text.

/// Fills `template`'s `{description}` and `{question}`. `<image>` in the template marks the image's place, which
/// the chat template gives it; the text is without it.
#[must_use]
pub fn infuse(template: &str, description: &str, question: &str) -> String {
    let text = template.strip_prefix("<image>\n").unwrap_or(template);
    let mut out = String::with_capacity(text.len() + description.len() + question.len());
    let mut rest = text;
    // One pass: what a description contains is never taken for a placeholder.
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
    fn the_default_is_the_released_codes_text() {
        assert_eq!(infuse(INFUSION, "A cat.", "What is it?"), "Image description:\nA cat.\n\nWhat is it?");
    }

    #[test]
    fn a_description_is_no_template() {
        assert_eq!(infuse("{description} {x} {question}", "{question}", "q"), "{question} {x} q");
    }
}
