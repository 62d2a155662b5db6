#![no_main]
//! `preprocessor_config.json`, and after a NUL each `config.json` and `processor_config.json`.

use image::RgbImage;
use libfuzzer_sys::fuzz_target;
use stic_fuzz::{folder, split};
use stic_trainer::data::processor::ImageProcessor;
use stic_trainer::model::Family;

const FILES: [&str; 3] = ["preprocessor_config.json", "config.json", "processor_config.json"];
/// (height, width) of images, the last of which is the largest that JPEG can be.
const SIZES: [(u32, u32); 4] = [(1, 1), (3, 500), (480, 640), (65_500, 65_500)];
/// A larger crop is slow to make.
const MAX_SIDE: u32 = 64;

fuzz_target!(|bytes: &[u8]| {
    let folder = folder(&split(bytes, &FILES));
    for family in [Family::Llava, Family::LlavaNext] {
        let Ok(processor) = ImageProcessor::from_dir(folder.path(), &family.processor_defaults()) else {
            continue;
        };
        let (height, width) = processor.crop_size();
        assert!(height > 0 && width > 0);
        let tokens = SIZES.map(|size| processor.image_tokens(size));
        let pinpoints = processor.geometry().map(|geometry| geometry.pinpoints.clone()).unwrap_or_default();
        if height.max(width) > MAX_SIDE
            || pinpoints.iter().any(|(height, width)| height.max(width) > &MAX_SIDE)
        {
            continue;
        }
        let (height, width) = SIZES[1];
        if let Ok(values) = processor.preprocess(&RgbImage::new(width, height)) {
            assert_eq!(values.data.len(), values.crops * 3 * values.height * values.width);
            assert!(processor.geometry().is_none() || tokens[1] > 0);
        }
    }
});
