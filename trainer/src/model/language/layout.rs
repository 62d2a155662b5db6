//! The order and positions of the tokens of one pass, and which tokens attend to which.

use std::ops::Range;

use crate::kernels::attention::Span;

/// A run of tokens in a packed sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// The place of its first token in the sequence.
    pub start: usize,
    /// The number of tokens.
    pub len: usize,
}

/// A prefix and the branches that each follow it. Branches do not attend to each other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tree {
    pub prefix: Segment,
    /// In the order in which they follow the prefix.
    pub branches: Vec<Segment>,
}

/// The tokens of one pass: trees that do not attend to each other, with the positions of each counted from its start.
///
/// The chosen and the rejected response share image and prompt. As two branches of one tree they both start at the
/// position after the prefix, which is computed only once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    /// The number of cached tokens before the only tree.
    past: usize,
    trees: Vec<Tree>,
    sliding_window: Option<usize>,
}

impl Layout {
    /// `tokens` in a row after `past` cached ones.
    #[must_use]
    pub fn continuation(past: usize, tokens: usize, sliding_window: Option<usize>) -> Self {
        Self { past, ..Self::branching(tokens, &[], sliding_window) }
    }

    /// A prefix and the responses that each follow it, by their lengths.
    #[must_use]
    pub fn branching(prefix: usize, branches: &[usize], sliding_window: Option<usize>) -> Self {
        Self::packed([(prefix, branches)], sliding_window)
    }

    /// Several prefixes, each followed by its responses, by their lengths.
    #[must_use]
    pub fn packed<B: AsRef<[usize]>>(
        trees: impl IntoIterator<Item = (usize, B)>,
        sliding_window: Option<usize>,
    ) -> Self {
        let mut end = 0;
        let mut segment = |len: usize| {
            let start = end;
            end += len;
            Segment { start, len }
        };
        let trees = trees
            .into_iter()
            .map(|(prefix, branches)| Tree {
                prefix: segment(prefix),
                branches: branches.as_ref().iter().map(|len| segment(*len)).collect(),
            })
            .collect();
        Self { past: 0, trees, sliding_window }
    }

    /// The number of tokens.
    #[must_use]
    pub fn tokens(&self) -> usize {
        let segments = self.trees.iter().flat_map(|tree| std::iter::once(&tree.prefix).chain(&tree.branches));
        segments.map(|segment| segment.len).sum()
    }

    /// The trees in the order of their tokens.
    #[must_use]
    pub fn trees(&self) -> &[Tree] {
        &self.trees
    }

    /// How many tokens back a token attends, itself included.
    #[must_use]
    pub const fn sliding_window(&self) -> Option<usize> {
        self.sliding_window
    }

    /// The tokens in order, in runs that attend to the same context.
    #[must_use]
    pub fn spans(&self) -> Vec<Span> {
        let past = self.past;
        let span = |segment: &Segment, position: usize, context: Range<usize>| Span {
            start: segment.start,
            len: segment.len,
            position,
            context,
            context_position: 0,
            first_key: past + segment.start,
        };
        let mut spans = Vec::new();
        for Tree { prefix, branches } in &self.trees {
            spans.push(span(prefix, past, 0..past));
            // Only a single tree has a past, and its context begins with the first key.
            let context = prefix.start..past + prefix.start + prefix.len;
            spans.extend(branches.iter().map(|branch| span(branch, past + prefix.len, context.clone())));
        }
        spans.retain(|span| span.len > 0);
        spans
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trees_follow_each_other_and_each_begins_at_position_zero() {
        let layout = Layout::packed([(2, vec![2, 0]), (3, vec![]), (1, vec![1])], None);
        assert_eq!(layout.tokens(), 9);
        assert_eq!(layout.trees()[0].branches[1], Segment { start: 4, len: 0 });
        let span = |start, len, position, context, first_key| Span {
            start,
            len,
            position,
            context,
            context_position: 0,
            first_key,
        };
        let expected = [
            span(0, 2, 0, 0..0, 0),
            span(2, 2, 2, 0..2, 2),
            span(4, 3, 0, 0..0, 4),
            span(7, 1, 0, 0..0, 7),
            span(8, 1, 1, 7..8, 8),
        ];
        assert_eq!(layout.spans(), expected);
    }

    #[test]
    fn a_continuation_attends_to_the_whole_cache() {
        let [span] = &Layout::continuation(5, 2, None).spans()[..] else { panic!("one span") };
        assert_eq!((span.start, span.position, span.first_key), (0, 5, 5));
        assert_eq!((span.context.clone(), span.context_position), (0..5, 0));
    }

    /// One row for each query, with an x for each key that it attends to.
    fn picture(layout: &Layout, keys: usize) -> Vec<String> {
        let spans = layout.spans();
        let rows = spans.iter().flat_map(|span| {
            (0..span.len).map(|row| span.keys_of(row, layout.sliding_window())).collect::<Vec<_>>()
        });
        rows.map(|attended| (0..keys).map(|key| if attended.contains(&key) { 'x' } else { '.' }).collect())
            .collect()
    }

    #[test]
    fn branches_follow_the_prefix_and_do_not_attend_to_each_other() {
        let layout = Layout::branching(2, &[2, 1], None);
        assert_eq!(picture(&layout, 5), ["x....", "xx...", "xxx..", "xxxx.", "xx..x"]);
    }

    #[test]
    fn trees_do_not_attend_to_each_other() {
        let layout = Layout::packed([(1, vec![1]), (2, vec![1, 1])], None);
        assert_eq!(picture(&layout, 6), ["x.....", "xx....", "..x...", "..xx..", "..xxx.", "..xx.x"]);
    }

    #[test]
    fn a_window_counts_positions_of_the_branch() {
        let layout = Layout::branching(2, &[2, 1], Some(2));
        assert_eq!(picture(&layout, 5), ["x....", "xx...", ".xx..", "..xx.", ".x..x"]);
        let layout = Layout::packed([(1, vec![]), (2, vec![1, 2])], Some(2));
        let expected = ["x.....", ".x....", ".xx...", "..xx..", "..x.x.", "....xx"];
        assert_eq!(picture(&layout, 6), expected);
        assert_eq!(picture(&Layout::continuation(2, 2, Some(3)), 4), ["xxx.", ".xxx"]);
        assert_eq!(picture(&Layout::continuation(3, 1, Some(2)), 4), ["..xx"]);
        assert_eq!(picture(&Layout::continuation(5, 1, None), 6), ["xxxxxx"]);
    }
}
