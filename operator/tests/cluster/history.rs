//! Every status that a run had: it never goes back.

use std::sync::{Arc, Mutex};

use futures::StreamExt;
use kube::Api;
use kube::ResourceExt;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event, watcher};
use stic_crds::StageOneRun;
use stic_crds::status::{RunStatus, StepState};
use tokio::task::JoinHandle;

use crate::world::phase;

pub(crate) struct History {
    statuses: Arc<Mutex<Vec<(String, RunStatus)>>>,
    writes: JoinHandle<()>,
}

impl History {
    /// Writes down every status of the runs of a namespace.
    pub(crate) fn of(api: Api<StageOneRun>) -> Self {
        let statuses = Arc::<Mutex<Vec<(String, RunStatus)>>>::default();
        let written = statuses.clone();
        let writes = tokio::spawn(async move {
            let mut events = std::pin::pin!(watcher(api, watcher::Config::default()).default_backoff());
            while let Some(event) = events.next().await {
                let Ok(Event::InitApply(run) | Event::Apply(run)) = event else { continue };
                let version = run.resource_version().unwrap_or_default();
                written.lock().expect("nobody panics here").push((version, run.status.unwrap_or_default()));
            }
        });
        Self { statuses, writes }
    }

    /// Every status, with its resource version.
    pub(crate) fn statuses(&self) -> Vec<(String, RunStatus)> {
        self.statuses.lock().expect("nobody panics here").clone()
    }

    /// Fails where a status took back what an earlier one said.
    pub(crate) fn goes_forward(&self) {
        for pair in self.statuses().windows(2) {
            let ((before, old), (after, new)) = (&pair[0], &pair[1]);
            let at = format!("from {before} to {after}: {old:#?} became {new:#?}");
            assert!(new.observed_generation >= old.observed_generation, "{at}");
            assert!(new.rerun >= old.rerun, "{at}");
            if new.rerun > old.rerun {
                continue;
            }
            if old.succeeded().is_some() {
                assert_eq!(phase(new), phase(old), "what is over is over, {at}");
            }
            assert!(old.start_time.is_none() || new.start_time == old.start_time, "{at}");
            for (old, new) in old.steps.iter().zip(&new.steps) {
                assert!(new.attempts >= old.attempts, "{at}");
                let done =
                    |state| matches!(state, StepState::Succeeded | StepState::Reused | StepState::Failed);
                assert!(!done(old.state) || new.state == old.state, "{at}");
                assert!(old.job_uid.is_none() || new.job_uid.is_some(), "{at}");
            }
        }
    }
}

impl Drop for History {
    fn drop(&mut self) {
        self.writes.abort();
    }
}
