use std::collections::BTreeMap;
use std::io::Write;

use image::RgbImage;
use proptest::prelude::*;
use serde::Deserialize;
use stic_trainer::data::image::{ImageError, Limits, decode, open};

use crate::fixtures::{json, path, sha};

#[derive(Deserialize)]
struct Golden {
    size: (u32, u32),
    sha256: String,
    /// A PNG of what Pillow makes of a lossy file.
    expected: Option<String>,
}

fn goldens() -> BTreeMap<String, Golden> {
    json("images.json")
}

/// zune-jpeg against libjpeg-turbo: its inverse transform and chroma upsampling round otherwise.
const JPEG_TOLERANCE: u8 = 4;

#[test]
fn files_decode_as_pillow_decodes_them() {
    for (name, golden) in goldens() {
        let image =
            open(&path("images").join(&name), &Limits::default()).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(image.dimensions(), golden.size, "{name}");
        match golden.expected {
            None => assert_eq!(sha(image.as_raw()), golden.sha256, "{name}"),
            Some(expected) => {
                let expected = open(&path("images").join(expected), &Limits::default()).unwrap();
                assert_eq!(sha(expected.as_raw()), golden.sha256, "{name}");
                let worst = worst_difference(&image, &expected);
                let tolerance = if name.ends_with(".jpg") { JPEG_TOLERANCE } else { 0 };
                assert!(worst <= tolerance, "{name}: off by {worst}");
            }
        }
    }
}

fn worst_difference(a: &RgbImage, b: &RgbImage) -> u8 {
    a.as_raw().iter().zip(b.as_raw()).map(|(a, b)| a.abs_diff(*b)).max().unwrap_or(0)
}

#[test]
fn a_bomb_is_refused_by_its_header() {
    // 30,000 x 30,000 grey pixels, and no data behind the header that could be decoded.
    let mut png = b"\x89PNG\r\n\x1a\n".to_vec();
    let mut chunk = |kind: &[u8; 4], data: &[u8]| {
        png.write_all(&(data.len() as u32).to_be_bytes()).unwrap();
        let body = [kind.as_slice(), data].concat();
        png.write_all(&body).unwrap();
        png.write_all(&crc32(&body).to_be_bytes()).unwrap();
    };
    let side = 30_000_u32.to_be_bytes();
    chunk(b"IHDR", &[side.as_slice(), &side, &[8, 0, 0, 0, 0]].concat());
    chunk(b"IDAT", &[]);
    let error = decode(&png, &Limits::default()).unwrap_err();
    assert!(
        matches!(error, ImageError::TooLarge { width: 30_000, height: 30_000, limit: 178_956_970 }),
        "{error:?}"
    );
    assert!(
        error.to_string().starts_with("the image has 30000x30000 pixels, more than the limit of 178956970")
    );
}

fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0_u32, |crc, &byte| {
        (0..8).fold(
            crc ^ u32::from(byte),
            |crc, _| if crc & 1 == 1 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 },
        )
    })
}

#[test]
fn every_kind_is_measured_before_it_is_read() {
    for name in ["rgb.png", "baseline-420.jpg", "lossy.webp", "rgb.bmp", "palette.gif", "rgb.tif"] {
        let error = open(&path("images").join(name), &Limits { max_pixels: 31 * 57 - 1 }).unwrap_err();
        assert!(matches!(error, ImageError::TooLarge { width: 31, height: 57, .. }), "{name}: {error:?}");
    }
}

#[test]
fn what_is_no_image_says_so() {
    let open = |path: &std::path::Path| open(path, &Limits::default()).unwrap_err();
    assert!(matches!(open(&path("images/none.png")), ImageError::NotFound));
    assert!(matches!(open(&path("images")), ImageError::Io(_)));
    assert!(matches!(open(&path("images.json")), ImageError::Unrecognised));
    assert!(matches!(decode(b"", &Limits::default()).unwrap_err(), ImageError::NoBytes));
}

#[test]
fn half_a_file_is_an_error() {
    // Half of an animation holds its whole first frame.
    for name in goldens().into_keys().filter(|name| name != "frames.gif") {
        let bytes = std::fs::read(path("images").join(&name)).unwrap();
        // Half of the file, and the file less its end: Pillow refuses the former in every kind, the latter in JPEG.
        let half = decode(&bytes[..bytes.len() / 2], &Limits::default());
        assert!(half.is_err(), "{name}");
        if name.ends_with(".jpg") && name != "a-png-by-content.jpg" {
            let error = decode(&bytes[..bytes.len() - 2], &Limits::default()).unwrap_err();
            assert!(matches!(error, ImageError::Truncated), "{name}: {error:?}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    #[test]
    fn broken_files_never_panic(
        which in any::<prop::sample::Index>(),
        cut in any::<prop::sample::Index>(),
        truncate in any::<bool>(),
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
    ) {
        let names: Vec<String> = goldens().into_keys().collect();
        let mut bytes = std::fs::read(path("images").join(which.get(&names))).unwrap();
        if truncate {
            bytes.truncate(cut.index(bytes.len()));
        }
        if !bytes.is_empty() {
            for (at, value) in flips {
                let at = at.index(bytes.len());
                bytes[at] = value;
            }
        }
        // A small limit keeps a flipped size from costing memory.
        let _ = decode(&bytes, &Limits { max_pixels: 1 << 20 });
    }
}
