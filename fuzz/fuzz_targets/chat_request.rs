#![no_main]
//! The body of a request to `stic-trainer serve`.

use libfuzzer_sys::fuzz_target;
use stic_trainer::serving::{ChatRequest, Conversation};

fuzz_target!(|bytes: &[u8]| {
    let Ok(mut request) = ChatRequest::parse(bytes) else { return };
    let Ok(conversation) = Conversation::of(&mut request) else { return };
    let shown = conversation.turns.iter().filter(|turn| turn.image).count();
    assert_eq!(shown, usize::from(conversation.image.is_some()));
    assert!(shown == 0 || conversation.turns[0].image);
});
