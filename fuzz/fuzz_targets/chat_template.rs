#![no_main]
//! A model's chat template.

use libfuzzer_sys::fuzz_target;
use stic_contract::recipe::ChatTemplate;
use stic_fuzz::folder;
use stic_trainer::data::template::{PromptTemplate, Turn};

fuzz_target!(|bytes: &[u8]| {
    let folder = folder(&[("chat_template.jinja", bytes)]);
    let Ok(template) = PromptTemplate::load(folder.path(), ChatTemplate::Auto) else { return };
    let turns =
        [Turn::user_with_image("What is it?"), Turn::assistant("A bus."), Turn::user("Which colour?")];
    let _ = template.render_prompt(&turns[..1]);
    let _ = template.render_prompt(&turns);
});
