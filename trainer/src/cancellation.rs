//! Cancellation by SIGTERM or SIGINT, honoured at the next point where no finished work is lost.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::error::{Error, Result};

/// Tells long computations to stop, because the process is to end. Clones share one flag, which is never reset.
#[derive(Debug, Clone, Default)]
pub struct CancellationToken {
    cancelled: Arc<AtomicBool>,
    parent: Option<Box<CancellationToken>>,
}

impl CancellationToken {
    /// A token that SIGTERM and SIGINT cancel.
    ///
    /// # Errors
    /// [`Error::Storage`] when the signal handlers cannot be installed.
    pub fn on_signals() -> Result<Self> {
        let token = Self::default();
        for signal in [signal_hook::consts::SIGTERM, signal_hook::consts::SIGINT] {
            signal_hook::flag::register(signal, Arc::clone(&token.cancelled))
                .map_err(Error::storage(Path::new("signal handler")))?;
        }
        Ok(token)
    }

    /// A token that is cancelled with this one, or by itself.
    #[must_use]
    pub fn child(&self) -> Self {
        Self { cancelled: Arc::default(), parent: Some(Box::new(self.clone())) }
    }

    pub fn cancel(&self) {
        self.cancelled.store(true, Ordering::Relaxed);
    }

    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Relaxed)
            || self.parent.as_ref().is_some_and(|parent| parent.is_cancelled())
    }

    /// # Errors
    /// [`Error::Interrupted`] once the token is cancelled.
    pub fn check(&self) -> Result<()> {
        if self.is_cancelled() { Err(Error::Interrupted) } else { Ok(()) }
    }
}
