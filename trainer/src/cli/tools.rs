//! The standalone tools.

use std::io::Write;
use std::path::{Path, PathBuf};

use crate::benchmarks::{BASE, BenchmarkFolder, Evaluation};
use crate::cancellation::CancellationToken;
use crate::checkpoint::{adapter, export};
use crate::device;
use crate::error::{Error, Result};
use crate::inference::Vlm;
use crate::io::{artifact, atomic};
use crate::model::lora::LoraAdapter;
use crate::scoring::Scorer;
use crate::serving::{self, ServeOptions};
use stic_contract::evaluation::{AskingRecipe, BenchmarkName};
use stic_contract::recipe::ImageLayout;
use stic_evaluation::benchmarks::Options;
use stic_evaluation::registry::{BENCHMARKS, Selection};
use stic_evaluation::results;

use super::args::{EvaluateArgs, ExportArgs, ExportKind, InspectArgs, ScoreArgs, ScoredPolicy, ServeArgs};

pub(super) fn score(args: &ScoreArgs) -> Result<()> {
    let cancellation = CancellationToken::on_signals()?;
    let policy =
        args.policy.unwrap_or(if args.adapter.is_some() { ScoredPolicy::Both } else { ScoredPolicy::Base });
    if policy != ScoredPolicy::Base && args.adapter.is_none() {
        return Err(Error::Config("--policy: adapter and both need an adapter; add --adapter DIR".into()));
    }
    let requests = Scorer::read(&args.input)?;
    let vlm = Vlm::load(&args.model, ImageLayout::Model, args.precision.into(), &device::first()?)?;
    // A checkpoint without a tokenizer can still score token ids.
    let needs_text = requests.iter().any(|(_, request)| request.prompt.is_some());
    let encoder = needs_text.then(|| vlm.files.encoder(args.chat_template.into())).transpose()?;
    let adapter =
        args.adapter.as_ref().map(|dir| vlm.load_adapter(dir, args.projector.into())).transpose()?;
    let mut policies: Vec<(&'static str, Option<&LoraAdapter>)> = Vec::new();
    if policy != ScoredPolicy::Adapter {
        policies.push(("base", None));
    }
    if policy != ScoredPolicy::Base {
        policies.push(("adapter", adapter.as_ref()));
    }
    let input_dir = args.input.parent().unwrap_or(Path::new("."));
    let scorer = Scorer {
        vlm: &vlm,
        encoder: encoder.as_ref(),
        images: args.images.as_deref().unwrap_or(input_dir),
        dump: args.dump_pixels.clone(),
    };
    let mut text = Vec::new();
    for (line, request) in &requests {
        cancellation.check()?;
        let scores = scorer
            .score(request, &policies)
            .map_err(|e| e.in_row(&format!("{}:{line}: row {:?}", args.input.display(), request.id)))?;
        for score in scores {
            serde_json::to_writer(&mut text, &score).map_err(|e| Error::Data(e.to_string()))?;
            text.push(b'\n');
        }
    }
    match &args.output {
        Some(path) => atomic::write(path, &text),
        None => print(&text),
    }
}

pub(super) fn export(args: &ExportArgs) -> Result<()> {
    export::require_empty(&args.output)?;
    let config = crate::model::ModelConfig::from_dir(&args.model)?;
    let imported =
        adapter::load(&args.adapter, &config.text, &candle_core::Device::Cpu, args.projector.into())?;
    if !imported.dropped.is_empty() {
        tracing::warn!(
            tensors = imported.dropped.len(),
            "left out the adapter's LoRA weights of the vision tower or the projector, which are zero"
        );
    }
    match args.kind {
        ExportKind::Adapter => {
            let base =
                args.model.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
            atomic::write_dir(&args.output, |dir| {
                adapter::save(&imported.adapter, dir, &base, args.names.into())
            })?;
            tracing::info!(output = %args.output.display(), "wrote the adapter");
        }
        ExportKind::Merged => {
            let dtype = device::dtype(args.precision.into());
            let report =
                export::merged(&args.model, &imported.adapter, &args.output, dtype, args.max_shard_bytes)?;
            tracing::info!(
                output = %args.output.display(),
                tensors = report.tensors,
                merged = report.merged,
                lost = report.lost,
                "wrote the merged checkpoint"
            );
        }
    }
    Ok(())
}

pub(super) fn evaluate(args: &EvaluateArgs) -> Result<()> {
    let cancellation = CancellationToken::on_signals()?;
    let selection = Selection { options: Options { ocr_tokens: args.ocr_tokens }, limit: args.limit };
    let evaluation = Evaluation {
        benchmarks: &named_benchmarks(&args.benchmarks, selection)?,
        on_unreadable: args.on_unreadable.into(),
        recipe: AskingRecipe {
            prompting: unique(args.prompting.iter().map(|prompting| (*prompting).into())),
            chat_template: args.chat_template.into(),
            max_description_tokens: args.max_description_tokens,
            precision: args.precision.into(),
        },
        scorers: &unique(args.scorers.iter().map(|scorer| (*scorer).into())),
        model: &args.model,
        adapters: &named_adapters(&args.adapters)?,
        output: &args.output,
        cancellation: &cancellation,
    };
    print(results::table(&evaluation.run()?).as_bytes())
}

/// Each once, in the order in which they were first named.
fn unique<T: PartialEq>(values: impl Iterator<Item = T>) -> Vec<T> {
    values.fold(Vec::new(), |mut unique, value| {
        if !unique.contains(&value) {
            unique.push(value);
        }
        unique
    })
}

fn named_benchmarks(args: &[String], selection: Selection) -> Result<Vec<BenchmarkFolder>> {
    let mut benchmarks: Vec<BenchmarkFolder> = Vec::new();
    for arg in args {
        let Some((name, dir)) = arg.split_once('=') else {
            return Err(Error::Config(format!("--benchmark {arg:?}: expected NAME=DIR")));
        };
        let Some(benchmark) = BENCHMARKS.iter().find(|benchmark| benchmark.name.as_str() == name) else {
            let names = BenchmarkName::ALL.map(BenchmarkName::as_str);
            return Err(Error::Config(format!(
                "--benchmark {name}: unknown; choose one of {}",
                names.join(", ")
            )));
        };
        if benchmarks.iter().any(|other| other.benchmark.name == benchmark.name) {
            return Err(Error::Config(format!("--benchmark {name}: named twice; remove one")));
        }
        benchmarks.push(BenchmarkFolder { benchmark, folder: dir.into(), selection });
    }
    Ok(benchmarks)
}

pub(super) fn serve(args: &ServeArgs) -> Result<()> {
    let options = ServeOptions {
        model: &args.model,
        adapters: &named_adapters(&args.adapters)?,
        chat_template: args.chat_template.into(),
        precision: args.precision.into(),
        address: args.listen,
        max_queue: args.max_queue,
        responses_at_once: args.batch_size,
    };
    serving::serve(&options, &CancellationToken::on_signals()?)
}

fn named_adapters(args: &[String]) -> Result<Vec<(String, PathBuf)>> {
    let mut adapters: Vec<(String, PathBuf)> = Vec::new();
    for arg in args {
        let (name, dir) = arg
            .split_once('=')
            .filter(|(name, _)| *name != BASE && adapters.iter().all(|(other, _)| other != name))
            .ok_or_else(|| {
                Error::Config(format!(
                    "--adapter {arg:?}: expected NAME=DIR; each NAME must be unique and other than {BASE}"
                ))
            })?;
        adapters.push((name.to_owned(), dir.into()));
    }
    Ok(adapters)
}

pub(super) fn inspect(args: &InspectArgs) -> Result<()> {
    let marker = artifact::inspect(&args.artifact)?;
    let text = serde_json::to_string_pretty(&marker).map_err(|e| Error::Data(e.to_string()))?;
    print(format!("{text}\n").as_bytes())
}

/// Unlike `println!` it does not panic if standard output is on a full disk.
pub(super) fn print(text: &[u8]) -> Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(text).and_then(|()| out.flush()).map_err(Error::storage("standard output"))
}
