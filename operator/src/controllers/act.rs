//! Carries a plan out: every write but the status.

use std::sync::Arc;

use futures::future::try_join_all;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use kube::ResourceExt;
use stic_contract::{RunIdentity, RunKind};
use stic_crds::lifecycle::WhenDeleted;

use super::observe;
use crate::build::config_map::config_map;
use crate::build::job::{JobSettings, QUEUE_NAME, job};
use crate::build::volume_claim::volume_claim;
use crate::build::{Attempt, labels};
use crate::cluster::apply::Created;
use crate::cluster::failpoint::Write;
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
    if observe::ends_yet(context, &run.run, step) {
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
    let made = context.create(Write::CreateConfigMap, &map, &run.run.uid).await?;
    if let Err(blocked) = ours(made, "ConfigMap", &map.name_any()) {
        return Ok(blocked);
    }
    let Pinned { trainer_image, remaining_seconds } = pinned;
    let job = job(run, attempt, &JobSettings { trainer_image, one_node, remaining_seconds });
    let made = context.create(Write::CreateJob, &job, &run.run.uid).await?;
    Ok(match ours(made, "Job", &job.name_any()) {
        Ok(job) => {
            context.metrics.launched(run.run.kind, step);
            Launched::Job(job)
        }
        Err(blocked) => blocked,
    })
}

fn ours<K>(made: Created<K>, kind: &str, name: &str) -> Result<Box<K>, Launched> {
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

/// Sees to the claims of a run, and whether they can be mounted on one node only.
async fn claims(context: &Context, run: &Validated, shards: u32) -> kube::Result<Result<bool, Launched>> {
    let output = run.output.location.volume.as_str();
    let mut one_node = false;
    // First the note, then the look: what comes in between is heard of.
    context.claims.await_for(&run.run, run.claims());
    // Together: a launch is as slow as the sum of what it asks one after the other.
    let looks = run
        .claims()
        .map(|name| async move { observe::claim(context, &run.run, name).await.map(|found| (name, found)) });
    for (name, mut found) in try_join_all(looks).await? {
        if name == output
            && let Some(wanted) = volume_claim(run)
        {
            found = match make_claim(context, run, found, &wanted).await? {
                Ok(claim) => Some(claim),
                Err(blocked) => return Ok(Err(blocked)),
            };
        }
        let Some(claim) = found else {
            let message = format!(
                "PersistentVolumeClaim {name} does not exist in this namespace; create it, and the run starts by itself"
            );
            return Ok(Err(Launched::Blocked { reason: Reason::ClaimMissing, message }));
        };
        if claim.metadata.deletion_timestamp.is_some() {
            return Ok(Err(going(name, "create it again then, and the run goes on")));
        }
        if claim.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Lost") {
            let message = format!(
                "PersistentVolumeClaim {name} has lost its volume; restore the volume or the claim, and the run goes on"
            );
            return Ok(Err(Launched::Blocked { reason: Reason::ClaimLost, message }));
        }
        let modes = claim.spec.as_ref().and_then(|spec| spec.access_modes.clone()).unwrap_or_default();
        if shards > 1 && !modes.is_empty() && modes.iter().all(|mode| mode == "ReadWriteOncePod") {
            let message = format!(
                "PersistentVolumeClaim {name} may be mounted by one pod, and {shards} are asked for; create the run under a new name with shards 1, or with a claim of mode ReadWriteMany"
            );
            return Ok(Err(Launched::Impossible { reason: Reason::ClaimNotShareable, message }));
        }
        one_node |= !modes.iter().any(|mode| mode == "ReadWriteMany" || mode == "ReadOnlyMany");
        share_with_upstream(context, &run.run, &claim).await?;
    }
    context.claims.forget(&run.run, run.claims());
    Ok(Ok(one_node))
}

async fn make_claim(
    context: &Context,
    run: &Validated,
    found: Option<PersistentVolumeClaim>,
    wanted: &PersistentVolumeClaim,
) -> kube::Result<Result<PersistentVolumeClaim, Launched>> {
    let name = wanted.name_any();
    let made = match found {
        Some(found) => found,
        None => match context.create(Write::CreateClaim, wanted, &run.run.uid).await? {
            Created::Ours(made) => *made,
            // It appeared in between, perhaps made by us: retained claims have no owner to tell by.
            Created::Taken => match observe::claim(context, &run.run, &name).await? {
                Some(found) => found,
                None => return Ok(Err(taken(&name))),
            },
            refused => match ours(refused, "PersistentVolumeClaim", &name) {
                Ok(made) => *made,
                Err(blocked) => return Ok(Err(blocked)),
            },
        },
    };
    if made.metadata.deletion_timestamp.is_some() {
        return Ok(Err(going(&name, "then the run makes one of its own and starts by itself")));
    }
    // A retained claim outlives its run, and the next run of that name goes on with what is on it.
    if !is_for(&made, &run.run) {
        return Ok(Err(taken(&name)));
    }
    let owned = made.owner_references().iter().any(|owner| owner.uid == run.run.uid);
    let wants = run.operation.retention.when_deleted == WhenDeleted::Delete;
    if owned != wants {
        context.own_claim(&run.run, &made, wants).await?;
    }
    Ok(Ok(made))
}

/// Whether a claim was made for a run of this kind and name and is nobody else's.
pub(super) fn is_for(claim: &PersistentVolumeClaim, run: &RunIdentity) -> bool {
    let of_name = claim.labels().get(labels::RUN) == Some(&run.name)
        && claim.labels().get(labels::RUN_KIND).map(String::as_str) == Some(labels::kind(run.kind));
    let mut owners = claim.owner_references().iter();
    of_name && !owners.any(|owner| owner.controller == Some(true) && owner.uid != run.uid)
}

/// A claim stays until the last pod that names it is deleted, a finished one too, and no other pod is given it.
fn going(name: &str, mend: &str) -> Launched {
    Launched::Blocked {
        reason: Reason::ClaimTerminating,
        message: format!(
            "PersistentVolumeClaim {name} is being deleted and goes when every pod that mounts it is deleted, finished ones too; {mend}"
        ),
    }
}

fn taken(name: &str) -> Launched {
    Launched::Blocked {
        reason: Reason::NameTaken,
        message: format!(
            "there is a PersistentVolumeClaim {name} that was not made for this run; delete or rename it, or name it in output.volume of a run of another name"
        ),
    }
}

/// A claim that goes with its `StageOneRun` must not go while a `StageTwoRun` reads from it.
async fn share_with_upstream(
    context: &Context,
    run: &RunIdentity,
    claim: &PersistentVolumeClaim,
) -> kube::Result<()> {
    let owners = claim.owner_references();
    let of_stage_one = owners
        .iter()
        .any(|owner| owner.controller == Some(true) && owner.kind == labels::kind(RunKind::StageOneRun));
    if run.kind == RunKind::StageTwoRun && of_stage_one && !owners.iter().any(|owner| owner.uid == run.uid) {
        context.share_claim(run, &claim.name_any()).await?;
    }
    Ok(())
}

/// Holds the Job of a step or lets it go on, as the spec says.
///
/// # Errors
/// Those of the API server.
pub async fn steer(context: &Context, job: &Arc<Job>, held: bool, was_held: bool) -> kube::Result<()> {
    let suspended = job.spec.as_ref().and_then(|spec| spec.suspend).unwrap_or(false);
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
