//! A Packages index, its relations, and the stanzas of control files.
#![no_main]

use libfuzzer_sys::fuzz_target;
use silo_resolve::packages;
use silo_fetch::unpack::record;

fuzz_target!(|text: &[u8]| {
    drop(packages::parse(text));
    drop(record::parse_stanza(text));
    drop(record::parse_stanzas(text));
});
