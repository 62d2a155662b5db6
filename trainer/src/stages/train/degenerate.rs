//! Pairs from which DPO learns nothing.

use stic_contract::recipe::Objective;

use super::super::records::PreferenceRecord;
use crate::error::{Error, Result};

/// The largest share of pairs without anything to learn with which a training begins.
const MAX_SHARE: f64 = 0.5;

/// Counts pairs by what is wrong with them.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct DegeneratePairs {
    pairs: usize,
    /// Both responses are the same.
    same: usize,
    /// A response is one token, most often the end of the sequence, or none.
    one_token: usize,
    /// Either of these.
    useless: usize,
    /// A response ends at the length limit.
    unfinished: usize,
}

impl DegeneratePairs {
    pub(super) fn add(&mut self, record: &PreferenceRecord) {
        let Some(rejected) = &record.rejected else { return };
        // Different tokens may be the same text: none, if both are special.
        let same = record.chosen.tokens == rejected.tokens || record.chosen.text == rejected.text;
        let one_token = record.chosen.tokens.len() < 2 || rejected.tokens.len() < 2;
        self.pairs += 1;
        self.same += usize::from(same);
        self.one_token += usize::from(one_token);
        self.useless += usize::from(same || one_token);
        self.unfinished += usize::from(!(record.chosen.finished && rejected.finished));
    }

    /// Reports what was found. `noisy` is whether the image of the rejected response gets noise: then the same response
    /// is preferred on the other image.
    ///
    /// # Errors
    /// [`Error::Data`] if DPO has nothing to learn from most pairs.
    pub(super) fn check(self, objective: &Objective, noisy: bool) -> Result<()> {
        let Self { pairs, same, one_token, useless, unfinished } = self;
        if !matches!(objective, Objective::Dpo(_)) || noisy || pairs == 0 {
            return Ok(());
        }
        let found = match (same, one_token) {
            (0, 0) => None,
            (same, 0) => Some(format!("{same} of {pairs} pairs have the same chosen and rejected response")),
            (0, one) => Some(format!("{one} of {pairs} pairs have a response of 1 token")),
            (same, one) if same == one && useless == same => {
                Some(format!("{same} of {pairs} pairs have the same chosen and rejected response of 1 token"))
            }
            (same, one) => Some(format!(
                "{same} of {pairs} pairs have the same chosen and rejected response, and {one} have a response of 1 token"
            )),
        };
        let advice =
            "check the chat template, the prompts, and eos_token_id in the model's generation_config.json";
        if let Some(found) = found {
            if useless as f64 > MAX_SHARE * pairs as f64 {
                return Err(Error::Data(format!("there is nothing to learn: {found}; {advice}")));
            }
            tracing::warn!("{found}, from which DPO learns nothing; {advice}");
        }
        if unfinished as f64 > MAX_SHARE * pairs as f64 {
            tracing::warn!(
                "{unfinished} of {pairs} pairs have a response that was cut off at preferences.sampling.maxNewTokens; raise it"
            );
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn dpo() -> Objective {
        let dpo = json!({"dpo": {"loss": "Sigmoid", "beta": 0.1, "labelSmoothing": 0.0, "chosenLogProbWeight": 0.0,
            "rejectedTerm": "LogProb", "reference": "Base", "rejectedImageNoiseSteps": null}});
        serde_json::from_value(dpo).expect("an objective")
    }

    fn pairs(responses: &[(&[u32], &[u32])]) -> DegeneratePairs {
        let response = |tokens: &[u32]| {
            json!({"prompt": "q", "corruption": null, "seed": 0, "purpose": "chosen", "tokens": tokens,
                "text": if tokens.len() < 2 { String::new() } else { format!("{tokens:?}") }, "finished": true})
        };
        let mut found = DegeneratePairs::default();
        for (chosen, rejected) in responses {
            let record = json!({"id": "a", "image": "a.jpg", "prompt": "q", "chosen": response(chosen),
                "rejected": response(rejected)});
            found.add(&serde_json::from_value(record).expect("a record"));
        }
        found
    }

    #[test]
    fn a_training_without_anything_to_learn_does_not_begin() {
        let good: (&[u32], &[u32]) = (&[5, 2], &[6, 2]);
        let same: (&[u32], &[u32]) = (&[5, 2], &[5, 2]);
        let ends: (&[u32], &[u32]) = (&[2], &[2]);
        for (found, expected) in [
            (
                pairs(&[ends; 3]),
                "3 of 3 pairs have the same chosen and rejected response of 1 token; check the chat template",
            ),
            (pairs(&[same, same, good]), "2 of 3 pairs have the same chosen and rejected response; check"),
            (
                pairs(&[(&[2], &[407])]),
                "1 of 1 pairs have the same chosen and rejected response of 1 token; check",
            ),
            (pairs(&[(&[5, 2], &[2])]), "1 of 1 pairs have a response of 1 token; check"),
            (
                pairs(&[same, ends]),
                "2 of 2 pairs have the same chosen and rejected response, and 1 have a response of 1",
            ),
        ] {
            let message = found.check(&dpo(), false).expect_err("nothing to learn").to_string();
            assert!(message.starts_with(&format!("there is nothing to learn: {expected}")), "{message}");
        }
        pairs(&[same, good]).check(&dpo(), false).expect("half of the pairs teach something");
        pairs(&[same]).check(&dpo(), true).expect("the images differ");
        pairs(&[ends]).check(&Objective::Sft { infusion: None }, false).expect("SFT learns the chosen one");
        pairs(&[]).check(&dpo(), false).expect("no pair");
    }
}
