//! Image corruptions (Algorithm 1). With the same parameters they equal torchvision on Pillow.

mod color;

use image::RgbImage;
use serde::{Deserialize, Serialize};
use stic_contract::recipe::Corruption;

use crate::algorithm::draw::Draw;
use crate::data::processor::PixelValues;
use crate::data::resample::{Filter, resize};

/// Steps of POVID's diffusion schedule.
const NOISE_STEPS: u32 = 1000;

/// The longer side of a resized image is cut here. No picture has such an aspect ratio, but one that does
/// must not exhaust memory.
const LONGEST_SIDE: u64 = 1 << 20;

/// A corruption with all of its random choices: what the journal records, and enough to repeat it.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all_fields = "camelCase", deny_unknown_fields)]
pub enum Applied {
    /// Resized to this many pixels.
    LowResolution { width: u32, height: u32 },
    /// torchvision's `ColorJitter`.
    ColorJitter {
        /// Multiplies the samples.
        brightness_factor: f64,
        /// Added to the hue, in turns. Absent where the recipe's hue is 0: the image then keeps its exact
        /// colors.
        hue_factor: Option<f64>,
        /// Whether brightness is adjusted before hue.
        brightness_first: bool,
    },
    /// Noise on the preprocessed crops: see [`add_noise`].
    GaussianNoise {
        /// 0 to 999.
        steps: u32,
    },
}

impl Applied {
    /// Makes the random choices of `corruption` for an image of this size in pixels.
    pub fn draw(corruption: &Corruption, (width, height): (u32, u32), draw: &mut Draw) -> Self {
        match *corruption {
            Corruption::LowResolution { short_side } => {
                let (width, height) = short_side_size((width, height), short_side);
                Self::LowResolution { width, height }
            }
            Corruption::ColorJitter { brightness, hue } => Self::ColorJitter {
                brightness_first: draw.bernoulli(0.5),
                brightness_factor: draw.between((1.0 - brightness).max(0.0), 1.0 + brightness),
                hue_factor: (hue != 0.0).then(|| draw.between(-hue, hue)),
            },
            Corruption::GaussianNoise { steps } => Self::GaussianNoise { steps },
        }
    }

    /// The corrupted image. Gaussian noise leaves it unchanged and applies to its crops: see
    /// [`Self::noise_steps`].
    #[must_use]
    pub fn apply(&self, image: &RgbImage) -> RgbImage {
        match *self {
            Self::LowResolution { width, height } => resize(image, width, height, Filter::Bilinear),
            Self::ColorJitter { brightness_factor, hue_factor, brightness_first } => {
                let mut image = image.clone();
                if brightness_first {
                    color::adjust_brightness(&mut image, brightness_factor);
                }
                if let Some(hue_factor) = hue_factor {
                    color::adjust_hue(&mut image, hue_factor);
                }
                if !brightness_first {
                    color::adjust_brightness(&mut image, brightness_factor);
                }
                image
            }
            Self::GaussianNoise { .. } => image.clone(),
        }
    }

    /// The argument of [`add_noise`] for the preprocessed crops.
    #[must_use]
    pub const fn noise_steps(&self) -> Option<u32> {
        match *self {
            Self::GaussianNoise { steps } => Some(steps),
            Self::LowResolution { .. } | Self::ColorJitter { .. } => None,
        }
    }
}

/// The (width, height) of torchvision's `Resize(short_side)`, which truncates the longer side.
fn short_side_size((width, height): (u32, u32), short_side: u32) -> (u32, u32) {
    let (short, long) = (width.min(height).max(1), width.max(height));
    let long = (u64::from(short_side) * u64::from(long) / u64::from(short)).min(LONGEST_SIDE) as u32;
    if width <= height { (short_side, long) } else { (long, short_side) }
}

/// Diffusion noise on preprocessed crops: `sqrt(a) x + sqrt(1 - a) eps`, where `a` is the product of `1 -
/// beta` over steps 0 to `steps`, and the betas are a sigmoid from 1e-5 to 5e-3. Source: POVID's
/// `add_diffusion_noise`.
///
/// Steps above 999 are treated as 999.
pub fn add_noise(pixels: &mut PixelValues, steps: u32, draw: &mut Draw) {
    let (signal, noise) = noise_scales(steps);
    for value in &mut pixels.data {
        *value = signal * *value + noise * draw.normal() as f32;
    }
}

/// The factors of the image and of the noise.
fn noise_scales(steps: u32) -> (f32, f32) {
    let kept: f64 = (0..=steps.min(NOISE_STEPS - 1))
        .map(|step| {
            let x = -6.0 + 12.0 * f64::from(step) / f64::from(NOISE_STEPS - 1);
            let sigmoid = 1.0 / (1.0 + libm::exp(-x));
            1.0 - (sigmoid * (0.5e-2 - 1e-5) + 1e-5)
        })
        .product();
    (kept.sqrt() as f32, (1.0 - kept).sqrt() as f32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_short_side_is_exact_and_the_long_side_truncated() {
        // torchvision 0.2x: _compute_resized_output_size((h, w), [20]) for (w, h)
        for (size, expected) in [
            ((640, 480), (26, 20)),
            ((480, 640), (20, 26)),
            ((31, 57), (20, 36)),
            ((57, 31), (36, 20)),
            ((8, 8), (20, 20)),
            ((1, 3000), (20, 60_000)),
        ] {
            assert_eq!(short_side_size(size, 20), expected, "{size:?}");
        }
    }

    #[test]
    fn noise_scales_equal_torch() {
        // b = torch.sigmoid(torch.linspace(-6, 6, 1000)) * (0.5e-2 - 1e-5) + 1e-5; a = torch.cumprod(1 - b,
        // 0) [(a[t].sqrt().item(), (1 - a[t]).sqrt().item()) for t in (0, 250, 500, 999)]
        for (steps, signal, noise) in TORCH_SCALES {
            let actual = noise_scales(steps);
            assert!(
                (actual.0 - signal).abs() < 2e-6 && (actual.1 - noise).abs() < 2e-5,
                "{steps}: {actual:?}"
            );
        }
    }

    const TORCH_SCALES: [(u32, f32, f32); 4] = [
        (0, 0.999_988_85, 0.004_727_763),
        (250, 0.989_133_83, 0.147_018_07),
        (500, 0.863_017_26, 0.505_174_5),
        (999, 0.285_042_52, 0.958_514_87),
    ];

    #[test]
    fn draws_are_repeatable_and_within_their_bounds() {
        let jitter = Corruption::ColorJitter { brightness: 0.5, hue: 0.3 };
        let mut firsts = 0;
        for item in 0..200 {
            let mut draw = Draw::new(1, &item.to_string(), "corruption");
            let applied = Applied::draw(&jitter, (4, 3), &mut draw.clone());
            assert_eq!(applied, Applied::draw(&jitter, (4, 3), &mut draw));
            let Applied::ColorJitter { brightness_factor, hue_factor: Some(hue), brightness_first } = applied
            else {
                panic!("{applied:?}")
            };
            assert!((0.5..1.5).contains(&brightness_factor) && (-0.3..0.3).contains(&hue));
            firsts += usize::from(brightness_first);
        }
        assert!((60..140).contains(&firsts));
    }

    #[test]
    fn serialization_round_trips() {
        let applied =
            Applied::ColorJitter { brightness_factor: 1.25, hue_factor: Some(-0.1), brightness_first: true };
        let json = serde_json::to_string(&applied).unwrap();
        assert_eq!(
            json,
            r#"{"kind":"ColorJitter","brightnessFactor":1.25,"hueFactor":-0.1,"brightnessFirst":true}"#
        );
        assert_eq!(serde_json::from_str::<Applied>(&json).unwrap(), applied);
    }
}
