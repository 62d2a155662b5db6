//! `prepare`: digests and checks every input, so that a run does not fail in its third hour over what was known in
//! its first minute. Needs no GPU.

mod lists;

use std::path::Path;

use candle_core::Device;
use serde_json::json;
use stic_contract::config::{DataRecipe, ModelInput, Prepare, RunConfig};
use stic_contract::recipe::{Objective, OnUnreadable};
use stic_contract::result::{InputDigests, ItemCounts};
use stic_contract::{ArtifactKind, Digest, StepName, StepResult};

use self::lists::{Found, Lists};
use super::candidates::{self, Candidate, Candidates};
use super::disk::{self, Need};
use super::examples::conversation;
use super::items::{Item, decode, read_image};
use super::prompts::prompt_tokens;
use super::vlm::Checked;
use super::{StepContext, keys, pool};
use crate::data::encode::Encoder;
use crate::data::images_dir::{self, Unresolved};
use crate::data::template::{Role, Turn};
use crate::error::{Error, Result};
use crate::io::adapter;
use crate::io::artifact::Output;
use crate::io::atomic;
use crate::io::file_digest;
use crate::io::progress::Reporter;
use crate::model::Llava;
use crate::model::digest::model_digest;

const SKIPPED_FILE: &str = "skipped.jsonl";
/// Candidates that are checked before any of them is written: enough for any number of threads, few in memory.
const AT_ONCE: usize = 1024;

pub(super) fn run(
    task: &Prepare,
    config: &RunConfig,
    context: &StepContext,
    output: &Output,
    reporter: &mut Reporter,
) -> Result<StepResult> {
    let model_dir = context.volumes.resolve(&task.model.location)?;
    let checked = Checked::open(&model_dir, task.model.image_layout)?;
    Llava::check(&model_dir)?;
    let checker = Checker::new(task, &checked)?;

    reporter.begin("digesting the model", "bytes", 0, checked.weight_bytes()?)?;
    let mut seen = 0;
    let model = model_digest(&model_dir, |bytes| {
        context.stop.check()?;
        reporter.advance(bytes - std::mem::replace(&mut seen, bytes))
    })?;
    let adapter = adapter_digest(task, context, &checked)?;

    let mut candidates = candidates::list(&task.source, config.seed, &context.volumes, output.partial())?;
    let total = candidates.count;
    Need::of_listing(total, candidates.bytes).require(StepName::Prepare.as_str(), output.root())?;
    reporter.begin("checking images", "images", 0, total)?;
    let [items, skipped] =
        [ArtifactKind::Prepared.payload_file(), SKIPPED_FILE].map(|name| output.partial().join(name));
    let (found, need) = atomic::write_with(&items, |items_file| {
        atomic::write_with(&skipped, |skipped_file| {
            let mut lists = Lists::new((&items, items_file), (&skipped, skipped_file));
            checker.check_all(&mut candidates, &mut lists, context, reporter)?;
            let found = lists.finish(&candidates.images)?;
            let need = Need::of_run(task, &checked.config.text, found.items);
            need.require("the run", output.root())?;
            Ok((found, need.bytes()))
        })
    })?;
    let Found { items: usable, skipped: left_out, most_image_tokens, .. } = found;

    let digest = file_digest(&items)?;
    let draft = output.begin(ArtifactKind::Prepared, keys::prepared(&digest, &model, adapter.as_ref()))?;
    atomic::rename(&items, &draft.dir.join(ArtifactKind::Prepared.payload_file()))?;
    atomic::rename(&skipped, &draft.dir.join(SKIPPED_FILE))?;
    let facts = json!({
        "items": usable,
        "skipped": left_out,
        "mostImageTokens": most_image_tokens,
        "estimatedDiskBytes": need,
        "model": model,
        "adapter": adapter,
    });
    atomic::write(&draft.dir.join("report.json"), format!("{facts:#}\n").as_bytes())?;
    let mut artifacts = vec![output.finish(draft, StepName::Prepare, facts)?];

    let input = ModelInput {
        location: task.model.location.clone(),
        digest: model.clone(),
        image_layout: task.model.image_layout,
    };
    let data_kind = match task.recipe {
        DataRecipe::Preferences(_) => ArtifactKind::Preferences,
        DataRecipe::Descriptions(_) => ArtifactKind::Descriptions,
    };
    let key = keys::data(&task.recipe, &input, adapter.as_ref(), &digest, config.seed, task.precision);
    artifacts.extend(output.find(&output.name(data_kind, &key))?);

    Ok(StepResult {
        artifacts,
        inputs: Some(InputDigests { model, adapter, items: digest, item_count: usable }),
        items: Some(ItemCounts { total, done: usable, skipped: left_out }),
        message: Some(format!(
            "{usable} of {total} images can be used, {left_out} skipped; an image is at most {most_image_tokens} tokens; the run needs up to {} of disk",
            disk::human(need)
        )),
        ..StepResult::new(StepName::Prepare)
    })
}

/// The digest of the adapter to continue, which must load on this model and be what another run recorded.
fn adapter_digest(task: &Prepare, context: &StepContext, checked: &Checked) -> Result<Option<Digest>> {
    let Some(location) = &task.adapter else { return Ok(None) };
    let dir = context.volumes.resolve(&location.location)?;
    adapter::load(&dir, &checked.config.text, &Device::Cpu)?;
    let path = dir.join(adapter::WEIGHTS_FILE);
    let found = file_digest(&path)?;
    match &location.digest {
        Some(recorded) if *recorded != found => Err(Error::Data(format!(
            "{}: has digest {found}, but the run that made it recorded {recorded}; the adapter was changed, run that one again with a raised rerun",
            path.display()
        ))),
        _ => Ok(Some(found)),
    }
}

/// What every item is checked against.
struct Checker<'a> {
    task: &'a Prepare,
    checked: &'a Checked,
    generation: Encoder,
    training: Encoder,
    /// Tokens of the longest prompt, without its image.
    longest_prompt: usize,
}

impl<'a> Checker<'a> {
    fn new(task: &'a Prepare, checked: &'a Checked) -> Result<Self> {
        let (template, prompts): (_, Vec<&str>) = match &task.recipe {
            DataRecipe::Preferences(recipe) => {
                let prompts = recipe.caption_prompts.iter().chain(&recipe.hallucination_prompts);
                (
                    recipe.chat_template,
                    prompts.chain([&recipe.well_curated_prompt]).map(String::as_str).collect(),
                )
            }
            DataRecipe::Descriptions(recipe) => {
                (recipe.chat_template, recipe.prompts.iter().map(String::as_str).collect())
            }
        };
        let generation = checked.encoder(template)?;
        let training = checked.encoder(task.train.chat_template)?;
        let mut longest_prompt = 0;
        for prompt in prompts {
            // One image token stands for the image, and is taken off again.
            let tokens = prompt_tokens(&generation, prompt, Some(1))? - 1;
            longest_prompt = longest_prompt.max(tokens).max(prompt_tokens(&training, prompt, Some(1))? - 1);
        }
        Ok(Self { task, checked, generation, training, longest_prompt })
    }

    /// Checks every candidate and writes what it is to `lists`, in the order of `candidates`.
    fn check_all(
        &self,
        candidates: &mut Candidates,
        lists: &mut Lists<'_>,
        context: &StepContext,
        reporter: &mut Reporter,
    ) -> Result<()> {
        loop {
            let group = candidates.by_ref().take(AT_ONCE).enumerate();
            let group = group.map(|(slot, row)| Ok((slot, row?))).collect::<Result<Vec<_>>>()?;
            if group.is_empty() {
                return Ok(());
            }
            let mut outcomes = vec![None; group.len()];
            pool::for_each(
                &group,
                pool::workers(),
                |(_, candidate)| {
                    context.stop.check()?;
                    self.check(candidate, &candidates.images)
                },
                |(slot, candidate), outcome| {
                    if let Err(reason) = &outcome {
                        if candidates.on_unreadable == OnUnreadable::Fail {
                            return Err(Error::Data(format!("{reason}; or set onUnreadable: Skip")));
                        }
                        tracing::warn!("left out item {:?}: {reason}", candidate.id);
                        reporter.skip();
                    }
                    outcomes[*slot] = Some(outcome);
                    reporter.advance(1)
                },
            )?;
            for ((_, candidate), outcome) in group.iter().zip(outcomes) {
                if let Some(outcome) = outcome {
                    lists.add(candidate, outcome)?;
                }
            }
        }
    }

    /// The item and its image tokens, or why its image cannot be read.
    fn check(&self, candidate: &Candidate, images: &Path) -> Result<Result<(Item, usize), String>> {
        // An image that is missing may be skipped; a path that leaves its folder never is.
        let path = match images_dir::resolve(images, &candidate.image) {
            Ok(path) => path,
            Err(Unresolved::Unreadable(reason)) => return Ok(Err(candidate.unreadable(&reason))),
            Err(outside) => return Err(Error::from(outside).in_row(&candidate.named())),
        };
        let read = read_image(&path).and_then(|bytes| {
            let image = decode(&path, &bytes)?;
            let size = (image.height(), image.width());
            self.checked.processor.check_aspect(size).map_err(|e| e.in_row(&path.display().to_string()))?;
            Ok((Digest::of(&bytes), size))
        });
        let (digest, size) = match read {
            Ok(read) => read,
            Err(Error::Data(reason)) => return Ok(Err(candidate.unreadable(&reason))),
            Err(other) => return Err(other),
        };
        let image_tokens = self.checked.processor.image_tokens(size);
        let item = Item {
            id: candidate.id.clone(),
            image: candidate.image.clone(),
            size,
            digest,
            conversation: candidate.conversation.clone(),
            pair: candidate.pair.clone(),
        };
        self.check_length(&item, image_tokens).map_err(|e| e.in_row(&candidate.named()))?;
        Ok(Ok((item, image_tokens)))
    }

    fn check_length(&self, item: &Item, image_tokens: usize) -> Result<()> {
        let limit = self.checked.max_tokens();
        let fits = |what: &str, tokens: usize, mend: &str| {
            if tokens <= limit || self.task.train.max_length.is_some() {
                return Ok(());
            }
            Err(Error::Data(format!(
                "{what} needs {tokens} tokens ({image_tokens} of them the image's), the model takes {limit}; {mend}"
            )))
        };
        fits(
            "its longest prompt",
            self.longest_prompt + image_tokens + 1,
            "shorten the prompts or leave the item out",
        )?;
        if let Some(pair) = &item.pair {
            for response in [&pair.chosen, &pair.rejected] {
                let turns = [
                    Turn::user_with_image(&pair.prompt),
                    Turn { role: Role::Assistant, text: response.clone(), image: false },
                ];
                let tokens = self.training.encode_supervised(&turns, Some(image_tokens))?.ids.len();
                fits("its pair", tokens, "shorten the responses or leave the item out")?;
            }
        }
        match (&self.task.recipe, &self.task.train.objective) {
            (DataRecipe::Descriptions(recipe), Objective::Sft { infusion }) => {
                let turns = conversation(item, infusion.as_deref(), "");
                let tokens = self.training.encode_supervised(&turns, Some(image_tokens))?.ids.len();
                let most = tokens + recipe.sampling.max_new_tokens as usize;
                fits(
                    "its conversation with a description",
                    most,
                    "lower description.sampling.maxNewTokens or leave the item out",
                )
            }
            (DataRecipe::Preferences(_), _) if !item.conversation.is_empty() => {
                let turns = conversation(item, None, "");
                let tokens =
                    self.generation.encode_supervised(&turns[..2.min(turns.len())], Some(image_tokens))?;
                fits("its question and answer", tokens.ids.len(), "leave the item out")
            }
            _ => Ok(()),
        }
    }
}
