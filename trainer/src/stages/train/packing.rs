//! Which examples of a batch are computed as one sequence. Gradients are summed in the order of this plan, so it must not
//! depend on anything but the run.

/// The most tokens of a pack of several examples.
pub(in crate::stages) const MAX_TOKENS: usize = 4096;

/// Packs examples, given as id and number of tokens, by first-fit decreasing into packs of at most `budget` tokens; a
/// longer example is a pack of its own. Returns the indexes of each pack, which do not depend on the order of `examples`.
pub(super) fn plan(examples: &[(&str, usize)], budget: usize) -> Vec<Vec<usize>> {
    let mut from_longest: Vec<usize> = (0..examples.len()).collect();
    from_longest.sort_by_key(|index| {
        let (id, tokens) = examples[*index];
        (std::cmp::Reverse(tokens), id)
    });
    let mut packs: Vec<(usize, Vec<usize>)> = Vec::new();
    for index in from_longest {
        let (_, tokens) = examples[index];
        match packs.iter_mut().find(|(used, _)| *used + tokens <= budget) {
            Some((used, pack)) => {
                *used += tokens;
                pack.push(index);
            }
            None => packs.push((tokens, vec![index])),
        }
    }
    packs.into_iter().map(|(_, pack)| pack).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::plan;

    /// The packs by id.
    fn packs<'a>(examples: &[(&'a str, usize)], budget: usize) -> Vec<Vec<&'a str>> {
        let ids = |pack: &Vec<usize>| pack.iter().map(|index| examples[*index].0).collect();
        plan(examples, budget).iter().map(ids).collect()
    }

    #[test]
    fn longest_examples_come_first_and_each_joins_the_first_pack_it_fits() {
        let examples = [("a", 300), ("b", 700), ("c", 1200), ("d", 300), ("e", 100)];
        assert_eq!(packs(&examples, 1000), [vec!["c"], vec!["b", "a"], vec!["d", "e"]]);
        assert_eq!(packs(&examples, 0), [["c"], ["b"], ["a"], ["d"], ["e"]]);
        assert!(packs(&[], 1000).is_empty());
    }

    proptest! {
        #[test]
        fn every_example_is_in_one_pack_and_the_budget_holds(
            lengths in prop::collection::vec(1..3000usize, 0..40),
            budget in 0..5000usize,
            rotated in 0..40usize,
        ) {
            let ids: Vec<String> = (0..lengths.len()).map(|i| format!("{i:02}")).collect();
            let mut examples: Vec<(&str, usize)> =
                ids.iter().map(String::as_str).zip(lengths.iter().copied()).collect();
            let packs_before = packs(&examples, budget);
            for pack in plan(&examples, budget) {
                let tokens: usize = pack.iter().map(|index| examples[*index].1).sum();
                prop_assert!(tokens <= budget || pack.len() == 1);
            }
            let mut packed: Vec<&str> = packs_before.concat();
            packed.sort_unstable();
            prop_assert_eq!(packed, ids.iter().map(String::as_str).collect::<Vec<_>>());
            if !examples.is_empty() {
                examples.rotate_left(rotated % lengths.len());
                examples.swap(0, lengths.len() / 2);
            }
            prop_assert_eq!(packs(&examples, budget), packs_before);
        }
    }
}
