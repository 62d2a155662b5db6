//! A parallel map whose results arrive on the calling thread.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;

use crate::error::Result;

/// As many threads as there are cores. No result depends on it.
pub(super) fn workers() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

/// Applies `work` to every item on `workers` threads and passes each result to `consume` on this one, in the order of
/// completion. The first error ends it; results that arrived before it were consumed.
pub(super) fn for_each<T: Sync, R: Send>(
    items: &[T],
    workers: usize,
    work: impl Fn(&T) -> Result<R> + Sync,
    mut consume: impl FnMut(&T, R) -> Result<()>,
) -> Result<()> {
    let next = AtomicUsize::new(0);
    let failed = Mutex::new(false);
    let (sender, results) = mpsc::sync_channel(workers);
    std::thread::scope(|scope| {
        for _ in 0..workers.min(items.len()) {
            let sender = sender.clone();
            let (next, failed, work) = (&next, &failed, &work);
            scope.spawn(move || {
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    let stopped = failed.lock().map_or(true, |failed| *failed);
                    let Some(item) = items.get(index).filter(|_| !stopped) else { return };
                    if sender.send((index, work(item))).is_err() {
                        return;
                    }
                }
            });
        }
        drop(sender);
        let mut first_error = None;
        // Drain the channel even after an error: a worker may be blocked on sending.
        for (index, result) in results {
            let consumed = match result {
                Ok(value) if first_error.is_none() => consume(&items[index], value),
                Ok(_) => Ok(()),
                Err(error) => Err(error),
            };
            if let Err(error) = consumed {
                first_error.get_or_insert(error);
                if let Ok(mut failed) = failed.lock() {
                    *failed = true;
                }
            }
        }
        first_error.map_or(Ok(()), Err)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Error;

    #[test]
    fn every_item_is_consumed_once() {
        let items: Vec<u32> = (0..100).collect();
        let mut consumed = Vec::new();
        for_each(
            &items,
            3,
            |n| Ok(n * 2),
            |n, twice| {
                consumed.push((*n, twice));
                Ok(())
            },
        )
        .expect("no error");
        consumed.sort_unstable();
        assert_eq!(consumed, items.iter().map(|n| (*n, n * 2)).collect::<Vec<_>>());
    }

    #[test]
    fn the_first_error_ends_it_and_earlier_results_are_consumed() {
        let items: Vec<u32> = (0..1000).collect();
        let mut consumed = 0;
        let result = for_each(
            &items,
            2,
            |n| if *n == 10 { Err(Error::Interrupted) } else { Ok(()) },
            |_, ()| {
                consumed += 1;
                Ok(())
            },
        );
        assert!(matches!(result, Err(Error::Interrupted)));
        assert!((9..990).contains(&consumed), "{consumed}");
    }
}
