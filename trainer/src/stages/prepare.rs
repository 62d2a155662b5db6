//! `prepare`: digests and checks every input, so that a run does not fail in its third hour for a reason that was known
//! in its first minute. Needs no GPU.

mod check;
mod gpu_memory;
mod item_files;
mod listing;
mod notes;
mod parallel;
mod problems;
mod selection;

use std::path::PathBuf;

use serde_json::json;
use stic_contract::artifact::{AdapterLocation, SKIPPED_FILE};
use stic_contract::config::{DataRecipe, ModelInput, Prepare};
use stic_contract::result::{InputDigests, ItemCounts};
use stic_contract::{Artifact, ArtifactKind, Digest, StepName, StepResult};

use self::check::Checker;
use self::item_files::{CheckSummary, ItemFiles};
use super::context::{Execution, StepContext};
use super::disk_space::Requirement;
use super::inputs::check_adapter;
use super::shards::data_key;
use crate::checkpoint::adapter;
use crate::device::{self, dtype};
use crate::error::{Error, Result};
use crate::inference::ModelFiles;
use crate::io::artifact::Output;
use crate::io::progress::Reporter;
use crate::io::volumes::Volumes;
use crate::io::{atomic, file_digest, human_bytes};
use crate::memory::estimate::ModelMemory;
use crate::model::VisionLanguageModel;
use crate::model::digest::DigestedFiles;

pub(super) fn run(task: &Prepare, execution: Execution<'_>) -> Result<StepResult> {
    let Execution { config, devices: _, context, output, reporter } = execution;
    if task.bf16_on_cpu && cfg!(not(feature = "cuda")) {
        device::warn_of_slow(task.precision);
    }
    let model_dir =
        context.volumes.folder(&task.model.location, model_field(task), Error::Config, "correct the path")?;
    let files = ModelFiles::open(&model_dir, task.model.image_layout)?;
    let (config_of_model, weights) = VisionLanguageModel::check(&model_dir, dtype(task.precision))?;
    let checker = Checker::new(task, &files)?;
    let model = digest_model(&files, context, reporter)?;
    let adapter = digest_adapter(task, context, &files)?;

    let mut listing = listing::list(task, config.seed, &context.volumes, output.partial())?;
    let total = listing.count;
    for note in &listing.notes {
        tracing::warn!("{note}");
    }
    Requirement::of_listing(total, listing.bytes).check(StepName::Prepare.as_str(), output.root())?;
    reporter.begin("checking images", "images", 0, total)?;
    let [items, skipped] =
        [ArtifactKind::Prepared.payload_file(), SKIPPED_FILE].map(|name| output.partial().join(name));
    let (summary, disk_bytes) = atomic::write_with(&items, |items_file| {
        atomic::write_with(&skipped, |skipped_file| {
            let mut item_files = ItemFiles::new((&items, items_file), (&skipped, skipped_file));
            checker.check_all(&mut listing, &mut item_files, context, reporter)?;
            let summary = item_files.finish(&listing.images)?;
            let required = Requirement::of_run(task, &files.config.text, summary.items);
            required.check("the run", output.root())?;
            Ok((summary, required.bytes()))
        })
    })?;

    let inputs = InputDigests { model, adapter, items: file_digest(&items)?, item_count: summary.items };
    let draft = output.begin(ArtifactKind::Prepared, key(&inputs))?;
    atomic::rename(&items, &draft.dir.join(ArtifactKind::Prepared.payload_file()))?;
    atomic::rename(&skipped, &draft.dir.join(SKIPPED_FILE))?;
    let CheckSummary { items: usable, skipped, most_image_tokens, .. } = summary;
    let length = length_report(&summary, &files, task);
    let memory = if task.uses_gpu {
        let model = ModelMemory { config: &config_of_model, dtype: dtype(task.precision), weights };
        gpu_memory::report(task, &files, model, &summary, continued_bytes(task, context)?)?
    } else {
        String::new()
    };
    let facts = json!({
        "items": usable,
        "skipped": skipped,
        "mostImageTokens": most_image_tokens,
        "estimatedDiskBytes": disk_bytes,
        "model": inputs.model,
        "adapter": inputs.adapter,
    });
    atomic::write(&draft.dir.join("report.json"), format!("{facts:#}\n").as_bytes())?;
    let mut artifacts = vec![output.finish(draft, StepName::Prepare, facts)?];
    artifacts.extend(find_data(task, &inputs, config.seed, output)?);

    Ok(StepResult {
        artifacts,
        inputs: Some(inputs),
        items: Some(ItemCounts { total, done: usable, skipped }),
        message: Some(format!(
            "{usable} of {total} items can be used, {skipped} skipped; {length}; an image has at most {most_image_tokens} tokens; the run needs up to {} of disk space{memory}{}",
            human_bytes(disk_bytes),
            listing.notes.iter().map(|note| format!("; {note}")).collect::<String>()
        )),
        ..StepResult::new(StepName::Prepare)
    })
}

/// The field that names the model.
fn model_field(task: &Prepare) -> &'static str {
    match (&task.recipe, &task.adapter) {
        (DataRecipe::Preferences(_), _) => "spec.model",
        (DataRecipe::Descriptions(_), None) => "spec.initFrom.baseModel",
        (DataRecipe::Descriptions(_), Some(AdapterLocation { digest: None, .. })) => {
            "spec.initFrom.adapter.model"
        }
        (DataRecipe::Descriptions(_), Some(_)) => "spec.initFrom.stageOneRunRef: the model of stage 1",
    }
}

/// The folder of the adapter to continue, which must exist.
fn adapter_dir(adapter: &AdapterLocation, volumes: &Volumes) -> Result<PathBuf> {
    let AdapterLocation { location, digest } = adapter;
    match digest {
        None => volumes.folder(location, "spec.initFrom.adapter", Error::Config, "correct the path"),
        Some(_) => volumes.folder(
            location,
            "spec.initFrom.stageOneRunRef: the adapter of stage 1",
            Error::Data,
            "restore it, or run stage 1 again with a raised rerun",
        ),
    }
}

/// Bytes of the weights of the adapter to continue.
fn continued_bytes(task: &Prepare, context: &StepContext) -> Result<Option<u64>> {
    let Some(adapter) = &task.adapter else { return Ok(None) };
    let path = adapter_dir(adapter, &context.volumes)?.join(adapter::WEIGHTS_FILE);
    Ok(Some(std::fs::metadata(&path).map_err(Error::storage(&path))?.len()))
}

/// How many items fit the model.
fn length_report(summary: &CheckSummary, files: &ModelFiles, task: &Prepare) -> String {
    let CheckSummary { items, too_long, truncated, .. } = summary;
    let limit = files.max_tokens();
    let of = items + too_long;
    let mut report = match task.train.max_length {
        Some(length) if (length as usize) < limit => format!("training.maxLength is {length}"),
        _ => format!("the model has {limit} positions"),
    };
    let fit = items - truncated;
    report += &if fit == of { ", and all fit".to_owned() } else { format!(", and {fit} of {of} surely fit") };
    if *truncated > 0 {
        report += &format!("; {truncated} may be truncated");
    }
    report
}

/// What determines the bytes of the prepared items, and so names their folder. The payload holds every image's digest.
fn key(inputs: &InputDigests) -> serde_json::Value {
    json!({
        "trainer": env!("CARGO_PKG_VERSION"),
        "items": inputs.items,
        "model": inputs.model,
        "adapter": inputs.adapter,
    })
}

/// The generated data of an earlier run that this one can reuse.
fn find_data(task: &Prepare, inputs: &InputDigests, seed: u64, output: &Output) -> Result<Option<Artifact>> {
    let model = ModelInput {
        location: task.model.location.clone(),
        digest: inputs.model.clone(),
        image_layout: task.model.image_layout,
    };
    let kind = match task.recipe {
        DataRecipe::Preferences(_) => ArtifactKind::Preferences,
        DataRecipe::Descriptions(_) => ArtifactKind::Descriptions,
    };
    let key = data_key(&task.recipe, &model, inputs.adapter.as_ref(), &inputs.items, seed, task.precision);
    output.find(&output.name(kind, &key))
}

fn digest_model(files: &ModelFiles, context: &StepContext, reporter: &mut Reporter) -> Result<Digest> {
    let files = DigestedFiles::find(&files.dir)?;
    reporter.begin("digesting the model", "bytes", 0, files.bytes()?)?;
    let mut done = 0;
    files.digest(|bytes| {
        context.cancellation.check()?;
        reporter.advance(bytes - std::mem::replace(&mut done, bytes))
    })
}

/// The digest of the adapter to continue, which must fit the model and be the one that another run recorded.
fn digest_adapter(task: &Prepare, context: &StepContext, files: &ModelFiles) -> Result<Option<Digest>> {
    let Some(location) = &task.adapter else { return Ok(None) };
    let dir = adapter_dir(location, &context.volumes)?;
    check_adapter(&dir, location.digest.as_ref(), files).map(Some)
}
