//! Logging.

use std::io::IsTerminal as _;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::ParseError;
use tracing_subscriber::fmt::format::{Format, Json, JsonFields};

use crate::settings::{LogFormat, Settings};

/// Writes logs to stderr in the format of the settings.
///
/// # Errors
/// The filter cannot be parsed.
pub fn start(settings: &Settings) -> Result<(), ParseError> {
    let filter = EnvFilter::builder().parse(&settings.log_level)?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match settings.log_format {
        LogFormat::Json => builder.event_format(json()).fmt_fields(JsonFields::new()).init(),
        // Colours are for terminals only: in a pipe they are noise.
        LogFormat::Text => builder.with_target(false).with_ansi(std::io::stderr().is_terminal()).init(),
    }
    Ok(())
}

/// One JSON object per line, with the run of a reconciliation as `span.run`.
fn json() -> Format<Json> {
    Format::default().json().flatten_event(true).with_current_span(true).with_span_list(false)
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::{Arc, Mutex, PoisonError};

    use super::*;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).extend(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_line_has_each_key_once() {
        let lines = Lines::default();
        let writer = lines.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_writer(move || writer.clone())
            .event_format(json())
            .fmt_fields(JsonFields::new())
            .finish();
        tracing::subscriber::with_default(subscriber, || {
            let run = stic_contract::RunKind::StageOneRun;
            let span = crate::controllers::reconcile::span(run, Some("research"), Some("scenes"));
            let _inside = span.enter();
            tracing::info!(reason = "Training", detail = "step train is running", "entered a phase");
        });
        let text = lines.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let text = String::from_utf8(text).expect("UTF-8");
        for key in ["name", "message", "run", "kind", "reason", "detail"] {
            assert_eq!(text.matches(&format!("\"{key}\":")).count(), 1, "{key}: {text}");
        }
        let line: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!(line["span"]["run"], "scenes");
    }
}
