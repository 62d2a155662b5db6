//! The run config of each step.

use std::collections::BTreeMap;

use stic_contract::config::{
    DataRecipe, Describe, Generate, ModelInput, ModelLocation, Prepare, ShardSet, Train, TrainData, VERSION,
};
use stic_contract::recipe::{ImageLayout, Precision};
use stic_contract::result::InputDigests;
use stic_contract::{Artifact, ArtifactKind, ArtifactRef, RunConfig, StepName, StepResult, Task};

use crate::validated::Validated;

/// The results of the earlier steps of a run.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct PreviousResults {
    /// What `prepare` found the inputs to be.
    pub inputs: Option<InputDigests>,
    /// Complete artifacts, by kind.
    pub artifacts: BTreeMap<ArtifactKind, Artifact>,
    /// The shards of the last sharded step.
    pub shards: Option<ShardSet>,
}

/// The results of earlier steps lack something that this step needs.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("step {step} needs {what}, which no earlier step reported")]
pub struct MissingResult {
    /// The step that cannot start.
    pub step: StepName,
    pub what: &'static str,
}

impl PreviousResults {
    /// Adds the result of the next step.
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
/// An earlier step did not report what this one needs.
pub fn run_config(
    run: &Validated,
    step: StepName,
    previous: &PreviousResults,
) -> Result<RunConfig, MissingResult> {
    let step_inputs = StepInputs { run, step, previous };
    let task = match step {
        StepName::Prepare => Task::Prepare(Box::new(prepare(run))),
        StepName::Generate => Task::Generate(Box::new(step_inputs.generate()?)),
        StepName::Describe => Task::Describe(Box::new(step_inputs.describe()?)),
        StepName::Train => Task::Train(Box::new(step_inputs.train()?)),
    };
    Ok(RunConfig {
        version: VERSION,
        run: run.run.clone(),
        output: run.output.location.clone(),
        seed: run.seed,
        gpus: run.gpus(step),
        task,
    })
}

fn prepare(run: &Validated) -> Prepare {
    Prepare {
        // The layout of the generating step: data that already exists is found by it.
        model: ModelLocation { location: run.model.location.clone(), image_layout: run.layouts.generation },
        adapter: run.adapter.clone(),
        source: run.items.clone(),
        recipe: run.data.clone(),
        train: run.train.clone(),
        precision: run.precision,
        bf16_on_cpu: run.precision == Precision::Bf16 && run.uses_cpu(),
        uses_gpu: run.uses_gpu(),
    }
}

/// What a step after `prepare` takes from its run and from the results of earlier steps.
struct StepInputs<'a> {
    run: &'a Validated,
    step: StepName,
    previous: &'a PreviousResults,
}

impl StepInputs<'_> {
    fn missing(&self, what: &'static str) -> MissingResult {
        MissingResult { step: self.step, what }
    }

    fn digests(&self) -> Result<&InputDigests, MissingResult> {
        self.previous.inputs.as_ref().ok_or_else(|| self.missing("the digests of the inputs"))
    }

    fn items(&self) -> Result<ArtifactRef, MissingResult> {
        self.previous.reference(ArtifactKind::Prepared).ok_or_else(|| self.missing("the prepared items"))
    }

    fn model(&self, image_layout: ImageLayout) -> Result<ModelInput, MissingResult> {
        let location = self.run.model.location.clone();
        Ok(ModelInput { location, digest: self.digests()?.model.clone(), image_layout })
    }

    fn adapter(&self) -> Result<Option<ArtifactRef>, MissingResult> {
        let Some(adapter) = &self.run.adapter else { return Ok(None) };
        let digest = self.digests()?.adapter.clone().or_else(|| adapter.digest.clone());
        let digest = digest.ok_or_else(|| self.missing("the digest of the adapter"))?;
        Ok(Some(ArtifactRef { location: adapter.location.clone(), digest }))
    }

    fn generate(&self) -> Result<Generate, MissingResult> {
        let DataRecipe::Preferences(recipe) = &self.run.data else {
            return Err(self.missing("a recipe for preferences"));
        };
        Ok(Generate {
            model: self.model(self.run.layouts.generation)?,
            adapter: self.adapter()?,
            items: self.items()?,
            images: self.run.images.clone(),
            recipe: recipe.clone(),
            precision: self.run.precision,
            shards: self.run.shards,
            batch_size: self.run.operation.batch_size,
        })
    }

    fn describe(&self) -> Result<Describe, MissingResult> {
        let DataRecipe::Descriptions(recipe) = &self.run.data else {
            return Err(self.missing("a recipe for descriptions"));
        };
        Ok(Describe {
            model: self.model(self.run.layouts.generation)?,
            adapter: self.adapter()?,
            items: self.items()?,
            images: self.run.images.clone(),
            recipe: recipe.clone(),
            precision: self.run.precision,
            shards: self.run.shards,
            batch_size: self.run.operation.batch_size,
        })
    }

    /// The data that the run generated, complete or in shards.
    fn data(&self) -> Result<TrainData, MissingResult> {
        let kind = match &self.run.data {
            DataRecipe::Preferences(_) => ArtifactKind::Preferences,
            DataRecipe::Descriptions(_) => ArtifactKind::Descriptions,
        };
        match (self.previous.reference(kind), &self.previous.shards) {
            (Some(sealed), _) => Ok(TrainData::Sealed(sealed)),
            (None, Some(shards)) => Ok(TrainData::Shards(shards.clone())),
            (None, None) => Err(self.missing("the data to train on")),
        }
    }

    fn train(&self) -> Result<Train, MissingResult> {
        Ok(Train {
            model: self.model(self.run.layouts.training)?,
            adapter: self.adapter()?,
            items: self.items()?,
            data: self.data()?,
            images: self.run.images.clone(),
            recipe: self.run.train.clone(),
            precision: self.run.precision,
            activation_checkpointing: self.run.operation.activation_checkpointing,
        })
    }
}
