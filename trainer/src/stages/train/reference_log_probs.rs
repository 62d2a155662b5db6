//! Log-probabilities under the reference policy, which never changes: one pass is enough for all epochs.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use stic_contract::Digest;

use crate::algorithm::losses::{LogProb, PairLogProbs};
use crate::error::{Error, Result};
use crate::io::atomic;

const FILE: &str = "references.json";

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
    sums: BTreeMap<String, PairLogProbs>,
    /// How many sums the file holds.
    saved: usize,
}

/// The file's second line; the first is its digest.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct CacheFile {
    key: Digest,
    /// By item: for chosen and rejected the sum as bits, since decimals would round it, and the number of tokens.
    pairs: BTreeMap<String, [(u64, usize); 2]>,
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

    pub(super) fn get_or_compute(
        &mut self,
        id: &str,
        compute: impl FnOnce() -> Result<PairLogProbs>,
    ) -> Result<PairLogProbs> {
        let Some(cache) = &mut self.cache else { return compute() };
        if let Some(known) = cache.sums.get(id) {
            return Ok(*known);
        }
        let found = compute()?;
        cache.sums.insert(id.to_owned(), found);
        Ok(found)
    }

    /// Writes the cache if it has grown. On an error the older file is kept.
    pub(super) fn save(&mut self) -> Result<()> {
        let Some(cache) = &mut self.cache else { return Ok(()) };
        if cache.saved == cache.sums.len() {
            return Ok(());
        }
        let bits = |of: LogProb| (of.sum.to_bits(), of.tokens);
        let pairs =
            cache.sums.iter().map(|(id, pair)| (id.clone(), [bits(pair.chosen), bits(pair.rejected)]));
        let saved = CacheFile { key: cache.key.clone(), pairs: pairs.collect() };
        let body = serde_json::to_string(&saved)
            .map_err(|e| Error::Storage { path: cache.path.clone(), source: std::io::Error::other(e) })?;
        let text = format!("{}\n{body}", Digest::of(body.as_bytes()));
        atomic::write(&cache.path, text.as_bytes())?;
        cache.saved = cache.sums.len();
        Ok(())
    }
}

fn parse(bytes: &[u8], key: &Digest) -> Result<BTreeMap<String, PairLogProbs>, &'static str> {
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
    let log_prob = |(bits, tokens)| LogProb { sum: f64::from_bits(bits), tokens };
    let pair =
        |[chosen, rejected]: [_; 2]| PairLogProbs { chosen: log_prob(chosen), rejected: log_prob(rejected) };
    Ok(saved.pairs.into_iter().map(|(id, sums)| (id, pair(sums))).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(chosen: f64) -> PairLogProbs {
        PairLogProbs {
            chosen: LogProb { sum: chosen, tokens: 3 },
            rejected: LogProb { sum: -1.0 / 3.0, tokens: 5 },
        }
    }

    fn key(of: &str) -> Digest {
        Digest::of(of.as_bytes())
    }

    /// How many of the items `a` and `b` are computed.
    fn computed(references: &mut ReferenceLogProbs) -> usize {
        let mut computed = 0;
        for (id, chosen) in [("a", -0.1), ("b", f64::MIN_POSITIVE)] {
            let found = references.get_or_compute(id, || {
                computed += 1;
                Ok(pair(chosen))
            });
            assert_eq!(found.expect("computed"), pair(chosen));
        }
        computed
    }

    #[test]
    fn each_pair_is_computed_once_and_keeps_its_bits_after_a_restart() {
        let dir = tempfile::tempdir().expect("a folder");
        let mut references = ReferenceLogProbs::open(dir.path(), key("k"));
        assert_eq!((computed(&mut references), computed(&mut references)), (2, 0));
        references.save().expect("saved");
        assert_eq!(computed(&mut ReferenceLogProbs::open(dir.path(), key("k"))), 0);
        assert_eq!(computed(&mut ReferenceLogProbs::uncached()), 2);
    }

    #[test]
    fn a_damaged_file_or_one_with_another_key_is_ignored() {
        let dir = tempfile::tempdir().expect("a folder");
        let mut references = ReferenceLogProbs::open(dir.path(), key("k"));
        computed(&mut references);
        references.save().expect("saved");
        assert_eq!(computed(&mut ReferenceLogProbs::open(dir.path(), key("other"))), 2);
        let path = dir.path().join(FILE);
        let whole = std::fs::read(&path).expect("the file");
        for at in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[at] ^= 1;
            std::fs::write(&path, &bytes).expect("written");
            assert_eq!(computed(&mut ReferenceLogProbs::open(dir.path(), key("k"))), 2, "byte {at}");
        }
        for cut in [0, 10, whole.len() - 1] {
            std::fs::write(&path, &whole[..cut]).expect("written");
            assert_eq!(computed(&mut ReferenceLogProbs::open(dir.path(), key("k"))), 2, "cut at {cut}");
        }
    }
}
