//! A Packages index, its relations, and the stanzas of control files.
#![no_main]

use libfuzzer_sys::fuzz_target;
use silo::resolve::packages;
use silo::unpack::record;

fuzz_target!(|text: &[u8]| {
    drop(packages::parse(text));
    drop(record::parse_stanza(text));
    drop(record::parse_stanzas(text));
});
