//! Finds images in a folder, and refuses paths that lead out of it.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::{Component, Path, PathBuf};

use crate::{Error, Result};

const EXTENSIONS: [&str; 10] = ["jpg", "jpeg", "jfif", "jpe", "png", "webp", "bmp", "gif", "tif", "tiff"];

/// Why a path does not resolve to an image file.
#[derive(Debug)]
pub enum Unresolved {
    /// It leads out of its folder, which is an error even where unreadable images are skipped.
    Outside(String),
    /// There is no file that can be read.
    Unreadable(String),
    /// The storage failed; the image itself may be fine.
    Storage(PathBuf, std::io::Error),
}

impl From<Unresolved> for Error {
    fn from(unresolved: Unresolved) -> Self {
        match unresolved {
            Unresolved::Outside(reason) | Unresolved::Unreadable(reason) => Self::Data(reason),
            Unresolved::Storage(path, source) => Self::Storage { path, source },
        }
    }
}

/// Calls `visit` with the path of each image below `root`, relative to it with `/` between names, in the order of the
/// file system. Folders that wait to be read are in memory, images are not. Hidden files and folders are skipped and
/// symbolic links to folders are not followed. An unreadable file with an image's name is listed all the same; opening
/// it fails later. Other files are counted and passed over, with one warning.
///
/// # Errors
/// [`Error::Data`] where there is no image or a name is not UTF-8; [`Error::Storage`] where a folder cannot be read; the
/// first error of `visit`.
pub fn walk(root: &Path, mut visit: impl FnMut(String) -> Result<()>) -> Result<()> {
    let mut found = false;
    let mut passed_over = PassedOver::default();
    let mut folders = vec![(root.to_owned(), String::new())];
    while let Some((folder, prefix)) = folders.pop() {
        for entry in std::fs::read_dir(&folder).map_err(Error::input(&folder))? {
            let entry = entry.map_err(Error::storage(&folder))?;
            let name = entry.file_name().into_string().map_err(|name| {
                Error::Data(format!("{}: the name is not UTF-8; rename it", folder.join(name).display()))
            })?;
            if name.starts_with('.') {
                continue;
            }
            let kind = entry.file_type().map_err(Error::storage(entry.path()))?;
            let relative = format!("{prefix}{name}");
            if kind.is_dir() {
                folders.push((entry.path(), format!("{relative}/")));
            } else if kind.is_symlink() && entry.path().is_dir() {
                tracing::warn!(folder = %entry.path().display(), "a symbolic link to a folder is not followed");
            } else if is_image(&name) {
                found = true;
                visit(relative)?;
            } else {
                passed_over.add(&name);
            }
        }
    }
    let passed_over = passed_over.summary();
    if found {
        if let Some(summary) = passed_over {
            tracing::warn!(folder = %root.display(), "{summary}");
        }
        return Ok(());
    }
    let contents = passed_over.map_or_else(String::new, |summary| format!("; {summary}"));
    Err(Error::Data(format!(
        "{}: holds no image ({}){contents}; put images there or correct the path in the spec",
        root.display(),
        EXTENSIONS.join(", ")
    )))
}

/// The number of files without an image's name, by extension.
#[derive(Default)]
struct PassedOver {
    counts: BTreeMap<String, u64>,
}

impl PassedOver {
    /// Extensions that are counted; any further ones are counted together.
    const MOST: usize = 16;

    fn add(&mut self, name: &str) {
        let extension = match name.rsplit_once('.') {
            Some((_, extension)) if !extension.is_empty() && extension.len() <= 16 => {
                format!(".{}", extension.to_ascii_lowercase())
            }
            _ => "no extension".to_owned(),
        };
        let known = self.counts.contains_key(&extension) || self.counts.len() < Self::MOST;
        *self.counts.entry(if known { extension } else { "other".to_owned() }).or_default() += 1;
    }

    fn summary(&self) -> Option<String> {
        let (files, have, were) = match self.counts.values().sum() {
            0_u64 => return None,
            1 => ("1 file".to_owned(), "has", "was"),
            count => (format!("{count} files"), "have", "were"),
        };
        let counts: Vec<String> =
            self.counts.iter().map(|(extension, count)| format!("{extension} {count}")).collect();
        Some(format!("{files} {have} no name of an image ({}) and {were} passed over", counts.join(", ")))
    }
}

fn is_image(name: &str) -> bool {
    let extension = name.rsplit_once('.').map(|(_, extension)| extension.to_ascii_lowercase());
    extension.is_some_and(|extension| EXTENSIONS.contains(&extension.as_str()))
}

/// The file at `relative` below `root`.
///
/// # Errors
/// [`Unresolved::Outside`] where the path is absolute or goes up, or a symbolic link leads out of `root`;
/// [`Unresolved::Unreadable`] where there is no regular file; [`Unresolved::Storage`].
pub fn resolve(root: &Path, relative: &str) -> Result<PathBuf, Unresolved> {
    // 4096 is the longest path on Linux.
    let shown: String = relative.chars().take(4096).collect();
    let place = format!("image {shown:?} in {}", root.display());
    let outside = |reason: &str| Err(Unresolved::Outside(format!("{place}: {reason}")));
    let unreadable = |reason: &str| Err(Unresolved::Unreadable(format!("{place}: {reason}")));
    let path = Path::new(relative);
    if relative.is_empty() {
        return unreadable("the path is empty; give the image's path relative to the folder");
    }
    if !path.components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir)) {
        return outside("the path must be relative and without \"..\"; give it relative to the folder");
    }
    let canonical = root.canonicalize().and_then(|root| Ok((root.join(path).canonicalize()?, root)));
    let (real, root) = match canonical {
        Ok(canonical) => canonical,
        Err(error) => {
            return match unreadable_reason(&error) {
                Some(_) if below_parent(root, path) => unreadable(
                    "the file does not exist there, but it does in the folder above; name that one in spec.images.volume.path",
                ),
                Some(reason) => unreadable(&reason),
                None => Err(Unresolved::Storage(root.join(path), error)),
            };
        }
    };
    if !real.starts_with(&root) {
        return outside("a symbolic link leads out of the folder; copy the file into it");
    }
    // Opening a pipe would block.
    if !real.is_file() {
        return unreadable("is not a regular file; replace it by one or remove the item");
    }
    Ok(real)
}

/// Whether `path` is relative to the folder above `root`, as in `images/a.jpg` for the folder `images`.
fn below_parent(root: &Path, path: &Path) -> bool {
    let repeats = path.components().next().is_some_and(|first| Some(first.as_os_str()) == root.file_name());
    repeats && root.parent().is_some_and(|parent| parent.join(path).is_file())
}

/// What is wrong with the path, and how to fix it; `None` for an error of the storage.
fn unreadable_reason(error: &std::io::Error) -> Option<String> {
    match error.kind() {
        ErrorKind::NotFound => {
            Some("the file does not exist; add it to the volume or remove the item".to_owned())
        }
        ErrorKind::NotADirectory
        | ErrorKind::InvalidFilename
        | ErrorKind::InvalidInput
        | ErrorKind::PermissionDenied => Some(format!("{error}; correct the path or remove the item")),
        _ if error.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error()) => {
            Some("a symbolic link leads to itself; replace it by the file or remove the item".to_owned())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(files: &[&str]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for file in files {
            let path = dir.path().join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "").unwrap();
        }
        dir
    }

    fn walked(root: &Path) -> Result<Vec<String>> {
        let mut found = Vec::new();
        walk(root, |path| {
            found.push(path);
            Ok(())
        })?;
        found.sort();
        Ok(found)
    }

    #[test]
    fn images_are_found_at_any_depth() {
        let dir = folder(&[
            "b.JPG",
            "a/z.png",
            "a/.hidden.png",
            ".git/x.png",
            "c.txt",
            "a.webp",
            "noext",
            "B.TIFF",
            "d.jfif",
            "e.JPE",
        ]);
        let expected = ["B.TIFF", "a.webp", "a/z.png", "b.JPG", "d.jfif", "e.JPE"];
        assert_eq!(walked(dir.path()).unwrap(), expected);
    }

    #[test]
    fn an_empty_folder_is_an_error() {
        let dir = folder(&["c.txt"]);
        let message = walked(dir.path()).unwrap_err().to_string();
        assert!(message.contains("holds no image") && message.contains("put images there"), "{message}");
        let message = walked(&dir.path().join("gone")).unwrap_err().to_string();
        assert!(message.ends_with("gone: not found; correct the path, or put the file there"), "{message}");
    }

    #[test]
    fn files_without_an_images_name_are_counted_by_extension() {
        let dir = folder(&["a/x.avif", "noext", "y.AVIF", "labels.", "z.json"]);
        let message = walked(dir.path()).unwrap_err().to_string();
        let expected =
            "5 files have no name of an image (.avif 2, .json 1, no extension 2) and were passed over";
        assert!(message.contains(expected), "{message}");
        let mut many = PassedOver::default();
        (0..40).for_each(|i| many.add(&format!("a.x{i}")));
        let summary = many.summary().unwrap();
        assert!(summary.starts_with("40 files have ") && summary.contains("(.x0 1, "), "{summary}");
        assert!(summary.contains("other 24)") && many.counts.len() == 17, "{summary}");
    }

    #[test]
    fn paths_cannot_leave_the_folder() {
        let dir = folder(&["root/a/b.png", "outside.png"]);
        let root = dir.path().join("root");
        std::os::unix::fs::symlink(dir.path().join("outside.png"), root.join("out.png")).unwrap();
        std::os::unix::fs::symlink("a/b.png", root.join("in.png")).unwrap();
        std::os::unix::fs::symlink("loop.png", root.join("loop.png")).unwrap();
        assert!(resolve(&root, "a/b.png").unwrap().ends_with("root/a/b.png"));
        assert!(resolve(&root, "./a/b.png").is_ok());
        assert!(resolve(&root, "in.png").unwrap().ends_with("root/a/b.png"));
        for (path, outside, reason) in [
            ("/etc/passwd", true, "must be relative"),
            ("../outside.png", true, "must be relative"),
            ("a/../../outside.png", true, "must be relative"),
            ("out.png", true, "leads out of the folder"),
            ("a/none.png", false, "does not exist"),
            ("a/b.png/c.png", false, "Not a directory"),
            ("loop.png", false, "leads to itself"),
            ("a", false, "is not a regular file"),
            ("", false, "is empty"),
        ] {
            let unresolved = resolve(&root, path).unwrap_err();
            assert_eq!(matches!(unresolved, Unresolved::Outside(_)), outside, "{unresolved:?}");
            let message = Error::from(unresolved).to_string();
            assert!(message.contains(reason) && message.contains(path), "{message}");
        }
    }
}
