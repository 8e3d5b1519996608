//! Configuration files: whatever they hold, reading one ends with a configuration or with what is wrong.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use relay::config::{Configuration, References};

fuzz_target!(|text: &str| {
    if let Err(error) = Configuration::parse(Path::new("relay.toml"), text, None, References::Leave) {
        assert!(!error.problems().is_empty());
    }
});
