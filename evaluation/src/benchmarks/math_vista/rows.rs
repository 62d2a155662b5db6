//! Rows of MathVista.

use serde_json::Value;

use super::extract::AnswerType;
use super::item::Item;
use crate::benchmarks::{Sample, columns};
use crate::error::Result;
use crate::published::{FormKind, KEY_FIELD, Record};
use crate::python;

pub(super) const COLUMNS: &[&str] = &[
    "pid",
    "question",
    "choices",
    "unit",
    "precision",
    "answer",
    "question_type",
    "answer_type",
    "metadata",
];

pub(super) fn sample(form: FormKind, record: &Record) -> Result<Sample<Item>> {
    let id = match form {
        FormKind::Parquet => "pid",
        FormKind::Tsv => "index",
        FormKind::Original => KEY_FIELD,
    };
    let text = columns::text(record, "question")?;
    let (question, precision) = match form {
        FormKind::Tsv => (without_hint(&text).to_owned(), precision_in_hint(&text)),
        FormKind::Parquet | FormKind::Original => (text, precision(record)?),
    };
    let answer_type = answer_type(record)?;
    let choices = match (answer_type, form) {
        (AnswerType::Choice, FormKind::Tsv) => python::list(&columns::text(record, "choices")?)
            .ok_or_else(|| columns::error(record, "choices", "is no Python list of strings"))?,
        (AnswerType::Choice, _) => columns::texts(record, "choices")?,
        _ => Vec::new(),
    };
    if answer_type == AnswerType::Choice && choices.is_empty() {
        return Err(columns::error(record, "choices", "is empty"));
    }
    if answer_type == AnswerType::Float && !matches!(precision, Some(1 | 2)) {
        return Err(columns::error(record, "precision", "is neither 1 nor 2"));
    }
    let item = Item {
        question,
        unit: columns::optional_text(record, "unit")?.filter(|unit| !unit.is_empty()),
        choices,
        answer_type,
        precision,
        answer: columns::text(record, "answer")?,
        task: task(record)?,
    };
    Ok(Sample { id: columns::text(record, id)?, item })
}

fn answer_type(record: &Record) -> Result<AnswerType> {
    let (question, answer) = (columns::text(record, "question_type")?, columns::text(record, "answer_type")?);
    match (question.as_str(), answer.as_str()) {
        ("multi_choice", _) => Ok(AnswerType::Choice),
        ("free_form", "integer") => Ok(AnswerType::Integer),
        ("free_form", "float") => Ok(AnswerType::Float),
        ("free_form", "list") => Ok(AnswerType::List),
        _ => Err(columns::error(
            record,
            "answer_type",
            "is none of integer, float and list in a free-form question",
        )),
    }
}

/// A whole number that is published as a float.
fn precision(record: &Record) -> Result<Option<u32>> {
    let Some(text) = columns::optional_text(record, "precision")? else { return Ok(None) };
    let whole = text.strip_suffix(".0").unwrap_or(&text);
    whole.parse().map(Some).map_err(|_| columns::error(record, "precision", "is no whole number"))
}

/// VLMEvalKit's table has the task as a column, the others have it in `metadata`.
fn task(record: &Record) -> Result<String> {
    if let Some(task) = columns::optional_text(record, "task")? {
        return Ok(task);
    }
    let task = record.fields.get("metadata").and_then(|metadata| metadata.get("task"));
    Ok(task.and_then(Value::as_str).unwrap_or_default().to_owned())
}

/// The question in a query of VLMEvalKit's table: a line `Hint: ...`, then `Question: ...`, with the unit, and the choices.
fn without_hint(query: &str) -> &str {
    let question = match query.split_once('\n') {
        Some((hint, rest)) if hint.starts_with("Hint: ") => rest,
        _ => query,
    };
    let question = question.strip_prefix("Question: ").unwrap_or(question);
    question.rsplit_once("\nChoices:\n").map_or(question, |(question, _)| question)
}

/// VLMEvalKit's table has the precision only in words.
fn precision_in_hint(query: &str) -> Option<u32> {
    if query.contains("with one decimal place ") {
        Some(1)
    } else if query.contains("with two decimal places ") {
        Some(2)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_of_the_table_is_taken_apart() {
        let query = "Hint: Please answer the question requiring a floating-point number with two decimal places and provide \
                     the final value, e.g., 1.23, 1.34, 1.45, at the end.\nQuestion: How much? (Unit: $)";
        assert_eq!(without_hint(query), "How much? (Unit: $)");
        assert_eq!(precision_in_hint(query), Some(2));
        let query = "Hint: Please answer the question and provide the correct option letter, e.g., A, B, C, D, at the \
                     end.\nQuestion: Which?\nOf these?\nChoices:\n(A) cat\n(B) dog";
        assert_eq!(without_hint(query), "Which?\nOf these?");
        assert_eq!(without_hint("Which?"), "Which?");
    }
}
