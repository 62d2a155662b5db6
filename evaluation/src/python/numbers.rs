//! How Python and NumPy write and round numbers, where a reference scorer compares what they wrote.

use super::float::{decimal, float};

/// `str(int(text))`; `None` where Python raises `ValueError`, as it also does beyond 4300 digits.
pub(crate) fn integer_text(text: &str) -> Option<String> {
    // What Python takes for an integer is what it takes for a float made of digits alone.
    float(text)?;
    let ascii: String = text
        .chars()
        .map(|char| decimal(char).and_then(|value| char::from_digit(value, 10)).unwrap_or(char))
        .collect();
    let ascii = ascii.trim();
    let (negative, digits) = match ascii.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, ascii.strip_prefix('+').unwrap_or(ascii)),
    };
    let digits: String = digits.chars().filter(|char| *char != '_').collect();
    if digits.len() > MOST_DIGITS || !digits.chars().all(|char| char.is_ascii_digit()) {
        return None;
    }
    let digits = digits.trim_start_matches('0');
    Some(match (digits, negative) {
        ("", _) => "0".to_owned(),
        (digits, true) => format!("-{digits}"),
        (digits, false) => digits.to_owned(),
    })
}

/// `sys.get_int_max_str_digits()`.
const MOST_DIGITS: usize = 4300;

/// `str(int(value))`; `None` where Python raises, for infinities and what is no number.
pub(crate) fn truncated_text(value: f64) -> Option<String> {
    let text = format!("{:.0}", value.trunc());
    value.is_finite().then(|| if text == "-0" { "0".to_owned() } else { text })
}

/// `str(value)`: the fewest digits that mean this number, with an exponent below 1e-4 and from 1e16 on.
pub(crate) fn float_text(value: f64) -> String {
    if value.is_nan() {
        return "nan".to_owned();
    }
    if value.is_infinite() {
        return if value > 0.0 { "inf" } else { "-inf" }.to_owned();
    }
    let shortest = format!("{value:e}");
    // Of two decimals of that length at the same distance, Python takes the even one and Rust the larger.
    let places = shortest
        .split_once('e')
        .map_or(0, |(mantissa, _)| mantissa.trim_start_matches('-').len().saturating_sub(2));
    let nearest = format!("{value:.places$e}");
    let (mantissa, exponent) = nearest.split_once('e').unwrap_or((&nearest, "0"));
    let exponent: i32 = exponent.parse().unwrap_or_default();
    if (-4..16).contains(&exponent) {
        let decimals = usize::try_from(exponent)
            .map_or(places + exponent.unsigned_abs() as usize, |exponent| places.saturating_sub(exponent));
        return format!("{value:.decimals$}", decimals = decimals.max(1));
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{mantissa}e{sign}{:02}", exponent.unsigned_abs())
}

/// `round(value, digits)`: of the decimals with so many places the one nearest to the exact value, the even one of two.
pub(crate) fn round(value: f64, digits: u32) -> f64 {
    // No double has more decimal places than this before they stop to matter.
    let digits = digits.min(323) as usize;
    if value.is_finite() { format!("{value:.digits$}").parse().unwrap_or(value) } else { value }
}

/// `numpy.round(value, digits)`, which rounds the product with a power of ten.
pub(crate) fn numpy_round(value: f64, digits: i32) -> f64 {
    let scale = 10_f64.powi(digits);
    (value * scale).round_ties_even() / scale
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn integers_are_pythons() {
        // Python 3.11: `try: str(int(text))`, `except ValueError: None`.
        let cases: &[(&str, Option<&str>)] = &[
            ("14", Some("14")),
            (" -0\n", Some("0")),
            ("+007", Some("7")),
            ("1_000", Some("1000")),
            ("\u{ff11}\u{662}", Some("12")),
            ("-123456789012345678901234567890", Some("-123456789012345678901234567890")),
            ("14.0", None),
            ("1e2", None),
            ("1__0", None),
            ("_1", None),
            ("- 1", None),
            ("\u{1c}1", None),
            ("nan", None),
            ("", None),
        ];
        for (text, expected) in cases {
            assert_eq!(integer_text(text).as_deref(), *expected, "{text:?}");
        }
        // `str(int("0" * 4299 + "1"))`, and with one more zero.
        assert_eq!(integer_text(&format!("{}1", "0".repeat(4299))).as_deref(), Some("1"));
        assert_eq!(integer_text(&format!("{}1", "0".repeat(4300))), None);
    }

    #[test]
    fn floats_are_written_as_python_writes_them() {
        // `str(value)`
        for (value, expected) in [
            (100.0, "100.0"),
            (-0.0, "-0.0"),
            (1e15, "1000000000000000.0"),
            (1e16, "1e+16"),
            (0.0001, "0.0001"),
            (0.00001, "1e-05"),
            (-1.5e-7, "-1.5e-07"),
            (1e22, "1e+22"),
            (123_456_789_012_345_680.0, "1.2345678901234568e+17"),
            // Between two decimals of 17 digits.
            (21_188_004_712_864.312, "21188004712864.312"),
            (2_187_261_458_868_546.2, "2187261458868546.2"),
            (5e-324, "5e-324"),
            (f64::MAX, "1.7976931348623157e+308"),
            (f64::NAN, "nan"),
            (f64::NEG_INFINITY, "-inf"),
        ] {
            assert_eq!(float_text(value), expected);
        }
    }

    #[test]
    fn rounding_is_to_the_even_decimal() {
        // `round(value, digits)`
        for (value, digits, expected) in [
            (0.125, 2, 0.12),
            (0.375, 2, 0.38),
            (2.5, 0, 2.0),
            (2.675, 2, 2.67),
            (-0.04, 1, -0.0),
            (1e300, 400, 1e300),
        ] {
            assert_eq!(float_text(round(value, digits)), float_text(expected));
        }
        assert!(round(f64::NAN, 1).is_nan());
        // `numpy.round(2.675, 2)`, where the product is 267.5.
        assert_eq!(numpy_round(2.675, 2), 2.68);
    }

    #[test]
    fn truncation_is_pythons() {
        // `str(int(value))`
        for (value, expected) in
            [(14.9, Some("14")), (-0.5, Some("0")), (1e22, Some("10000000000000000000000"))]
        {
            assert_eq!(truncated_text(value).as_deref(), expected);
        }
        assert_eq!(truncated_text(f64::INFINITY), None);
        assert_eq!(truncated_text(f64::NAN), None);
    }

    proptest! {
        #[test]
        fn a_written_float_is_read_back(value in any::<f64>()) {
            let read = float(&float_text(value)).unwrap();
            prop_assert!(read == value || (read.is_nan() && value.is_nan()));
        }

        #[test]
        fn an_integer_is_written_as_rust_writes_it(value in any::<i128>()) {
            prop_assert_eq!(integer_text(&value.to_string()), Some(value.to_string()));
        }
    }
}
