//! The orientation in an EXIF block, in an integer of any type, as Pillow reads it. The `image` crate reads 16-bit ones
//! only.

use image::metadata::Orientation;

const ORIENTATION: u16 = 0x0112;
/// Some writers keep JPEG's prefix in other containers.
const PREFIX: &[u8] = b"Exif\0\0";
const ENTRY_BYTES: usize = 12;

/// The orientation that the first directory of `block` has. A TIFF file is such a block.
pub(super) fn orientation(block: &[u8]) -> Option<Orientation> {
    let block = block.strip_prefix(PREFIX).unwrap_or(block);
    let reader = Reader { block, big_endian: block.starts_with(b"MM\0\x2a") };
    if !reader.big_endian && !block.starts_with(b"II\x2a\0") {
        return None;
    }
    let directory = usize::try_from(reader.u32(4)?).ok()?;
    let entries = usize::from(reader.u16(directory)?);
    (0..entries)
        .map(|index| directory + 2 + index * ENTRY_BYTES)
        .find(|entry| reader.u16(*entry) == Some(ORIENTATION))
        .and_then(|entry| reader.single_integer(entry))
        .and_then(Orientation::from_exif)
}

struct Reader<'a> {
    block: &'a [u8],
    big_endian: bool,
}

impl Reader<'_> {
    fn bytes<const N: usize>(&self, at: usize) -> Option<[u8; N]> {
        let mut bytes: [u8; N] = *self.block.get(at..)?.first_chunk()?;
        if !self.big_endian {
            bytes.reverse();
        }
        Some(bytes)
    }

    fn u16(&self, at: usize) -> Option<u16> {
        Some(u16::from_be_bytes(self.bytes(at)?))
    }

    fn u32(&self, at: usize) -> Option<u32> {
        Some(u32::from_be_bytes(self.bytes(at)?))
    }

    /// The value of the directory's entry at `at`, if it is one integer from 0 to 255.
    fn single_integer(&self, at: usize) -> Option<u8> {
        if self.u32(at + 4)? != 1 {
            return None;
        }
        let value = at + 8;
        match self.u16(at + 2)? {
            // BYTE and SBYTE, SHORT and SSHORT, LONG and SLONG.
            1 | 6 => self.block.get(value).copied(),
            3 | 8 => u8::try_from(self.u16(value)?).ok(),
            4 | 9 => u8::try_from(self.u32(value)?).ok(),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A block whose only entry is the orientation 6 of this type.
    fn block(big_endian: bool, kind: u16, count: u32, value: [u8; 4]) -> Vec<u8> {
        let order = |mut bytes: Vec<u8>| {
            if !big_endian {
                bytes.reverse();
            }
            bytes
        };
        let mut block = if big_endian { b"MM\0\x2a".to_vec() } else { b"II\x2a\0".to_vec() };
        block.extend(order(8u32.to_be_bytes().to_vec()));
        block.extend(order(1u16.to_be_bytes().to_vec()));
        block.extend(order(ORIENTATION.to_be_bytes().to_vec()));
        block.extend(order(kind.to_be_bytes().to_vec()));
        block.extend(order(count.to_be_bytes().to_vec()));
        block.extend(value);
        block.extend([0; 4]);
        block
    }

    #[test]
    fn the_orientation_is_read_from_every_integer_type() {
        for kind in [1, 3, 4, 6, 8, 9] {
            let little = block(false, kind, 1, [6, 0, 0, 0]);
            assert_eq!(orientation(&little), Some(Orientation::Rotate90), "type {kind}");
            let value = match kind {
                1 | 6 => [6, 0, 0, 0],
                3 | 8 => [0, 6, 0, 0],
                _ => [0, 0, 0, 6],
            };
            assert_eq!(orientation(&block(true, kind, 1, value)), Some(Orientation::Rotate90), "type {kind}");
            let prefixed = [PREFIX, &little].concat();
            assert_eq!(orientation(&prefixed), Some(Orientation::Rotate90), "type {kind}");
        }
    }

    #[test]
    fn what_pillow_does_not_apply_is_no_orientation() {
        for (kind, count, value) in [(3, 2, [6, 0, 6, 0]), (5, 1, [6, 0, 0, 0]), (4, 1, [6, 1, 0, 0])] {
            assert_eq!(orientation(&block(false, kind, count, value)), None, "type {kind}");
        }
        let whole = block(false, 4, 1, [6, 0, 0, 0]);
        for cut in 0..whole.len() - 4 {
            assert_eq!(orientation(&whole[..cut]), None, "cut at {cut}");
        }
    }
}
