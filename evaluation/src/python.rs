//! What Python and pandas do, where a reference scorer relies on it and Rust's standard library differs.
//!
//! `str.lower` needs no function: `str::to_lowercase` agrees with it, final sigma and dotted I included.

mod float;
mod literal;
pub(crate) mod numbers;

use std::sync::LazyLock;

use regex::Regex;

pub(crate) use self::float::{decimal, float};
pub(crate) use self::literal::list;

/// Whether `str.isspace`, `str.strip`, `str.split` and `\s` see white space: Unicode's, and the four information separators.
pub(crate) fn is_space(character: char) -> bool {
    character.is_whitespace() || matches!(character, '\u{1c}'..='\u{1f}')
}

/// `text.strip()`.
pub(crate) fn strip(text: &str) -> &str {
    text.trim_matches(is_space)
}

/// `text.split()`.
pub(crate) fn split(text: &str) -> impl Iterator<Item = &str> {
    text.split(is_space).filter(|word| !word.is_empty())
}

/// `character.isalpha()`: a letter. Rust's `is_alphabetic` also takes numerals and marks.
pub(crate) fn is_alpha(character: char) -> bool {
    character.is_ascii_alphabetic() || LETTER.is_match(character.encode_utf8(&mut [0; 4]))
}

#[expect(clippy::expect_used, reason = "the pattern is a constant")]
static LETTER: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"\p{L}").expect("a valid pattern"));

/// Whether `pandas.read_csv` and `read_excel` take a cell with this text for an empty one.
pub(crate) fn is_missing(cell: &str) -> bool {
    MISSING.contains(&cell)
}

/// What `str` makes of a cell with this text after it was written to a table and read again: an empty cell is `nan`.
/// Control characters, which a workbook escapes, stay as they are.
pub(crate) fn from_table(cell: &str) -> &str {
    if is_missing(cell) { "nan" } else { cell }
}

/// pandas 3.1's `STR_NA_VALUES`.
const MISSING: [&str; 19] = [
    "", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "<NA>", "N/A",
    "NA", "NULL", "NaN", "None", "n/a", "nan", "null",
];

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn floats_are_pythons() {
        // Python 3.11: `try: float(text)`, `except ValueError: None`.
        let cases: &[(&str, Option<f64>)] = &[
            ("1_0.5_0", Some(10.5)),
            ("1e5_0", Some(1e50)),
            (" \u{85}1\u{3000}\n", Some(1.0)),
            ("\u{661}\u{662}_\u{663}", Some(123.0)),
            ("\u{1d7cf}\u{1d7d0}", Some(12.0)),
            ("\u{ff11}_\u{ff10}", Some(10.0)),
            ("iNf", Some(f64::INFINITY)),
            ("-Infinity", Some(f64::NEG_INFINITY)),
            ("1e999", Some(f64::INFINITY)),
            ("1.", Some(1.0)),
            (".5", Some(0.5)),
            ("\u{1c}1", None),
            ("1\u{1c}", None),
            ("\u{661}\u{1c}", None),
            ("1__0", None),
            ("_1", None),
            ("1_", None),
            ("1_e5", None),
            ("1e_5", None),
            ("1_.5", None),
            ("1._5", None),
            ("in_f", None),
            ("\u{131}nf", None),
            ("0x10", None),
            ("1e", None),
            (".", None),
            ("", None),
            (" ", None),
            ("1 2", None),
            ("1,0", None),
            ("+ 1", None),
            ("\u{b2}", None),
            ("\u{ff11}\u{ff0e}\u{ff15}", None),
            ("1\0", None),
        ];
        for (text, expected) in cases {
            assert_eq!(float(text), *expected, "{text:?}");
        }
        assert!(float("+NaN").is_some_and(f64::is_nan));
    }

    #[test]
    fn space_is_pythons() {
        // `[c for c in map(chr, range(0x110000)) if c.isspace()]`
        let spaces = "\t\n\u{b}\u{c}\r\u{1c}\u{1d}\u{1e}\u{1f} \u{85}\u{a0}\u{1680}\u{2000}\u{2001}\u{2002}\u{2003}\
                      \u{2004}\u{2005}\u{2006}\u{2007}\u{2008}\u{2009}\u{200a}\u{2028}\u{2029}\u{202f}\u{205f}\u{3000}";
        let found: String = (char::MIN..=char::MAX).filter(|c| is_space(*c)).collect();
        assert_eq!(found, spaces);
        assert_eq!(strip("\u{1c} a\u{1f}b \u{a0}"), "a\u{1f}b");
        assert_eq!(split("\u{1c} a\u{1f}b \u{a0}").collect::<Vec<_>>(), ["a", "b"]);
    }

    #[test]
    fn lower_case_is_pythons() {
        // `text.lower()`
        for (text, expected) in [
            ("\u{130}I\u{131}", "i\u{307}i\u{131}"),
            ("STRASSE \u{1e9e}\u{df}", "strasse \u{df}\u{df}"),
            ("\u{39f}\u{394}\u{39f}\u{3a3} \u{3a3}", "\u{3bf}\u{3b4}\u{3bf}\u{3c2} \u{3c3}"),
            ("\u{212a}\u{1c5}", "k\u{1c6}"),
        ] {
            assert_eq!(text.to_lowercase(), expected);
        }
    }

    #[test]
    fn letters_and_digits_are_pythons() {
        // `c.isalpha()`
        for (character, is_letter) in [
            ('z', true),
            ('\u{e9}', true),
            ('\u{1c5}', true),
            ('\u{2b0}', true),
            ('\u{6587}', true),
            ('1', false),
            ('_', false),
            ('\u{2163}', false),
            ('\u{24b6}', false),
            ('\u{345}', false),
            ('\u{93e}', false),
        ] {
            assert_eq!(is_alpha(character), is_letter, "{character:?}");
        }
        // `unicodedata.decimal(c, None)`
        for (character, value) in [
            ('7', Some(7)),
            ('\u{669}', Some(9)),
            ('\u{1d7d8}', Some(0)),
            ('\u{b2}', None),
            (':', None),
            ('\u{0}', None),
        ] {
            assert_eq!(decimal(character), value, "{character:?}");
        }
    }

    #[test]
    fn missing_cells_are_pandas() {
        // `pandas.read_csv` of a column with these cells, `isna()`.
        for cell in ["", "None", "NA", "n/a", "null", "nan", "-nan", "<NA>", "1.#IND"] {
            assert!(is_missing(cell), "{cell:?}");
        }
        for cell in ["none", "na", "NAN", "Null", " None", " ", "Nan", "N/a", "0"] {
            assert!(!is_missing(cell), "{cell:?}");
            assert_eq!(from_table(cell), cell);
        }
        assert_eq!(from_table("None"), "nan");
    }

    proptest! {
        #[test]
        fn underscores_between_digits_change_nothing(number in 0_u64..1 << 53, at in 1_usize..16) {
            let digits = number.to_string();
            prop_assume!(at < digits.len());
            let (head, tail) = digits.split_at(at);
            prop_assert_eq!(float(&format!("{head}_{tail}")), float(&digits));
            prop_assert_eq!(float(&format!("{head}__{tail}")), None);
        }
    }
}
