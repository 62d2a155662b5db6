//! `scenes`: questions with one right answer, and descriptions that are compared with the objects in the scene.

use std::borrow::Cow;
use std::collections::BTreeSet;

use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::answers::PolicyAnswers;
use super::benchmark::{Benchmark, BenchmarkOptions};
use super::input_file::InputFile;
use super::phrases;
use super::questions::{ImageQuestions, Question, by_image};
use super::score_table::{Metric, ScoreTable};
use crate::data::row_problem::deserialize_id;
use crate::data::template::{IMAGE_PLACEHOLDER, strip_image_placeholder};
use crate::error::Result;

/// An answer is a word or two.
const MAX_ANSWER_TOKENS: u32 = 16;

/// A line of the questions.
#[derive(Debug, Clone, Deserialize)]
struct QuestionRow {
    #[serde(deserialize_with = "deserialize_id")]
    id: String,
    /// Relative to the image folder.
    image: String,
    question: String,
    /// An answer is right if it equals this, ignoring case and a full stop.
    answer: String,
}

/// A line of the scenes.
#[derive(Debug, Clone, Deserialize)]
struct SceneRow {
    #[serde(deserialize_with = "deserialize_id")]
    id: String,
    /// Relative to the image folder.
    image: String,
    /// The objects in it, each as often as it occurs.
    phrases: Vec<String>,
}

pub(super) struct Scenes {
    questions: InputFile<QuestionRow>,
    /// Without them, descriptions are not scored.
    scenes: Option<InputFile<SceneRow>>,
}

impl Benchmark for Scenes {
    const NAME: &'static str = "scenes";

    fn read(options: &BenchmarkOptions<'_>) -> Result<Self> {
        let mut questions = InputFile::read(options.questions, |row: &QuestionRow| &row.id)?;
        questions.check(|row| {
            row.question = strip_image_placeholder(&row.question);
            require(&[("image", &row.image), ("question", &row.question), ("answer", &row.answer)])?;
            without_placeholder("question", &row.question)
        })?;
        let scenes =
            options.scenes.map(|path| InputFile::read(path, |row: &SceneRow| &row.id)).transpose()?;
        let scenes =
            scenes.map(|mut scenes| scenes.check(|row| require(&[("image", &row.image)])).map(|()| scenes));
        Ok(Self { questions, scenes: scenes.transpose()? })
    }

    /// It has no name in its key: it was the only benchmark of version 0.1.
    fn key(&self) -> Result<Map<String, Value>> {
        Ok(Map::from_iter([
            ("questions".to_owned(), json!(self.questions.digest()?)),
            ("scenes".to_owned(), json!(self.scenes.as_ref().map(InputFile::digest).transpose()?)),
        ]))
    }

    fn requests(&self) -> Vec<ImageQuestions<'_>> {
        let direct = self.questions.rows_with_place().map(|(place, row)| {
            let text = Cow::Borrowed(row.question.as_str());
            let question =
                Question { id: &row.id, place: place.clone(), text, max_new_tokens: MAX_ANSWER_TOKENS };
            (row.image.as_str(), place, Some(question))
        });
        let scenes = self.scenes.iter().flat_map(InputFile::rows_with_place);
        let described = scenes.map(|(place, row)| (row.image.as_str(), place, None));
        by_image(direct.chain(described))
    }

    fn score(&self, answers: &PolicyAnswers<'_>) -> Result<Vec<Metric>> {
        let score = |row: &QuestionRow, answer: &str| f64::from(is_right(answer, &row.answer));
        let [direct, describe_and_respond] =
            answers.score_questions(self.questions.rows(), |row| (&row.image, &row.id), score)?;
        let mut metrics = vec![direct, describe_and_respond];
        if let Some(scenes) = &self.scenes {
            let vocabulary: BTreeSet<String> =
                scenes.rows().flat_map(|scene| scene.phrases.iter().cloned()).collect();
            let f1 = |scene: &SceneRow| {
                let found = phrases::count(&answers.about(&scene.image)?.description, &vocabulary);
                Ok(phrases::f1(&found, &scene.phrases))
            };
            let values = scenes.rows().map(f1).collect::<Result<_>>()?;
            metrics.push(Metric { key: "descriptionF1", title: "description F1", values });
        }
        Ok(metrics)
    }

    fn render(&self, table: &ScoreTable) -> String {
        format!(
            "{table}\n{} questions and {} scenes, greedy; ± is half of a 95% interval, of a paired difference on the lines below.\n",
            self.questions.rows().len(),
            self.scenes.as_ref().map_or(0, |scenes| scenes.rows().len())
        )
    }
}

/// An error for the first field that is empty.
fn require(fields: &[(&str, &String)]) -> Result<(), String> {
    match fields.iter().find(|(_, value)| value.trim().is_empty()) {
        Some((field, _)) => Err(format!("{field} is empty; give its text or remove the row")),
        None => Ok(()),
    }
}

fn without_placeholder(field: &str, text: &str) -> Result<(), String> {
    if text.contains(IMAGE_PLACEHOLDER) {
        return Err(format!(
            "{field} holds {IMAGE_PLACEHOLDER} more than once: a question shows one image; remove the others"
        ));
    }
    Ok(())
}

fn is_right(answer: &str, expected: &str) -> bool {
    let fold = |text: &str| text.trim().trim_end_matches('.').to_lowercase();
    fold(answer) == fold(expected)
}
