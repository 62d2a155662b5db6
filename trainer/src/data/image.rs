//! Decodes an image file to the RGB that `ImageOps.exif_transpose(Image.open(path)).convert("RGB")` gives: alpha is
//! dropped, not composited; 16-bit samples keep their high byte; EXIF orientation is applied.
//!
//! JPEG is the exception to bit equality: zune-jpeg upsamples chroma otherwise than libjpeg-turbo, up to 8 levels.

use std::fs::File;
use std::io::{Cursor, ErrorKind, Read};
use std::path::Path;

use image::codecs::{
    bmp::BmpDecoder, gif::GifDecoder, jpeg::JpegDecoder, png::PngDecoder, tiff::TiffDecoder,
    webp::WebPDecoder,
};
use image::{DynamicImage, ImageBuffer, ImageDecoder, ImageFormat, Pixel, Primitive, Rgb, RgbImage};

/// Enough of a file to tell its kind.
const MAGIC_BYTES: u64 = 32;
/// No image within the limit on pixels is longer, uncompressed and in 16 bits.
const MAX_FILE_BYTES: u64 = 2 << 30;

/// What is refused from a file's header, before anything is allocated for its pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Width times height.
    pub max_pixels: u64,
}

impl Default for Limits {
    /// Where Pillow raises `DecompressionBombError`: twice its `MAX_IMAGE_PIXELS`.
    fn default() -> Self {
        Self { max_pixels: 2 * 89_478_485 }
    }
}

/// Why an image file gives no image. The caller says which file it was.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// There is no such file.
    #[error("the file does not exist; add it to the volume or remove the item")]
    NotFound,
    /// The file is there but cannot be read.
    #[error("the file cannot be read: {0}; check its permissions and the volume")]
    Io(std::io::Error),
    /// More bytes than the limit.
    #[error(
        "the file has {bytes} bytes, more than the limit of {MAX_FILE_BYTES} that guards memory; scale the image down or remove the item"
    )]
    TooLong {
        /// Of the file.
        bytes: u64,
    },
    /// Not one byte.
    #[error("the file is empty; copy it again or remove the item")]
    NoBytes,
    /// The content is no image of a kind we read.
    #[error("the content is not JPEG, PNG, WebP, BMP, GIF or TIFF; convert the file or remove the item")]
    Unrecognised,
    /// A kind we read, in a variant we do not.
    #[error("the image uses a feature that is not supported: {reason}; convert it to an 8-bit PNG or JPEG")]
    Unsupported {
        /// The decoder's words.
        reason: String,
    },
    /// The file ends before the image does.
    #[error("the image file is truncated; copy it again or remove the item")]
    Truncated,
    /// The content contradicts itself.
    #[error("the image file is corrupt: {reason}; copy it again or remove the item")]
    Corrupt {
        /// The decoder's words.
        reason: String,
    },
    /// More pixels than the limit.
    #[error(
        "the image has {width}x{height} pixels, more than the limit of {limit} that guards memory; scale it down or \
         remove the item"
    )]
    TooLarge {
        /// In pixels.
        width: u32,
        /// In pixels.
        height: u32,
        /// In pixels, of width times height.
        limit: u64,
    },
    /// More than the decoder takes, by the header.
    #[error("the image is larger than its decoder takes: {reason}; scale it down or remove the item")]
    OverDecoderLimit {
        /// The decoder's words.
        reason: String,
    },
    /// A side of 0.
    #[error("the image has {width}x{height} pixels; replace it or remove the item")]
    Empty {
        /// In pixels.
        width: u32,
        /// In pixels.
        height: u32,
    },
}

/// The image in the file at `path`; its kind is told by the content, not by the name.
///
/// # Errors
/// See [`ImageError`].
pub fn open(path: &Path, limits: &Limits) -> Result<RgbImage, ImageError> {
    decode(&read_file(path)?, limits)
}

/// The bytes of the image file at `path`.
///
/// # Errors
/// See [`ImageError`].
pub fn read_file(path: &Path) -> Result<Vec<u8>, ImageError> {
    let failed = |error: std::io::Error| match error.kind() {
        ErrorKind::NotFound => ImageError::NotFound,
        _ => ImageError::Io(error),
    };
    let mut file = File::open(path).map_err(failed)?;
    let bytes = file.metadata().map_err(failed)?.len();
    if bytes > MAX_FILE_BYTES {
        return Err(ImageError::TooLong { bytes });
    }
    // A file that is no image is not read to its end.
    let mut bytes = Vec::new();
    file.by_ref().take(MAGIC_BYTES).read_to_end(&mut bytes).map_err(failed)?;
    guess_format(&bytes)?;
    file.read_to_end(&mut bytes).map_err(failed)?;
    Ok(bytes)
}

fn guess_format(bytes: &[u8]) -> Result<ImageFormat, ImageError> {
    if bytes.is_empty() {
        return Err(ImageError::NoBytes);
    }
    image::guess_format(bytes).map_err(|_| ImageError::Unrecognised)
}

/// The image in `bytes`.
///
/// # Errors
/// See [`ImageError`]; never [`ImageError::NotFound`].
pub fn decode(bytes: &[u8], limits: &Limits) -> Result<RgbImage, ImageError> {
    let input = Cursor::new(bytes);
    match guess_format(bytes)? {
        ImageFormat::Jpeg => {
            let decoder = JpegDecoder::new(input)?;
            // The decoder fills what is missing with grey; Pillow refuses, and so do we.
            if !has_end_of_image(bytes) {
                return Err(ImageError::Truncated);
            }
            read(decoder, limits)
        }
        ImageFormat::Png => read(PngDecoder::new(input)?, limits),
        ImageFormat::WebP => read(WebPDecoder::new(input)?, limits),
        ImageFormat::Bmp => read(BmpDecoder::new(input)?, limits),
        ImageFormat::Gif => read(GifDecoder::new(input)?, limits),
        ImageFormat::Tiff => read(TiffDecoder::new(input)?, limits),
        _ => Err(ImageError::Unrecognised),
    }
}

fn read(mut decoder: impl ImageDecoder, limits: &Limits) -> Result<RgbImage, ImageError> {
    let (width, height) = decoder.dimensions();
    if width == 0 || height == 0 {
        return Err(ImageError::Empty { width, height });
    }
    if u64::from(width) * u64::from(height) > limits.max_pixels {
        return Err(ImageError::TooLarge { width, height, limit: limits.max_pixels });
    }
    // A broken EXIF block does not make an image unreadable.
    let orientation = decoder.orientation().ok();
    let mut image = DynamicImage::from_decoder(decoder)?;
    if let Some(orientation) = orientation {
        image.apply_orientation(orientation);
    }
    to_rgb(image)
}

/// Pillow's `convert("RGB")`: grey is repeated, alpha dropped, 16 bits lose their low byte.
fn to_rgb(image: DynamicImage) -> Result<RgbImage, ImageError> {
    let high = |sample: u16| (sample >> 8) as u8;
    Ok(match image {
        DynamicImage::ImageRgb8(image) => image,
        DynamicImage::ImageLuma8(image) => map(&image, |p| Rgb([p.0[0]; 3])),
        DynamicImage::ImageLumaA8(image) => map(&image, |p| Rgb([p.0[0]; 3])),
        DynamicImage::ImageRgba8(image) => map(&image, |p| Rgb([p.0[0], p.0[1], p.0[2]])),
        DynamicImage::ImageLuma16(image) => map(&image, |p| Rgb([high(p.0[0]); 3])),
        DynamicImage::ImageLumaA16(image) => map(&image, |p| Rgb([high(p.0[0]); 3])),
        DynamicImage::ImageRgb16(image) => map(&image, |p| Rgb([high(p.0[0]), high(p.0[1]), high(p.0[2])])),
        DynamicImage::ImageRgba16(image) => map(&image, |p| Rgb([high(p.0[0]), high(p.0[1]), high(p.0[2])])),
        other => {
            return Err(ImageError::Unsupported { reason: format!("samples of type {:?}", other.color()) });
        }
    })
}

fn map<P, F>(image: &ImageBuffer<P, Vec<P::Subpixel>>, to_rgb: F) -> RgbImage
where
    P: Pixel,
    P::Subpixel: Primitive,
    F: Fn(&P) -> Rgb<u8>,
{
    let mut out = RgbImage::new(image.width(), image.height());
    for (target, source) in out.pixels_mut().zip(image.pixels()) {
        *target = to_rgb(source);
    }
    out
}

/// Whether the JPEG's own end marker follows its first scan; a thumbnail's inside EXIF does not count.
fn has_end_of_image(bytes: &[u8]) -> bool {
    const START_OF_IMAGE: u8 = 0xd8;
    const END_OF_IMAGE: u8 = 0xd9;
    // Markers that stand alone: TEM, RST0 to RST7, SOI; and 0x00, a stuffed byte of entropy-coded data.
    let stands_alone = |marker: u8| matches!(marker, 0x00 | 0x01 | 0xd0..=0xd7 | START_OF_IMAGE);
    let mut at = 2;
    while let Some(&byte) = bytes.get(at) {
        let Some(&marker) = bytes.get(at + 1) else { return false };
        at += match (byte, marker) {
            (0xff, END_OF_IMAGE) => return true,
            (0xff, 0xff) => 1,
            (0xff, marker) if stands_alone(marker) => 2,
            (0xff, _) => match (bytes.get(at + 2), bytes.get(at + 3)) {
                (Some(&high), Some(&low)) => 2 + usize::from(u16::from_be_bytes([high, low])),
                _ => return false,
            },
            _ => 1,
        };
    }
    false
}

impl From<image::ImageError> for ImageError {
    fn from(error: image::ImageError) -> Self {
        use image::ImageError as E;
        let reason = error.to_string();
        match error {
            E::IoError(io) if io.kind() == ErrorKind::UnexpectedEof => Self::Truncated,
            E::Unsupported(_) => Self::Unsupported { reason },
            E::Limits(_) => Self::OverDecoderLimit { reason },
            E::IoError(_) | E::Decoding(_) | E::Encoding(_) | E::Parameter(_) => Self::Corrupt { reason },
        }
    }
}
