//! Pillow 12's 8-bit resampler, bit for bit (`src/libImaging/Resample.c`, and `Geometry.c` for nearest).
//!
//! Coefficients are 22-bit integers, the filter's support grows with the scale (antialiasing), and the horizontal pass
//! runs first, over only the rows that the vertical pass reads; the vertical one first for an image taller than 100
//! widths (`Image.resize`).

use image::RgbImage;

use crate::{Error, Result};

/// Fractional bits of a coefficient: 32 less the 8 of a sample and 2 of headroom.
const PRECISION_BITS: u32 = 32 - 8 - 2;
const CHANNELS: usize = 3;
/// The height in widths above which Pillow runs the vertical pass first.
const VERTICAL_FIRST: u32 = 100;

/// The filters of `PIL.Image.Resampling`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Filter {
    /// The pixel under the centre; no antialiasing.
    Nearest,
    /// Three lobes of a windowed sinc.
    Lanczos,
    /// A triangle.
    Bilinear,
    /// The cubic with a = -0.5.
    Bicubic,
    /// The mean of the covered pixels.
    Box,
    /// A windowed triangle.
    Hamming,
}

impl Filter {
    /// The filter of a processor's `resample` value, 0 to 5.
    ///
    /// # Errors
    /// [`Error::Config`] for any other value.
    pub fn from_pillow(value: u64) -> Result<Self> {
        Ok(match value {
            0 => Self::Nearest,
            1 => Self::Lanczos,
            2 => Self::Bilinear,
            3 => Self::Bicubic,
            4 => Self::Box,
            5 => Self::Hamming,
            other => {
                return Err(Error::Config(format!(
                    "resample {other} is not a Pillow filter; use 0 (nearest), 1 (lanczos), 2 (bilinear), 3 (bicubic), \
                     4 (box) or 5 (hamming)"
                )));
            }
        })
    }

    /// Half the width of the filter, in source pixels at scale 1.
    const fn support(self) -> f64 {
        match self {
            Self::Nearest => 0.0,
            Self::Box => 0.5,
            Self::Bilinear | Self::Hamming => 1.0,
            Self::Bicubic => 2.0,
            Self::Lanczos => 3.0,
        }
    }

    fn weight(self, x: f64) -> f64 {
        match self {
            Self::Nearest => 0.0,
            Self::Box => f64::from(x > -0.5 && x <= 0.5),
            Self::Bilinear => (1.0 - x.abs()).max(0.0),
            Self::Hamming => {
                let x = x.abs();
                if x == 0.0 {
                    1.0
                } else if x >= 1.0 {
                    0.0
                } else {
                    let x = x * std::f64::consts::PI;
                    x.sin() / x * (0.54 + 0.46 * x.cos())
                }
            }
            Self::Bicubic => {
                const A: f64 = -0.5;
                let x = x.abs();
                if x < 1.0 {
                    ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0
                } else if x < 2.0 {
                    (((x - 5.0) * x + 8.0) * x - 4.0) * A
                } else {
                    0.0
                }
            }
            Self::Lanczos => {
                if (-3.0..3.0).contains(&x) {
                    sinc(x) * sinc(x / 3.0)
                } else {
                    0.0
                }
            }
        }
    }
}

fn sinc(x: f64) -> f64 {
    if x == 0.0 {
        return 1.0;
    }
    let x = x * std::f64::consts::PI;
    x.sin() / x
}

/// `image.resize((width, height), filter)` of Pillow, a copy where the size is the same. A side of 0 becomes 1.
#[must_use]
pub fn resize(image: &RgbImage, width: u32, height: u32, filter: Filter) -> RgbImage {
    let (width, height) = (width.max(1), height.max(1));
    if image.dimensions() == (width, height) || image.width() == 0 || image.height() == 0 {
        return image.clone();
    }
    if filter == Filter::Nearest {
        return nearest(image, width, height);
    }
    let horizontal = Coefficients::new(image.width(), width, filter);
    let vertical = Coefficients::new(image.height(), height, filter);
    if image.height() > image.width().saturating_mul(VERTICAL_FIRST) && height < image.height() {
        let lowered = vertical_pass(image, &vertical, 0);
        if image.width() == width {
            return lowered;
        }
        return horizontal_pass(&lowered, &horizontal, 0..height as usize);
    }
    // Only these source rows are read by the vertical pass.
    let first = vertical.spans.first().map_or(0, |span| span.start);
    let end = vertical.spans.last().map_or(0, SourceSpan::end);

    let narrowed = (image.width() != width).then(|| horizontal_pass(image, &horizontal, first..end));
    if image.height() == height {
        return narrowed.unwrap_or_else(|| image.clone());
    }
    match narrowed {
        Some(narrowed) => vertical_pass(&narrowed, &vertical, first),
        None => vertical_pass(image, &vertical, 0),
    }
}

/// The source pixels that one output pixel is computed from.
#[derive(Debug, Clone, Copy)]
struct SourceSpan {
    start: usize,
    len: usize,
}

impl SourceSpan {
    const fn end(&self) -> usize {
        self.start + self.len
    }
}

/// The source pixels and weights of each output pixel along one axis.
struct Coefficients {
    spans: Vec<SourceSpan>,
    /// `[output, stride]`, zero-padded.
    weights: Vec<i32>,
    stride: usize,
}

impl Coefficients {
    fn new(from: u32, to: u32, filter: Filter) -> Self {
        let scale = f64::from(from) / f64::from(to);
        let filter_scale = scale.max(1.0);
        let support = filter.support() * filter_scale;
        let stride = support.ceil() as usize * 2 + 1;
        let step = 1.0 / filter_scale;
        let mut spans = Vec::with_capacity(to as usize);
        let mut weights = vec![0; to as usize * stride];
        let mut exact = vec![0.0; stride];
        for (x, row) in weights.chunks_exact_mut(stride).enumerate() {
            let center = (x as f64 + 0.5) * scale;
            // Rust's casts truncate and saturate at 0, as Pillow's C does by a clamp.
            let start = (center - support + 0.5) as usize;
            let end = ((center + support + 0.5) as usize).min(from as usize);
            let len = end.saturating_sub(start).min(stride);
            let mut sum = 0.0;
            for (k, weight) in exact[..len].iter_mut().enumerate() {
                *weight = filter.weight(((k + start) as f64 - center + 0.5) * step);
                sum += *weight;
            }
            for (fixed, &weight) in row.iter_mut().zip(&exact[..len]) {
                *fixed = to_fixed(if sum == 0.0 { weight } else { weight / sum });
            }
            spans.push(SourceSpan { start, len });
        }
        Self { spans, weights, stride }
    }

    fn iter(&self) -> impl Iterator<Item = (SourceSpan, &[i32])> {
        self.spans
            .iter()
            .zip(self.weights.chunks_exact(self.stride))
            .map(|(span, row)| (*span, &row[..span.len]))
    }
}

/// Rounds half away from zero.
fn to_fixed(weight: f64) -> i32 {
    let scaled = weight * f64::from(1_i32 << PRECISION_BITS);
    (if scaled < 0.0 { scaled - 0.5 } else { scaled + 0.5 }) as i32
}

const HALF: i32 = 1 << (PRECISION_BITS - 1);

fn to_sample(sum: i32) -> u8 {
    (sum >> PRECISION_BITS).clamp(0, 255) as u8
}

/// Rows `rows` of `image`, resized along x: `[rows, output, 3]`.
fn horizontal_pass(image: &RgbImage, coefficients: &Coefficients, rows: std::ops::Range<usize>) -> RgbImage {
    let (width, height) = (coefficients.spans.len(), rows.len());
    let mut out = vec![0; width * height * CHANNELS];
    let pitch = image.width() as usize * CHANNELS;
    let source = &image.as_raw()[rows.start * pitch..rows.end * pitch];
    for (row, target) in source.chunks_exact(pitch).zip(out.chunks_exact_mut(width * CHANNELS)) {
        for ((span, weights), pixel) in coefficients.iter().zip(target.chunks_exact_mut(CHANNELS)) {
            let covered = &row[span.start * CHANNELS..span.end() * CHANNELS];
            let mut sum = [HALF; CHANNELS];
            for (sample, &weight) in covered.chunks_exact(CHANNELS).zip(weights) {
                sum[0] += i32::from(sample[0]) * weight;
                sum[1] += i32::from(sample[1]) * weight;
                sum[2] += i32::from(sample[2]) * weight;
            }
            pixel.copy_from_slice(&sum.map(to_sample));
        }
    }
    from_raw(width, height, out)
}

/// `image`, whose first row is row `offset` of the source, resized along y.
fn vertical_pass(image: &RgbImage, coefficients: &Coefficients, offset: usize) -> RgbImage {
    let pitch = image.width() as usize * CHANNELS;
    let height = coefficients.spans.len();
    let source = image.as_raw();
    let mut out = vec![0; pitch * height];
    let mut sums = vec![HALF; pitch];
    for ((span, weights), target) in coefficients.iter().zip(out.chunks_exact_mut(pitch)) {
        sums.fill(HALF);
        let covered = &source[(span.start - offset) * pitch..(span.end() - offset) * pitch];
        for (row, &weight) in covered.chunks_exact(pitch).zip(weights) {
            for (sum, &sample) in sums.iter_mut().zip(row) {
                *sum += i32::from(sample) * weight;
            }
        }
        for (sample, &sum) in target.iter_mut().zip(&sums) {
            *sample = to_sample(sum);
        }
    }
    from_raw(image.width() as usize, height, out)
}

/// Positions are accumulated, not multiplied, as `ImagingScaleAffine` does: the last bit of a sum decides ties.
fn nearest(image: &RgbImage, width: u32, height: u32) -> RgbImage {
    let positions = |from: u32, to: u32| {
        let scale = f64::from(from) / f64::from(to);
        let mut at = scale * 0.5;
        (0..to)
            .map(|_| {
                let position = (at as u32).min(from - 1);
                at += scale;
                position
            })
            .collect::<Vec<_>>()
    };
    let (xs, ys) = (positions(image.width(), width), positions(image.height(), height));
    RgbImage::from_fn(width, height, |x, y| *image.get_pixel(xs[x as usize], ys[y as usize]))
}

/// The sizes fit by construction.
fn from_raw(width: usize, height: usize, data: Vec<u8>) -> RgbImage {
    debug_assert_eq!(data.len(), width * height * CHANNELS);
    RgbImage::from_raw(width as u32, height as u32, data).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// ```python
    /// a = [[[(x * 97 + y * 31) % 256, (x * 53 + y * y * 7) % 256, (y * x * 11 + y * 13) % 256] for x in range(2)]
    ///      for y in range(201)]
    /// list(Image.fromarray(numpy.array(a, dtype=numpy.uint8)).resize((4, 3), Image.BICUBIC).tobytes())
    /// ```
    #[test]
    fn an_image_taller_than_100_widths_is_resized_vertically_first() {
        let image = RgbImage::from_fn(2, 201, |x, y| {
            image::Rgb([
                ((x * 97 + y * 31) % 256) as u8,
                ((x * 53 + y * y * 7) % 256) as u8,
                ((y * x * 11 + y * 13) % 256) as u8,
            ])
        });
        let expected = [
            128, 138, 124, 128, 135, 124, 128, 131, 122, 128, 128, 122, 129, 134, 129, 128, 132, 128, 126,
            128, 125, 125, 126, 124, 127, 135, 128, 127, 133, 127, 129, 129, 125, 129, 127, 124,
        ];
        assert_eq!(resize(&image, 4, 3, Filter::Bicubic).into_raw(), expected);
    }
}
