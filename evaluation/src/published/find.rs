//! Which published form a folder holds.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use super::form::{Form, Format, ImageSource};
use super::found::FoundForm;
use super::listing::{Glob, Listing, Mode};
use crate::error::{Error, Result};

/// More shards than a benchmark has, so that a file's name cannot make us count for long.
const MAX_SHARDS: u32 = 1000;

/// The first of `forms` that `folder` holds, at any depth up to 4 folders. The folder may be a whole repository or the part
/// of it with the files. `catalog` has the forms of every benchmark by its name, to say which one it is instead.
///
/// # Errors
/// [`Error::Folder`] if it holds none of them, saying what is missing of each, or what benchmark it holds instead;
/// [`Error::File`] if the files of a form are there but cannot be read.
pub fn find(folder: &Path, forms: &'static [Form], catalog: &[(&str, &'static [Form])]) -> Result<FoundForm> {
    let listing = Listing::of(folder)?;
    let error = |message| Err(Error::Folder { folder: folder.into(), message });
    let mut lacking = Vec::new();
    for mode in [Mode::Exact, Mode::Mounted] {
        let mut found: Vec<FoundForm> = Vec::new();
        let mut broken = None;
        lacking.clear();
        for form in forms {
            match inspect(folder, &listing, form, mode) {
                Candidate::Found(form) => found.push(form),
                Candidate::Broken(error) => broken = broken.or(Some(error)),
                Candidate::Lacking(lack) => lacking.push((form, lack)),
            }
        }
        let mut found = found.into_iter();
        match (found.next(), broken) {
            (Some(first), _) => {
                let others: Vec<FoundForm> = found.collect();
                return match others.iter().find(|other| mode == Mode::Mounted && other.rows == first.rows) {
                    Some(other) => error(ambiguous(&first, other)),
                    None => Ok(with_ignored(first, &others)),
                };
            }
            (None, Some(error)) => return Err(error),
            (None, None) => {}
        }
    }
    error(none_found(folder, &listing, &lacking, catalog))
}

fn with_ignored(mut found: FoundForm, others: &[FoundForm]) -> FoundForm {
    found.ignored.extend(others.iter().map(|other| other.form.title.to_owned()));
    found
}

/// Which files these are, only the name of a folder tells that is not below the one that was given.
fn ambiguous(first: &FoundForm, other: &FoundForm) -> String {
    format!(
        "the files may be {} or {}: mount the folder above it instead, since the folder's own name ({} or {}) tells them apart",
        first.form.title,
        other.form.title,
        first.form.rows.join(" and "),
        other.form.rows.join(" and "),
    )
}

/// What a folder has of a form.
enum Candidate {
    Found(FoundForm),
    /// The files are there, but one cannot be read.
    Broken(Error),
    Lacking(Lack),
}

/// Parts of a form, as words for a message.
#[derive(Default)]
struct Lack {
    there: Vec<String>,
    missing: Vec<String>,
}

fn inspect(folder: &Path, listing: &Listing, form: &'static Form, mode: Mode) -> Candidate {
    let mut found = FoundForm::new(form, folder);
    let mut lack = Lack::default();
    for (globs, is_rows) in [(form.rows, true), (form.companions, false)] {
        for glob in globs {
            let (files, elsewhere) = listing.matching(&Glob(glob), mode);
            if files.is_empty() {
                lack.missing.push((*glob).to_owned());
                continue;
            }
            lack.there.extend(files.iter().map(|file| file.display().to_string()));
            lack.missing.extend(missing_shards(&files));
            found.ignored.extend(elsewhere.iter().map(|folder| format!("{glob} in {}", folder.display())));
            let paths = files.into_iter().map(|file| folder.join(file));
            if is_rows {
                found.rows.extend(paths);
            } else {
                found.companions.extend(paths.take(1));
            }
        }
    }
    found.rows.sort();
    found.rows.dedup();
    add_image_folders(&mut found, listing, &mut lack);
    if !lack.missing.is_empty() {
        return Candidate::Lacking(lack);
    }
    match missing_columns(&found) {
        Err(error) => Candidate::Broken(error),
        Ok(missing) if missing.is_empty() => Candidate::Found(found),
        Ok(missing) => Candidate::Lacking(Lack { missing, ..lack }),
    }
}

fn add_image_folders(found: &mut FoundForm, listing: &Listing, lack: &mut Lack) {
    let ImageSource::Folder(folders) = found.form.image else { return };
    let named = folders.iter().flat_map(|folder| listing.folders_ending_with(folder));
    found.image_folders = named.map(|path| found.folder.join(path)).collect();
    if folders.contains(&".") {
        found.image_folders.extend(found.rows.iter().filter_map(|file| file.parent()).map(Path::to_path_buf));
    }
    if found.image_folders.is_empty() {
        lack.missing.push(format!("the folder {}", folders.join(" or ")));
    }
}

/// The files that `x-00000-of-00003.parquet` says are beside it, and are not.
fn missing_shards(files: &[PathBuf]) -> BTreeSet<String> {
    let names: Vec<&str> = files.iter().filter_map(|file| file.file_name()?.to_str()).collect();
    let mut missing = BTreeSet::new();
    for name in &names {
        let Some((start, rest)) = name.split_once("-of-") else { continue };
        let Some((stem, number)) = start.rsplit_once('-') else { continue };
        let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
        let total = digits.parse::<u32>().unwrap_or(0).min(MAX_SHARDS);
        for shard in 0..total {
            let shard = format!("{stem}-{shard:0width$}-of-{digits}", width = number.len());
            if !names.iter().any(|name| name.starts_with(&shard)) {
                missing.insert(format!("{shard}{}", rest.get(digits.len()..).unwrap_or_default()));
            }
        }
    }
    missing
}

/// The columns that a file of the form should have and does not, with those that it has.
fn missing_columns(found: &FoundForm) -> Result<Vec<String>> {
    let mut missing = Vec::new();
    for index in 0..found.rows.len() {
        let there = found.open(index)?.columns()?;
        let image = match found.form.image {
            ImageSource::Column(column) if matches!(found.form.format, Format::Parquet | Format::Tsv) => {
                Some(column)
            }
            _ => None,
        };
        let needed = found.form.columns.iter().copied().chain(image);
        let lacking: Vec<&str> = needed.filter(|column| !there.iter().any(|there| there == column)).collect();
        if !lacking.is_empty() {
            missing.push(format!(
                "column {} of {} (its columns are {})",
                lacking.join(", "),
                found.name(index),
                there.join(", ")
            ));
        }
    }
    Ok(missing)
}

/// Forms of which nothing is there are named after those of which something is.
fn none_found(
    folder: &Path,
    listing: &Listing,
    lacking: &[(&'static Form, Lack)],
    catalog: &[(&str, &'static [Form])],
) -> String {
    let mut message = String::from("none of the published forms is complete");
    let (started, absent): (Vec<_>, Vec<_>) = lacking.iter().partition(|(_, lack)| !lack.there.is_empty());
    for (form, lack) in started {
        let _ = write!(message, "; {}: {} there, {} missing", form.title, is(&lack.there), is(&lack.missing));
    }
    for (form, lack) in absent {
        let _ = write!(message, "; {}: {} missing", form.title, is(&lack.missing));
    }
    match looks_like(folder, listing, catalog) {
        Some((name, title)) => {
            let _ = write!(
                message,
                ". This looks like {name} ({title}): mount the folder of the benchmark to run"
            );
        }
        None => message.push_str(". Mount a folder that has all files of one form"),
    }
    message
}

fn is(parts: &[String]) -> String {
    format!("{} {}", parts.join(", "), if parts.len() == 1 { "is" } else { "are" })
}

/// The benchmark of which a folder holds a complete form.
fn looks_like<'a>(
    folder: &Path,
    listing: &Listing,
    catalog: &[(&'a str, &'static [Form])],
) -> Option<(&'a str, &'static str)> {
    catalog.iter().find_map(|&(name, forms)| {
        let form = forms
            .iter()
            .find(|form| matches!(inspect(folder, listing, form, Mode::Mounted), Candidate::Found(_)))?;
        Some((name, form.title))
    })
}
