//! The attention mask: runs of queries, and the ranges of keys that each of them sees.

use std::ops::Range;

use super::packing::KEY_BLOCK;

/// Consecutive queries and the keys that they see, which is all that attention needs to know of a sequence.
///
/// Keys are indexed over the cached tokens first and those of the pass after them. Where there is a sliding
/// window, a query sees only those of these keys whose position is less than a window before its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Span {
    /// The index of the first query among the tokens of the pass.
    pub start: usize,
    /// The number of queries.
    pub len: usize,
    /// The position of the first query; the others follow it.
    pub position: usize,
    /// The keys before the span, which all of its queries see.
    pub context: Range<usize>,
    /// The position of the first key of the context; the others follow it.
    pub context_position: usize,
    /// The key of the first query: query `i` also sees the keys `first_key..=first_key + i`.
    pub first_key: usize,
}

/// The columns `start..end` of a block of keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct VisibleColumns {
    pub(super) start: usize,
    pub(super) end: usize,
}

/// A range of keys that a run of queries sees: `start..end` for the first query and, where it is causal, one
/// key more for each query after it.
#[derive(Debug, Clone, Copy)]
pub(super) struct KeyRange {
    start: usize,
    end: usize,
    causal: bool,
    /// The first key within the sliding window of the first query; it moves on by one with every query.
    window_start: Option<isize>,
}

impl KeyRange {
    /// `keys`, of which every query sees all within its window; the first query is `distance` positions after
    /// the first key.
    pub(super) fn fixed(keys: Range<usize>, distance: usize, window: Option<usize>) -> Self {
        let window_start = window.map(|w| keys.start as isize + distance as isize + 1 - w as isize);
        Self { start: keys.start, end: keys.end, causal: false, window_start }
    }

    /// The keys of the queries themselves, the first of which is `first`: query i sees `first..=first + i`.
    pub(super) fn causal(first: usize, window: Option<usize>) -> Self {
        let window_start = window.map(|w| first as isize + 1 - w as isize);
        Self { start: first, end: first + 1, causal: true, window_start }
    }

    /// All keys from 0 on, of which the first query's own is `first`.
    pub(super) fn causal_from_zero(first: usize, window: Option<usize>) -> Self {
        Self { start: 0, ..Self::causal(first, window) }
    }

    /// The range for the queries from index `query` on.
    pub(super) fn starting_at_query(self, query: usize) -> Self {
        Self {
            end: if self.causal { self.end + query } else { self.end },
            window_start: self.window_start.map(|start| start + query as isize),
            ..self
        }
    }

    /// The keys that query `row` sees.
    #[inline(always)]
    pub(super) fn visible_to(&self, row: usize) -> Range<usize> {
        let end = if self.causal { self.end + row } else { self.end };
        let start = match self.window_start {
            Some(start) => self.start.max((start + row as isize).max(0) as usize),
            None => self.start,
        };
        start..end
    }

    /// The smallest range that holds every key that any of `rows` queries sees.
    pub(super) fn bounds(ranges: &[Self], rows: usize) -> Range<usize> {
        let start = ranges.iter().map(|range| range.visible_to(0).start).min();
        let end = ranges.iter().map(|range| range.visible_to(rows.max(1) - 1).end).max();
        start.unwrap_or(0)..end.unwrap_or(0)
    }

    /// The blocks that hold a key which any of `rows` queries sees.
    pub(super) fn blocks(&self, rows: usize) -> Range<usize> {
        let (first, last) = (self.visible_to(0), self.visible_to(rows.max(1) - 1));
        if first.start >= last.end { 0..0 } else { first.start / KEY_BLOCK..last.end.div_ceil(KEY_BLOCK) }
    }

    /// The columns of `block` that query `row` sees.
    #[inline(always)]
    pub(super) fn visible_columns(&self, block: usize, row: usize) -> VisibleColumns {
        let keys = self.visible_to(row);
        let column = |key: usize| key.saturating_sub(block * KEY_BLOCK).min(KEY_BLOCK);
        VisibleColumns { start: column(keys.start), end: column(keys.end) }
    }
}

impl Span {
    /// The keys that the queries from index `query` on see.
    pub(super) fn key_ranges(
        &self,
        query: usize,
        window: Option<usize>,
    ) -> impl Iterator<Item = KeyRange> + use<> {
        let distance = self.position.saturating_sub(self.context_position);
        let context =
            (!self.context.is_empty()).then(|| KeyRange::fixed(self.context.clone(), distance, window));
        let own = KeyRange::causal(self.first_key, window);
        context.into_iter().chain([own]).map(move |range| range.starting_at_query(query))
    }
}

#[cfg(test)]
impl Span {
    /// The keys that query `row` of the span sees.
    pub(crate) fn keys_of(&self, row: usize, window: Option<usize>) -> Vec<usize> {
        self.key_ranges(row, window).flat_map(|range| range.visible_to(0)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn visible(range: &KeyRange, row: usize) -> Vec<usize> {
        range
            .blocks(8)
            .flat_map(|block| {
                let VisibleColumns { start, end } = range.visible_columns(block, row);
                (start..end).map(move |column| block * KEY_BLOCK + column)
            })
            .collect()
    }

    #[test]
    fn a_query_sees_the_context_and_its_own_run_up_to_itself() {
        let span =
            Span { start: 70, len: 9, context: 60..66, context_position: 0, first_key: 70, position: 6 };
        let ranges: Vec<KeyRange> = span.key_ranges(1, None).collect();
        assert_eq!(visible(&ranges[0], 0), (60..66).collect::<Vec<_>>());
        assert_eq!(visible(&ranges[1], 2), [70, 71, 72, 73]);
        // A window of four: the query itself and three keys before it, two of which are in the context for
        // the second query.
        let ranges: Vec<KeyRange> = span.key_ranges(1, Some(4)).collect();
        assert_eq!(visible(&ranges[0], 0), [64, 65]);
        assert_eq!(visible(&ranges[0], 2), Vec::<usize>::new());
        assert_eq!(visible(&ranges[1], 3), [71, 72, 73, 74]);
    }
}
