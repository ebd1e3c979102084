//! The host name of a build step: the files in which a root made by mmdebstrap has it, with a domain.
//!
//! Scripts look for the name and the domain there, and some fail without them. Both are the same in every build. A capture drops the two
//! files. There is no `/etc/hosts`: `netbase` makes one if it is missing, and that file belongs to the image.

use silo_store::path::LayerPath;

use silo_launch::spec::{Bytes, File, Spec};

use super::step_root::StepRoot;

/// The files, each with its text. `silo` is the host name of every sandbox.
const FILES: [(&str, &str); 2] = [("etc/hostname", "silo\n"), ("etc/resolv.conf", "search localdomain\n")];

/// Adds the files that neither the root nor the launch spec has.
pub(super) fn add(spec: &mut Spec, root: &StepRoot) {
    for (path, text) in FILES {
        let inside = LayerPath::parse(path.as_bytes()).expect("a constant path is plain");
        let guest = format!("/{path}").into();
        if !root.lower(|lower| lower.has(&inside)) && !spec.files.iter().any(|file| file.guest == guest) {
            spec.files.push(File { guest, bytes: Bytes(text.as_bytes().to_vec()), mode: 0o644 });
        }
    }
}
