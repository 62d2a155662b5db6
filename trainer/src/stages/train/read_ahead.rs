//! Images of the next pack are read while one is computed.

use std::sync::mpsc::{Receiver, sync_channel};
use std::thread::Scope;

use crate::error::Result;

/// What a thread of its own reads, in order, one piece ahead of what is taken.
pub(super) struct ReadAhead<T> {
    pieces: Receiver<Result<T>>,
}

impl<T: Send> ReadAhead<T> {
    /// Reads `pieces`, as far as they are taken. The thread ends with the first error, or when this is dropped.
    pub(super) fn start<'scope>(
        scope: &'scope Scope<'scope, '_>,
        pieces: impl Iterator<Item = Result<T>> + Send + 'scope,
    ) -> Self
    where
        T: 'scope,
    {
        // Holds none: the reader waits with its piece in hand until the one before was taken.
        let (sender, receiver) = sync_channel(0);
        scope.spawn(move || {
            for piece in pieces {
                let failed = piece.is_err();
                if sender.send(piece).is_err() || failed {
                    return;
                }
            }
        });
        Self { pieces: receiver }
    }

    /// The next piece.
    ///
    /// # Errors
    /// Those of reading it.
    pub(super) fn take(&self) -> Result<T> {
        self.pieces.recv().map_err(|_| candle_core::Error::Msg("more was taken than is to be read".into()))?
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Error;

    #[test]
    fn pieces_come_in_order_and_an_error_in_its_place() {
        std::thread::scope(|scope| {
            let pieces = (0..5).map(|n| if n == 3 { Err(Error::Interrupted) } else { Ok(n) });
            let ahead = ReadAhead::start(scope, pieces);
            assert_eq!((0..3).map(|_| ahead.take().expect("read")).collect::<Vec<_>>(), [0, 1, 2]);
            assert!(matches!(ahead.take(), Err(Error::Interrupted)));
            assert!(ahead.take().is_err());
        });
    }

    #[test]
    fn a_reader_that_is_no_longer_asked_ends() {
        std::thread::scope(|scope| {
            let ahead = ReadAhead::start(scope, (0..).map(Ok));
            assert_eq!(ahead.take().expect("read"), 0);
        });
    }
}
