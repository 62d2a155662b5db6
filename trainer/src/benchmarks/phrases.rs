//! Scores a description by its phrases, compared with those of the scene as multisets.

use std::collections::{BTreeMap, BTreeSet};

/// How often each of `phrases` occurs in `text` as whole words, ignoring case.
#[must_use]
pub(super) fn count(text: &str, phrases: &BTreeSet<String>) -> BTreeMap<String, usize> {
    let words: Vec<String> = text
        .split(|c: char| !c.is_alphanumeric())
        .filter(|word| !word.is_empty())
        .map(str::to_lowercase)
        .collect();
    let mut found = BTreeMap::new();
    for phrase in phrases {
        let parts: Vec<&str> = phrase.split_whitespace().collect();
        let times = words
            .windows(parts.len().max(1))
            .filter(|window| window.iter().zip(&parts).all(|(w, p)| w == p))
            .count();
        if times > 0 && !parts.is_empty() {
            found.insert(phrase.clone(), times);
        }
    }
    found
}

/// The harmonic mean of precision and recall of `found` against `expected`; 1 if both are empty.
#[must_use]
pub(super) fn f1(found: &BTreeMap<String, usize>, expected: &[String]) -> f64 {
    let mut left: BTreeMap<&str, usize> = BTreeMap::new();
    for phrase in expected {
        *left.entry(phrase).or_default() += 1;
    }
    let named: usize = found.values().sum();
    if named + expected.len() == 0 {
        return 1.0;
    }
    let right: usize = found
        .iter()
        .map(|(phrase, times)| (*times).min(left.get(phrase.as_str()).copied().unwrap_or(0)))
        .sum();
    2.0 * right as f64 / (named + expected.len()) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phrases_are_counted_as_multisets_of_whole_words() {
        let phrases: BTreeSet<String> = ["red circle", "blue square"].map(str::to_owned).into();
        let found = count("A Red circle, a red circle and a blue squares.", &phrases);
        assert_eq!(found, BTreeMap::from([("red circle".to_owned(), 2)]));
        let expected = ["red circle", "blue square"].map(str::to_owned);
        // 1 of 2 named is right, 1 of 2 expected is found.
        assert!((f1(&found, &expected) - 0.5).abs() < 1e-12);
        assert_eq!(f1(&BTreeMap::new(), &expected), 0.0);
        assert_eq!(f1(&BTreeMap::new(), &[]), 1.0);
    }
}
