//! The host name of a build step: the files in which a root made by mmdebstrap has it, with a domain.
//!
//! Scripts look for the name and the domain there, and some fail without them. Both are the same in every build; only the second run of a check has another name. A capture drops the two
//! files. There is no `/etc/hosts`: `netbase` makes one if it is missing, and that file belongs to the image.

use silo_store::path::LayerPath;

use silo_launch::spec::{Bytes, File, Spec};

use super::stack::Stack;

/// Sets the host name, and adds the files that neither the root nor the launch spec has.
pub(super) fn set(spec: &mut Spec, root: &Stack, name: &str) {
    spec.hostname = name.to_owned();
    for (path, text) in [("etc/hostname", format!("{name}\n")), ("etc/resolv.conf", "search localdomain\n".to_owned())] {
        let inside = LayerPath::parse(path.as_bytes()).expect("a constant path is plain");
        let guest = format!("/{path}").into();
        if !root.lower(|lower| lower.has(&inside)) && !spec.files.iter().any(|file| file.guest == guest) {
            spec.files.push(File { guest, bytes: Bytes(text.into_bytes()), mode: 0o644 });
        }
    }
}
