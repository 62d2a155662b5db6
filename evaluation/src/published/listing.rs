//! The files and folders below a folder, and the globs that pick some of them.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// How many folders deep files are looked for.
const MAX_DEPTH: usize = 4;

/// Not listed: a folder of images may have tens of thousands, and no form has rows in them.
const IMAGES: [&str; 7] = ["bmp", "gif", "jpeg", "jpg", "png", "tif", "webp"];

/// What is below a folder, in the order of depth and then of names. Hidden entries are left out: Kubernetes mounts every
/// file of a volume a second time below `..data`, and Git and Hugging Face keep caches there.
#[derive(Debug)]
pub(super) struct Listing {
    root: PathBuf,
    /// Relative to the root.
    pub(super) files: Vec<PathBuf>,
    /// Relative to the root, which is the first as the empty path.
    pub(super) folders: Vec<PathBuf>,
}

impl Listing {
    /// # Errors
    /// [`Error::Folder`] if `root` cannot be listed. A folder below it that cannot is left out.
    pub(super) fn of(root: &Path) -> Result<Self> {
        let folder_error = |source: std::io::Error| Error::Folder {
            folder: root.to_path_buf(),
            message: format!(
                "cannot list the folder ({source}); check that the volume with the benchmark is mounted there"
            ),
        };
        let canonical = fs::canonicalize(root).map_err(folder_error)?;
        fs::read_dir(root).map_err(folder_error)?;
        // A link to a folder above it would be followed forever.
        let mut visited = HashSet::from([canonical]);
        let mut listing = Self { root: root.to_path_buf(), files: Vec::new(), folders: vec![PathBuf::new()] };
        let mut next = 0;
        while let Some(folder) = listing.folders.get(next).cloned() {
            next += 1;
            for (path, is_folder) in entries(root, &folder) {
                if !is_folder {
                    listing.files.push(path);
                } else if path.components().count() <= MAX_DEPTH
                    && fs::canonicalize(root.join(&path)).is_ok_and(|canonical| visited.insert(canonical))
                {
                    listing.folders.push(path);
                }
            }
        }
        Ok(listing)
    }

    /// The files that match `glob`, all from one folder: the first that has any. The other folders that have some come
    /// second.
    pub(super) fn matching(&self, glob: &Glob, mode: Mode) -> (Vec<PathBuf>, Vec<PathBuf>) {
        let mut files: Vec<PathBuf> = Vec::new();
        let mut elsewhere: Vec<PathBuf> = Vec::new();
        for path in self.files.iter().filter(|path| glob.matches(path, &self.root, mode)) {
            let folder = path.parent();
            if files.first().is_none_or(|first| first.parent() == folder) {
                files.push(path.clone());
            } else if let Some(folder) = folder
                && elsewhere.last().is_none_or(|last| last != folder)
            {
                elsewhere.push(folder.to_path_buf());
            }
        }
        files.sort();
        (files, elsewhere)
    }

    /// The folders whose path ends with `suffix`; the folder itself for an empty one.
    pub(super) fn folders_ending_with(&self, suffix: &str) -> Vec<PathBuf> {
        let glob = Glob(suffix);
        self.folders
            .iter()
            .filter(|folder| match suffix {
                "" | "." => folder.as_os_str().is_empty(),
                _ => glob.matches(folder, &self.root, Mode::Exact),
            })
            .cloned()
            .collect()
    }
}

/// The visible entries of a folder in the order of their names, and whether they are folders.
fn entries(root: &Path, folder: &Path) -> Vec<(PathBuf, bool)> {
    let Ok(entries) = fs::read_dir(root.join(folder)) else { return Vec::new() };
    let mut found: Vec<(PathBuf, bool)> = entries
        .flatten()
        .filter(|entry| !entry.file_name().as_encoded_bytes().starts_with(b"."))
        .filter_map(|entry| {
            let path = folder.join(entry.file_name());
            let is_image = path
                .extension()
                .and_then(|extension| extension.to_str())
                .is_some_and(|extension| IMAGES.iter().any(|image| extension.eq_ignore_ascii_case(image)));
            // A file is often a link: Hugging Face's cache has links to blobs. One that leads nowhere counts as a file, so
            // that opening it says what is wrong.
            let is_folder = match entry.file_type() {
                Ok(kind) if !kind.is_symlink() => kind.is_dir(),
                _ => fs::metadata(root.join(&path)).is_ok_and(|metadata| metadata.is_dir()),
            };
            (is_folder || !is_image).then_some((path, is_folder))
        })
        .collect();
    found.sort();
    found
}

/// Whether folders that a glob names may be missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    /// Every component must match; the root's own name counts, so `data/x.tsv` matches where the root is `data`.
    Exact,
    /// For a file in a root that is mounted under another name: components that would be above the root are ignored.
    Mounted,
}

/// A path whose components may contain `*` and `?`. It matches paths that end with it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Glob<'a>(pub(super) &'a str);

impl Glob<'_> {
    fn matches(self, path: &Path, root: &Path, mode: Mode) -> bool {
        let names = |path: &Path| -> Vec<String> {
            path.components()
                .filter_map(|component| match component {
                    std::path::Component::Normal(name) => Some(name.to_string_lossy().into_owned()),
                    _ => None,
                })
                .collect()
        };
        let mut path = names(path);
        let mut pattern: Vec<&str> = self.0.split('/').collect();
        if path.len() < pattern.len() {
            match mode {
                Mode::Mounted => drop(pattern.drain(..pattern.len() - path.len())),
                Mode::Exact => {
                    let root = fs::canonicalize(root).unwrap_or_else(|_| root.to_path_buf());
                    path.splice(..0, names(&root));
                }
            }
        }
        path.len() >= pattern.len()
            && path
                .iter()
                .rev()
                .zip(pattern.iter().rev())
                .all(|(name, pattern)| name_matches(pattern.as_bytes(), name.as_bytes()))
    }
}

/// `*` is any run of bytes, `?` one byte.
fn name_matches(pattern: &[u8], name: &[u8]) -> bool {
    let (mut p, mut n) = (0, 0);
    // Where to go on if what follows the last star does not fit here.
    let mut star: Option<(usize, usize)> = None;
    while n < name.len() {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, n));
                p += 1;
            }
            Some(&byte) if byte == b'?' || byte == name[n] => {
                (p, n) = (p + 1, n + 1);
            }
            _ => {
                let Some((at, taken)) = star else { return false };
                star = Some((at, taken + 1));
                (p, n) = (at + 1, taken + 1);
            }
        }
    }
    pattern[p..].iter().all(|&byte| byte == b'*')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn stars_match_as_a_regular_expression_does(pattern in "[ab*?]{0,8}", name in "[ab]{0,8}") {
            let regex = format!("^{}$", pattern.replace('*', ".*").replace('?', "."));
            let expected = regex::Regex::new(&regex).unwrap().is_match(&name);
            prop_assert_eq!(name_matches(pattern.as_bytes(), name.as_bytes()), expected);
        }
    }

    #[test]
    fn a_glob_matches_the_end_of_a_path() {
        let root = tempfile::tempdir().unwrap();
        let data = root.path().join("data");
        fs::create_dir(&data).unwrap();
        let matches = |glob, path: &str, root: &Path, mode| Glob(glob).matches(Path::new(path), root, mode);
        for (glob, path, expected) in [
            ("*.tsv", "x.tsv", true),
            ("*.tsv", "a/b/x.tsv", true),
            ("a/*.tsv", "b/a/x.tsv", true),
            ("a/*.tsv", "a/b/x.tsv", false),
            ("data/*.tsv", "x.tsv", false),
        ] {
            assert_eq!(matches(glob, path, root.path(), Mode::Exact), expected, "{glob} {path}");
        }
        assert!(matches("data/*.tsv", "x.tsv", &data, Mode::Exact), "the folder itself is data/");
        assert!(!matches("en/*.tsv", "x.tsv", &data, Mode::Exact));
        assert!(matches("en/*.tsv", "x.tsv", &data, Mode::Mounted), "en/ may be mounted as data/");
        assert!(!matches("en/*.tsv", "cn/x.tsv", &data, Mode::Mounted));
    }

    #[cfg(unix)]
    #[test]
    fn links_are_followed_once_and_hidden_entries_not_at_all() {
        let root = tempfile::tempdir().unwrap();
        let path = |name: &str| root.path().join(name);
        fs::create_dir_all(path("..2026/deep")).unwrap();
        fs::create_dir_all(path("a/b/c/d/e")).unwrap();
        for file in ["..2026/rows.tsv", "a/b/c/d/4.tsv", "a/b/c/d/e/5.tsv", "a/photo.JPG"] {
            fs::write(path(file), "").unwrap();
        }
        std::os::unix::fs::symlink("..2026", path("..data")).unwrap();
        std::os::unix::fs::symlink("..data/rows.tsv", path("rows.tsv")).unwrap();
        std::os::unix::fs::symlink("..", path("a/loop")).unwrap();
        std::os::unix::fs::symlink("nowhere", path("gone.tsv")).unwrap();
        let listing = Listing::of(root.path()).unwrap();
        let files: Vec<&str> = listing.files.iter().map(|path| path.to_str().unwrap()).collect();
        assert_eq!(files, ["gone.tsv", "rows.tsv", "a/b/c/d/4.tsv"]);
        assert_eq!(listing.folders_ending_with("c/d"), [Path::new("a/b/c/d")]);
    }
}
