//! The models that are evaluated, checked and digested: each base model once, however many subjects have it.

use std::collections::HashMap;

use stic_contract::artifact::AdapterLocation;
use stic_contract::evaluation::{PrepareEvaluation, SubjectLocation};
use stic_contract::recipe::ImageLayout;
use stic_contract::result::SubjectDigests;
use stic_contract::{Digest, VolumePath};

use super::super::context::StepContext;
use super::super::inputs::check_adapter;
use crate::checkpoint::adapter;
use crate::data::encode::Encoder;
use crate::device::dtype;
use crate::error::{Error, Result};
use crate::inference::ModelFiles;
use crate::io::progress::Reporter;
use crate::memory::estimate::ModelMemory;
use crate::model::digest::DigestedFiles;
use crate::model::{ModelConfig, VisionLanguageModel};

/// A base model, and what is known of it without its weights in memory.
pub(super) struct BaseModel {
    /// The first subject that has it.
    pub(super) subject: String,
    pub(super) files: ModelFiles,
    pub(super) encoder: Encoder,
    config: ModelConfig,
    /// The bytes of the weights.
    weights: u64,
    digest: Digest,
    /// Bytes of the largest adapter on it.
    pub(super) adapter_bytes: u64,
}

impl BaseModel {
    pub(super) fn memory(&self, task: &PrepareEvaluation) -> ModelMemory<'_> {
        ModelMemory { config: &self.config, dtype: dtype(task.recipe.precision), weights: self.weights }
    }
}

/// Checks every base model and adapter, and digests them.
pub(super) fn check(
    task: &PrepareEvaluation,
    context: &StepContext,
    reporter: &mut Reporter,
) -> Result<(Vec<BaseModel>, Vec<SubjectDigests>)> {
    let mut models: Vec<BaseModel> = Vec::new();
    let mut by_location: HashMap<&VolumePath, usize> = HashMap::new();
    let mut digests = Vec::new();
    for subject in &task.subjects {
        let index = match by_location.get(&subject.model) {
            Some(index) => *index,
            None => {
                models.push(open(subject, task, context, reporter)?);
                by_location.insert(&subject.model, models.len() - 1);
                models.len() - 1
            }
        };
        let model = &mut models[index];
        require_recorded(subject, model)?;
        let adapter = match &subject.adapter {
            Some(adapter) => Some(check_adapter_of(subject, adapter, model, context)?),
            None => None,
        };
        digests.push(SubjectDigests { name: subject.name.clone(), model: model.digest.clone(), adapter });
    }
    Ok((models, digests))
}

fn open(
    subject: &SubjectLocation,
    task: &PrepareEvaluation,
    context: &StepContext,
    reporter: &mut Reporter,
) -> Result<BaseModel> {
    let recipe = &task.recipe;
    let field = model_field(subject);
    let dir = context.volumes.folder(&subject.model, &field, Error::Config, "correct the path")?;
    let read = || {
        let files = ModelFiles::open(&dir, ImageLayout::Model)?;
        let (config, weights) = VisionLanguageModel::check(&dir, dtype(recipe.precision))?;
        let encoder = files.encoder(recipe.chat_template)?;
        Ok((files, config, weights, encoder, DigestedFiles::find(&dir)?))
    };
    let (files, config, weights, encoder, digested) = read().map_err(|e: Error| e.in_row(&field))?;
    reporter.begin("digesting the model", "bytes", 0, digested.bytes()?)?;
    let mut done = 0;
    let digest = digested.digest(|bytes| {
        context.cancellation.check()?;
        reporter.advance(bytes - std::mem::replace(&mut done, bytes))
    })?;
    let subject = subject.name.clone();
    Ok(BaseModel { subject, files, encoder, config, weights, digest, adapter_bytes: 0 })
}

/// The model must be the one that another run used, if the subject is that of a run.
fn require_recorded(subject: &SubjectLocation, model: &BaseModel) -> Result<()> {
    let BaseModel { files, digest, .. } = model;
    match &subject.model_digest {
        Some(recorded) if recorded != digest => Err(Error::Data(format!(
            "{}: {} has digest {digest}, but that run recorded {recorded}; the model was changed, restore it or run that run again with a raised rerun",
            model_field(subject),
            files.dir.display()
        ))),
        _ => Ok(()),
    }
}

fn check_adapter_of(
    subject: &SubjectLocation,
    adapter: &AdapterLocation,
    model: &mut BaseModel,
    context: &StepContext,
) -> Result<Digest> {
    let AdapterLocation { location, digest } = adapter;
    let name = &subject.name;
    let (field, dir) = match digest {
        None => {
            let field = format!("spec.subjects[{name}].adapter");
            let dir = context.volumes.folder(location, &field, Error::Config, "correct the path");
            (field, dir)
        }
        Some(_) => {
            let field = format!("spec.subjects[{name}]: the adapter of its run");
            let fix = "restore it, or run that run again with a raised rerun";
            let dir = context.volumes.folder(location, &field, Error::Data, fix);
            (field, dir)
        }
    };
    let dir = dir?;
    let digest = check_adapter(&dir, digest.as_ref(), &model.files).map_err(|e| e.in_row(&field))?;
    let weights = dir.join(adapter::WEIGHTS_FILE);
    let bytes = std::fs::metadata(&weights).map_err(Error::storage(&weights))?.len();
    model.adapter_bytes = model.adapter_bytes.max(bytes);
    Ok(digest)
}

/// The field that names the model.
fn model_field(subject: &SubjectLocation) -> String {
    let SubjectLocation { name, model_digest, adapter, .. } = subject;
    match (model_digest, adapter) {
        (Some(_), _) => format!("spec.subjects[{name}]: the model of its run"),
        (None, Some(_)) => format!("spec.subjects[{name}].adapter.model"),
        (None, None) => format!("spec.subjects[{name}].model"),
    }
}
