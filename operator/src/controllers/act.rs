//! Carries a plan out: every write but the status.

use std::sync::Arc;

use k8s_openapi::api::core::v1::ConfigMap;
use kube::ResourceExt;

use super::claims::claims;
use super::look_up;
use crate::build::Attempt;
use crate::build::config_map::config_map;
use crate::build::job::{JobSettings, QUEUE_NAME, job};
use crate::cluster::apply::Created;
use crate::cluster::failpoint::Write;
use crate::cluster::objects::Job;
use crate::context::Context;
use crate::plan::Launch;
use crate::refusal::Reason;
use crate::validated::Validated;

/// What became of a launch.
#[derive(Debug)]
pub enum Launched {
    /// There is a Job.
    Job(Box<Job>),
    /// Not yet: something must change first.
    Blocked {
        /// The reason.
        reason: Reason,
        /// What, and what to do.
        message: String,
    },
    /// Not ever.
    Impossible {
        /// The reason.
        reason: Reason,
        /// Why, and what to do.
        message: String,
    },
}

/// What a Job takes from the run's status.
#[derive(Debug, Clone)]
pub struct Pinned {
    /// The trainer's image.
    pub trainer_image: String,
    /// Seconds left until the run's deadline.
    pub remaining_seconds: Option<u32>,
}

/// Makes the objects of a step, the Job last: what it needs is there when its pod starts.
///
/// # Errors
/// Those of the API server that may pass.
pub async fn launch(
    context: &Context,
    run: &Validated,
    launch: &Launch,
    pinned: Pinned,
) -> kube::Result<Launched> {
    let step = launch.step;
    if look_up::ends_yet(context, &run.run, step, launch.attempt).await? {
        return Ok(Launched::Blocked {
            reason: Reason::of_step(step),
            message: format!("step {step} starts again when the pod of its last Job has ended"),
        });
    }
    let one_node = match claims(context, run, launch.shards).await? {
        Ok(one_node) => one_node,
        Err(blocked) => return Ok(blocked),
    };
    let attempt = Attempt { step, number: launch.attempt };
    let map = config_map(&launch.config, attempt).map_err(kube::Error::SerdeError)?;
    let made: Created<ConfigMap> = context.create(Write::CreateConfigMap, &map, &run.run.uid).await?;
    if let Err(blocked) = ours(made, "ConfigMap", &map.name_any()) {
        return Ok(blocked);
    }
    let Pinned { trainer_image, remaining_seconds } = pinned;
    let job = job(run, attempt, &JobSettings { trainer_image, one_node, remaining_seconds });
    let made: Created<Job> = context.create(Write::CreateJob, &job, &run.run.uid).await?;
    Ok(match ours(made, "Job", &job.name_any()) {
        Ok(job) => {
            context.metrics.launched(run.run.kind, step);
            Launched::Job(job)
        }
        Err(blocked) => blocked,
    })
}

pub(super) fn ours<K>(made: Created<K>, kind: &str, name: &str) -> Result<Box<K>, Launched> {
    let (reason, message) = match made {
        Created::Ours(made) => return Ok(made),
        Created::Taken => (
            Reason::NameTaken,
            format!(
                "there is a {kind} {name} that is none of this run's; delete or rename it, and the run goes on"
            ),
        ),
        Created::Refused { message } if message.contains("exceeded quota") => (
            Reason::QuotaExceeded,
            format!("the {kind} cannot be created: {message}; free some of the quota or raise it"),
        ),
        Created::Refused { message } => (
            Reason::JobRejected,
            format!(
                "the API server refuses the {kind}: {message}; mend what it names, most often in spec.pod"
            ),
        ),
    };
    Err(Launched::Blocked { reason, message })
}

/// Holds the Job of a step or lets it go on, as the spec says.
///
/// # Errors
/// Those of the API server.
pub async fn steer(context: &Context, job: &Arc<Job>, held: bool, was_held: bool) -> kube::Result<()> {
    let suspended = job.spec.suspend;
    if job.labels().contains_key(QUEUE_NAME) {
        // To look at the Workload costs requests; only when it can differ. Kueue may make it after the run was held,
        // and then admits a Job that should not run.
        if held != was_held || (held && !suspended) {
            context.suspend_workload(job, held).await?;
        }
        return Ok(());
    }
    if suspended != held {
        context.suspend_job(job, held).await?;
    }
    Ok(())
}

/// Ends the pods of a Job whose run is over. The Job stays, and the logs of its pods that failed.
///
/// # Errors
/// Those of the API server.
pub async fn halt(context: &Context, job: &Arc<Job>) -> kube::Result<()> {
    steer(context, job, true, true).await
}

/// Deletes Jobs.
///
/// # Errors
/// Those of the API server.
pub async fn delete(context: &Context, jobs: &[Arc<Job>]) -> kube::Result<()> {
    for job in jobs {
        context.delete_job(job).await?;
    }
    Ok(())
}
