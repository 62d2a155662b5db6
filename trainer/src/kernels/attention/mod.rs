//! Attention in blocks of keys (FlashAttention): the matrix of all scores never exists, and a query meets
//! only the blocks that hold a key it sees.
//!
//! The kernels are for f32 on a CPU. Everything else is composed of candle's operations, in `composed`.

mod backward;
pub(crate) mod composed;
mod decode;
mod forward;
mod heads;
mod mask;
mod online_softmax;
mod op;
mod packed_kv;
mod packing;
mod query_tiles;
mod spans;
#[cfg(test)]
mod tests;

pub use self::decode::{DecodeRow, decode};
pub use self::heads::Heads;
pub(crate) use self::mask::CHUNK_QUERIES;
pub use self::mask::Mask;
pub use self::op::attention;
pub use self::packed_kv::PackedKv;
pub use self::spans::Span;

pub(crate) use self::decode::extend;
pub(crate) use self::op::bidirectional;
