//! The data room against Pillow, transformers and sentencepiece. `tests/parity/make_data_goldens.py` made the values.

mod fixtures;

mod anyres;
mod corruption;
mod images;
mod processor;
mod text;
