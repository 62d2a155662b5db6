//! The run config of each step.

use std::collections::BTreeMap;

use stic_contract::config::DataRecipe;
use stic_contract::config::{
    Describe, Generate, ModelInput, ModelLocation, Prepare, ShardSet, Train, TrainData, VERSION,
};
use stic_contract::recipe::ImageLayout;
use stic_contract::result::InputDigests;
use stic_contract::{Artifact, ArtifactKind, ArtifactRef, RunConfig, StepName, StepResult, Task};

use crate::validated::Validated;

/// What earlier steps have left.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Made {
    /// What `prepare` found the inputs to be.
    pub inputs: Option<InputDigests>,
    /// Whole artifacts, by kind.
    pub artifacts: BTreeMap<ArtifactKind, Artifact>,
    /// The shards of the last sharded step.
    pub shards: Option<ShardSet>,
}

/// A step's result lacks what a later step needs.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{step} needs {what}, which no earlier step reported")]
pub struct Incomplete {
    /// The step that cannot start.
    pub step: StepName,
    /// What it lacks.
    pub what: &'static str,
}

impl Made {
    /// Takes over what a finished step reports.
    pub fn add(&mut self, result: &StepResult) {
        if let Some(inputs) = &result.inputs {
            self.inputs = Some(inputs.clone());
        }
        if let Some(shards) = &result.shards {
            self.shards = Some(shards.clone());
        }
        for artifact in &result.artifacts {
            self.artifacts.insert(artifact.kind, artifact.clone());
        }
    }

    fn reference(&self, kind: ArtifactKind) -> Option<ArtifactRef> {
        self.artifacts.get(&kind).map(Artifact::reference)
    }
}

/// The run config of `step`.
///
/// # Errors
/// What an earlier step did not report.
pub fn run_config(run: &Validated, step: StepName, made: &Made) -> Result<RunConfig, Incomplete> {
    let incomplete = |what| Incomplete { step, what };
    let inputs = || made.inputs.as_ref().ok_or_else(|| incomplete("the digests of the inputs"));
    let items = || made.reference(ArtifactKind::Prepared).ok_or_else(|| incomplete("the prepared items"));
    let model = |image_layout: ImageLayout| -> Result<ModelInput, Incomplete> {
        Ok(ModelInput { location: run.model.location.clone(), digest: inputs()?.model.clone(), image_layout })
    };
    let adapter = || -> Result<Option<ArtifactRef>, Incomplete> {
        let Some(adapter) = &run.adapter else { return Ok(None) };
        let digest = inputs()?.adapter.clone().or_else(|| adapter.digest.clone());
        let digest = digest.ok_or_else(|| incomplete("the digest of the adapter"))?;
        Ok(Some(ArtifactRef { location: adapter.location.clone(), digest }))
    };
    let task = match step {
        StepName::Prepare => Task::Prepare(Box::new(Prepare {
            // The layout data is generated with: by it, data that is already there is found.
            model: ModelLocation {
                location: run.model.location.clone(),
                image_layout: run.layouts.generation,
            },
            adapter: run.adapter.clone(),
            source: run.items.clone(),
            recipe: run.data.clone(),
            train: run.train.clone(),
            precision: run.precision,
        })),
        StepName::Generate => {
            let DataRecipe::Preferences(recipe) = &run.data else {
                return Err(incomplete("a recipe for preferences"));
            };
            Task::Generate(Box::new(Generate {
                model: model(run.layouts.generation)?,
                adapter: adapter()?,
                items: items()?,
                images: run.images.clone(),
                recipe: recipe.clone(),
                precision: run.precision,
                shards: run.shards,
            }))
        }
        StepName::Describe => {
            let DataRecipe::Descriptions(recipe) = &run.data else {
                return Err(incomplete("a recipe for descriptions"));
            };
            Task::Describe(Box::new(Describe {
                model: model(run.layouts.generation)?,
                adapter: adapter()?,
                items: items()?,
                images: run.images.clone(),
                recipe: recipe.clone(),
                precision: run.precision,
                shards: run.shards,
            }))
        }
        StepName::Train => {
            let kind = match &run.data {
                DataRecipe::Preferences(_) => ArtifactKind::Preferences,
                DataRecipe::Descriptions(_) => ArtifactKind::Descriptions,
            };
            let data = match (made.reference(kind), &made.shards) {
                (Some(sealed), _) => TrainData::Sealed(sealed),
                (None, Some(shards)) => TrainData::Shards(shards.clone()),
                (None, None) => return Err(incomplete("the data to train on")),
            };
            Task::Train(Box::new(Train {
                model: model(run.layouts.training)?,
                adapter: adapter()?,
                items: items()?,
                data,
                images: run.images.clone(),
                recipe: run.train.clone(),
                precision: run.precision,
            }))
        }
    };
    Ok(RunConfig {
        version: VERSION,
        run: run.run.clone(),
        output: run.output.location.clone(),
        seed: run.seed,
        task,
    })
}
