//! Which published files these are.

use std::fmt;
use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use md5::{Digest as _, Md5};
use stic_contract::Digest;

use super::found::FoundForm;
use crate::error::{Error, Result};

/// A file of a form and its digests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileDigest {
    pub file: PathBuf,
    pub bytes: u64,
    /// In hexadecimal digits: VLMEvalKit publishes MD5 digests. Nothing here relies on it against an attacker.
    pub md5: String,
    /// What the keys of answers are made of.
    pub sha256: Digest,
    pub identity: Identity,
}

/// Whether a file is the published one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Identity {
    Published,
    /// No digest is known for a file of this name.
    Unlisted,
    /// The published file of this name has another MD5 digest.
    Differs {
        published: String,
    },
}

/// For the log, and for a warning where the file is not the published one.
impl fmt::Display for FileDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { file, bytes: _, md5, sha256, identity } = self;
        let file = file.display();
        match identity {
            Identity::Published => write!(f, "{file}: the published file (MD5 {md5})"),
            Identity::Unlisted => write!(f, "{file}: no published digest is known (MD5 {md5}, {sha256})"),
            Identity::Differs { published } => write!(
                f,
                "{file}: the MD5 digest is {md5}, that of the published file {published}; scores compare with published \
                 ones only if its questions are the same: download it again unless it was edited on purpose"
            ),
        }
    }
}

/// The digests of the form's files with rows, and of its companions.
///
/// # Errors
/// [`Error::File`] if one cannot be read.
pub fn digests(found: &FoundForm) -> Result<Vec<FileDigest>> {
    found.rows.iter().chain(&found.companions).map(|file| digest(file, found.form.known)).collect()
}

fn digest(path: &Path, known: &[(&str, &str)]) -> Result<FileDigest> {
    let error = |source: io::Error| Error::File {
        file: path.into(),
        message: format!("cannot read the file ({source}); check that it is there and readable"),
    };
    let file = File::open(path).map_err(error)?;
    let mut both = Tee { reader: file, md5: Md5::new() };
    let (sha256, bytes) = Digest::of_reader(&mut both).map_err(error)?;
    let md5 = hexadecimal(&both.md5.finalize());
    let mut names = known.iter().filter(|(name, _)| path.ends_with(name)).peekable();
    let identity = match names.peek() {
        None => Identity::Unlisted,
        Some((_, published)) => {
            let published = (*published).to_owned();
            if names.any(|(_, known)| *known == md5) {
                Identity::Published
            } else {
                Identity::Differs { published }
            }
        }
    };
    Ok(FileDigest { file: path.into(), bytes, md5, sha256, identity })
}

/// Hashes what is read through it.
struct Tee {
    reader: File,
    md5: Md5,
}

impl Read for Tee {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.reader.read(buffer)?;
        self.md5.update(buffer.get(..read).unwrap_or_default());
        Ok(read)
    }
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_equal_those_of_other_programs() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.tsv");
        std::fs::write(&path, "hello").unwrap();
        // printf hello | md5sum; printf hello | sha256sum
        let md5 = "5d41402abc4b2a76b9719d911017c592";
        let sha256 = "sha256:2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";
        let of = |known: &[(&str, &str)]| digest(&path, known).unwrap();
        let found = of(&[("b.tsv", "0"), ("a.tsv", "0"), ("a.tsv", md5)]);
        assert_eq!((found.md5.as_str(), found.sha256.to_string().as_str(), found.bytes), (md5, sha256, 5));
        assert_eq!(found.identity, Identity::Published);
        assert_eq!(of(&[("b.tsv", md5)]).identity, Identity::Unlisted);
        assert_eq!(of(&[("a.tsv", "0")]).identity, Identity::Differs { published: "0".into() });
    }
}
