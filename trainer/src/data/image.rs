//! Decodes an image file to the RGB that `ImageOps.exif_transpose(Image.open(path)).convert("RGB")` gives: alpha is
//! dropped, not composited; EXIF orientation is applied.
//!
//! 16-bit samples keep the high byte of their range, which is 8, 10, 12, 14 or 16 bits, whichever holds the largest
//! sample: cameras and scanners store 12 bits in 16. Pillow takes all 16 bits for the range of RGB, which leaves such an
//! image all but black, and clips grey to 255.
//!
//! JPEG is the exception to bit equality: zune-jpeg upsamples chroma differently from libjpeg-turbo, by up to 8 levels.

use std::fs::File;
use std::io::{Cursor, ErrorKind, Read};
use std::path::Path;

use image::codecs::{
    bmp::BmpDecoder, gif::GifDecoder, jpeg::JpegDecoder, png::PngDecoder, tiff::TiffDecoder,
    webp::WebPDecoder,
};
use image::metadata::Orientation;
use image::{DynamicImage, ImageBuffer, ImageDecoder, ImageFormat, Pixel, Primitive, Rgb, RgbImage};

use super::exif;
use super::files::{LFS_ADVICE, is_lfs_pointer};

/// Enough bytes of a file to recognise its format.
const MAGIC_BYTES: u64 = 32;
/// An image within the limit on pixels is no longer, even uncompressed and in 16 bits.
const MAX_FILE_BYTES: u64 = 2 << 30;

/// Limits that are checked on a file's header, before memory for its pixels is allocated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ImageLimits {
    /// The largest width times height.
    pub max_pixels: u64,
}

impl Default for ImageLimits {
    /// Where Pillow raises `DecompressionBombError`: twice its `MAX_IMAGE_PIXELS`.
    fn default() -> Self {
        Self { max_pixels: 2 * 89_478_485 }
    }
}

impl ImageLimits {
    /// For what a file holds besides the pixels that its header claims: a colour profile, or a GIF frame larger than
    /// its canvas.
    fn of_decoder(&self) -> image::Limits {
        const MAX_BYTES_PER_PIXEL: u64 = 8;
        let mut limits = image::Limits::no_limits();
        limits.max_alloc = Some(self.max_pixels * MAX_BYTES_PER_PIXEL);
        limits
    }
}

/// Why an image file cannot be decoded. The caller adds the file's name.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    #[error("the file does not exist; add it to the volume or remove the item")]
    NotFound,
    #[error("the file cannot be read: {0}; check its permissions and the volume")]
    Io(std::io::Error),
    #[error(
        "the file has {bytes} bytes, more than the limit of {MAX_FILE_BYTES} that guards memory; scale the image down or remove the item"
    )]
    TooLong { bytes: u64 },
    #[error("the file is empty; copy it again or remove the item")]
    NoBytes,
    #[error("the content is not JPEG, PNG, WebP, BMP, GIF or TIFF; convert the file or remove the item")]
    Unrecognised,
    #[error("{LFS_ADVICE}")]
    LfsPointer,
    #[error("the image uses a feature that is not supported: {reason}; convert it to an 8-bit PNG or JPEG")]
    Unsupported { reason: String },
    #[error("the image file is truncated; copy it again or remove the item")]
    Truncated,
    #[error("the image file is corrupt: {reason}; copy it again or remove the item")]
    Corrupt { reason: String },
    #[error(
        "the image has {width}x{height} pixels, more than the limit of {limit} that guards memory; scale it down or \
         remove the item"
    )]
    TooLarge { width: u32, height: u32, limit: u64 },
    /// The decoder's own limits, which the header exceeds.
    #[error("the image is larger than its decoder supports: {reason}; scale it down or remove the item")]
    OverDecoderLimit { reason: String },
    #[error("the image has {width}x{height} pixels; replace it or remove the item")]
    Empty { width: u32, height: u32 },
}

/// Decodes the image in the file at `path`, whose content, not its name, decides the format.
pub fn open(path: &Path, limits: &ImageLimits) -> Result<RgbImage, ImageError> {
    decode(&read_file(path)?, limits)
}

/// The bytes of the image file at `path`.
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
    // A file that is not an image is not read to its end.
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
    image::guess_format(bytes)
        .map_err(|_| if is_lfs_pointer(bytes) { ImageError::LfsPointer } else { ImageError::Unrecognised })
}

/// Decodes the image in `bytes`.
pub fn decode(bytes: &[u8], limits: &ImageLimits) -> Result<RgbImage, ImageError> {
    let input = Cursor::new(bytes);
    match guess_format(bytes)? {
        ImageFormat::Jpeg => {
            let decoder = JpegDecoder::new(input)?;
            // The decoder fills the missing part with grey. Pillow refuses such a file, and so do we.
            if !has_end_of_image(bytes) {
                return Err(ImageError::Truncated);
            }
            read(decoder, limits)
        }
        ImageFormat::Png => read(PngDecoder::with_limits(input, limits.of_decoder())?, limits),
        // The decoder allocates what a chunk claims to hold; Pillow refuses such a file, too.
        ImageFormat::WebP => {
            let whole = &bytes[..end_of_whole_chunks(bytes).ok_or(ImageError::Truncated)?];
            read(WebPDecoder::new(Cursor::new(whole))?, limits)
        }
        ImageFormat::Bmp => read(BmpDecoder::new(input)?, limits),
        ImageFormat::Gif => {
            let mut decoder = GifDecoder::new(input)?;
            decoder.set_limits(limits.of_decoder())?;
            read(decoder, limits)
        }
        ImageFormat::Tiff => read_oriented(TiffDecoder::new(input)?, exif::orientation(bytes), limits),
        _ => Err(ImageError::Unrecognised),
    }
}

fn read(mut decoder: impl ImageDecoder, limits: &ImageLimits) -> Result<RgbImage, ImageError> {
    // A broken EXIF block does not make an image unreadable.
    let block = decoder.exif_metadata().ok().flatten();
    read_oriented(decoder, block.and_then(|block| exif::orientation(&block)), limits)
}

fn read_oriented(
    mut decoder: impl ImageDecoder,
    orientation: Option<Orientation>,
    limits: &ImageLimits,
) -> Result<RgbImage, ImageError> {
    let (width, height) = decoder.dimensions();
    if width == 0 || height == 0 {
        return Err(ImageError::Empty { width, height });
    }
    if u64::from(width) * u64::from(height) > limits.max_pixels {
        return Err(ImageError::TooLarge { width, height, limit: limits.max_pixels });
    }
    let orientation = orientation.or_else(|| decoder.orientation().ok());
    let mut image = DynamicImage::from_decoder(decoder)?;
    if let Some(orientation) = orientation {
        image.apply_orientation(orientation);
    }
    to_rgb(image)
}

/// Pillow's `convert("RGB")`: grey is repeated, alpha dropped; and 16 bits become 8.
fn to_rgb(image: DynamicImage) -> Result<RgbImage, ImageError> {
    let shift = shift_to_8_bits(&image);
    let high = |sample: u16| (sample >> shift) as u8;
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

/// How far the samples of a 16-bit image are shifted right to become 8 bits. Alpha does not count.
fn shift_to_8_bits(image: &DynamicImage) -> u32 {
    let largest = match image {
        DynamicImage::ImageLuma16(image) => image.as_raw().iter().max().copied(),
        DynamicImage::ImageLumaA16(image) => image.pixels().map(|p| p.0[0]).max(),
        DynamicImage::ImageRgb16(image) => image.as_raw().iter().max().copied(),
        DynamicImage::ImageRgba16(image) => image.pixels().flat_map(|p| [p.0[0], p.0[1], p.0[2]]).max(),
        _ => None,
    };
    let bits = u16::BITS - largest.unwrap_or(u16::MAX).leading_zeros();
    bits.next_multiple_of(2).saturating_sub(8)
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

/// The end of the chunks of a WebP, after which the decoder would look for more; `None` unless all end within the file.
fn end_of_whole_chunks(bytes: &[u8]) -> Option<usize> {
    const FIRST_CHUNK: usize = 12;
    let length_at = |at: usize| {
        let length = bytes.get(at + 4..)?.first_chunk()?;
        usize::try_from(u32::from_le_bytes(*length)).ok()
    };
    let end = length_at(0).map_or(bytes.len(), |length| bytes.len().min(8 + length));
    let mut at = FIRST_CHUNK;
    while at + 8 <= end {
        let length = length_at(at)?;
        at += 8 + length;
        if at > bytes.len() {
            return None;
        }
        // Padded to an even length.
        at += length % 2;
    }
    Some(at.max(end).min(bytes.len()))
}

impl From<image::ImageError> for ImageError {
    fn from(error: image::ImageError) -> Self {
        use image::ImageError as E;
        // Some decoders end their message with a line break.
        let reason = error.to_string().split_whitespace().collect::<Vec<_>>().join(" ");
        match error {
            E::IoError(io) if io.kind() == ErrorKind::UnexpectedEof => Self::Truncated,
            E::Unsupported(_) => Self::Unsupported { reason },
            E::Limits(_) => Self::OverDecoderLimit { reason },
            E::IoError(_) | E::Decoding(_) | E::Encoding(_) | E::Parameter(_) => Self::Corrupt { reason },
        }
    }
}
