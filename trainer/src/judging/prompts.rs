//! The user's prompts for the judge, one file for each benchmark.

use std::io::ErrorKind;
use std::path::Path;

use stic_contract::Digest;
use stic_evaluation::judge::Template;
use stic_evaluation::registry::RegisteredBenchmark;

use crate::error::{Error, Result};
use crate::io::volumes::contents;

/// The prompt of a benchmark.
#[derive(Debug, Clone)]
pub struct Prompt {
    pub template: Template,
    /// Of the file's text.
    pub digest: Digest,
}

impl Prompt {
    /// Reads the file in `dir` that is named after the benchmark, with or without `.txt`.
    ///
    /// # Errors
    /// [`Error::Config`] naming the file that is missing, or the placeholder that is.
    pub fn read(dir: &Path, benchmark: &RegisteredBenchmark) -> Result<Self> {
        let name = benchmark.name;
        let plain = dir.join(name.as_str());
        let (path, text) = match read(&plain)? {
            Some(text) => (plain, text),
            None => {
                let path = dir.join(format!("{name}.txt"));
                let text = read(&path)?.ok_or_else(|| {
                    Error::Config(format!(
                        "the judge has no prompt for {name}: {}; add the key {name} to the ConfigMap of spec.judge.promptsConfigMapRef",
                        contents(&path)
                    ))
                })?;
                (path, text)
            }
        };
        let template = Template::parse(&text, benchmark.judge_placeholders)
            .map_err(|error| Error::Config(format!("{}: {error}", path.display())))?;
        Ok(Self { template, digest: Digest::of(text.as_bytes()) })
    }
}

/// The text of a file, if it exists.
fn read(path: &Path) -> Result<Option<String>> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) if error.kind() == ErrorKind::InvalidData => {
            Err(Error::Config(format!("{}: is not UTF-8; save the prompt as UTF-8", path.display())))
        }
        Err(error) => Err(Error::storage(path)(error)),
    }
}

#[cfg(test)]
mod tests {
    use stic_contract::evaluation::BenchmarkName;

    use super::*;

    #[test]
    fn a_prompt_is_named_after_its_benchmark_and_has_its_placeholders() {
        let dir = tempfile::tempdir().expect("a folder");
        let benchmark = RegisteredBenchmark::of_name(BenchmarkName::MmVet);
        let refused = || Prompt::read(dir.path(), benchmark).expect_err("refused").to_string();
        let missing = refused();
        assert!(missing.starts_with("the judge has no prompt for MMVet: "), "{missing}");
        assert!(
            missing.contains("add the key MMVet to the ConfigMap of spec.judge.promptsConfigMapRef"),
            "{missing}"
        );
        let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).expect("written");
        write("MMVet.txt", "{{question}} {{reference}}");
        let broken = refused();
        assert!(broken.contains("MMVet.txt: the judge's prompt has no {{answer}}"), "{broken}");
        write("MMVet.txt", "{{question}} {{reference}} {{answer}}");
        let with_extension = Prompt::read(dir.path(), benchmark).expect("a prompt").digest;
        write("MMVet", "{{question}} {{reference}} {{answer}}!");
        assert_ne!(Prompt::read(dir.path(), benchmark).expect("a prompt").digest, with_extension);
    }
}
