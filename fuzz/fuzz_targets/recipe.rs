//! Recipe text: read, merged, checked; never a panic, and an error names the file.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use silo_model::document;
use silo_model::recipe::file::{self, RecipeFile};

fuzz_target!(|text: &str| {
    match document::parse::<RecipeFile>(text, Path::new("x.toml")) {
        Ok(parsed) => {
            let merged = file::merge(parsed.clone(), parsed);
            // Any error is acceptable here, but no panic.
            drop(file::check("x", merged));
        }
        Err(error) => assert!(error.to_string().starts_with("x.toml:")),
    }
});
