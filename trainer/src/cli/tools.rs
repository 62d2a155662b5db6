//! The tools beside the steps.

use std::io::Write;
use std::path::Path;

use candle_core::DType;
use serde_json::json;
use stic_contract::recipe::{ChatTemplate, ImageLayout, Precision};
use stic_trainer::error::{Error, Result};
use stic_trainer::evaluation::scenes::{Benchmark, Conditions};
use stic_trainer::io::stop::Stop;
use stic_trainer::io::{adapter, artifact, atomic, export as merge, file_digest};
use stic_trainer::model::digest::model_digest;
use stic_trainer::model::lora::LoraAdapter;
use stic_trainer::scoring::Scorer;
use stic_trainer::stages::Vlm;

use super::args::{EvaluateArgs, ExportArgs, ExportKind, ExportPrecision, InspectArgs, Policy, ScoreArgs};

pub(super) fn score(args: &ScoreArgs) -> Result<()> {
    let stop = Stop::on_signals()?;
    let policy = args.policy.unwrap_or(if args.adapter.is_some() { Policy::Both } else { Policy::Base });
    if policy != Policy::Base && args.adapter.is_none() {
        return Err(Error::Config("--policy adapter and both need --adapter".into()));
    }
    let rows = Scorer::read(&args.input)?;
    let vlm = Vlm::load(&args.model, ImageLayout::Model, Precision::F32)?;
    // A checkpoint without a tokenizer can still score token ids.
    let needs_text = rows.iter().any(|(_, row)| row.prompt.is_some());
    let encoder = needs_text.then(|| vlm.checked.encoder(args.chat_template.into())).transpose()?;
    let adapter = args.adapter.as_ref().map(|dir| vlm.load_adapter(dir)).transpose()?;
    let mut policies: Vec<(&'static str, Option<&LoraAdapter>)> = Vec::new();
    if policy != Policy::Adapter {
        policies.push(("base", None));
    }
    if policy != Policy::Base {
        policies.push(("adapter", adapter.as_ref()));
    }
    let beside = args.input.parent().unwrap_or(Path::new("."));
    let scorer = Scorer {
        vlm: &vlm,
        encoder: encoder.as_ref(),
        images: args.images.as_deref().unwrap_or(beside),
        dump: args.dump_pixels.clone(),
    };
    let mut text = Vec::new();
    for (line, request) in &rows {
        stop.check()?;
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
    merge::require_empty(&args.output)?;
    let config = stic_trainer::model::LlavaConfig::from_dir(&args.model)?;
    let imported = adapter::load(&args.adapter, &config.text, &candle_core::Device::Cpu)?;
    if !imported.dropped.is_empty() {
        tracing::warn!(dropped = imported.dropped.len(), "left out LoRA weights of the vision tower");
    }
    match args.kind {
        ExportKind::Adapter => {
            let base =
                args.model.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
            atomic::write_dir(&args.output, |dir| adapter::save(&imported.adapter, dir, &base))?;
            tracing::info!(output = %args.output.display(), "wrote the adapter");
        }
        ExportKind::Merged => {
            let dtype = match args.precision {
                ExportPrecision::F32 => DType::F32,
                ExportPrecision::Bf16 => DType::BF16,
            };
            let report =
                merge::merged(&args.model, &imported.adapter, &args.output, dtype, args.max_shard_bytes)?;
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
    let stop = Stop::on_signals()?;
    let benchmark = Benchmark::read(&args.questions, &args.scenes)?;
    benchmark.require_images(&args.images)?;
    let vlm = Vlm::load(&args.model, ImageLayout::Model, Precision::F32)?;
    let encoder = vlm.checked.encoder(args.chat_template.into())?;
    let mut policies = vec![("base".to_owned(), None)];
    let mut adapters = Vec::new();
    for named in &args.adapters {
        let (name, dir) = named
            .split_once('=')
            .filter(|(name, _)| policies.iter().all(|(other, _)| other != name))
            .ok_or_else(|| {
                Error::Config(format!(
                    "--adapter {named:?}: expected NAME=DIR, with a NAME of its own other than base"
                ))
            })?;
        let dir = Path::new(dir);
        policies.push((name.to_owned(), Some(vlm.load_adapter(dir)?)));
        adapters.push(json!({"name": name, "weights": file_digest(&dir.join(adapter::WEIGHTS_FILE))?}));
    }
    let made_from = json!({
        "trainer": env!("CARGO_PKG_VERSION"),
        "model": model_digest(&args.model, |_| stop.check())?,
        "adapters": adapters,
        "questions": file_digest(&args.questions)?,
        "scenes": file_digest(&args.scenes)?,
        "chatTemplate": ChatTemplate::from(args.chat_template),
        "maxDescriptionTokens": args.max_description_tokens,
    });
    let conditions = Conditions {
        vlm: &vlm,
        encoder: &encoder,
        images: &args.images,
        max_description_tokens: args.max_description_tokens,
    };
    let table = benchmark.run(conditions, &policies, &made_from, &args.output, &stop)?;
    print(benchmark.render(&table).as_bytes())
}

pub(super) fn inspect(args: &InspectArgs) -> Result<()> {
    let marker = artifact::inspect(&args.artifact)?;
    let text = serde_json::to_string_pretty(&marker).map_err(|e| Error::Data(e.to_string()))?;
    print(format!("{text}\n").as_bytes())
}

/// `println!` panics where standard output is a full disk.
pub(super) fn print(text: &[u8]) -> Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(text).and_then(|()| out.flush()).map_err(Error::storage("standard output"))
}
