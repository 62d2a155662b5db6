//! Reading the next items on another thread while one is computed.

use std::sync::mpsc::{Receiver, sync_channel};
use std::thread::Scope;

use crate::error::Result;

/// The items of an iterator, in order, computed on a thread of their own ahead of the consumer.
pub struct Prefetcher<T> {
    items: Receiver<Result<T>>,
}

impl<T: Send> Prefetcher<T> {
    /// Computes `items`, at most `capacity` and the one in progress ahead of the consumer. The thread ends with the last
    /// item, with the first error, or when the prefetcher is dropped.
    pub fn spawn<'scope>(
        scope: &'scope Scope<'scope, '_>,
        capacity: usize,
        items: impl Iterator<Item = Result<T>> + Send + 'scope,
    ) -> Self
    where
        T: 'scope,
    {
        let (sender, receiver) = sync_channel(capacity);
        scope.spawn(move || {
            for item in items {
                let failed = item.is_err();
                if sender.send(item).is_err() || failed {
                    return;
                }
            }
        });
        Self { items: receiver }
    }
}

impl<T> Iterator for Prefetcher<T> {
    type Item = Result<T>;

    fn next(&mut self) -> Option<Self::Item> {
        self.items.recv().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Error;

    #[test]
    fn items_keep_their_order_and_an_error_comes_in_its_place_and_ends_them() {
        for capacity in [0, 1] {
            std::thread::scope(|scope| {
                let items = (0..5).map(|n| if n == 3 { Err(Error::Interrupted) } else { Ok(n) });
                let mut prefetched = Prefetcher::spawn(scope, capacity, items);
                let first: Vec<i32> = prefetched.by_ref().take(3).map(|n| n.expect("a number")).collect();
                assert_eq!(first, [0, 1, 2]);
                assert!(matches!(prefetched.next(), Some(Err(Error::Interrupted))));
                assert!(prefetched.next().is_none());
            });
        }
    }

    #[test]
    fn dropping_the_prefetcher_ends_its_thread() {
        std::thread::scope(|scope| {
            let mut prefetched = Prefetcher::spawn(scope, 0, (0..).map(Ok));
            assert_eq!(prefetched.next().expect("endless").expect("a number"), 0);
        });
    }
}
