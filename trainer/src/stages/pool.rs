//! Items on several threads, results on one.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;

use crate::error::Result;

/// How many items are worked on at once: as many as there are cores. No result depends on it.
#[must_use]
pub(super) fn workers() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

/// Applies `work` to every item on `workers` threads and hands each result to `take` on this one, as they come.
/// The first error ends it; items in work are finished or dropped, results before it were taken.
pub(super) fn for_each<T: Sync, R: Send>(
    items: &[T],
    workers: usize,
    work: impl Fn(&T) -> Result<R> + Sync,
    mut take: impl FnMut(&T, R) -> Result<()>,
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
        // Received to the end, so that no thread waits for a receiver that is gone.
        for (index, result) in results {
            let taken = match result {
                Ok(value) if first_error.is_none() => take(&items[index], value),
                Ok(_) => Ok(()),
                Err(error) => Err(error),
            };
            if let Err(error) = taken {
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
    fn every_item_is_taken_once() {
        let items: Vec<u32> = (0..100).collect();
        let mut taken = Vec::new();
        for_each(
            &items,
            3,
            |n| Ok(n * 2),
            |n, twice| {
                taken.push((*n, twice));
                Ok(())
            },
        )
        .expect("no error");
        taken.sort_unstable();
        assert_eq!(taken, items.iter().map(|n| (*n, n * 2)).collect::<Vec<_>>());
    }

    #[test]
    fn the_first_error_ends_it_and_what_came_before_was_taken() {
        let items: Vec<u32> = (0..1000).collect();
        let mut taken = 0;
        let result = for_each(
            &items,
            2,
            |n| if *n == 10 { Err(Error::Interrupted) } else { Ok(()) },
            |_, ()| {
                taken += 1;
                Ok(())
            },
        );
        assert!(matches!(result, Err(Error::Interrupted)));
        assert!((9..990).contains(&taken), "{taken}");
    }
}
