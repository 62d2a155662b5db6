//! Who looks at whom: runs of queries, and the runs of keys that each sees.

use std::ops::Range;

use super::block::{BLOCK, Seen};

/// Query tokens in a row and the keys that they see, which is all that attention needs to know of a sequence.
///
/// Keys are indexed over the cached tokens and then those of the pass. Of what is listed here a query sees only the
/// keys within the sliding window, where there is one: those whose position is less than a window before its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Span {
    /// The first query's place among the tokens of the pass.
    pub start: usize,
    /// How many queries.
    pub len: usize,
    /// The first query's position; the others follow it.
    pub position: usize,
    /// The keys before the span, which all of its queries see.
    pub context: Range<usize>,
    /// The first context key's position; the others follow it.
    pub context_position: usize,
    /// The key of the first query: query `i` also sees the keys `first_key..=first_key + i`.
    pub first_key: usize,
}

/// A part of what a run of queries sees: keys `start..end` for the first, and one more for each one after it where the
/// part grows.
#[derive(Debug, Clone, Copy)]
pub(super) struct Part {
    start: usize,
    end: usize,
    grows: bool,
    /// The first key within the sliding window of the first query; it moves on with every query.
    window_start: Option<isize>,
}

impl Part {
    /// The part `keys` of which query i sees all within its window: `distance` positions lie between the first key and the
    /// first query.
    pub(super) fn whole(keys: Range<usize>, distance: usize, window: Option<usize>) -> Self {
        let window_start = window.map(|w| keys.start as isize + distance as isize + 1 - w as isize);
        Self { start: keys.start, end: keys.end, grows: false, window_start }
    }

    /// The run's own keys from `first` on, of which query i sees 0..=i.
    pub(super) fn own(first: usize, window: Option<usize>) -> Self {
        let window_start = window.map(|w| first as isize + 1 - w as isize);
        Self { start: first, end: first + 1, grows: true, window_start }
    }

    /// Keys from 0 on, of which the first query is number `first`.
    pub(super) fn continued(first: usize, window: Option<usize>) -> Self {
        Self { start: 0, ..Self::own(first, window) }
    }

    /// As seen from the query `rows` further on.
    pub(super) fn later(self, rows: usize) -> Self {
        Self {
            end: if self.grows { self.end + rows } else { self.end },
            window_start: self.window_start.map(|start| start + rows as isize),
            ..self
        }
    }

    /// The keys that query `row` sees.
    #[inline(always)]
    pub(super) fn seen_by(&self, row: usize) -> Range<usize> {
        let end = if self.grows { self.end + row } else { self.end };
        let start = match self.window_start {
            Some(start) => self.start.max((start + row as isize).max(0) as usize),
            None => self.start,
        };
        start..end
    }

    /// The first key that any of `rows` queries sees of the parts, and the end of the last.
    pub(super) fn bounds(parts: &[Self], rows: usize) -> (usize, usize) {
        let ends = |part: &Self| (part.seen_by(0).start, part.seen_by(rows.max(1) - 1).end);
        parts.iter().map(ends).fold((usize::MAX, 0), |(first, end), of| (first.min(of.0), end.max(of.1)))
    }

    /// The blocks that any of `rows` queries sees a key of.
    pub(super) fn blocks(&self, rows: usize) -> Range<usize> {
        let (first, last) = (self.seen_by(0), self.seen_by(rows.max(1) - 1));
        if first.start >= last.end { 0..0 } else { first.start / BLOCK..last.end.div_ceil(BLOCK) }
    }

    /// The columns of `block` that query `row` sees.
    #[inline(always)]
    pub(super) fn in_block(&self, block: usize, row: usize) -> Seen {
        let keys = self.seen_by(row);
        let within = |key: usize| key.saturating_sub(block * BLOCK).min(BLOCK);
        Seen { from: within(keys.start), to: within(keys.end) }
    }
}

impl Span {
    /// What the run's queries from `row` on see.
    pub(super) fn parts(&self, row: usize, window: Option<usize>) -> impl Iterator<Item = Part> + use<> {
        let distance = self.position.saturating_sub(self.context_position);
        let context = (!self.context.is_empty()).then(|| Part::whole(self.context.clone(), distance, window));
        context.into_iter().chain([Part::own(self.first_key, window)]).map(move |part| part.later(row))
    }
}

#[cfg(test)]
impl Span {
    /// The keys that query `row` of the span sees.
    pub(crate) fn keys_of(&self, row: usize, window: Option<usize>) -> Vec<usize> {
        self.parts(row, window).flat_map(|part| part.seen_by(0)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(part: &Part, row: usize) -> Vec<usize> {
        part.blocks(8)
            .flat_map(|block| {
                let Seen { from, to } = part.in_block(block, row);
                (from..to).map(move |column| block * BLOCK + column)
            })
            .collect()
    }

    #[test]
    fn a_run_sees_its_context_and_what_stands_before_in_itself() {
        let span =
            Span { start: 70, len: 9, context: 60..66, context_position: 0, first_key: 70, position: 6 };
        let parts: Vec<Part> = span.parts(1, None).collect();
        assert_eq!(seen(&parts[0], 0), (60..66).collect::<Vec<_>>());
        assert_eq!(seen(&parts[1], 2), [70, 71, 72, 73]);
        // Of four positions: its own and three before, two of which are of the context for the second query.
        let parts: Vec<Part> = span.parts(1, Some(4)).collect();
        assert_eq!(seen(&parts[0], 0), [64, 65]);
        assert_eq!(seen(&parts[0], 2), Vec::<usize>::new());
        assert_eq!(seen(&parts[1], 3), [71, 72, 73, 74]);
    }
}
