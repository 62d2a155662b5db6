//! Which images there are, and that none lies outside its folder.

use std::collections::HashMap;
use std::path::{Component, Path, PathBuf};

use crate::data::jsonl::Lines;
use crate::{Error, Result};

const EXTENSIONS: [&str; 8] = ["jpg", "jpeg", "png", "webp", "bmp", "gif", "tif", "tiff"];

/// The images below `root`, relative to it with `/` between names, sorted by bytes. Hidden files and folders are passed
/// over, symbolic links to folders are not followed.
///
/// # Errors
/// [`Error::Data`] where there is none or a name is not UTF-8, [`Error::Storage`] where a folder cannot be read.
pub fn walk(root: &Path) -> Result<Vec<String>> {
    let mut found = Vec::new();
    let mut folders = vec![(root.to_owned(), String::new())];
    while let Some((folder, prefix)) = folders.pop() {
        for entry in std::fs::read_dir(&folder).map_err(Error::storage(&folder))? {
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
            } else if is_image(&name) && (kind.is_file() || entry.path().is_file()) {
                found.push(relative);
            }
        }
    }
    if found.is_empty() {
        return Err(Error::Data(format!(
            "{}: holds no image ({}); put images there or correct the path in the spec",
            root.display(),
            EXTENSIONS.join(", ")
        )));
    }
    found.sort_unstable();
    Ok(found)
}

/// The paths that a list file names, one a line, in its order; blank lines and those that start with `#` are passed
/// over.
///
/// # Errors
/// [`Error::Data`] where a path stands twice or there is none, [`Error::Storage`] where the file cannot be read.
pub fn read_list(list: &Path) -> Result<Vec<String>> {
    let mut lines = Lines::open(list)?;
    let mut seen = HashMap::new();
    let mut paths = Vec::new();
    while let Some((line, text)) = lines.next_line()? {
        let path = text.trim().to_owned();
        if path.starts_with('#') {
            continue;
        }
        if let Some(first) = seen.insert(path.clone(), line) {
            return Err(Error::Data(format!(
                "{}:{line}: {path:?} stands on line {first} already; remove one of the two",
                list.display()
            )));
        }
        paths.push(path);
    }
    if paths.is_empty() {
        return Err(Error::Data(format!(
            "{}: lists no image; give one relative path a line",
            list.display()
        )));
    }
    Ok(paths)
}

fn is_image(name: &str) -> bool {
    let extension = name.rsplit_once('.').map(|(_, extension)| extension.to_ascii_lowercase());
    extension.is_some_and(|extension| EXTENSIONS.contains(&extension.as_str()))
}

/// The file at `relative` below `root`.
///
/// # Errors
/// [`Error::Data`] where it does not exist, the path is absolute or goes up, or a symbolic link leads out of `root`;
/// [`Error::Storage`] where `root` cannot be read.
pub fn resolve(root: &Path, relative: &str) -> Result<PathBuf> {
    let refuse = |reason: &str| Err(Error::Data(format!("{relative:?} in {}: {reason}", root.display())));
    let path = Path::new(relative);
    if relative.is_empty() {
        return refuse("the path is empty; give the image's path relative to the folder");
    }
    if !path.components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir)) {
        return refuse("the path must be relative and without \"..\"; give it relative to the folder");
    }
    let root_path = root.canonicalize().map_err(Error::storage(root))?;
    let joined = root_path.join(path);
    let real = match joined.canonicalize() {
        Ok(real) => real,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return refuse("the file does not exist; add it to the volume or remove the item");
        }
        Err(error) => return Err(Error::storage(joined)(error)),
    };
    if !real.starts_with(&root_path) {
        return refuse("a symbolic link leads out of the folder; copy the file into it");
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

    #[test]
    fn images_are_found_at_any_depth_in_byte_order() {
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
        assert_eq!(walk(dir.path()).unwrap(), ["B.TIFF", "a.webp", "a/z.png", "b.JPG"]);
    }

    #[test]
    fn an_empty_folder_is_an_error() {
        let dir = folder(&["c.txt"]);
        let message = walk(dir.path()).unwrap_err().to_string();
        assert!(message.contains("holds no image") && message.contains("put images there"), "{message}");
        assert!(matches!(walk(&dir.path().join("gone")), Err(Error::Storage { .. })));
    }

    #[test]
    fn a_list_keeps_its_order_and_refuses_duplicates() {
        let dir = folder(&[]);
        let list = dir.path().join("list.txt");
        std::fs::write(&list, "b.png\r\n# comment\r\n\r\n  a.png  \n").unwrap();
        assert_eq!(read_list(&list).unwrap(), ["b.png", "a.png"]);
        std::fs::write(&list, "b.png\n\nb.png\n").unwrap();
        let message = read_list(&list).unwrap_err().to_string();
        assert!(message.ends_with("list.txt:3: \"b.png\" stands on line 1 already; remove one of the two"));
        std::fs::write(&list, "# nothing\n").unwrap();
        assert!(read_list(&list).unwrap_err().to_string().contains("lists no image"));
    }

    #[test]
    fn paths_stay_inside() {
        let dir = folder(&["root/a/b.png", "outside.png"]);
        let root = dir.path().join("root");
        std::os::unix::fs::symlink(dir.path().join("outside.png"), root.join("out.png")).unwrap();
        std::os::unix::fs::symlink("a/b.png", root.join("in.png")).unwrap();
        assert!(resolve(&root, "a/b.png").unwrap().ends_with("root/a/b.png"));
        assert!(resolve(&root, "./a/b.png").is_ok());
        assert!(resolve(&root, "in.png").unwrap().ends_with("root/a/b.png"));
        for (path, reason) in [
            ("/etc/passwd", "must be relative"),
            ("../outside.png", "must be relative"),
            ("a/../../outside.png", "must be relative"),
            ("out.png", "leads out of the folder"),
            ("a/none.png", "does not exist"),
            ("", "is empty"),
        ] {
            let message = resolve(&root, path).unwrap_err().to_string();
            assert!(message.contains(reason) && message.contains(path), "{message}");
        }
    }
}
