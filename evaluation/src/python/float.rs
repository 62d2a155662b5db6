//! Python's `float` of a text.

/// `float(text)`; `None` where Python raises `ValueError`.
///
/// Beyond what Rust parses, it takes surrounding space, digits of any script, and single underscores between digits. The
/// space is Unicode's without the information separators, unlike that of `str.strip`.
pub(crate) fn float(text: &str) -> Option<f64> {
    let digits: String = text.chars().map(to_ascii_digit).collect();
    without_underscores(digits.trim())?.parse().ok()
}

/// `None` if an underscore is not between two digits.
pub(super) fn without_underscores(number: &str) -> Option<String> {
    let mut plain = String::with_capacity(number.len());
    let mut previous = '\0';
    for character in number.chars() {
        let misplaced = match (previous, character) {
            (before, '_') => !before.is_ascii_digit(),
            ('_', after) => !after.is_ascii_digit(),
            _ => false,
        };
        if misplaced {
            return None;
        }
        if character != '_' {
            plain.push(character);
        }
        previous = character;
    }
    (previous != '_').then_some(plain)
}

fn to_ascii_digit(character: char) -> char {
    decimal(character).and_then(|value| char::from_digit(value, 10)).unwrap_or(character)
}

/// The value of a decimal digit of any script: what `\d` matches.
pub(crate) fn decimal(character: char) -> Option<u32> {
    let code = u32::from(character);
    let after = ZEROS.partition_point(|&zero| zero <= code);
    let zero = *ZEROS.get(after.checked_sub(1)?)?;
    Some(code - zero).filter(|value| *value < 10)
}

/// The zeros of Unicode 14, the version of Python 3.11. Each is followed by its script's other nine digits.
///
/// `[c for c in range(0x110000) if unicodedata.decimal(chr(c), -1) == 0]`
const ZEROS: [u32; 66] = [
    0x30, 0x660, 0x6F0, 0x7C0, 0x966, 0x9E6, 0xA66, 0xAE6, 0xB66, 0xBE6, 0xC66, 0xCE6, 0xD66, 0xDE6, 0xE50,
    0xED0, 0xF20, 0x1040, 0x1090, 0x17E0, 0x1810, 0x1946, 0x19D0, 0x1A80, 0x1A90, 0x1B50, 0x1BB0, 0x1C40,
    0x1C50, 0xA620, 0xA8D0, 0xA900, 0xA9D0, 0xA9F0, 0xAA50, 0xABF0, 0xFF10, 0x104A0, 0x10D30, 0x11066,
    0x110F0, 0x11136, 0x111D0, 0x112F0, 0x11450, 0x114D0, 0x11650, 0x116C0, 0x11730, 0x118E0, 0x11950,
    0x11C50, 0x11D50, 0x11DA0, 0x16A60, 0x16AC0, 0x16B50, 0x1D7CE, 0x1D7D8, 0x1D7E2, 0x1D7EC, 0x1D7F6,
    0x1E140, 0x1E2F0, 0x1E950, 0x1FBF0,
];
