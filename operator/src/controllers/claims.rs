//! The PersistentVolumeClaims of a run: checked, created, owned and shared.

use std::collections::BTreeSet;

use futures::future::try_join_all;
use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use kube::{Api, ResourceExt};
use stic_contract::{RunIdentity, RunKind};
use stic_crds::Reason;
use stic_crds::conditions::ReasonKind;
use stic_crds::lifecycle::WhenDeleted;

use super::blocked::{Blocked, CLAIM, created};
use super::run::Run;
use super::status_record::StatusRecord;
use crate::build::volume_claim::volume_claim;
use crate::build::{labels, names};
use crate::cluster::api_writer::Created;
use crate::context::Context;
use crate::decision::Verdict;
use crate::failpoint::Write;
use crate::snapshot::Snapshot;
use crate::validated::Validated;

/// How the claims of a run can be mounted.
#[derive(Debug, Default)]
pub(super) struct Mountable {
    /// Whether one of them can be mounted on one node only.
    pub one_node: bool,
    /// Those that can only be mounted read-only.
    pub read_only: BTreeSet<String>,
}

/// Checks that every claim of a run can be mounted, and creates that of its output if the run requests it.
pub(super) async fn ensure(
    context: &Context,
    run: &Validated,
    shards: u32,
) -> kube::Result<Result<Mountable, Blocked>> {
    let output = run.output.location.volume.as_str();
    let mut mountable = Mountable::default();
    // Subscribe before reading, so that a change in between still triggers a reconciliation.
    context.claims.subscribe(&run.run, run.claims());
    let reads = run
        .claims()
        .map(|name| async move { read(context, &run.run, name).await.map(|found| (name, found)) });
    for (name, mut found) in try_join_all(reads).await? {
        if name == output
            && let Some(wanted) = volume_claim(run)
        {
            found = match ensure_output(context, run, found, &wanted).await? {
                Ok(claim) => Some(claim),
                Err(blocked) => return Ok(Err(blocked)),
            };
        }
        let claim = match check(name, found, shards) {
            Ok(claim) => claim,
            Err(blocked) => return Ok(Err(blocked)),
        };
        let modes = access_modes(&claim);
        mountable.one_node |= !modes.iter().any(|mode| mode == "ReadWriteMany" || mode == "ReadOnlyMany");
        if !modes.is_empty() && modes.iter().all(|mode| mode == "ReadOnlyMany") {
            mountable.read_only.insert(name.to_owned());
        }
        share_with_upstream(context, &run.run, &claim).await?;
    }
    context.claims.unsubscribe(&run.run, run.claims());
    Ok(Ok(mountable))
}

fn check(
    name: &str,
    claim: Option<PersistentVolumeClaim>,
    shards: u32,
) -> Result<PersistentVolumeClaim, Blocked> {
    let Some(claim) = claim else {
        let message = format!(
            "PersistentVolumeClaim {name} does not exist in this namespace; create it, and the run starts on its own"
        );
        return Err(Blocked { reason: Reason::ClaimMissing, message });
    };
    if claim.metadata.deletion_timestamp.is_some() {
        return Err(terminating(name, "then create it again, and the run continues on its own"));
    }
    if claim.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Lost") {
        let message = format!(
            "PersistentVolumeClaim {name} has lost its volume; restore the volume or the claim, and the run continues on its own"
        );
        return Err(Blocked { reason: Reason::ClaimLost, message });
    }
    let modes = access_modes(&claim);
    if shards > 1 && !modes.is_empty() && modes.iter().all(|mode| mode == "ReadWriteOncePod") {
        let message = format!(
            "PersistentVolumeClaim {name} can be mounted by only one pod, but the run needs {shards}; create the run under a new name, with shards set to 1 or with a claim that has the access mode ReadWriteMany"
        );
        return Err(Blocked { reason: Reason::ClaimNotShareable, message });
    }
    Ok(claim)
}

fn access_modes(claim: &PersistentVolumeClaim) -> &[String] {
    claim.spec.as_ref().and_then(|spec| spec.access_modes.as_deref()).unwrap_or_default()
}

async fn ensure_output(
    context: &Context,
    run: &Validated,
    found: Option<PersistentVolumeClaim>,
    wanted: &PersistentVolumeClaim,
) -> kube::Result<Result<PersistentVolumeClaim, Blocked>> {
    let name = wanted.name_any();
    let claim = match found {
        Some(found) => found,
        None => match context.writer.create(Write::CreateClaim, wanted, &run.run.uid).await? {
            Created::Ours(claim) => *claim,
            // It was created in between, perhaps by this operator: a claim that is retained has no owner to identify it by.
            Created::NameTaken => match read(context, &run.run, &name).await? {
                Some(found) => found,
                None => return Ok(Err(name_taken(&name))),
            },
            rejected @ Created::Rejected { .. } => {
                return Ok(created(rejected, CLAIM, &name).map(|claim| *claim));
            }
        },
    };
    if claim.metadata.deletion_timestamp.is_some() {
        return Ok(Err(terminating(&name, "the run then creates it again and starts on its own")));
    }
    // A retained claim outlives its run, and the next run with that name continues with what is on it.
    if !is_for(&claim, &run.run) {
        return Ok(Err(name_taken(&name)));
    }
    set_owner(context, &run.run, &claim, run.operation.retention.when_deleted).await?;
    Ok(Ok(claim))
}

/// Makes a claim that was created for a run be deleted with the run, or retained.
async fn set_owner(
    context: &Context,
    run: &RunIdentity,
    claim: &PersistentVolumeClaim,
    when_deleted: WhenDeleted,
) -> kube::Result<()> {
    let owned = claim.owner_references().iter().any(|owner| owner.uid == run.uid);
    let wanted = when_deleted == WhenDeleted::Delete;
    // Earlier versions gave this label to claims without an owner, too.
    let labelled = claim.labels().contains_key(labels::INSTANCE);
    if owned != wanted || labelled != wanted {
        context.writer.own_claim(run, claim, wanted).await?;
    }
    Ok(())
}

/// Whether a claim was created for a run with this kind and name, and is not controlled by another object.
fn is_for(claim: &PersistentVolumeClaim, run: &RunIdentity) -> bool {
    let of_name = claim.labels().get(labels::RUN) == Some(&run.name)
        && claim.labels().get(labels::RUN_KIND).map(String::as_str) == Some(run.kind.as_str());
    let mut owners = claim.owner_references().iter();
    of_name && !owners.any(|owner| owner.controller == Some(true) && owner.uid != run.uid)
}

/// Kubernetes keeps a claim until the last pod that names it is deleted, even a finished one, and gives it to no other pod.
fn being_deleted(name: &str) -> String {
    format!(
        "PersistentVolumeClaim {name} is being deleted and disappears once every pod that mounts it is deleted, including finished ones"
    )
}

fn terminating(name: &str, remedy: &str) -> Blocked {
    Blocked { reason: Reason::ClaimTerminating, message: format!("{}; {remedy}", being_deleted(name)) }
}

fn name_taken(name: &str) -> Blocked {
    Blocked {
        reason: Reason::NameTaken,
        message: format!(
            "PersistentVolumeClaim {name} already exists and was not created for this run. Delete or rename it, or name it in output.volume of a run with another name."
        ),
    }
}

/// Keeps a claim that is deleted with the run that it was created for from being deleted while another run reads from it.
async fn share_with_upstream(
    context: &Context,
    run: &RunIdentity,
    claim: &PersistentVolumeClaim,
) -> kube::Result<()> {
    let owners = claim.owner_references();
    let of_run = owners.iter().any(|owner| owner.controller == Some(true) && labels::is_run(owner));
    if run.kind != RunKind::StageOneRun && of_run && !owners.iter().any(|owner| owner.uid == run.uid) {
        context.writer.share_claim(run, claim).await?;
    }
    Ok(())
}

/// Adds the problems of its claims to the message of a run that waits.
pub(super) async fn explain(
    context: &Context,
    snapshot: &Snapshot,
    verdict: &mut Verdict,
) -> kube::Result<()> {
    let (Verdict::Waiting { reason, message, .. }, Some(run)) = (verdict, snapshot.valid()) else {
        return Ok(());
    };
    if *reason == Reason::ClaimUnbound {
        let unbound = unbound(context, run).await?;
        if !unbound.is_empty() {
            let names: Vec<String> = unbound.iter().map(ResourceExt::name_any).collect();
            *message = format!("PersistentVolumeClaim {} has no volume: {message}", names.join(", "));
        }
    } else if *reason == Reason::Unschedulable {
        let unbound = unbound(context, run).await?;
        if let Some((claim, provisioner)) = unbound.iter().find_map(|claim| Some((claim, awaited(claim)?))) {
            *reason = Reason::ClaimUnbound;
            let name = claim.name_any();
            *message = format!(
                "PersistentVolumeClaim {name} has no volume: a node is chosen, and provisioner {provisioner} has not created the volume yet; check that it is running, and what kubectl describe persistentvolumeclaim {name} says"
            );
        }
    } else if reason.classification().kind == ReasonKind::Progressing
        && let Some(name) = context.claims.terminating(&run.run.namespace, run.claims())
    {
        *message = format!("{message}, but {}; copy what you need from it before that", being_deleted(name));
    }
    Ok(())
}

/// The provisioner that the scheduler waits for, after it has chosen a node for the volume of a claim.
fn awaited(claim: &PersistentVolumeClaim) -> Option<&str> {
    let annotations = claim.annotations();
    annotations.get("volume.kubernetes.io/selected-node")?;
    Some(
        annotations
            .get("volume.kubernetes.io/storage-provisioner")
            .map_or("of its storage class", String::as_str),
    )
}

/// The claims of a run that have no volume.
async fn unbound(context: &Context, run: &Validated) -> kube::Result<Vec<PersistentVolumeClaim>> {
    let mut unbound = Vec::new();
    for name in run.claims() {
        let Some(claim) = read(context, &run.run, name).await? else { continue };
        let phase = claim.status.as_ref().and_then(|status| status.phase.as_deref());
        if phase == Some("Pending") {
            unbound.push(claim);
        }
    }
    Ok(unbound)
}

async fn read(
    context: &Context,
    run: &RunIdentity,
    name: &str,
) -> kube::Result<Option<PersistentVolumeClaim>> {
    Api::namespaced(context.client.clone(), &run.namespace).get_opt(name).await
}

/// Applies a change of `spec.retention.whenDeleted`, which is allowed at any time, even after the run has ended.
pub(super) async fn update_owner<K: Run>(
    context: &Context,
    record: &StatusRecord<'_, K>,
) -> kube::Result<()> {
    if record.object.output().volume_claim_template.is_none() {
        return Ok(());
    }
    let name = names::output_claim(&record.run);
    match read(context, &record.run, &name).await? {
        Some(claim) if is_for(&claim, &record.run) => {
            set_owner(context, &record.run, &claim, record.object.retention().when_deleted).await
        }
        _ => Ok(()),
    }
}
