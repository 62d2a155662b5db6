//! Where answers are: in journals that all runs on a volume share, and sealed as an artifact of one run.

use std::path::Path;

use serde_json::{Value, json};
use stic_contract::evaluation::{ANSWERS_DIR, AskingRecipe, Subject};
use stic_contract::result::SubjectDigests;
use stic_contract::{ArtifactKind, Digest, RunIdentity};

use super::journal_folder::JournalFolder;
use crate::benchmarks::{Answers, JournalledAnswers, SealedAnswers, answers_key};
use crate::error::Result;
use crate::io::artifact::Output;

/// The folder of a subject's answers.
pub(super) fn folder(
    subject: &Subject,
    recipe: &AskingRecipe,
    run: &RunIdentity,
    output: &Output,
) -> JournalFolder {
    let adapter = subject.adapter.as_ref().map(|adapter| &adapter.digest);
    let key = answers_key(&subject.model.digest, adapter, recipe);
    JournalFolder::new(&output.root().join(ANSWERS_DIR), key, run)
}

/// What an artifact of answers is made from.
pub(super) fn sealed_key(questions: &Digest, subjects: &[SubjectDigests], recipe: &AskingRecipe) -> Value {
    json!({
        "trainer": env!("CARGO_PKG_VERSION"),
        "questions": questions,
        "subjects": subjects,
        "recipe": recipe,
    })
}

/// The names and digests of subjects.
pub(super) fn digests(subjects: &[Subject]) -> Vec<SubjectDigests> {
    let digests = |Subject { name, model, adapter }: &Subject| SubjectDigests {
        name: name.clone(),
        model: model.digest.clone(),
        adapter: adapter.as_ref().map(|adapter| adapter.digest.clone()),
    };
    subjects.iter().map(digests).collect()
}

/// The answers of the subjects: those that were sealed before, or those in the journals.
pub(super) fn open(
    questions: &Digest,
    subjects: &[Subject],
    recipe: &AskingRecipe,
    run: &RunIdentity,
    output: &Output,
) -> Result<Box<dyn Answers>> {
    let key = sealed_key(questions, &digests(subjects), recipe);
    let name = output.name(ArtifactKind::Answers, &key);
    if output.find(&name)?.is_some() {
        return Ok(Box::new(open_sealed(&output.root().join(name), subjects)?));
    }
    Ok(Box::new(open_journals(subjects, recipe, run, output)?))
}

pub(super) fn open_journals(
    subjects: &[Subject],
    recipe: &AskingRecipe,
    run: &RunIdentity,
    output: &Output,
) -> Result<JournalledAnswers> {
    let mut answers = JournalledAnswers::default();
    for subject in subjects {
        answers.add_subject(&folder(subject, recipe, run, output).journals()?)?;
    }
    Ok(answers)
}

/// Those of the artifact in `dir`.
pub(super) fn open_sealed(dir: &Path, subjects: &[Subject]) -> Result<SealedAnswers> {
    let names = subjects.iter().map(|subject| subject.name.clone()).collect();
    SealedAnswers::open(&dir.join(ArtifactKind::Answers.payload_file()), names)
}
