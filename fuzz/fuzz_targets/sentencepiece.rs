#![no_main]
//! A SentencePiece `tokenizer.model`.

use libfuzzer_sys::fuzz_target;
use stic_fuzz::{check_tokenizer, folder};

fuzz_target!(|bytes: &[u8]| {
    check_tokenizer(folder(&[("tokenizer.model", bytes)]).path());
});
