//! Published benchmarks, answered by several models and compared in pairs. What is asked and how answers are scored is in the
//! crate `stic-evaluation`.

mod answer;
mod answer_plan;
mod answering;
mod answers;
mod evaluation;
mod image_store;
mod prompting;
mod question_check;
mod question_file;
mod question_reader;
mod scoring;
mod sealed_answers;
mod skipped_rows;

pub use self::answer::{Answer, answer_id, answers_key};
pub use self::answering::{AnswerCount, AnsweredQuestions, Asking, AskingMemory, Respondent, answer_tokens};
pub use self::answers::{Answers, JournalledAnswers, missing};
pub use self::evaluation::{BASE, Evaluation};
pub use self::image_store::{ImageStore, ImageWriter};
pub use self::question_check::{LargestQuestion, QuestionCheck};
pub use self::question_file::QuestionFile;
pub use self::question_reader::{BenchmarkFolder, BenchmarkReport, QuestionReader, SkippedRow};
pub use self::scoring::{Judgements, Scoring, benchmarks_of};
pub use self::sealed_answers::{SealedAnswers, seal};
pub use self::skipped_rows::SkippedRows;
