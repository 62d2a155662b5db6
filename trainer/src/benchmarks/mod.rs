//! Published benchmarks, answered under several policies and compared in pairs. What is asked and how answers are scored is
//! in the crate `stic-evaluation`.

mod answer;
mod answer_plan;
mod evaluation;
mod prompting;
mod question_check;
mod question_file;

pub use self::evaluation::{BASE, Evaluation};
pub use self::prompting::Prompting;
