//! Changes that come together are looked at together.
//!
//! The controller's own debounce begins anew with every change: a run whose pods or labels change more often than that
//! would not be looked at before they stop.

use std::collections::{HashSet, VecDeque};
use std::hash::Hash;
use std::time::Duration;

use futures::{Stream, StreamExt};
use tokio::time::Instant;

/// Passes each item on `window` after it came; what is the same and comes in between is part of it.
pub fn coalesce<T>(items: impl Stream<Item = T>, window: Duration) -> impl Stream<Item = T>
where
    T: Clone + Eq + Hash,
{
    let waiting = Waiting { items: Box::pin(items.fuse()), due: VecDeque::new(), known: HashSet::new() };
    futures::stream::unfold(waiting, move |mut waiting| async move {
        loop {
            let first = waiting.due.front().map(|(due, _)| *due);
            tokio::select! {
                biased;
                () = tokio::time::sleep_until(first.unwrap_or_else(Instant::now)), if first.is_some() => {
                    let (_, item) = waiting.due.pop_front()?;
                    waiting.known.remove(&item);
                    return Some((item, waiting));
                }
                item = waiting.items.next(), if !waiting.items.is_done() => {
                    if let Some(item) = item && waiting.known.insert(item.clone()) {
                        waiting.due.push_back((Instant::now() + window, item));
                    }
                }
                else => return None,
            }
        }
    })
}

struct Waiting<T, S: Stream<Item = T>> {
    items: std::pin::Pin<Box<futures::stream::Fuse<S>>>,
    /// In the order in which they came, and so in which they are due.
    due: VecDeque<(Instant, T)>,
    known: HashSet<T>,
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOW: Duration = Duration::from_millis(20);

    #[tokio::test]
    async fn what_comes_together_is_one_and_nothing_is_lost_at_the_end() {
        let together = futures::stream::iter(["a", "b", "a", "a", "b"]);
        assert_eq!(coalesce(together, WINDOW).collect::<Vec<_>>().await, ["a", "b"]);
    }

    #[tokio::test]
    async fn what_never_stops_changing_is_looked_at_all_the_same() {
        let begun = Instant::now();
        let busy = futures::stream::unfold((), |()| async {
            tokio::time::sleep(WINDOW / 8).await;
            Some(("a", ()))
        });
        let seen: Vec<_> = coalesce(busy, WINDOW).take(3).collect().await;
        assert_eq!(seen, ["a"; 3]);
        assert!(begun.elapsed() >= 3 * WINDOW, "but not every time");
    }
}
