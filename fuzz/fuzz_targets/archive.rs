//! An archive of images, in both formats: any bytes are indexed or refused.
#![no_main]

use std::path::Path;
use std::sync::atomic::AtomicBool;

use libfuzzer_sys::fuzz_target;
use silo_fetch::retry::Patience;
use silo_fetch::transport::Transport;
use silo_model::oci::reference::{Form, Place, Reference};
use silo_fetch::registry::{self, Context};

fuzz_target!(|bytes: &[u8]| {
    let file = tempfile::NamedTempFile::new().expect("a temporary file");
    std::fs::write(file.path(), bytes).expect("our own file");
    let (transport, cancel) = (Transport::new(Patience::default()), AtomicBool::new(false));
    let context = Context { transport: &transport, user_home: Path::new("/nowhere"), cancel: &cancel };
    for form in [Form::Oci, Form::Docker] {
        let place = Place::Archive { path: file.path().to_owned(), form };
        drop(registry::find(context, &Reference { place, tag: None, digest: None }));
    }
});
