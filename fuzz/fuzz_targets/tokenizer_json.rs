#![no_main]
//! `tokenizer.json`, and after a NUL each the smaller files beside it.

use libfuzzer_sys::fuzz_target;
use stic_fuzz::{check_tokenizer, folder, split};

const FILES: [&str; 4] =
    ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "generation_config.json"];

fuzz_target!(|bytes: &[u8]| {
    check_tokenizer(folder(&split(bytes, &FILES)).path());
});
