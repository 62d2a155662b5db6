//! Random numbers that depend on their item and purpose, never on the order in which they are drawn.
//!
//! A stream is keyed by (seed, item, purpose): `key = SHA-256("stic-draw-1" | seed as 8 bytes | len | item |
//! len | purpose)`, all numbers little-endian, lengths as 8 bytes; its words are those of `SHA-256(key | n as
//! 8 bytes)` for n = 0, 1, .... So a resumed run, or one with other shards, draws the same numbers.

use sha2::{Digest, Sha256};

const DOMAIN: &[u8] = b"stic-draw-1";
const WORDS: usize = 4;

/// A stream of random numbers.
#[derive(Debug, Clone)]
pub struct Draw {
    key: [u8; 32],
    block: [u64; WORDS],
    /// The number of words taken so far.
    taken: u64,
    /// The second number of a pair from [`Self::normal`].
    spare: Option<f64>,
}

impl Draw {
    /// The stream of `item` for `purpose`.
    #[must_use]
    pub fn new(seed: u64, item: &str, purpose: &str) -> Self {
        Self { key: key(seed, item, purpose), block: [0; WORDS], taken: 0, spare: None }
    }

    fn next_u64(&mut self) -> u64 {
        let at = (self.taken % WORDS as u64) as usize;
        if at == 0 {
            let counter = (self.taken / WORDS as u64).to_le_bytes();
            let digest = Sha256::new().chain_update(self.key).chain_update(counter).finalize();
            for (word, bytes) in self.block.iter_mut().zip(digest.as_slice().as_chunks::<8>().0) {
                *word = u64::from_le_bytes(*bytes);
            }
        }
        self.taken += 1;
        self.block[at]
    }

    /// A seed for a generator of another library.
    pub fn seed(&mut self) -> u64 {
        self.next_u64()
    }

    /// Uniform in [0, 1), with 53 random bits.
    pub fn uniform(&mut self) -> f64 {
        const BITS: u32 = f64::MANTISSA_DIGITS;
        (self.next_u64() >> (64 - BITS)) as f64 / (1_u64 << BITS) as f64
    }

    /// Uniform in [low, high).
    pub fn between(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * self.uniform()
    }

    /// Uniform in 0..n; 0 where `n` is 0.
    pub fn below(&mut self, n: u64) -> u64 {
        if n == 0 {
            return 0;
        }
        // Words past the last whole multiple of n would favor small numbers.
        let excess = (u64::MAX % n + 1) % n;
        loop {
            let word = self.next_u64();
            if word <= u64::MAX - excess {
                return word % n;
            }
        }
    }

    /// One of `items`, uniformly; `None` where there are none.
    pub fn choose<'a, T>(&mut self, items: &'a [T]) -> Option<&'a T> {
        items.get(self.below(items.len() as u64) as usize)
    }

    /// True with probability `p`.
    pub fn bernoulli(&mut self, p: f64) -> bool {
        self.uniform() < p
    }

    /// An index with a probability proportional to its weight; `None` where all weights are 0.
    pub fn weighted(&mut self, weights: &[u32]) -> Option<usize> {
        let total = weights.iter().copied().map(u64::from).sum::<u64>();
        if total == 0 {
            return None;
        }
        let mut rest = self.below(total);
        weights.iter().position(|&weight| {
            let here = rest < u64::from(weight);
            rest = rest.saturating_sub(u64::from(weight));
            here
        })
    }

    /// From the standard normal distribution (Box-Muller). It uses `libm`, since the last bits of the
    /// system's functions differ.
    pub fn normal(&mut self) -> f64 {
        if let Some(spare) = self.spare.take() {
            return spare;
        }
        let radius = (-2.0 * libm::log(1.0 - self.uniform())).sqrt();
        let angle = std::f64::consts::TAU * self.uniform();
        self.spare = Some(radius * libm::sin(angle));
        radius * libm::cos(angle)
    }
}

/// The rank of an item when a subset is chosen: the items with the smallest ranks are kept, so a smaller
/// subset is part of every larger one.
#[must_use]
pub fn rank(seed: u64, item: &str) -> [u8; 32] {
    key(seed, item, "rank")
}

fn key(seed: u64, item: &str, purpose: &str) -> [u8; 32] {
    let mut hash = Sha256::new().chain_update(DOMAIN).chain_update(seed.to_le_bytes());
    for field in [item, purpose] {
        hash.update((field.len() as u64).to_le_bytes());
        hash.update(field);
    }
    hash.finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    // import hashlib, struct, math
    // def key(seed, item, purpose):
    //     h = hashlib.sha256(b"stic-draw-1" + struct.pack("<Q", seed))
    //     for f in (item.encode(), purpose.encode()): h.update(struct.pack("<Q", len(f)) + f)
    //     return h.digest()
    // def words(k):
    //     n = 0
    //     while True:
    //         yield from struct.unpack("<4Q", hashlib.sha256(k + struct.pack("<Q", n)).digest()); n += 1
    // w = words(key(7, "a/ü.png", "caption"))

    fn draw() -> Draw {
        Draw::new(7, "a/ü.png", "caption")
    }

    #[test]
    fn words_equal_python() {
        let mut draw = draw();
        let words: [u64; 5] = std::array::from_fn(|_| draw.next_u64());
        assert_eq!(words, PYTHON_WORDS);
    }

    #[test]
    fn numbers_equal_python() {
        assert_eq!(draw().uniform(), PYTHON_UNIFORM);
        assert_eq!(draw().below(8), PYTHON_WORDS[0] % 8);
        let mut normals = draw();
        for expected in PYTHON_NORMALS {
            assert!((normals.normal() - expected).abs() < 1e-14);
        }
        assert_eq!(rank(7, "a/ü.png")[..4], PYTHON_RANK);
    }

    const PYTHON_WORDS: [u64; 5] =
        [0xed881bda053fc3ce, 0x3509e4e04e12691d, 0x39f05c7fb2958362, 0x497371f4a86e5cd3, 0x8dc7012f9389fcfa];
    const PYTHON_UNIFORM: f64 = 0.9278581053997632;
    const PYTHON_NORMALS: [f64; 4] =
        [0.6094984756636916, 2.2105999842159827, -0.16468689929260139, 0.6971958774817175];
    const PYTHON_RANK: [u8; 4] = [51, 17, 138, 41];

    #[test]
    fn fields_are_delimited() {
        assert_ne!(key(1, "ab", "c"), key(1, "a", "bc"));
        assert_ne!(key(1, "a", "b"), key(2, "a", "b"));
    }

    #[test]
    fn below_is_uniform() {
        let mut draw = draw();
        let mut counts = [0; 8];
        for _ in 0..8000 {
            counts[draw.below(8) as usize] += 1;
        }
        assert!(counts.iter().all(|&count| (850..1150).contains(&count)), "{counts:?}");
        assert_eq!(draw.below(0), 0);
        assert_eq!(draw.below(1), 0);
        let _ = draw.below(u64::MAX);
    }

    #[test]
    fn weighted_follows_the_weights() {
        let mut draw = draw();
        let mut counts = [0; 3];
        for _ in 0..8000 {
            counts[draw.weighted(&[3, 0, 1]).unwrap()] += 1;
        }
        assert_eq!(counts[1], 0);
        assert!((5800..6200).contains(&counts[0]), "{counts:?}");
        assert_eq!(draw.weighted(&[0, 0]), None);
        assert_eq!(draw.weighted(&[]), None);
    }

    #[test]
    fn normals_have_mean_0_and_variance_1() {
        let mut draw = draw();
        let normals: Vec<f64> = (0..20_000).map(|_| draw.normal()).collect();
        let mean = normals.iter().sum::<f64>() / 20_000.0;
        let variance = normals.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / 20_000.0;
        assert!(mean.abs() < 0.02 && (variance - 1.0).abs() < 0.03, "{mean} {variance}");
    }
}
