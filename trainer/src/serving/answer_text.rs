//! The text of an answer while its tokens arrive: which part no later token changes, and where a stop string ends it.

/// Where tokens end in the middle of a character, the decoder puts this in its place.
const INCOMPLETE: char = char::REPLACEMENT_CHARACTER;

/// The text so far. As in `evaluate`, an answer is trimmed.
#[derive(Debug, Default)]
pub(super) struct AnswerText {
    stops: Vec<String>,
    text: String,
    /// Bytes of the trimmed text that were taken.
    taken: usize,
}

impl AnswerText {
    pub(super) const fn new(stops: Vec<String>) -> Self {
        Self { stops, text: String::new(), taken: 0 }
    }

    pub(super) const fn has_stops(&self) -> bool {
        !self.stops.is_empty()
    }

    /// Sets the text of all tokens so far, and returns whether a stop string ends it. Called after each token, so that it
    /// does not depend on how many arrive at a time which of several stop strings is the first.
    pub(super) fn set(&mut self, decoded: String) -> bool {
        let end = self.stops.iter().filter_map(|stop| decoded.find(stop.as_str())).min();
        self.text = decoded;
        if let Some(end) = end {
            self.text.truncate(end);
        }
        end.is_some()
    }

    /// The whole answer.
    pub(super) fn whole(&self) -> &str {
        self.text.trim()
    }

    /// The part of the answer that was not taken yet, up to where later tokens may change it.
    pub(super) fn take_settled(&mut self) -> String {
        let settled = &self.text[..self.text.len() - self.begun_stop()];
        let settled =
            settled.trim_end_matches(|c: char| c == INCOMPLETE || c.is_whitespace()).trim_start().len();
        self.take(settled)
    }

    /// The rest of the answer, which is complete.
    pub(super) fn take_rest(&mut self) -> String {
        let whole = self.whole().len();
        self.take(whole)
    }

    fn take(&mut self, end: usize) -> String {
        // A decoder that changes what it wrote before cannot be followed; no tokenizer of LLaVA has one.
        let part = self.text.trim_start().get(self.taken..end).unwrap_or_default().to_owned();
        self.taken = self.taken.max(end);
        part
    }

    /// Bytes at the end of the text that may be the beginning of a stop string.
    fn begun_stop(&self) -> usize {
        let begun = |stop: &String| {
            let lengths = stop.char_indices().map(|(at, _)| at).filter(|at| *at > 0);
            lengths.filter(|at| self.text.ends_with(&stop[..*at])).max()
        };
        self.stops.iter().filter_map(begun).max().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Feeds a text in growing pieces, as a decoder gives it. Returns the parts that are sent, the whole, and whether a stop
    /// string ended it.
    fn stream(pieces: &[&str], stops: &[&str]) -> (Vec<String>, String, bool) {
        let mut text = AnswerText::new(stops.iter().map(|stop| (*stop).to_owned()).collect());
        let mut parts = Vec::new();
        let mut stopped = false;
        for piece in pieces {
            stopped = text.set((*piece).to_owned());
            if stopped {
                break;
            }
            parts.push(text.take_settled());
        }
        parts.push(text.take_rest());
        (parts, text.whole().to_owned(), stopped)
    }

    #[test]
    fn the_parts_are_the_trimmed_text() {
        let (parts, whole, stopped) = stream(&[" ", " A", " A ", " A cat", " A cat \n"], &[]);
        assert_eq!((parts.concat().as_str(), whole.as_str(), stopped), ("A cat", "A cat", false));
        assert_eq!(parts, ["", "A", "", " cat", "", ""]);
        assert_eq!(stream(&[], &[]).1, "");
        assert_eq!(stream(&["  \n"], &[]).0.concat(), "");
    }

    #[test]
    fn half_a_character_waits_for_the_rest() {
        let (parts, whole, _) =
            stream(&["Gr", "Gr\u{fffd}", "Gr\u{fffd}\u{fffd}", "Grüß", "Grüß\u{fffd}"], &[]);
        assert_eq!(parts, ["Gr", "", "", "üß", "", "\u{fffd}"], "the last one never became a character");
        assert_eq!(parts.concat(), whole);
    }

    #[test]
    fn the_answer_ends_before_the_first_stop_string() {
        let (parts, whole, stopped) = stream(&["One", "One.\n", "One.\n\n", "never"], &["\n\n", "Two"]);
        assert_eq!((parts.concat().as_str(), whole.as_str(), stopped), ("One.", "One.", true));
        let (parts, whole, stopped) = stream(&["a T", "a Tw", "a Twin", "a Twin Two b"], &["Two"]);
        assert_eq!((parts.concat().as_str(), whole.as_str(), stopped), ("a Twin", "a Twin", true));
        assert_eq!(parts[..2], ["a", ""], "what may become a stop string is not sent");
        let (parts, whole, stopped) = stream(&["a Tw"], &["Two"]);
        assert_eq!((parts.concat().as_str(), whole.as_str(), stopped), ("a Tw", "a Tw", false));
        assert_eq!(stream(&["ß", "ßü"], &["ü"]).1, "ß");
    }
}
