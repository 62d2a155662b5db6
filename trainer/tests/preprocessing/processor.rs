use std::path::Path;

use serde::Deserialize;
use serde_json::{Value, json};
use stic_contract::recipe::ImageLayout;
use stic_trainer::Error;
use stic_trainer::data::processor::ImageProcessor;
use stic_trainer::data::resample::{Filter, resize};
use stic_trainer::model::Family;

use crate::fixtures::{json, noise, sha};

/// Source (width, height), seed, target (width, height), Pillow's filter, hash.
type Resampled = ((u32, u32), u32, (u32, u32), u64, String);

#[test]
fn resampling_equals_pillow() {
    for ((width, height), seed, (to_width, to_height), filter, hash) in
        json::<Vec<Resampled>>("resample.json")
    {
        let out =
            resize(&noise(width, height, seed), to_width, to_height, Filter::from_pillow(filter).unwrap());
        assert_eq!(out.dimensions(), (to_width, to_height));
        assert_eq!(sha(out.as_raw()), hash, "{width}x{height} to {to_width}x{to_height}, filter {filter}");
    }
}

/// Image (width, height), seed, shape, hash of the little-endian values.
type Processed = ((u32, u32), u32, [usize; 4], String);

#[derive(Deserialize)]
struct ProcessorGolden {
    family: String,
    config: Value,
    results: Vec<Processed>,
}

fn folder(files: &[(&str, &Value)]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, value) in files {
        std::fs::write(dir.path().join(name), value.to_string()).unwrap();
    }
    dir
}

fn open(dir: &Path, family: Family) -> Result<ImageProcessor, Error> {
    ImageProcessor::from_dir(dir, &family.processor_defaults())
}

fn family_of(name: &str) -> Family {
    if name == "LlavaNext" { Family::LlavaNext } else { Family::Llava }
}

#[test]
fn pixel_values_equal_transformers_bit_for_bit() {
    for ProcessorGolden { family, config, results } in json::<Vec<ProcessorGolden>>("processors.json") {
        let nested = json!({ "image_processor": config, "patch_size": null });
        let old = folder(&[("preprocessor_config.json", &config)]);
        let new = folder(&[
            ("processor_config.json", &nested),
            ("preprocessor_config.json", &json!({ "size": 1 })),
        ]);
        for dir in [old, new] {
            let processor = open(dir.path(), family_of(&family)).unwrap();
            for ((width, height), seed, shape, hash) in &results {
                let values = processor.preprocess(&noise(*width, *height, *seed)).unwrap();
                assert_eq!([values.crops, 3, values.height, values.width], *shape, "{config}");
                assert_eq!(values.original, (*height, *width));
                let bytes: Vec<u8> = values.data.iter().flat_map(|value| value.to_le_bytes()).collect();
                assert_eq!(&sha(&bytes), hash, "{family} {config} {width}x{height}");
                if let Some(packing) = processor.packing(values.original) {
                    assert_eq!(packing.tiles() + 1, values.crops);
                }
            }
        }
    }
}

#[test]
fn the_processor_of_an_original_llava_follows_from_its_config() {
    let tower = "openai/clip-vit-large-patch14-336";
    let anyres = json!({ "mm_vision_tower": tower, "image_aspect_ratio": "anyres",
        "image_grid_pinpoints": [[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]] });
    let dir = folder(&[("config.json", &anyres)]);
    let processor = open(dir.path(), Family::LlavaNext).unwrap();
    assert_eq!(processor.image_tokens((480, 640)), 2340);
    assert_eq!(processor.crop_size(), (336, 336));

    let same = folder(&[(
        "preprocessor_config.json",
        &json!({ "size": { "shortest_edge": 336 }, "crop_size": { "height": 336, "width": 336 } }),
    )]);
    let hub = open(same.path(), Family::LlavaNext).unwrap();
    let image = noise(150, 90, 1);
    assert_eq!(processor.preprocess(&image).unwrap(), hub.preprocess(&image).unwrap());

    let pad = folder(&[("config.json", &json!({ "mm_vision_tower": tower, "image_aspect_ratio": "pad" }))]);
    let padded = open(pad.path(), Family::Llava).unwrap();
    assert_eq!(padded.image_tokens((480, 640)), 576);
    assert_eq!(padded.packing((480, 640)), None);
    assert_eq!(padded.clone().with_class_token(true).image_tokens((480, 640)), 577);
    let by_recipe = processor.with_layout(ImageLayout::Pad);
    assert_eq!(by_recipe.preprocess(&image).unwrap(), padded.preprocess(&image).unwrap());
}

#[test]
fn beside_an_original_llava_a_processor_file_of_clip_does_not_decide_the_layout() {
    let clip = json!({ "image_processor_type": "CLIPImageProcessor", "size": { "shortest_edge": 56 },
        "crop_size": { "height": 56, "width": 56 } });
    let with = |config: Value, family| {
        let dir = folder(&[("preprocessor_config.json", &clip), ("config.json", &config)]);
        open(dir.path(), family).unwrap()
    };
    let image = noise(150, 90, 1);
    let hub = folder(&[("preprocessor_config.json", &clip)]);
    let single = open(hub.path(), Family::Llava).unwrap();
    let padded = single.clone().with_layout(ImageLayout::Pad);
    assert_ne!(padded.preprocess(&image).unwrap(), single.preprocess(&image).unwrap());
    for (ratio, expected) in [("pad", &padded), ("square", &single)] {
        let config = json!({ "mm_vision_tower": "a-small-one", "image_aspect_ratio": ratio });
        let found = with(config, Family::Llava).preprocess(&image).unwrap();
        assert_eq!(found, expected.preprocess(&image).unwrap(), "{ratio}");
    }
    // A list, and the text of one.
    for pinpoints in [json!([[56, 112], [112, 56]]), json!("[(56, 112), (112, 56)]")] {
        let config = json!({ "mm_vision_tower": "a-small-one", "image_aspect_ratio": "anyres",
            "image_grid_pinpoints": pinpoints });
        let grids = with(config, Family::LlavaNext);
        assert_eq!(grids.geometry().unwrap().pinpoints, [(56, 112), (112, 56)]);
        assert_eq!(grids.preprocess(&image).unwrap().crops, 3);
    }
}

fn refused(files: &[(&str, &Value)], family: Family) -> String {
    let dir = folder(files);
    let error = open(dir.path(), family).unwrap_err().to_string();
    error.replace(&dir.path().display().to_string(), "DIR")
}

#[test]
fn unusable_fields_are_named() {
    let file = "preprocessor_config.json";
    for (config, reason) in [
        (
            json!({ "size": { "longest_edge": 3 } }),
            "DIR/preprocessor_config.json: field size is {\"longest_edge\":3}; it must",
        ),
        (json!({ "size": 0 }), "size is 0; it must"),
        (json!({ "crop_size": "x" }), "crop_size is \"x\""),
        (json!({ "crop_size": { "shortest_edge": 3 } }), "crop_size is {\"shortest_edge\":3}"),
        (json!({ "image_mean": [1, 2] }), "image_mean is [1,2]; it must be three numbers"),
        (json!({ "image_std": [1, 0, 1] }), "image_std is [1,0,1]"),
        (json!({ "do_resize": 1, "crop_size": 336 }), "do_resize is 1; it must be true or false"),
        (
            json!({ "resample": 9, "crop_size": 336 }),
            "DIR/preprocessor_config.json: resample 9 is not a Pillow filter",
        ),
        (json!({ "image_grid_pinpoints": [[1]] }), "image_grid_pinpoints is [[1]]"),
        (
            json!({ "image_grid_pinpoints": [[100, 224]] }),
            "DIR/preprocessor_config.json: image_grid_pinpoints holds [100, 224], which is not made of whole crops of 224 pixels",
        ),
    ] {
        let message = refused(&[(file, &config)], Family::LlavaNext);
        assert!(message.contains(reason), "{message}");
    }
    let message = refused(&[], Family::Llava);
    assert!(message.starts_with("DIR: no image processor: looked for preprocessor_config.json"), "{message}");
    let message = refused(&[("config.json", &json!({ "mm_vision_tower": "siglip" }))], Family::Llava);
    assert!(message.starts_with("DIR/config.json: field mm_vision_tower is \"siglip\""), "{message}");
    let disagree = [
        (file, &json!({ "crop_size": 336 })),
        ("config.json", &json!({ "image_grid_pinpoints": [[336, 672]] })),
    ];
    assert!(refused(&disagree, Family::LlavaNext).contains("the same list as in config.json"));
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join(file), "{").unwrap();
    let message = open(dir.path(), Family::Llava).unwrap_err().to_string();
    assert!(message.contains("copy it again"), "{message}");
    assert!(open(Path::new("/none"), Family::Llava).is_err());
}

#[test]
fn crops_of_different_sizes_are_refused() {
    let config = json!({ "do_center_crop": false, "size": { "shortest_edge": 56 }, "crop_size": 56,
        "image_grid_pinpoints": [[56, 112]] });
    let dir = folder(&[("preprocessor_config.json", &config)]);
    let processor = open(dir.path(), Family::LlavaNext).unwrap();
    assert!(processor.preprocess(&noise(31, 57, 0)).is_ok());
    assert!(processor.preprocess(&image::RgbImage::new(0, 5)).is_err());
}

#[test]
fn an_extremely_narrow_image_is_refused() {
    let dir = folder(&[("preprocessor_config.json", &json!({ "size": 336, "crop_size": 336 }))]);
    let line = image::RgbImage::new(1, 100_000);
    let llava = open(dir.path(), Family::Llava).unwrap();
    assert!(llava.preprocess(&line).unwrap_err().to_string().contains("is too narrow"));
    assert!(llava.preprocess(&image::RgbImage::new(1, 1_000)).is_ok());
    let next = open(dir.path(), Family::LlavaNext).unwrap();
    assert!(next.preprocess(&line).is_ok());
    let padded = next.with_layout(ImageLayout::Pad);
    assert!(
        padded.preprocess(&line).unwrap_err().to_string().contains("it would become one of 100000x100000")
    );
}
