//! What fuzzing found to matter, once more: every input that is kept in `fuzz/corpus/`.

use std::fs;
use std::path::Path;

#[path = "../fuzz/checks.rs"]
mod checks;

#[test]
fn inputs_that_mattered_harm_nobody() {
    for (name, check) in
        [("wire", checks::wire as fn(&[u8])), ("hello", checks::hello), ("request", checks::request), ("grant", checks::grant)]
    {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(name);
        let files: Vec<_> = fs::read_dir(&dir).expect("they are in the repository").flatten().map(|entry| entry.path()).collect();
        assert!(!files.is_empty(), "{name}");
        for file in files {
            check(&fs::read(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display())));
        }
    }
}
