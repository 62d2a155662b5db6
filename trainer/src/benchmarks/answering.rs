//! Asks a model what it has not answered yet.

use std::path::Path;

use stic_contract::evaluation::{AskingRecipe, Prompting};
use stic_evaluation::registry::Question;

use super::answer::{Answer, answer_id};
use super::answer_plan::{AnswerPlan, DescriptionWithoutImage, MissingAnswers};
use super::answers::lookup;
use super::question_check::LargestQuestion;
use super::question_file::QuestionFile;
use crate::cancellation::CancellationToken;
use crate::data::encode::Encoder;
use crate::error::Result;
use crate::inference::{GenerationPlan, Policy, ResponseWriter, Vlm, write_side_by_side};
use crate::io::journal::{Journal, RowLookup};
use crate::model::lora::LoraAdapter;

/// The questions that one process asks, and how.
#[derive(Debug, Clone, Copy)]
pub struct Asking<'a> {
    pub questions: &'a QuestionFile,
    pub recipe: &'a AskingRecipe,
    /// Every `shards`th group of questions about one image, from group `shard` on.
    pub shard: u32,
    pub shards: u32,
    pub cancellation: &'a CancellationToken,
}

/// What memory is planned for.
#[derive(Debug, Clone, Copy)]
pub struct AskingMemory {
    pub largest: LargestQuestion,
    /// Responses at a time; 0 for as many as fit in memory.
    pub batch_size: usize,
    /// Whether the GPU ran out of memory before.
    pub reduced: bool,
}

/// The answers that a subject has given, and the journal to which more are added.
#[derive(Debug)]
pub struct AnsweredQuestions {
    done: RowLookup<Answer>,
    journal: Journal,
}

impl AnsweredQuestions {
    /// Opens `journal`, and reads what there is in it and in the journals of `others`.
    ///
    /// # Errors
    /// [`crate::Error::Storage`]; [`crate::Error::Data`] for a damaged row.
    pub fn open<P: AsRef<Path>>(journal: &Path, others: &[P]) -> Result<Self> {
        let opened = Journal::open::<Answer>(journal, |_| Ok(()))?;
        let mut all = vec![journal];
        all.extend(others.iter().map(AsRef::as_ref));
        Ok(Self { done: lookup(&all)?, journal: opened })
    }
}

/// A subject on one device.
pub struct Respondent<'a> {
    pub vlm: &'a Vlm,
    pub encoder: &'a Encoder,
    pub adapter: Option<LoraAdapter>,
}

/// How many answers there are to be, and how many of these there are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct AnswerCount {
    pub total: u64,
    pub missing: u64,
    /// The most tokens that the missing ones can have, with their descriptions.
    pub missing_tokens: u64,
}

/// The most tokens of an answer and its description.
#[must_use]
pub fn answer_tokens(question: &Question, prompting: Prompting, recipe: &AskingRecipe) -> u64 {
    let description = if prompting == Prompting::Direct { 0 } else { recipe.max_description_tokens };
    u64::from(question.max_new_tokens) + u64::from(description)
}

impl Asking<'_> {
    /// Counts what is to be asked.
    ///
    /// # Errors
    /// [`crate::Error::Storage`]; [`crate::Error::Data`] for damaged questions.
    pub fn count(&self, answered: &AnsweredQuestions) -> Result<AnswerCount> {
        let mut count = AnswerCount::default();
        for group in self.groups() {
            for question in group? {
                count.total += self.recipe.prompting.len() as u64;
                for prompting in self.missing_of(&question, &answered.done) {
                    count.missing += 1;
                    count.missing_tokens += answer_tokens(&question, prompting, self.recipe);
                }
            }
        }
        Ok(count)
    }

    /// Asks what is missing, which is `missing` answers, one respondent beside the other. `on_answers` is told of new answers.
    ///
    /// # Errors
    /// [`crate::Error::Data`] for an image that cannot be used; [`crate::Error::Interrupted`]. What was answered until then is in the
    /// journal.
    pub fn ask(
        &self,
        respondents: &[Respondent<'_>],
        memory: AskingMemory,
        missing: u64,
        answered: &mut AnsweredQuestions,
        mut on_answers: impl FnMut(u64) -> Result<()> + Send,
    ) -> Result<()> {
        let AnsweredQuestions { done, journal } = answered;
        let done = &*done;
        let writers: Vec<ResponseWriter<'_>> = respondents
            .iter()
            .map(|respondent| self.writer(respondent, memory, missing))
            .collect::<Result<_>>()?;
        let plan = AnswerPlan {
            max_description_tokens: self.recipe.max_description_tokens,
            description_without_image: self.describe_without_image(writers.first())?,
        };
        let items_of = |writer: usize| {
            self.missing_answers(done).skip(writer).step_by(writers.len()).map(|item| {
                let item = item?;
                let image = match item.questions.first() {
                    Some((question, _)) => self.questions.open_image(question)?,
                    None => None,
                };
                Ok((item, image))
            })
        };
        write_side_by_side(&writers, &plan, items_of, |answers| {
            answers.iter().try_for_each(|answer| journal.append(answer))?;
            on_answers(answers.len() as u64)
        })
    }

    /// The shard's share. It depends on nothing that was answered.
    fn groups(&self) -> impl Iterator<Item = Result<Vec<Question>>> + Send + use<> {
        self.questions.groups().skip(self.shard as usize).step_by(self.shards.max(1) as usize)
    }

    fn missing_of<'q>(
        &'q self,
        question: &'q Question,
        done: &'q RowLookup<Answer>,
    ) -> impl Iterator<Item = Prompting> + 'q {
        let missing = |prompting: &Prompting| !done.contains(&answer_id(question, *prompting));
        self.recipe.prompting.iter().copied().filter(missing)
    }

    /// The groups of which answers are missing.
    fn missing_answers<'i>(
        &'i self,
        done: &'i RowLookup<Answer>,
    ) -> impl Iterator<Item = Result<MissingAnswers>> + Send + 'i {
        let missing = |group: Vec<Question>| {
            let key =
                group.first().map_or_else(String::new, |first| format!("{}/{}", first.benchmark, first.id));
            let of = |question: &Question| {
                let missing: Vec<Prompting> = self.missing_of(question, done).collect();
                missing.into_iter().map(|prompting| (question.clone(), prompting)).collect::<Vec<_>>()
            };
            MissingAnswers { key, questions: group.iter().flat_map(of).collect() }
        };
        let groups = self.groups().map(move |group| group.map(missing));
        groups.filter(|item| !item.as_ref().is_ok_and(|item| item.questions.is_empty()))
    }

    fn writer<'w>(
        &'w self,
        respondent: &'w Respondent<'_>,
        memory: AskingMemory,
        missing: u64,
    ) -> Result<ResponseWriter<'w>> {
        let Respondent { vlm, encoder, adapter } = respondent;
        let AskingMemory { largest, batch_size, reduced } = memory;
        let plan = GenerationPlan {
            requested: batch_size,
            responses: usize::try_from(missing).unwrap_or(usize::MAX),
            prompt_tokens: largest.prompt_tokens,
            max_new_tokens: largest.max_new_tokens,
            adapter_bytes: adapter.as_ref().map_or(0, LoraAdapter::bytes),
            reduced,
        };
        Ok(ResponseWriter {
            policy: Policy { vlm, adapter: adapter.as_ref(), encoder },
            seed: 0,
            batch_size: vlm.batch_size(&plan)?,
            cancellation: self.cancellation,
        })
    }

    /// What the model describes where there is no image, if a prompt needs it. It takes as long as one answer, so it is not
    /// stored.
    fn describe_without_image(&self, writer: Option<&ResponseWriter<'_>>) -> Result<Option<String>> {
        let Some(writer) = writer else { return Ok(None) };
        if !self.recipe.prompting.contains(&Prompting::DescribeAndRespondAsReleased) {
            return Ok(None);
        }
        let plan = DescriptionWithoutImage { max_tokens: self.recipe.max_description_tokens };
        let mut description = None;
        writer.write(&plan, std::iter::once(Ok(((), ()))), |text| {
            description = Some(text);
            Ok(())
        })?;
        Ok(description)
    }
}
