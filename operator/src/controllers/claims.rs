//! The claims of a run: looked at, made, owned, shared.

use futures::future::try_join_all;
use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use kube::{Api, ResourceExt};
use stic_contract::{RunIdentity, RunKind, pipeline};
use stic_crds::lifecycle::WhenDeleted;

use super::act::{Launched, ours};
use super::driver::Record;
use super::run::Run;
use crate::build::volume_claim::volume_claim;
use crate::build::{labels, names};
use crate::cluster::apply::Created;
use crate::cluster::failpoint::Write;
use crate::context::Context;
use crate::refusal::Reason;
use crate::validated::Validated;

/// Sees to the claims of a run, and whether they can be mounted on one node only.
pub(super) async fn claims(
    context: &Context,
    run: &Validated,
    shards: u32,
) -> kube::Result<Result<bool, Launched>> {
    let output = run.output.location.volume.as_str();
    let mut one_node = false;
    // First the note, then the look: what comes in between is heard of.
    context.claims.await_for(&run.run, run.claims());
    // Together: a launch is as slow as the sum of what it asks one after the other.
    let looks = run
        .claims()
        .map(|name| async move { claim(context, &run.run, name).await.map(|found| (name, found)) });
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
            Created::Taken => match claim(context, &run.run, &name).await? {
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
    own(context, &run.run, &made, run.operation.retention.when_deleted).await?;
    Ok(Ok(made))
}

/// Makes a claim that was made for a run go with it, or stay.
async fn own(
    context: &Context,
    run: &RunIdentity,
    claim: &PersistentVolumeClaim,
    when_deleted: WhenDeleted,
) -> kube::Result<()> {
    let owned = claim.owner_references().iter().any(|owner| owner.uid == run.uid);
    let wants = when_deleted == WhenDeleted::Delete;
    if owned != wants {
        context.own_claim(run, claim, wants).await?;
    }
    Ok(())
}

/// Whether a claim was made for a run of this kind and name and is nobody else's.
fn is_for(claim: &PersistentVolumeClaim, run: &RunIdentity) -> bool {
    let of_name = claim.labels().get(labels::RUN) == Some(&run.name)
        && claim.labels().get(labels::RUN_KIND).map(String::as_str) == Some(labels::kind(run.kind));
    let mut owners = claim.owner_references().iter();
    of_name && !owners.any(|owner| owner.controller == Some(true) && owner.uid != run.uid)
}

/// A claim stays until the last pod that names it is deleted, a finished one too, and no other pod is given it.
fn goes(name: &str) -> String {
    format!(
        "PersistentVolumeClaim {name} is being deleted and goes when every pod that mounts it is deleted, finished ones too"
    )
}

fn going(name: &str, mend: &str) -> Launched {
    Launched::Blocked { reason: Reason::ClaimTerminating, message: format!("{}; {mend}", goes(name)) }
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
        context.share_claim(run, claim).await?;
    }
    Ok(())
}

/// What only the claims say of a wait.
pub(super) async fn say_of_claims(
    context: &Context,
    run: &Validated,
    reason: Reason,
    message: &mut String,
) -> kube::Result<()> {
    if reason == Reason::ClaimUnbound {
        let unbound = unbound(context, run).await?;
        if !unbound.is_empty() {
            *message = format!("PersistentVolumeClaim {} has no volume: {message}", unbound.join(", "));
        }
    } else if pipeline::steps(run.run.kind).iter().any(|spec| reason == Reason::of_step(spec.name))
        && let Some(going) = context.claims.going(&run.run.namespace, run.claims())
    {
        *message = format!("{message}; but {}: copy what you need of it before that", goes(going));
    }
    Ok(())
}

/// The claims of a run that have no volume.
async fn unbound(context: &Context, run: &Validated) -> kube::Result<Vec<String>> {
    let mut unbound = Vec::new();
    for name in run.claims() {
        let claim = claim(context, &run.run, name).await?;
        let phase = claim.and_then(|claim| claim.status).and_then(|status| status.phase);
        if phase.as_deref() == Some("Pending") {
            unbound.push(name.to_owned());
        }
    }
    Ok(unbound)
}

/// A claim of a run.
async fn claim(
    context: &Context,
    run: &RunIdentity,
    name: &str,
) -> kube::Result<Option<PersistentVolumeClaim>> {
    Api::namespaced(context.client.clone(), &run.namespace).get_opt(name).await
}

/// Whether a claim goes with its run may be decided anew, also when the run is over.
pub(super) async fn settle_claim<K: Run>(context: &Context, record: &Record<'_, K>) -> kube::Result<()> {
    if record.object.output().volume_claim_template.is_none() {
        return Ok(());
    }
    let name = names::output_claim(record.run);
    match claim(context, record.run, &name).await? {
        Some(claim) if is_for(&claim, record.run) => {
            own(context, record.run, &claim, record.object.retention().when_deleted).await
        }
        _ => Ok(()),
    }
}
