//! Log-probabilities under the reference policy, which never changes: one pass is enough for all epochs.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use stic_contract::Digest;

use crate::error::{Error, Result};
use crate::io::atomic;

const FILE: &str = "references.json";

/// Of a pair: log p of the chosen and of the rejected response, in nats.
type Sums = [f64; 2];

/// The log-probabilities of pairs under the reference policy, cached in a file.
///
/// Each pair is computed by itself, so its sums have the same bits whether they come from the cache or not.
#[derive(Debug)]
pub(super) struct ReferenceLogProbs {
    /// `None` if no pair occurs twice.
    cache: Option<Cache>,
}

#[derive(Debug)]
struct Cache {
    path: PathBuf,
    /// The digest of everything that the sums depend on.
    key: Digest,
    sums: BTreeMap<String, Sums>,
    /// How many sums the file holds.
    saved: usize,
}

/// The file's second line; the first is its digest.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct CacheFile {
    key: Digest,
    /// By item: the sums as bits, since decimals would round them.
    pairs: BTreeMap<String, [u64; 2]>,
}

impl ReferenceLogProbs {
    pub(super) const fn uncached() -> Self {
        Self { cache: None }
    }

    /// Opens the cache that an earlier attempt left in `dir` under the same `key`. A file with another key, or a damaged
    /// one, is ignored with a warning.
    pub(super) fn open(dir: &Path, key: Digest) -> Self {
        let path = dir.join(FILE);
        let sums = match std::fs::read(&path) {
            Ok(bytes) => parse(&bytes, &key).unwrap_or_else(|reason| {
                tracing::warn!(
                    file = %path.display(),
                    "{reason}; computing the reference log-probabilities again"
                );
                BTreeMap::new()
            }),
            Err(error) => {
                if error.kind() != std::io::ErrorKind::NotFound {
                    tracing::warn!(
                        file = %path.display(),
                        %error,
                        "cannot read the cached reference log-probabilities; computing them again"
                    );
                }
                BTreeMap::new()
            }
        };
        Self { cache: Some(Cache { path, key, saved: sums.len(), sums }) }
    }

    /// The sums of a pair, if they are known.
    pub(super) fn get(&self, id: &str) -> Option<Sums> {
        self.cache.as_ref()?.sums.get(id).copied()
    }

    /// Remembers the sums of a pair, if it occurs again.
    pub(super) fn insert(&mut self, id: &str, sums: Sums) {
        if let Some(cache) = &mut self.cache {
            cache.sums.entry(id.to_owned()).or_insert(sums);
        }
    }

    /// Writes the cache if it has grown. On an error the older file is kept.
    pub(super) fn save(&mut self) -> Result<()> {
        let Some(cache) = &mut self.cache else { return Ok(()) };
        if cache.saved == cache.sums.len() {
            return Ok(());
        }
        let pairs = cache.sums.iter().map(|(id, sums)| (id.clone(), sums.map(f64::to_bits)));
        let saved = CacheFile { key: cache.key.clone(), pairs: pairs.collect() };
        let body = serde_json::to_string(&saved)
            .map_err(|e| Error::Storage { path: cache.path.clone(), source: std::io::Error::other(e) })?;
        let text = format!("{}\n{body}", Digest::of(body.as_bytes()));
        atomic::write(&cache.path, text.as_bytes())?;
        cache.saved = cache.sums.len();
        Ok(())
    }
}

fn parse(bytes: &[u8], key: &Digest) -> Result<BTreeMap<String, Sums>, &'static str> {
    let damaged = "the file is damaged";
    let text = str::from_utf8(bytes).map_err(|_| damaged)?;
    let (digest, body) = text.split_once('\n').ok_or(damaged)?;
    if digest != Digest::of(body.as_bytes()).to_string() {
        return Err(damaged);
    }
    let saved: CacheFile = serde_json::from_str(body).map_err(|_| damaged)?;
    if saved.key != *key {
        return Err("the file belongs to another model, adapter, data or recipe");
    }
    Ok(saved.pairs.into_iter().map(|(id, bits)| (id, bits.map(f64::from_bits))).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(of: &str) -> Digest {
        Digest::of(of.as_bytes())
    }

    /// How many of the items `a` and `b` were unknown; they are known then.
    fn unknown(references: &mut ReferenceLogProbs) -> usize {
        let mut unknown = 0;
        for (id, sums) in [("a", [-0.1, -1.0 / 3.0]), ("b", [f64::MIN_POSITIVE, -5.0])] {
            match references.get(id) {
                Some(known) => assert_eq!(known, sums),
                None => unknown += 1,
            }
            references.insert(id, sums);
        }
        unknown
    }

    #[test]
    fn each_pair_is_computed_once_and_keeps_its_bits_after_a_restart() {
        let dir = tempfile::tempdir().expect("a folder");
        let mut references = ReferenceLogProbs::open(dir.path(), key("k"));
        assert_eq!((unknown(&mut references), unknown(&mut references)), (2, 0));
        references.save().expect("saved");
        assert_eq!(unknown(&mut ReferenceLogProbs::open(dir.path(), key("k"))), 0);
        assert_eq!(unknown(&mut ReferenceLogProbs::uncached()), 2);
    }

    #[test]
    fn a_damaged_file_or_one_with_another_key_is_ignored() {
        let dir = tempfile::tempdir().expect("a folder");
        let mut references = ReferenceLogProbs::open(dir.path(), key("k"));
        unknown(&mut references);
        references.save().expect("saved");
        assert_eq!(unknown(&mut ReferenceLogProbs::open(dir.path(), key("other"))), 2);
        let path = dir.path().join(FILE);
        let whole = std::fs::read(&path).expect("the file");
        for at in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[at] ^= 1;
            std::fs::write(&path, &bytes).expect("written");
            assert_eq!(unknown(&mut ReferenceLogProbs::open(dir.path(), key("k"))), 2, "byte {at}");
        }
        for cut in [0, 10, whole.len() - 1] {
            std::fs::write(&path, &whole[..cut]).expect("written");
            assert_eq!(unknown(&mut ReferenceLogProbs::open(dir.path(), key("k"))), 2, "cut at {cut}");
        }
    }
}
