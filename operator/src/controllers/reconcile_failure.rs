//! Reports reconciliations that fail again and again: silence would look like a run that is about to start.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use stic_crds::Reason;

use super::error::Error;
use super::run::Run;
use super::status_record::StatusRecord;
use super::validation::identity;
use crate::context::Context;
use crate::run_key::RunKey;
use crate::status::failure::with_failure;
use crate::status::without_foreign_conditions;

/// A failure that passes by itself takes fewer attempts.
const REPORTED: u32 = 3;

/// Reports the failure of another attempt, if there were enough: in the conditions, and once as an event. The next
/// reconciliation that succeeds replaces the conditions.
pub(super) async fn report<K: Run>(context: &Context, object: &K, key: RunKey, error: &Error) {
    let attempts = context.backoff.failures(&key) + 1;
    if attempts < REPORTED || error.is_conflict() || object.meta().deletion_timestamp.is_some() {
        return;
    }
    let (recorded, version) = context.statuses.latest(&key, object, object.status());
    let status = without_foreign_conditions(recorded);
    let Ok(run) = identity(K::KIND, object.meta(), status.rerun) else { return };
    let generation = object.meta().generation.unwrap_or_default();
    let message = error.explanation();
    let mut record = StatusRecord { object, key, run, status, version };
    let next = with_failure(&record.status, generation, &message, &Time(Timestamp::now()));
    let written = match next {
        // Entering the phase publishes the event.
        Some(next) => record.write(context, next).await.is_ok(),
        None => record.status.succeeded().is_none(),
    };
    if !written && attempts == REPORTED {
        context.writer.publish(&record.run, Reason::ReconcileFailed, &message).await;
    }
}
