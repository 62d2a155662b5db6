//! Combines changes that arrive within a short time.
//!
//! The debounce of kube's controller restarts with every change, so that a run whose pods change more often than that
//! would not be reconciled until they stop.

use std::collections::{HashSet, VecDeque};
use std::hash::Hash;
use std::time::Duration;

use futures::{Stream, StreamExt};
use tokio::time::Instant;

/// Yields each item `window` after it arrived. Equal items that arrive in between are dropped.
pub fn coalesce<T>(items: impl Stream<Item = T>, window: Duration) -> impl Stream<Item = T>
where
    T: Clone + Eq + Hash,
{
    let pending = Pending { items: Box::pin(items.fuse()), due: VecDeque::new(), known: HashSet::new() };
    futures::stream::unfold(pending, move |mut pending| async move {
        loop {
            let first = pending.due.front().map(|(due, _)| *due);
            tokio::select! {
                biased;
                () = tokio::time::sleep_until(first.unwrap_or_else(Instant::now)), if first.is_some() => {
                    let (_, item) = pending.due.pop_front()?;
                    pending.known.remove(&item);
                    return Some((item, pending));
                }
                item = pending.items.next(), if !pending.items.is_done() => {
                    if let Some(item) = item && pending.known.insert(item.clone()) {
                        pending.due.push_back((Instant::now() + window, item));
                    }
                }
                else => return None,
            }
        }
    })
}

struct Pending<T, S: Stream<Item = T>> {
    items: std::pin::Pin<Box<futures::stream::Fuse<S>>>,
    /// In the order of arrival, which is also the order in which they are due.
    due: VecDeque<(Instant, T)>,
    known: HashSet<T>,
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOW: Duration = Duration::from_millis(20);

    #[tokio::test]
    async fn equal_items_are_combined_and_none_is_lost_at_the_end() {
        let together = futures::stream::iter(["a", "b", "a", "a", "b"]);
        assert_eq!(coalesce(together, WINDOW).collect::<Vec<_>>().await, ["a", "b"]);
    }

    #[tokio::test]
    async fn an_item_that_never_stops_arriving_is_still_yielded() {
        let start = Instant::now();
        let busy = futures::stream::unfold((), |()| async {
            tokio::time::sleep(WINDOW / 8).await;
            Some(("a", ()))
        });
        let yielded: Vec<_> = coalesce(busy, WINDOW).take(3).collect().await;
        assert_eq!(yielded, ["a"; 3]);
        assert!(start.elapsed() >= 3 * WINDOW, "each waits for its window");
    }
}
