//! The signal to shut down.

use tokio::sync::watch;

/// Waits until `stop` carries the signal to shut down.
pub async fn stopped(stop: &mut watch::Receiver<bool>) {
    let _ = stop.wait_for(|stop| *stop).await;
}
