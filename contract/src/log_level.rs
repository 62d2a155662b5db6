//! Which logs a program writes, the same for the operator and the trainer.

const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

/// A part of a filter names no level.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not a log level; use off, error, warn, info, debug or trace, or PART=LEVEL, separated by commas"
)]
pub struct UnknownLevel(
    /// What stands where a level is expected.
    pub String,
);

/// Checks a filter: a level, or levels for parts of the program, as in `info,stic_trainer::io=debug`. The logging library
/// takes an unknown word for the name of a part, and then logs nothing else.
///
/// # Errors
/// A part of the filter names no level.
pub fn check(filter: &str) -> Result<(), UnknownLevel> {
    for directive in filter.split(',').map(str::trim) {
        let level = directive.rsplit_once('=').map_or(directive, |(_, level)| level).trim();
        if !LEVELS.iter().any(|known| known.eq_ignore_ascii_case(level)) {
            return Err(UnknownLevel(level.to_owned()));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_levels_are_levels() {
        for good in ["info", "WARN", "off", "stic_operator=debug,warn", "warn, stic_trainer::io=debug"] {
            assert_eq!(check(good), Ok(()), "{good}");
        }
        for (bad, named) in [
            ("verbose", "verbose"),
            ("info,loud", "loud"),
            ("stic_operator=loud,warn", "loud"),
            ("info,", ""),
            ("", ""),
            ("3", "3"),
            ("stic_trainer=", ""),
        ] {
            let error = check(bad).expect_err(bad);
            assert_eq!(error, UnknownLevel(named.into()), "{bad:?}");
            assert!(error.to_string().contains("is not a log level; use off, error"), "{error}");
        }
    }
}
