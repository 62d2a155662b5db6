//! The log of one pod, line by line, to its end.

use std::collections::BTreeSet;

use futures::AsyncBufReadExt as _;
use futures::io::AsyncBufRead;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;
use kube::Api;
use kube::api::LogParams;

use crate::cluster::client::Cluster;
use crate::cluster::retry::{POLL_INTERVAL, retry};
use crate::cluster::{api_error, owned_jobs};
use crate::error::{Failure, Result};
use crate::stdio;

/// How many times in a row a connection may break before anything new was read.
const MAX_BROKEN_CONNECTIONS: u32 = 10;

pub(super) struct LogStream {
    pods: Api<Pod>,
    pod: String,
    /// Printed before each line.
    label: Option<String>,
    printed: PrintedLines,
}

/// The lines printed last, from which a new connection continues. A request can only ask for lines since a given second,
/// and lines are not ordered by time, because the container runtime timestamps stdout and stderr independently.
#[derive(Debug, Default)]
struct PrintedLines {
    last: Option<Timestamp>,
    /// The lines that the next connection returns again.
    recent: BTreeSet<(Timestamp, String)>,
}

impl LogStream {
    pub(super) fn new(cluster: &Cluster, pod: &str, label: Option<String>) -> Self {
        Self { pods: cluster.api(), pod: pod.to_owned(), label, printed: PrintedLines::default() }
    }

    /// Prints the log as it is now.
    pub(super) async fn print_all(mut self) -> Result<()> {
        let lines = self.open(false).await.map_err(api_error::failure)?;
        self.print(lines).await.map(drop)
    }

    /// Prints the log until the pod has ended. If the kubelet or the connection breaks off, the log is opened again.
    pub(super) async fn follow(mut self) -> Result<()> {
        let mut broken_connections = 0;
        loop {
            // Read before the log is opened: once the pod has ended, the log is complete.
            let has_ended = retry(|| self.has_ended()).await?;
            let last_before = self.printed.last;
            let error = match self.open(!has_ended).await {
                Ok(lines) => {
                    self.print(lines).await?.map(|error| format!("{error}. Run the same command again."))
                }
                // The pod was deleted together with its log, for example when the run was suspended.
                Err(kube::Error::Api(status)) if status.code == 404 => return Ok(()),
                Err(error) => Some(api_error::failure(error).message.unwrap_or_default()),
            };
            if has_ended && error.is_none() {
                return Ok(());
            }
            let has_progressed = error.is_none() || self.printed.last > last_before;
            broken_connections = if has_progressed { 0 } else { broken_connections + 1 };
            if let Some(error) = error.filter(|_| broken_connections > MAX_BROKEN_CONNECTIONS) {
                return Err(Failure::unavailable(format!(
                    "cannot follow the log of pod {}: {error}",
                    self.pod
                )));
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }

    async fn has_ended(&self) -> Result<bool> {
        let pod = self.pods.get_opt(&self.pod).await.map_err(api_error::failure)?;
        Ok(pod.is_none_or(|pod| owned_jobs::has_ended(&pod)))
    }

    async fn open(&self, follow: bool) -> kube::Result<impl AsyncBufRead + Unpin + use<>> {
        let parameters = LogParams {
            container: Some(owned_jobs::TRAINER_CONTAINER.into()),
            follow,
            since_time: self.printed.since(),
            timestamps: true,
            ..LogParams::default()
        };
        Ok(Box::pin(self.pods.log_stream(&self.pod, &parameters).await?))
    }

    /// Prints all lines; returns the error if the connection breaks.
    async fn print(&mut self, mut lines: impl AsyncBufRead + Unpin) -> Result<Option<std::io::Error>> {
        let (since, resumed_at) = (self.printed.since(), self.printed.last);
        let mut line = Vec::new();
        loop {
            line.clear();
            match lines.read_until(b'\n', &mut line).await {
                Ok(0) => return Ok(None),
                Ok(_) => {}
                Err(error) => return Ok(Some(error)),
            }
            // A program can write anything to its log, also what is not UTF-8.
            let text = String::from_utf8_lossy(&line);
            let (time, text) = split_timestamp(text.trim_end_matches('\n'));
            if let Some(time) = time {
                let is_new = self.printed.insert(time, text);
                if Some(time) < since || (!is_new && Some(time) <= resumed_at) {
                    continue;
                }
            }
            match &self.label {
                Some(label) => stdio::print(format_args!("[{label}] {text}"))?,
                None => stdio::print(text)?,
            }
        }
    }
}

impl PrintedLines {
    /// The second before the one of the last line.
    fn since(&self) -> Option<Timestamp> {
        Timestamp::from_second(self.last?.as_second() - 1).ok()
    }

    /// Adds a line; returns whether it is not among the recent ones.
    fn insert(&mut self, time: Timestamp, text: &str) -> bool {
        let is_new = self.recent.insert((time, text.to_owned()));
        self.last = self.last.max(Some(time));
        if let Some(since) = self.since()
            && self.recent.first().is_some_and(|(first, _)| *first < since)
        {
            self.recent = self.recent.split_off(&(since, String::new()));
        }
        is_new
    }
}

/// Splits the timestamp from a line.
fn split_timestamp(line: &str) -> (Option<Timestamp>, &str) {
    match line.split_once(' ').map(|(time, text)| (time.parse(), text)) {
        Some((Ok(time), text)) => (Some(time), text),
        // The line is empty, or an error message of the kubelet without a timestamp.
        _ => line.parse().map_or((None, line), |time| (Some(time), "")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_returned_again_are_recognized_in_any_order_of_times() {
        let at = |millis: i64| Timestamp::from_millisecond(1_000_000 + millis).expect("a time");
        let mut printed = PrintedLines::default();
        assert_eq!(printed.since(), None);
        assert!(printed.insert(at(5), "from stderr") && printed.insert(at(4), "from stdout"));
        assert_eq!(printed.since(), Some(at(-1000)));
        assert!(!printed.insert(at(5), "from stderr") && !printed.insert(at(4), "from stdout"));
        assert!(printed.insert(at(5), "another one of that time"));
        assert!(
            printed.insert(at(1999), "later") && !printed.insert(at(4), "from stdout"),
            "the next request returns it again"
        );
        assert!(printed.insert(at(2000), "later"));
        assert_eq!(printed.recent.len(), 2, "only lines that can be returned again are kept");
    }

    #[test]
    fn the_timestamp_is_split_from_a_line() {
        let time: Timestamp = "2026-01-01T00:00:00.123456789Z".parse().expect("a time");
        let split = split_timestamp("2026-01-01T00:00:00.123456789Z loss 0.6 ");
        assert_eq!(split, (Some(time), "loss 0.6 "));
        assert_eq!(split_timestamp("2026-01-01T00:00:00.123456789Z"), (Some(time), ""));
        let error = "unable to retrieve container logs";
        assert_eq!(split_timestamp(error), (None, error));
    }
}
