//! The log of one pod, line by line, to its end.

use std::collections::BTreeSet;
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
    printed: Printed,
}

/// The last lines that were printed, by which a new connection goes on. It can ask for what came since a second, and lines
/// are not in the order of their times: stdout and stderr are written down by one each.
#[derive(Debug, Default)]
struct Printed {
    last: Option<Timestamp>,
    /// Those that are asked for again.
    lines: BTreeSet<(Timestamp, String)>,
}

impl Stream {
    pub(super) fn new(cluster: &Cluster, pod: &str, label: Option<String>) -> Self {
        Self { pods: cluster.api(), pod: pod.to_owned(), label, printed: Printed::default() }
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
            let before = self.printed.last;
            let broken = match self.open(!over).await {
                Ok(lines) => self.print(lines).await?.map(|error| error.to_string()),
                // Gone with its log, for example by a suspension.
                Err(kube::Error::Api(status)) if status.code == 404 => return Ok(()),
                Err(error) => Some(refused(error).message.unwrap_or_default()),
            };
            if over && broken.is_none() {
                return Ok(());
            }
            failed = if broken.is_none() || self.printed.last > before { 0 } else { failed + 1 };
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
            since_time: self.printed.since(),
            timestamps: true,
            ..LogParams::default()
        };
        Ok(Box::pin(self.pods.log_stream(&self.pod, &parameters).await?))
    }

    /// Prints to the end, or to where the connection breaks.
    async fn print(&mut self, mut lines: impl AsyncBufRead + Unpin) -> Result<Option<std::io::Error>> {
        let (since, resumed) = (self.printed.since(), self.printed.last);
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
            if let Some(time) = time {
                let is_new = self.printed.note(time, text);
                if Some(time) < since || (!is_new && Some(time) <= resumed) {
                    continue;
                }
            }
            match &self.label {
                Some(label) => say::print(format_args!("[{label}] {text}"))?,
                None => say::print(text)?,
            }
        }
    }
}

impl Printed {
    /// A second before that of the last line.
    fn since(&self) -> Option<Timestamp> {
        Timestamp::from_second(self.last?.as_second() - 1).ok()
    }

    /// Notes a line, and says whether it is none of the last that were noted.
    fn note(&mut self, time: Timestamp, text: &str) -> bool {
        let is_new = self.lines.insert((time, text.to_owned()));
        self.last = self.last.max(Some(time));
        if let Some(since) = self.since()
            && self.lines.first().is_some_and(|(first, _)| *first < since)
        {
            self.lines = self.lines.split_off(&(since, String::new()));
        }
        is_new
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
    fn what_comes_again_is_known_whatever_the_order_of_times() {
        let at = |millis: i64| Timestamp::from_millisecond(1_000_000 + millis).expect("a time");
        let mut printed = Printed::default();
        assert_eq!(printed.since(), None);
        assert!(printed.note(at(5), "of stderr") && printed.note(at(4), "of stdout"));
        assert_eq!(printed.since(), Some(at(-1000)));
        assert!(!printed.note(at(5), "of stderr") && !printed.note(at(4), "of stdout"));
        assert!(printed.note(at(5), "another of that time"));
        assert!(
            printed.note(at(1999), "later") && !printed.note(at(4), "of stdout"),
            "it is asked for again"
        );
        assert!(printed.note(at(2000), "later"));
        assert_eq!(printed.lines.len(), 2, "what is not asked for again is not kept");
    }

    #[test]
    fn a_line_is_split_from_its_time() {
        let time: Timestamp = "2026-01-01T00:00:00.123456789Z".parse().expect("a time");
        assert_eq!(split("2026-01-01T00:00:00.123456789Z loss 0.6 "), (Some(time), "loss 0.6 "));
        assert_eq!(split("2026-01-01T00:00:00.123456789Z"), (Some(time), ""));
        assert_eq!(split("unable to retrieve container logs"), (None, "unable to retrieve container logs"));
    }
}
