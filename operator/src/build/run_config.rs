//! The run config of each step.

use std::collections::BTreeMap;

use stic_contract::config::{
    DataRecipe, Describe, Generate, ModelInput, ModelLocation, Prepare, ShardSet, Train, TrainData, VERSION,
};
use stic_contract::evaluation::{
    Answer, AskingRecipe, JUDGE_PROMPTS, Judge, PrepareEvaluation, Score, Subject, SubjectLocation,
};
use stic_contract::recipe::{ImageLayout, Precision};
use stic_contract::result::{InputDigests, SubjectDigests};
use stic_contract::{
    Artifact, ArtifactKind, ArtifactRef, Digest, RunConfig, StepName, StepResult, Task, VolumePath,
};

use crate::validated::{Evaluation, Training, Validated, Work};

/// The results of the earlier steps of a run.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct PreviousResults {
    /// What `prepare` found the inputs to be.
    pub inputs: Option<InputDigests>,
    /// What `prepare` found the models of an evaluation to be.
    pub subjects: Vec<SubjectDigests>,
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
        if !result.subjects.is_empty() {
            self.subjects.clone_from(&result.subjects);
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
    let task = match &run.work {
        Work::Training(training) => step_inputs.task_of_training(training)?,
        Work::Evaluation(evaluation) => step_inputs.task_of_evaluation(evaluation)?,
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

/// What a step after `prepare` takes from its run and from the results of earlier steps.
struct StepInputs<'a> {
    run: &'a Validated,
    step: StepName,
    previous: &'a PreviousResults,
}

impl StepInputs<'_> {
    fn task_of_training(&self, training: &Training) -> Result<Task, MissingResult> {
        Ok(match self.step {
            StepName::Prepare => Task::Prepare(Box::new(self.prepare(training))),
            StepName::Generate => Task::Generate(Box::new(self.generate(training)?)),
            StepName::Describe => Task::Describe(Box::new(self.describe(training)?)),
            StepName::Train => Task::Train(Box::new(self.train(training)?)),
            StepName::Answer | StepName::Judge | StepName::Score => return Err(self.missing("an evaluation")),
        })
    }

    fn task_of_evaluation(&self, evaluation: &Evaluation) -> Result<Task, MissingResult> {
        Ok(match self.step {
            StepName::Prepare => Task::PrepareEvaluation(Box::new(self.prepare_evaluation(evaluation))),
            StepName::Answer => Task::Answer(Box::new(self.answer(evaluation)?)),
            StepName::Judge => Task::Judge(Box::new(self.judge(evaluation)?)),
            StepName::Score => Task::Score(Box::new(self.score(evaluation)?)),
            StepName::Generate | StepName::Describe | StepName::Train => {
                return Err(self.missing("a training"));
            }
        })
    }

    fn missing(&self, what: &'static str) -> MissingResult {
        MissingResult { step: self.step, what }
    }

    fn prepare(&self, training: &Training) -> Prepare {
        Prepare {
            // The layout of the generating step: data that already exists is found by it.
            model: ModelLocation {
                location: training.model.location.clone(),
                image_layout: training.layouts.generation,
            },
            adapter: training.adapter.clone(),
            source: training.items.clone(),
            recipe: training.data.clone(),
            train: training.train.clone(),
            precision: self.run.precision,
            bf16_on_cpu: self.computes_bf16_on_cpu(),
            uses_gpu: self.run.uses_gpu(),
        }
    }

    fn computes_bf16_on_cpu(&self) -> bool {
        self.run.precision == Precision::Bf16 && self.run.uses_cpu()
    }

    fn digests(&self) -> Result<&InputDigests, MissingResult> {
        self.previous.inputs.as_ref().ok_or_else(|| self.missing("the digests of the inputs"))
    }

    fn items(&self) -> Result<ArtifactRef, MissingResult> {
        self.previous.reference(ArtifactKind::Prepared).ok_or_else(|| self.missing("the prepared items"))
    }

    fn model(&self, training: &Training, image_layout: ImageLayout) -> Result<ModelInput, MissingResult> {
        let location = training.model.location.clone();
        Ok(ModelInput { location, digest: self.digests()?.model.clone(), image_layout })
    }

    fn adapter(&self, training: &Training) -> Result<Option<ArtifactRef>, MissingResult> {
        let Some(adapter) = &training.adapter else { return Ok(None) };
        let digest = self.digests()?.adapter.clone().or_else(|| adapter.digest.clone());
        let digest = digest.ok_or_else(|| self.missing("the digest of the adapter"))?;
        Ok(Some(ArtifactRef { location: adapter.location.clone(), digest }))
    }

    fn generate(&self, training: &Training) -> Result<Generate, MissingResult> {
        let DataRecipe::Preferences(recipe) = &training.data else {
            return Err(self.missing("a recipe for preferences"));
        };
        Ok(Generate {
            model: self.model(training, training.layouts.generation)?,
            adapter: self.adapter(training)?,
            items: self.items()?,
            images: training.images.clone(),
            recipe: recipe.clone(),
            precision: self.run.precision,
            shards: self.run.shards,
            batch_size: self.run.operation.batch_size,
        })
    }

    fn describe(&self, training: &Training) -> Result<Describe, MissingResult> {
        let DataRecipe::Descriptions(recipe) = &training.data else {
            return Err(self.missing("a recipe for descriptions"));
        };
        Ok(Describe {
            model: self.model(training, training.layouts.generation)?,
            adapter: self.adapter(training)?,
            items: self.items()?,
            images: training.images.clone(),
            recipe: recipe.clone(),
            precision: self.run.precision,
            shards: self.run.shards,
            batch_size: self.run.operation.batch_size,
        })
    }

    /// The data that the run generated, complete or in shards.
    fn data(&self, training: &Training) -> Result<TrainData, MissingResult> {
        let kind = match &training.data {
            DataRecipe::Preferences(_) => ArtifactKind::Preferences,
            DataRecipe::Descriptions(_) => ArtifactKind::Descriptions,
        };
        match (self.previous.reference(kind), &self.previous.shards) {
            (Some(sealed), _) => Ok(TrainData::Sealed(sealed)),
            (None, Some(shards)) => Ok(TrainData::Shards(shards.clone())),
            (None, None) => Err(self.missing("the data to train on")),
        }
    }

    fn train(&self, training: &Training) -> Result<Train, MissingResult> {
        Ok(Train {
            model: self.model(training, training.layouts.training)?,
            adapter: self.adapter(training)?,
            items: self.items()?,
            data: self.data(training)?,
            images: training.images.clone(),
            recipe: training.train.clone(),
            precision: self.run.precision,
            activation_checkpointing: self.run.operation.activation_checkpointing,
        })
    }

    fn recipe(&self, evaluation: &Evaluation) -> AskingRecipe {
        AskingRecipe {
            prompting: evaluation.prompting.clone(),
            chat_template: evaluation.chat_template,
            max_description_tokens: evaluation.max_description_tokens,
            precision: self.run.precision,
        }
    }

    fn prepare_evaluation(&self, evaluation: &Evaluation) -> PrepareEvaluation {
        let subjects = evaluation.subjects.iter().map(|subject| SubjectLocation {
            name: subject.name.clone(),
            model: subject.model.location.clone(),
            model_digest: subject.model.digest.clone(),
            adapter: subject.adapter.clone(),
        });
        PrepareEvaluation {
            subjects: subjects.collect(),
            benchmarks: evaluation.benchmarks.clone(),
            recipe: self.recipe(evaluation),
            scorers: evaluation.scorers.clone(),
            has_judge: evaluation.judge.is_some(),
            on_unreadable: evaluation.on_unreadable,
            bf16_on_cpu: self.computes_bf16_on_cpu(),
            uses_gpu: self.run.uses_gpu(),
        }
    }

    fn questions(&self) -> Result<ArtifactRef, MissingResult> {
        self.previous.reference(ArtifactKind::Questions).ok_or_else(|| self.missing("the questions"))
    }

    fn subjects(&self, evaluation: &Evaluation) -> Result<Vec<Subject>, MissingResult> {
        let reference = |location: &VolumePath, digest: &Digest| ArtifactRef {
            location: location.clone(),
            digest: digest.clone(),
        };
        let subject = |subject: &crate::validated::Subject| {
            let found = self.previous.subjects.iter().find(|found| found.name == subject.name);
            let found = found.ok_or_else(|| self.missing("the digests of the models"))?;
            let adapter = match (&subject.adapter, &found.adapter) {
                (Some(adapter), Some(digest)) => Some(reference(&adapter.location, digest)),
                (None, _) => None,
                (Some(_), None) => return Err(self.missing("the digest of an adapter")),
            };
            let model = reference(&subject.model.location, &found.model);
            Ok(Subject { name: subject.name.clone(), model, adapter })
        };
        evaluation.subjects.iter().map(subject).collect()
    }

    fn answer(&self, evaluation: &Evaluation) -> Result<Answer, MissingResult> {
        Ok(Answer {
            questions: self.questions()?,
            subjects: self.subjects(evaluation)?,
            recipe: self.recipe(evaluation),
            shards: self.run.shards,
            batch_size: self.run.operation.batch_size,
        })
    }

    fn judge(&self, evaluation: &Evaluation) -> Result<Judge, MissingResult> {
        let judge = evaluation.judge.as_ref().ok_or_else(|| self.missing("a judge"))?;
        Ok(Judge {
            questions: self.questions()?,
            subjects: self.subjects(evaluation)?,
            recipe: self.recipe(evaluation),
            endpoint: judge.endpoint.clone(),
            prompts: VolumePath { volume: JUDGE_PROMPTS.into(), path: String::new() },
        })
    }

    fn score(&self, evaluation: &Evaluation) -> Result<Score, MissingResult> {
        Ok(Score {
            questions: self.questions()?,
            subjects: self.subjects(evaluation)?,
            recipe: self.recipe(evaluation),
            scorers: evaluation.scorers.clone(),
            judgements: self.previous.reference(ArtifactKind::Judgements),
        })
    }
}
