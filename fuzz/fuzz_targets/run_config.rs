#![no_main]
//! A run config that is read is the same after it is written and read again.

use libfuzzer_sys::fuzz_target;
use stic_contract::RunConfig;
use stic_contract::config::VERSION;
use stic_fuzz as _;

fuzz_target!(|text: &str| {
    let Ok(config) = RunConfig::from_json(text) else { return };
    assert_eq!(config.version, VERSION);
    let written = serde_json::to_string(&config).expect("serializes");
    assert_eq!(RunConfig::from_json(&written).expect("what was written is read"), config);
});
