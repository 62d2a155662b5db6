use std::collections::BTreeMap;

use image::RgbImage;
use proptest::prelude::*;
use serde::Deserialize;
use stic_trainer::data::image::{ImageError, ImageLimits, decode, open};

use crate::fixtures::{json, path, sha};

#[derive(Deserialize)]
struct ImageGolden {
    size: (u32, u32),
    sha256: String,
    /// A PNG of the pixels that Pillow decodes from a lossy file.
    expected: Option<String>,
}

fn goldens() -> BTreeMap<String, ImageGolden> {
    json("images.json")
}

/// The inverse transform and chroma upsampling of zune-jpeg round differently from libjpeg-turbo.
const JPEG_TOLERANCE: u8 = 4;

#[test]
fn files_decode_as_in_pillow() {
    for (name, golden) in goldens() {
        let image = open(&path("images").join(&name), &ImageLimits::default())
            .unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(image.dimensions(), golden.size, "{name}");
        match golden.expected {
            None => assert_eq!(sha(image.as_raw()), golden.sha256, "{name}"),
            Some(expected) => {
                let expected = open(&path("images").join(expected), &ImageLimits::default()).unwrap();
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
fn a_decompression_bomb_is_refused_by_its_header() {
    // The header claims 30,000 x 30,000 grey pixels, and no data follows.
    let side = 30_000_u32.to_be_bytes();
    let header = [side.as_slice(), &side, &[8, 0, 0, 0, 0]].concat();
    let png = png(&[(b"IHDR", &header), (b"IDAT", &[])]);
    let error = decode(&png, &ImageLimits::default()).unwrap_err();
    assert!(
        matches!(error, ImageError::TooLarge { width: 30_000, height: 30_000, limit: 178_956_970 }),
        "{error:?}"
    );
    assert!(
        error.to_string().starts_with("the image has 30000x30000 pixels, more than the limit of 178956970")
    );
}

#[test]
fn a_colour_profile_is_bounded_by_the_limit() {
    let header = [0, 0, 0, 1, 0, 0, 0, 1, 8, 0, 0, 0, 0];
    let pixel = stored_zlib(&[0, 7]);
    let profile = [b"profile\0\0".as_slice(), &stored_zlib(&[0; 60_000])].concat();
    let limits = ImageLimits { max_pixels: 1024 };
    let plain = png(&[(b"IHDR", &header), (b"IDAT", &pixel), (b"IEND", &[])]);
    assert_eq!(decode(&plain, &limits).unwrap().into_raw(), [7; 3]);
    let with_profile = png(&[(b"IHDR", &header), (b"iCCP", &profile), (b"IDAT", &pixel), (b"IEND", &[])]);
    let error = decode(&with_profile, &limits).unwrap_err();
    assert!(matches!(error, ImageError::OverDecoderLimit { .. }), "{error:?}");
    assert_eq!(decode(&with_profile, &ImageLimits::default()).unwrap().into_raw(), [7; 3]);
}

#[test]
fn a_gif_frame_larger_than_its_canvas_is_bounded_by_the_limit() {
    // A canvas of one pixel, and a frame that claims 65,535 x 65,535 of them, which would be 17 GB.
    let mut gif = b"GIF89a\x01\0\x01\0\x80\0\0\0\0\0\xff\xff\xff".to_vec();
    gif.extend(b",\0\0\0\0\xff\xff\xff\xff\0\x02\x02\x44\x01\0;");
    let error = decode(&gif, &ImageLimits::default()).unwrap_err();
    assert!(matches!(error, ImageError::OverDecoderLimit { .. }), "{error:?}");
}

#[test]
fn a_webp_whose_metadata_claims_to_be_longer_than_the_file_is_truncated() {
    let mut webp = std::fs::read(path("images/orientation-3.webp")).unwrap();
    let exif = webp.windows(4).position(|name| name == b"EXIF").unwrap();
    webp[exif + 4..exif + 8].copy_from_slice(&0xffff_fff0_u32.to_le_bytes());
    let error = decode(&webp, &ImageLimits::default()).unwrap_err();
    assert!(matches!(error, ImageError::Truncated), "{error:?}");
}

/// Found by fuzzing: image-webp looks for chunks up to 10 bytes after the end that the header names.
#[test]
fn a_chunk_that_begins_after_the_end_of_a_webp_is_not_read() {
    let mut webp = std::fs::read(path("images/orientation-3.webp")).unwrap();
    let exif = webp.windows(4).position(|name| name == b"EXIF").unwrap();
    // The file ends within the header of the chunk, as far as it says itself.
    webp[4..8].copy_from_slice(&(exif as u32 + 2 - 8).to_le_bytes());
    webp[exif + 4..exif + 8].copy_from_slice(&0xffff_fff0_u32.to_le_bytes());
    let error = decode(&webp, &ImageLimits::default()).unwrap_err();
    assert!(error.to_string().contains("chunk was missing"), "{error}");
}

#[test]
fn samples_of_fewer_bits_than_16_use_the_whole_range() {
    // A row of three pixels: color type 0 is grey, 2 is RGB, 4 is grey with alpha.
    let decoded = |color: u8, samples: &[u16]| {
        let header = [0, 0, 0, 3, 0, 0, 0, 1, 16, color, 0, 0, 0];
        let bytes: Vec<u8> = std::iter::once(0).chain(samples.iter().flat_map(|v| v.to_be_bytes())).collect();
        let png = png(&[(b"IHDR", &header), (b"IDAT", &stored_zlib(&bytes)), (b"IEND", &[])]);
        decode(&png, &ImageLimits::default()).unwrap().into_raw().into_iter().step_by(3).collect::<Vec<_>>()
    };
    assert_eq!(decoded(0, &[0, 1840, 3680]), [0, 115, 230]);
    assert_eq!(decoded(0, &[0, 512, 1023]), [0, 128, 255]);
    assert_eq!(decoded(0, &[0, 8192, 16383]), [0, 128, 255]);
    assert_eq!(decoded(0, &[0, 100, 255]), [0, 100, 255]);
    assert_eq!(decoded(0, &[0, 32768, 65535]), [0, 128, 255]);
    assert_eq!(decoded(0, &[0, 0, 0]), [0, 0, 0]);
    assert_eq!(decoded(2, &[0, 0, 0, 2048, 0, 0, 4095, 0, 0]), [0, 128, 255]);
    assert_eq!(decoded(4, &[0, 65535, 2048, 65535, 4095, 65535]), [0, 128, 255]);
}

fn png(chunks: &[(&[u8; 4], &[u8])]) -> Vec<u8> {
    let mut png = b"\x89PNG\r\n\x1a\n".to_vec();
    for (kind, data) in chunks {
        let body = [kind.as_slice(), data].concat();
        png.extend((data.len() as u32).to_be_bytes());
        png.extend(&body);
        png.extend(crc32(&body).to_be_bytes());
    }
    png
}

/// `data` in a zlib stream, not compressed.
fn stored_zlib(data: &[u8]) -> Vec<u8> {
    let length = data.len() as u16;
    let (mut a, mut b) = (1_u32, 0_u32);
    for byte in data {
        a = (a + u32::from(*byte)) % 65_521;
        b = (b + a) % 65_521;
    }
    let (length, inverse, adler) =
        (length.to_le_bytes(), (!length).to_le_bytes(), (b << 16 | a).to_be_bytes());
    [&[0x78, 1, 1], length.as_slice(), &inverse, data, &adler].concat()
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
fn the_size_is_checked_before_decoding_in_every_format() {
    for name in ["rgb.png", "baseline-420.jpg", "lossy.webp", "rgb.bmp", "palette.gif", "rgb.tif"] {
        let error = open(&path("images").join(name), &ImageLimits { max_pixels: 31 * 57 - 1 }).unwrap_err();
        assert!(matches!(error, ImageError::TooLarge { width: 31, height: 57, .. }), "{name}: {error:?}");
    }
}

#[test]
fn a_file_that_is_not_an_image_is_refused() {
    let open = |path: &std::path::Path| open(path, &ImageLimits::default()).unwrap_err();
    assert!(matches!(open(&path("images/none.png")), ImageError::NotFound));
    assert!(matches!(open(&path("images")), ImageError::Io(_)));
    assert!(matches!(open(&path("images.json")), ImageError::Unrecognised));
    assert!(matches!(decode(b"", &ImageLimits::default()).unwrap_err(), ImageError::NoBytes));
}

#[test]
fn a_truncated_file_is_refused() {
    // Half of an animation holds its whole first frame.
    for name in goldens().into_keys().filter(|name| name != "frames.gif") {
        let bytes = std::fs::read(path("images").join(&name)).unwrap();
        // Half of the file, and the file without its end. Pillow refuses the former in every format, the latter in JPEG.
        let half = decode(&bytes[..bytes.len() / 2], &ImageLimits::default());
        assert!(half.is_err(), "{name}");
        if name.ends_with(".jpg") && name != "a-png-by-content.jpg" {
            let error = decode(&bytes[..bytes.len() - 2], &ImageLimits::default()).unwrap_err();
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
        // With a small limit, a corrupted size cannot cost much memory.
        let _ = decode(&bytes, &ImageLimits { max_pixels: 1 << 20 });
    }
}
