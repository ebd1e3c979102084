//! The JSON of a launch spec, as the launcher's other process reads it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use silo_launch::spec::Spec;

fuzz_target!(|json: &[u8]| {
    if let Ok(spec) = Spec::from_json(json) {
        drop(spec.check());
        let again = spec.to_json().expect("what was read can be written");
        assert_eq!(Spec::from_json(&again).expect("what was written can be read"), spec);
    }
});
