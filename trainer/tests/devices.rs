//! Several devices write the records that one writes.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::{Path, PathBuf};

use candle_core::Device;
use image::RgbImage;
use stic_contract::recipe::{ChatTemplate, ImageLayout, Precision, Sampling};
use stic_trainer::cancellation::CancellationToken;
use stic_trainer::data::encode::Encoder;
use stic_trainer::error::{Error, Result};
use stic_trainer::inference::{
    ImageRequest, Policy, PromptRequest, ResponsePlan, ResponseRecord, ResponseWriter, Vlm, required,
    write_side_by_side,
};

/// A caption of each image, of at most eight tokens.
struct Captions;

impl ResponsePlan for Captions {
    type Item = PathBuf;
    type Image = RgbImage;
    type Record = (PathBuf, Vec<u32>);

    fn draw_key<'i>(&self, item: &'i PathBuf) -> &'i str {
        item.to_str().unwrap()
    }

    fn requests(&self, policy: &Policy<'_>, _: &PathBuf, image: &RgbImage) -> Result<Vec<ImageRequest>> {
        let prompt = PromptRequest {
            prompt: "Describe the image.".into(),
            purpose: "chosen",
            sampling: Sampling { temperature: 0.7, top_p: 1.0, top_k: 0, max_new_tokens: 8 },
            prompt_tokens_in_training: 0,
        };
        let pixels = policy.vlm.files.processor.preprocess(image)?;
        Ok(vec![ImageRequest { pixels: Some(pixels), corruption: None, prompts: vec![prompt] }])
    }

    fn record(&self, _: &Policy<'_>, item: PathBuf, responses: Vec<ResponseRecord>) -> Result<Self::Record> {
        let response = required(responses.into_iter().next(), self.draw_key(&item))?;
        Ok((item, response.tokens))
    }
}

fn models(count: usize) -> Vec<(Vlm, Encoder)> {
    let dir = volumes().join("models/scenes-llava");
    let load = || Vlm::load(&dir, ImageLayout::Model, Precision::F32, &Device::Cpu).unwrap();
    let with_encoder = |vlm: Vlm| {
        let encoder = vlm.files.encoder(ChatTemplate::Auto).unwrap();
        (vlm, encoder)
    };
    (0..count).map(|_| with_encoder(load())).collect()
}

fn volumes() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/quickstart/volumes")
}

fn images() -> Vec<PathBuf> {
    let images =
        std::fs::read_dir(volumes().join("heldout/images")).unwrap().map(|entry| entry.unwrap().path());
    let mut images: Vec<PathBuf> =
        images.filter(|path| path.extension().is_some_and(|name| name == "jpg")).collect();
    images.sort();
    images.truncate(7);
    assert_eq!(images.len(), 7);
    images
}

fn writers<'a>(models: &'a [(Vlm, Encoder)], cancellation: &'a CancellationToken) -> Vec<ResponseWriter<'a>> {
    let writer = |(vlm, encoder): &'a (Vlm, Encoder)| ResponseWriter {
        policy: Policy { vlm, adapter: None, encoder },
        seed: 7,
        batch_size: 2,
        cancellation,
    };
    models.iter().map(writer).collect()
}

fn open(path: PathBuf) -> Result<(PathBuf, RgbImage)> {
    let image = image::open(&path).unwrap().to_rgb8();
    Ok((path, image))
}

#[test]
fn several_devices_write_the_records_that_one_writes() {
    let (images, models, cancellation) = (images(), models(3), CancellationToken::default());
    let written = |devices: usize| {
        let mut records = Vec::new();
        let items_of = |writer: usize| images.iter().skip(writer).step_by(devices).cloned().map(open);
        let writers = writers(&models[..devices], &cancellation);
        write_side_by_side(&writers, &Captions, items_of, |record| {
            records.push(record);
            Ok(())
        })
        .unwrap();
        records.sort();
        records
    };
    let of_one = written(1);
    assert_eq!(of_one.len(), images.len());
    assert!(of_one.iter().any(|(_, tokens)| tokens != &of_one[0].1), "the captions differ");
    for devices in [2, 3] {
        assert_eq!(written(devices), of_one, "{devices} devices");
    }
}

#[test]
fn the_error_of_one_device_ends_the_others() {
    let (images, models, cancellation) = (images(), models(2), CancellationToken::default());
    let items_of = |writer: usize| {
        // The first would never end by itself.
        let endless = (writer == 0).then(|| images.iter().cycle().cloned().map(open));
        let broken = (writer == 1).then(|| [Err(Error::Data("a.png is cut off".into()))]);
        endless.into_iter().flatten().chain(broken.into_iter().flatten())
    };
    let ended = write_side_by_side(&writers(&models, &cancellation), &Captions, items_of, |_| Ok(()));
    assert!(matches!(&ended, Err(Error::Data(message)) if message == "a.png is cut off"), "{ended:?}");
    assert!(!cancellation.is_cancelled(), "what follows may still work");
}
