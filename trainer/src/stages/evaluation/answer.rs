//! `answer`: every subject is asked every question. What another run on the volume asked the same model is not asked again.

use candle_core::Device;
use stic_contract::evaluation::{Answer, Subject};
use stic_contract::recipe::ImageLayout;
use stic_contract::result::ItemCounts;
use stic_contract::{RunIdentity, StepResult, VolumePath};

use super::super::context::{Execution, StepContext};
use super::super::disk_space::Requirement;
use super::super::inputs::load_adapter;
use super::answer_files;
use super::questions::PreparedQuestions;
use crate::benchmarks::{AnswerCount, AnsweredQuestions, Asking, AskingMemory, Respondent};
use crate::data::encode::Encoder;
use crate::error::Result;
use crate::inference::Vlm;
use crate::io::artifact::Output;

pub(crate) fn run(task: &Answer, execution: Execution<'_>) -> Result<StepResult> {
    let Execution { config, devices, context, output, reporter } = execution;
    let questions = PreparedQuestions::open(&context.volumes, &task.questions, output)?;
    let asking = Asking {
        questions: &questions.file,
        recipe: &task.recipe,
        shard: context.shard,
        shards: task.shards,
        cancellation: &context.cancellation,
    };
    let subjects = pending(task, &config.run, &asking, context, output)?;
    let total = subjects.iter().map(|subject| subject.count.total).sum::<u64>();
    let missing = subjects.iter().map(|subject| subject.count.missing).sum::<u64>();
    let tokens = subjects.iter().map(|subject| subject.count.missing_tokens).sum::<u64>();
    Requirement::of_answers(missing, tokens).check(config.step().as_str(), output.root())?;
    reporter.begin("answering", "questions", total - missing, total)?;

    let requested = task.batch_size.map_or(0, |size| size.get() as usize);
    let memory = AskingMemory {
        largest: questions.largest,
        batch_size: context.batch_size.unwrap_or(requested),
        reduced: context.reduced_memory,
    };
    let mut loaded: Option<(&VolumePath, Vec<LoadedModel>)> = None;
    for PendingSubject { subject, mut answered, count } in subjects {
        if count.missing == 0 {
            continue;
        }
        // Freed before the next one is loaded.
        loaded = loaded.take().filter(|(location, _)| **location == subject.model.location);
        let (_, models) = match &mut loaded {
            Some(loaded) => loaded,
            None => loaded.insert((&subject.model.location, load(task, subject, devices, context)?)),
        };
        let respondents: Vec<Respondent<'_>> = models
            .iter()
            .map(|LoadedModel { vlm, encoder }| {
                let adapter = load_adapter(&context.volumes, vlm, subject.adapter.as_ref())?;
                Ok(Respondent { vlm, encoder, adapter })
            })
            .collect::<Result<_>>()?;
        tracing::info!(subject = subject.name, questions = count.missing, "answering");
        asking
            .ask(&respondents, memory, count.missing, &mut answered, |answers| reporter.advance(answers))?;
    }
    Ok(StepResult {
        items: Some(ItemCounts { total, done: total, skipped: 0 }),
        ..StepResult::new(config.step())
    })
}

/// A subject, and how much it has answered.
struct PendingSubject<'a> {
    subject: &'a Subject,
    answered: AnsweredQuestions,
    count: AnswerCount,
}

/// Every subject, but of those that are the same model under two names only the first.
fn pending<'a>(
    task: &'a Answer,
    run: &RunIdentity,
    asking: &Asking<'_>,
    context: &StepContext,
    output: &Output,
) -> Result<Vec<PendingSubject<'a>>> {
    let (mut pending, mut folders) = (Vec::new(), Vec::new());
    for subject in &task.subjects {
        let folder = answer_files::folder(subject, &task.recipe, run, output);
        if folders.contains(&folder.dir) {
            continue;
        }
        let own = folder.create(context.shard)?;
        let mut others = folder.journals()?;
        others.retain(|journal| *journal != own);
        let answered = AnsweredQuestions::open(&own, &others)?;
        let count = asking.count(&answered)?;
        pending.push(PendingSubject { subject, answered, count });
        folders.push(folder.dir);
    }
    Ok(pending)
}

/// A base model on one of the devices.
struct LoadedModel {
    vlm: Vlm,
    encoder: Encoder,
}

fn load(
    task: &Answer,
    subject: &Subject,
    devices: &[Device],
    context: &StepContext,
) -> Result<Vec<LoadedModel>> {
    let dir = context.volumes.resolve(&subject.model.location)?;
    let load = |device: &Device| {
        let vlm = Vlm::load(&dir, ImageLayout::Model, task.recipe.precision, device)?;
        let encoder = vlm.files.encoder(task.recipe.chat_template)?;
        Ok(LoadedModel { vlm, encoder })
    };
    devices.iter().map(load).collect()
}
