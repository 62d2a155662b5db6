//! Which images there are, and that none lies outside its folder.

use std::io::ErrorKind;
use std::path::{Component, Path, PathBuf};

use crate::data::jsonl::Lines;
use crate::data::names::{Names, Repeated};
use crate::{Error, Result};

const EXTENSIONS: [&str; 8] = ["jpg", "jpeg", "png", "webp", "bmp", "gif", "tif", "tiff"];

/// Why a path gives no image file.
#[derive(Debug)]
pub enum Unresolved {
    /// It leads out of its folder: an error, whatever is said of unreadable images.
    Outside(String),
    /// There is no file that can be read.
    Unreadable(String),
    /// The storage failed, which says nothing of the image.
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

/// Hands the images below `root` to `take`, relative to it with `/` between names, in the order of the file system: of
/// the folders, and not of the images, there are as many in memory as wait to be read. Hidden files and folders are
/// passed over, symbolic links to folders are not followed. What has an image's name and cannot be read is listed:
/// whoever opens it says so.
///
/// # Errors
/// [`Error::Data`] where there is none or a name is not UTF-8, [`Error::Storage`] where a folder cannot be read; those
/// of `take`.
pub fn walk(root: &Path, mut take: impl FnMut(String) -> Result<()>) -> Result<()> {
    let mut found = false;
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
                take(relative)?;
            }
        }
    }
    if found {
        return Ok(());
    }
    Err(Error::Data(format!(
        "{}: holds no image ({}); put images there or correct the path in the spec",
        root.display(),
        EXTENSIONS.join(", ")
    )))
}

/// Hands the paths that a list file names, one a line, and their lines to `take`, in its order; blank lines and those
/// that start with `#` are passed over. A path that stands twice is refused; it is sought with files in `scratch`.
///
/// # Errors
/// [`Error::Data`] where the file is not there, a path stands twice or there is none; those of `take`.
pub fn read_list(
    list: &Path,
    scratch: &Path,
    mut take: impl FnMut(usize, String) -> Result<()>,
) -> Result<()> {
    let mut lines = Lines::open(list)?;
    let mut names = Names::new(scratch);
    while let Some((line, text)) = lines.next_line()? {
        let path = text.trim();
        if path.starts_with('#') {
            continue;
        }
        // `./a//b.png` is `a/b.png`.
        let plain: PathBuf = Path::new(path).components().filter(|part| *part != Component::CurDir).collect();
        names.add(plain.as_os_str().as_encoded_bytes(), line, path)?;
        take(line, path.to_owned())?;
    }
    if names.count() == 0 {
        return Err(Error::Data(format!(
            "{}: lists no image; give one relative path a line",
            list.display()
        )));
    }
    match names.repeated()? {
        None => Ok(()),
        Some(Repeated { first, line, written }) => Err(Error::Data(format!(
            "{}:{line}: {written:?} stands on line {first} already; remove one of the two",
            list.display()
        ))),
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
    // Long enough for every path that exists.
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
    let followed = root.canonicalize().and_then(|root| Ok((root.join(path).canonicalize()?, root)));
    let (real, root) = match followed {
        Ok(followed) => followed,
        Err(error) => {
            return match error.kind() {
                ErrorKind::NotFound => {
                    unreadable("the file does not exist; add it to the volume or remove the item")
                }
                ErrorKind::NotADirectory
                | ErrorKind::InvalidFilename
                | ErrorKind::InvalidInput
                | ErrorKind::PermissionDenied => {
                    unreadable(&format!("{error}; correct the path or remove the item"))
                }
                _ if error.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error()) => {
                    unreadable("a symbolic link leads to itself; replace it by the file or remove the item")
                }
                _ => Err(Unresolved::Storage(root.join(path), error)),
            };
        }
    };
    if !real.starts_with(&root) {
        return outside("a symbolic link leads out of the folder; copy the file into it");
    }
    // A pipe would be waited for without end.
    if !real.is_file() {
        return unreadable("is not a regular file; replace it by one or remove the item");
    }
    Ok(real)
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

    fn listed(list: &Path) -> Result<Vec<(usize, String)>> {
        let mut found = Vec::new();
        let scratch = tempfile::tempdir().unwrap();
        read_list(list, scratch.path(), |line, path| {
            found.push((line, path));
            Ok(())
        })?;
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
        ]);
        assert_eq!(walked(dir.path()).unwrap(), ["B.TIFF", "a.webp", "a/z.png", "b.JPG"]);
    }

    #[test]
    fn an_empty_folder_is_an_error() {
        let dir = folder(&["c.txt"]);
        let message = walked(dir.path()).unwrap_err().to_string();
        assert!(message.contains("holds no image") && message.contains("put images there"), "{message}");
        let message = walked(&dir.path().join("gone")).unwrap_err().to_string();
        assert!(message.ends_with("gone: not found; correct the path, or put it there"), "{message}");
    }

    #[test]
    fn a_list_keeps_its_order_and_refuses_duplicates() {
        let dir = folder(&[]);
        let list = dir.path().join("list.txt");
        std::fs::write(&list, "b.png\r\n# comment\r\n\r\n  a.png  \n").unwrap();
        assert_eq!(listed(&list).unwrap(), [(1, "b.png".into()), (4, "a.png".into())]);
        std::fs::write(&list, "b.png\n\n./b.png\n").unwrap();
        let message = listed(&list).unwrap_err().to_string();
        assert!(message.ends_with("list.txt:3: \"./b.png\" stands on line 1 already; remove one of the two"));
        std::fs::write(&list, "# nothing\n").unwrap();
        assert!(listed(&list).unwrap_err().to_string().contains("lists no image"));
    }

    #[test]
    fn paths_stay_inside() {
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
