//! The log of one pod, line by line, to its end.

use std::time::Duration;

use futures::AsyncBufReadExt as _;
use futures::io::AsyncBufRead;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;
use kube::Api;
use kube::api::LogParams;

use super::super::{Cluster, children, refused};
use super::patiently;
use crate::error::{Failure, Result};
use crate::say;

/// A connection that breaks is made anew this often before the pod is given up.
const TRIES: u32 = 10;
const PAUSE: Duration = Duration::from_secs(1);

/// The log of a pod.
pub(super) struct Stream {
    pods: Api<Pod>,
    pod: String,
    label: Option<String>,
    /// The time of the last line that was printed, by which a new connection goes on.
    last: Option<Timestamp>,
}

impl Stream {
    pub(super) fn new(cluster: &Cluster, pod: &str, label: Option<String>) -> Self {
        Self { pods: cluster.api(), pod: pod.to_owned(), label, last: None }
    }

    /// Prints what there is.
    pub(super) async fn print_all(mut self) -> Result<()> {
        let lines = self.open(false).await.map_err(refused)?;
        self.print(lines).await.map(drop)
    }

    /// Prints until the pod has ended. A log that the kubelet or the connection cuts off is taken up again.
    pub(super) async fn follow(mut self) -> Result<()> {
        let mut failed = 0;
        loop {
            // Looked at before the log is: what it says after this look is in the log.
            let over = patiently(|| self.is_over()).await?;
            let before = self.last;
            let broken = match self.open(!over).await {
                Ok(lines) => self.print(lines).await?.map(|error| error.to_string()),
                // Gone with its log, for example by a suspension.
                Err(kube::Error::Api(status)) if status.code == 404 => return Ok(()),
                Err(error) => Some(refused(error).message.unwrap_or_default()),
            };
            if over && broken.is_none() {
                return Ok(());
            }
            failed = if broken.is_none() || self.last > before { 0 } else { failed + 1 };
            if let Some(why) = broken.filter(|_| failed > TRIES) {
                return Err(Failure::unavailable(format!("the log of pod {} broke off: {why}", self.pod)));
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn is_over(&self) -> Result<bool> {
        let pod = self.pods.get_opt(&self.pod).await.map_err(refused)?;
        Ok(pod.is_none_or(|pod| children::has_ended(&pod)))
    }

    async fn open(&self, follow: bool) -> kube::Result<impl AsyncBufRead + Unpin + use<>> {
        let parameters = LogParams {
            container: Some(children::TRAINER.into()),
            follow,
            since_time: self.last,
            timestamps: true,
            ..LogParams::default()
        };
        Ok(Box::pin(self.pods.log_stream(&self.pod, &parameters).await?))
    }

    /// Prints to the end, or to where the connection breaks.
    async fn print(&mut self, mut lines: impl AsyncBufRead + Unpin) -> Result<Option<std::io::Error>> {
        let resumed = self.last;
        let mut line = Vec::new();
        loop {
            line.clear();
            match lines.read_until(b'\n', &mut line).await {
                Ok(0) => return Ok(None),
                Ok(_) => {}
                Err(error) => return Ok(Some(error)),
            }
            // A log is what a program wrote, and need not be UTF-8.
            let text = String::from_utf8_lossy(&line);
            let (time, text) = split(text.trim_end_matches('\n'));
            // sinceTime is of whole seconds: what was printed of that second comes again.
            if time.is_some() && time <= resumed {
                continue;
            }
            self.last = time.or(self.last);
            match &self.label {
                Some(label) => say::print(format_args!("[{label}] {text}"))?,
                None => say::print(text)?,
            }
        }
    }
}

/// The time of a line, and the line.
fn split(line: &str) -> (Option<Timestamp>, &str) {
    match line.split_once(' ').map(|(time, text)| (time.parse(), text)) {
        Some((Ok(time), text)) => (Some(time), text),
        // An empty line, or one that the kubelet wrote itself.
        _ => line.parse().map_or((None, line), |time| (Some(time), "")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_split_from_its_time() {
        let time: Timestamp = "2026-01-01T00:00:00.123456789Z".parse().expect("a time");
        assert_eq!(split("2026-01-01T00:00:00.123456789Z loss 0.6 "), (Some(time), "loss 0.6 "));
        assert_eq!(split("2026-01-01T00:00:00.123456789Z"), (Some(time), ""));
        assert_eq!(split("unable to retrieve container logs"), (None, "unable to retrieve container logs"));
    }
}
