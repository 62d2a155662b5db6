#![no_main]
//! An image file: no header makes the decoder allocate more than the limit on pixels needs.

use libfuzzer_sys::fuzz_target;
use stic_fuzz as _;
use stic_trainer::data::image::{ImageLimits, decode};

/// In 16 bits and four channels 8 MiB, a small part of the limit on memory.
const LIMITS: ImageLimits = ImageLimits { max_pixels: 1 << 20 };

fuzz_target!(|bytes: &[u8]| {
    if let Ok(image) = decode(bytes, &LIMITS) {
        let pixels = u64::from(image.width()) * u64::from(image.height());
        assert!((1..=LIMITS.max_pixels).contains(&pixels), "{pixels} pixels");
    }
});
