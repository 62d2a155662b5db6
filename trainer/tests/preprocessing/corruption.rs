use image::RgbImage;
use serde::Deserialize;
use stic_contract::recipe::Corruption;
use stic_trainer::algorithm::corruption::{Applied, add_noise};
use stic_trainer::algorithm::draw::Draw;
use stic_trainer::data::processor::PixelValues;

use crate::fixtures::{json, noise, sha};

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Jitter {
    seed: u32,
    brightness: f64,
    hue: Option<f64>,
    brightness_first: bool,
    sha256: String,
}

/// (width, height), seed, (new width, new height), hash.
type Resized = ((u32, u32), u32, (u32, u32), String);

#[derive(Deserialize)]
struct CorruptionGoldens {
    jitter: Vec<Jitter>,
    every_color_hue_0_17: String,
    low_resolution: Vec<Resized>,
}

#[test]
fn color_jitter_equals_pillow() {
    for golden in json::<CorruptionGoldens>("corruption.json").jitter {
        let applied = Applied::ColorJitter {
            brightness_factor: golden.brightness,
            hue_factor: golden.hue,
            brightness_first: golden.brightness_first,
        };
        assert_eq!(sha(applied.apply(&noise(31, 57, golden.seed)).as_raw()), golden.sha256, "{applied:?}");
    }
}

#[test]
fn every_color_is_rotated_as_in_pillow() {
    let data =
        (0..1_u32 << 24).flat_map(|color| [(color >> 16) as u8, (color >> 8) as u8, color as u8]).collect();
    let every = RgbImage::from_raw(4096, 4096, data).unwrap();
    let turn =
        Applied::ColorJitter { brightness_factor: 1.0, hue_factor: Some(0.17), brightness_first: true };
    assert_eq!(
        sha(turn.apply(&every).as_raw()),
        json::<CorruptionGoldens>("corruption.json").every_color_hue_0_17
    );
}

#[test]
fn low_resolution_equals_torchvision_resize() {
    for ((width, height), seed, (new_width, new_height), hash) in
        json::<CorruptionGoldens>("corruption.json").low_resolution
    {
        let recipe = Corruption::LowResolution { short_side: 20 };
        let applied = Applied::draw(&recipe, (width, height), &mut Draw::new(0, "x", "corruption"));
        assert_eq!(applied, Applied::LowResolution { width: new_width, height: new_height });
        assert_eq!(sha(applied.apply(&noise(width, height, seed)).as_raw()), hash, "{width}x{height}");
    }
}

#[test]
fn noise_has_the_mean_and_variance_of_its_step() {
    let clean =
        PixelValues { data: vec![2.0; 30_000], crops: 1, height: 100, width: 100, original: (100, 100) };
    let mut noisy = clean.clone();
    add_noise(&mut noisy, 500, &mut Draw::new(3, "a.png", "noise"));
    let mean = noisy.data.iter().sum::<f32>() / 30_000.0;
    let variance = noisy.data.iter().map(|x| (x - mean).powi(2)).sum::<f32>() / 30_000.0;
    assert!((mean - 2.0 * 0.863).abs() < 0.02, "{mean}");
    assert!((variance - 0.5052 * 0.5052).abs() < 0.01, "{variance}");

    let mut again = clean.clone();
    add_noise(&mut again, 500, &mut Draw::new(3, "a.png", "noise"));
    assert_eq!(again, noisy);
    let applied =
        Applied::draw(&Corruption::GaussianNoise { steps: 500 }, (1, 1), &mut Draw::new(3, "a.png", "c"));
    assert_eq!(applied.noise_steps(), Some(500));
}
