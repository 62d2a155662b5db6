//! Autoregressive generation with a KV cache.
//!
//! All prompts about one image share the cache of their common prefix, which ends with the image. Each image, and the
//! rest of each prompt, is prefilled by itself, even for a single prompt; only decoding is batched, and there no row
//! depends on the others. So a response has the same bits whatever else is in the batch.

mod continuous_batching;
mod generator;

pub use self::continuous_batching::{Request, RequestSource};
pub use self::generator::{Generated, Generator, SharedPrefix};
