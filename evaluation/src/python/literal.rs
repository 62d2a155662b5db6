//! Lists as Python writes them, which VLMEvalKit's tables hold and it evaluates.

use super::float::without_underscores;
use super::numbers::float_text;

/// The elements of a list literal as `str` gives them; `None` if `text` is none, or holds other things than strings,
/// numbers and constants.
pub(crate) fn list(text: &str) -> Option<Vec<String>> {
    let mut literal = Literal { rest: text.trim_matches(|character| matches!(character, ' ' | '\t' | '\n')) };
    literal.take('[')?;
    let mut elements = Vec::new();
    loop {
        literal.skip_space();
        if literal.take(']').is_some() {
            return literal.rest.is_empty().then_some(elements);
        }
        elements.push(literal.element()?);
        literal.skip_space();
        if literal.take(',').is_none() {
            literal.take(']')?;
            return literal.rest.is_empty().then_some(elements);
        }
    }
}

/// What is left to read of a literal.
struct Literal<'a> {
    rest: &'a str,
}

impl Literal<'_> {
    fn take(&mut self, character: char) -> Option<()> {
        self.rest = self.rest.strip_prefix(character)?;
        Some(())
    }

    fn next(&mut self) -> Option<char> {
        let mut characters = self.rest.chars();
        let next = characters.next()?;
        self.rest = characters.as_str();
        Some(next)
    }

    fn skip_space(&mut self) {
        self.rest = self.rest.trim_start_matches([' ', '\t', '\n', '\r', '\x0c']);
    }

    fn element(&mut self) -> Option<String> {
        match self.rest.chars().next()? {
            quote @ ('\'' | '"') => self.string(quote),
            _ => self.other(),
        }
    }

    /// A decimal number or one of the constants, as `str` writes it.
    fn other(&mut self) -> Option<String> {
        let end = self.rest.find([',', ']', ' ', '\t', '\n', '\r', '\x0c'])?;
        let (text, rest) = self.rest.split_at(end);
        self.rest = rest;
        if matches!(text, "None" | "True" | "False") {
            return Some(text.to_owned());
        }
        let (sign, digits) = match text.strip_prefix('-') {
            Some(digits) => ("-", digits),
            None => ("", text.strip_prefix('+').unwrap_or(text)),
        };
        if !digits.starts_with(|first: char| first.is_ascii_digit() || first == '.') {
            return None;
        }
        let digits = without_underscores(digits)?;
        match digits.trim_start_matches('0') {
            _ if !digits.bytes().all(|byte| byte.is_ascii_digit()) => {
                Some(float_text(format!("{sign}{digits}").parse().ok()?))
            }
            "" => Some("0".to_owned()),
            significant if significant.len() == digits.len() => Some(format!("{sign}{digits}")),
            _ => None,
        }
    }

    fn string(&mut self, quote: char) -> Option<String> {
        self.take(quote)?;
        let mut text = String::new();
        loop {
            match self.next()? {
                '\n' | '\r' => return None,
                '\\' => self.escape(&mut text)?,
                character if character == quote => return Some(text),
                character => text.push(character),
            }
        }
    }

    /// What follows a backslash.
    fn escape(&mut self, text: &mut String) -> Option<()> {
        let escaped = match self.next()? {
            '\n' => return Some(()),
            character @ ('\\' | '\'' | '"') => character,
            'a' => '\x07',
            'b' => '\x08',
            'f' => '\x0c',
            'n' => '\n',
            'r' => '\r',
            't' => '\t',
            'v' => '\x0b',
            'x' => self.code(2)?,
            'u' => self.code(4)?,
            'U' => self.code(8)?,
            // Names and octal numbers, which `repr` never writes.
            'N' | '0'..='7' => return None,
            other => {
                text.push('\\');
                other
            }
        };
        text.push(escaped);
        Some(())
    }

    /// The character with the code in the next `digits` hexadecimal digits.
    fn code(&mut self, digits: usize) -> Option<char> {
        let (code, rest) = self.rest.split_at_checked(digits)?;
        self.rest = rest;
        let is_hex = code.bytes().all(|byte| byte.is_ascii_hexdigit());
        char::from_u32(u32::from_str_radix(code, 16).ok().filter(|_| is_hex)?)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn texts(elements: &[&str]) -> Option<Vec<String>> {
        Some(elements.iter().map(|element| (*element).to_owned()).collect())
    }

    #[test]
    fn lists_are_pythons() {
        // Python 3.11: `[str(x) for x in ast.literal_eval(text.strip(" \t\n"))]`.
        for (text, expected) in [
            ("[]", texts(&[])),
            (" ['a', \"l'or\",\t'l\\'or' ]\n", texts(&["a", "l'or", "l'or"])),
            (r#"['\n\t\\\x41\u00e9\U0001f600\q"',]"#, texts(&["\n\t\\A\u{e9}\u{1f600}\\q\""])),
            ("[2015, -16, 0, 00, +7, 1_000]", texts(&["2015", "-16", "0", "0", "7", "1000"])),
            (
                "[0.50, -.5, 5., 1e16, 1e-5, 123456789012345680.0]",
                texts(&["0.5", "-0.5", "5.0", "1e+16", "1e-05", "1.2345678901234568e+17"]),
            ),
            (
                "[0.0001, 9999999999999998.0, 1e999, -0.0]",
                texts(&["0.0001", "9999999999999998.0", "inf", "-0.0"]),
            ),
            ("[None, True, False]", texts(&["None", "True", "False"])),
            ("[", None),
            ("[,]", None),
            ("['a' 1]", None),
            ("['a', 'b'", None),
            ("['a'] x", None),
            ("['a\nb']", None),
            ("['\\x4']", None),
            ("['\\x+4']", None),
            ("[Asia, Europe]", None),
            ("[nan]", None),
            ("[007]", None),
            ("[1__0]", None),
            ("[\u{661}]", None),
            ("14", None),
            ("('a',)", None),
            ("", None),
        ] {
            assert_eq!(list(text), expected, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn quoted_texts_come_back(elements in prop::collection::vec("[^'\"\\\\\n\r]*", 0..5), quote in "['\"]") {
            let quoted: Vec<_> = elements.iter().map(|element| format!("{quote}{element}{quote}")).collect();
            prop_assert_eq!(list(&format!("[{}]", quoted.join(", "))), Some(elements));
        }
    }
}
