//! The events about pods that take the place of others.

use crate::snapshot::Snapshot;

/// A message for each step of which a pod was started again since the last status.
pub(super) fn messages(snapshot: &Snapshot) -> Vec<String> {
    let steps = snapshot.steps.iter().filter_map(|(name, step)| {
        let before = snapshot.previous.step(*name)?.attempts;
        (before > 0 && step.attempts > before).then(|| {
            let why = step.last_failure.as_deref().unwrap_or("its previous pod is gone");
            format!("step {name} is retried (attempt {}): {why}", step.attempts)
        })
    });
    steps.collect()
}
