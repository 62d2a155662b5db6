//! What the step `answer` takes of a GPU's memory, before one is occupied.

use stic_contract::evaluation::PrepareEvaluation;

use super::subjects::BaseModel;
use crate::benchmarks::LargestQuestion;
use crate::inference::GenerationPlan;
use crate::io::human_bytes;

/// What the largest of `models` takes for the largest question.
pub(super) fn report(
    task: &PrepareEvaluation,
    models: &[BaseModel],
    largest: LargestQuestion,
) -> Option<String> {
    let LargestQuestion { prompt_tokens, max_new_tokens } = largest;
    let plan = GenerationPlan {
        requested: 0,
        responses: 1,
        prompt_tokens,
        max_new_tokens,
        adapter_bytes: 0,
        reduced: false,
    };
    let generations = models.iter().map(|model| {
        let request = plan.largest_request(&model.files, model.files.largest_image().1);
        model.memory(task).generation(model.adapter_bytes, request)
    });
    let generation = generations.max_by_key(|generation| generation.peak(1))?;
    Some(format!(
        "GPU memory: answering takes up to {} and {} more for each further answer at a time",
        human_bytes(generation.peak(1)),
        human_bytes(generation.response)
    ))
}
