//! Pillow's color arithmetic (`libImaging/Blend.c`, `libImaging/Convert.c`), bit for bit.

use image::RgbImage;

/// `ImageEnhance.Brightness(image).enhance(factor)`: a blend with black, in f32, truncated.
pub(super) fn adjust_brightness(image: &mut RgbImage, factor: f64) {
    let factor = factor as f32;
    let table: [u8; 256] = std::array::from_fn(|sample| (factor * sample as f32).clamp(0.0, 255.0) as u8);
    for sample in image.iter_mut() {
        *sample = table[usize::from(*sample)];
    }
}

/// torchvision's `adjust_hue` on a PIL image: the 8-bit hue is shifted, truncated toward 0 and wrapping.
pub(super) fn adjust_hue(image: &mut RgbImage, factor: f64) {
    let shift = (factor * 255.0) as i32 as u8;
    for pixel in image.pixels_mut() {
        let [hue, saturation, value] = to_hsv(pixel.0);
        pixel.0 = to_rgb([hue.wrapping_add(shift), saturation, value]);
    }
}

/// `rgb2hsv_row`: C's `float` variables and `double` literals decide where a value is rounded.
fn to_hsv([r, g, b]: [u8; 3]) -> [u8; 3] {
    let max = r.max(g).max(b);
    let min = r.min(g).min(b);
    if max == min {
        return [0, 0, max];
    }
    let range = f32::from(max - min);
    let saturation = range / f32::from(max);
    let away = |sample: u8| f32::from(max - sample) / range;
    let (from_r, from_g, from_b) = (away(r), away(g), away(b));
    let hue = if r == max {
        from_b - from_g
    } else if g == max {
        (2.0 + f64::from(from_r) - f64::from(from_b)) as f32
    } else {
        (4.0 + f64::from(from_g) - f64::from(from_r)) as f32
    };
    let hue = ((f64::from(hue) / 6.0 + 1.0) % 1.0) as f32;
    let to_sample = |part: f32| (f64::from(part) * 255.0) as i32 as u8;
    [to_sample(hue), to_sample(saturation), max]
}

/// `hsv2rgb`.
fn to_rgb([hue, saturation, value]: [u8; 3]) -> [u8; 3] {
    if saturation == 0 {
        return [value; 3];
    }
    let position = f64::from(f32::from(hue)) * 6.0 / 255.0;
    let sextant = position.floor();
    let part = (position - f64::from(sextant as f32)) as f32;
    let saturation = (f64::from(f32::from(saturation)) / 255.0) as f32;
    let (v, part, saturation) = (f64::from(value), f64::from(part), f64::from(saturation));
    let to_sample = |x: f64| x.round() as u8;
    let p = to_sample(v * (1.0 - saturation));
    let q = to_sample(v * (1.0 - f64::from((saturation * part) as f32)));
    let t = to_sample(v * (1.0 - saturation * (1.0 - part)));
    match sextant as u32 % 6 {
        0 => [value, t, p],
        1 => [q, value, p],
        2 => [p, value, t],
        3 => [p, q, value],
        4 => [t, p, value],
        _ => [value, p, q],
    }
}
