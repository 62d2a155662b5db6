//! The steps of an `EvaluationRun`: models answer published benchmarks, a judge reads what no rule can score, and the models are
//! compared.

mod answer;
mod answer_files;
mod cases;
mod gpu_memory;
mod journal_folder;
mod judge;
mod judgements;
mod prepare;
mod questions;
mod score;
mod subjects;

pub(super) use self::answer::run as answer;
pub(super) use self::judge::run as judge;
pub(super) use self::prepare::run as prepare;
pub(super) use self::score::run as score;
