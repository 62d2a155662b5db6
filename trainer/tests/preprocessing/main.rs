//! Preprocessing against Pillow, transformers and sentencepiece. `tests/parity/make_data_goldens.py` writes the expected
//! values.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod fixtures;

mod anyres;
mod corruption;
mod images;
mod processor;
mod text;
