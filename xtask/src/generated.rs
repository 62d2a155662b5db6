//! Compares generated text with the files of the repository, and writes what differs.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

/// What the code says the repository should hold.
#[derive(Debug)]
pub(crate) struct Generated {
    /// Whole files: path from the repository's folder, and content.
    pub files: Vec<(PathBuf, String)>,
    /// Tables by the name that documents mark their place with.
    pub tables: BTreeMap<&'static str, String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    Write,
    Check,
}

/// Writes or checks every generated file, and every marked table in a Markdown file of the repository.
pub(crate) fn apply(root: &Path, generated: &Generated, mode: Mode) -> Result<()> {
    let mut wanted: Vec<(PathBuf, String)> = generated.files.clone();
    for path in documents(root)? {
        if generated.files.iter().any(|(file, _)| *file == path) {
            continue;
        }
        let text = fs::read_to_string(root.join(&path)).with_context(|| path.display().to_string())?;
        let filled = fill(&text, &generated.tables).with_context(|| path.display().to_string())?;
        if filled != text {
            wanted.push((path, filled));
        }
    }
    let outdated: Vec<&(PathBuf, String)> = wanted
        .iter()
        .filter(|(path, content)| fs::read_to_string(root.join(path)).ok().as_ref() != Some(content))
        .collect();
    if mode == Mode::Check {
        if outdated.is_empty() {
            return Ok(());
        }
        let paths: Vec<String> = outdated.iter().map(|(path, _)| format!("  {}", path.display())).collect();
        bail!("out of date, run `cargo xtask generate` and commit the result:\n{}", paths.join("\n"));
    }
    for (path, content) in outdated {
        let file = root.join(path);
        if let Some(folder) = file.parent() {
            fs::create_dir_all(folder)?;
        }
        fs::write(&file, content).with_context(|| path.display().to_string())?;
        println!("wrote {}", path.display());
    }
    Ok(())
}

/// The Markdown files of the repository, as paths from `root`. Build output and hidden folders are left out.
fn documents(root: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder)? {
            let entry = entry?;
            let (path, name) = (entry.path(), entry.file_name());
            let name = name.to_string_lossy();
            if name.starts_with('.') || name == "target" || name == "stic-work" {
                continue;
            }
            if entry.file_type()?.is_dir() {
                folders.push(path);
            } else if name.ends_with(".md") {
                found.push(path.strip_prefix(root)?.to_owned());
            }
        }
    }
    found.sort();
    Ok(found)
}

const BEGIN: &str = "<!-- generated: ";
const END: &str = "<!-- end generated -->";

/// `text` with the named table between each pair of marks.
fn fill(text: &str, tables: &BTreeMap<&'static str, String>) -> Result<String> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once(BEGIN) {
        let Some((name, body)) = after.split_once(" -->") else {
            bail!("the mark `{BEGIN}` has no closing ` -->`");
        };
        let Some((_, behind)) = body.split_once(END) else {
            bail!("the table `{name}` has no `{END}` behind it");
        };
        let Some(table) = tables.get(name) else {
            let known: Vec<&str> = tables.keys().copied().collect();
            bail!("there is no generated table `{name}`; use one of {}", known.join(", "));
        };
        out.push_str(before);
        out.push_str(&format!("{BEGIN}{name} -->\n{}{END}", table));
        rest = behind;
    }
    out.push_str(rest);
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tables() -> BTreeMap<&'static str, String> {
        BTreeMap::from([("a", "| new |\n".to_owned())])
    }

    #[test]
    fn a_marked_table_is_replaced_and_everything_else_is_kept() {
        let text = "x\n<!-- generated: a -->\nold\n<!-- end generated -->\ny\n";
        let filled = fill(text, &tables()).expect("the marks are paired");
        assert_eq!(filled, "x\n<!-- generated: a -->\n| new |\n<!-- end generated -->\ny\n");
        assert_eq!(fill(&filled, &tables()).expect("the marks are paired"), filled);
    }

    #[test]
    fn an_unknown_or_unclosed_mark_is_an_error() {
        let unknown = fill("<!-- generated: b -->\n<!-- end generated -->", &tables());
        assert!(unknown.is_err_and(|error| error.to_string().contains("use one of a")));
        assert!(fill("<!-- generated: a -->\n", &tables()).is_err());
    }
}
