//! Configuration files of packages that a step configures.
//!
//! dpkg unpacks a configuration file as `NAME.dpkg-new`, and renames it when it configures the package. So no program reads a file of a
//! package whose own script has not run, for example a hook in a directory of hooks. Layers have the file under its own name. Therefore the
//! step renames it before dpkg configures the packages, and dpkg renames it back. The file is then equal to the one in the package's layer,
//! so it is not in the layer of the step.

use std::collections::BTreeMap;
use std::sync::Arc;

use silo_store::entry::Kind;
use silo_store::path::LayerPath;

use silo_model::lock::PackageTier;

use super::select_packages::{Candidates, Unpacked};

/// Returns true if dpkg has to configure a package. The others have no scripts, and are configured from the start.
pub fn is_scripted(package: &Unpacked) -> bool {
    ["preinst", "postinst", "config", "triggers", "templates"].iter().any(|member| package.record.members.contains(*member))
}

/// Lists the configuration files to rename, by path, each with its package.
///
/// Not those of essential packages: nothing is configured yet, and mmdebstrap and debootstrap extract these packages before dpkg unpacks
/// them. Not those that another package has too: dpkg unpacks that package itself, and needs the file in its place.
pub fn unconfigured<'a>(tier: PackageTier, earlier: &[Arc<Unpacked>], choice: &'a Candidates) -> BTreeMap<&'a str, &'a str> {
    if tier == PackageTier::Base {
        return BTreeMap::new();
    }
    let is_configured = |package: &&Arc<Unpacked>| !is_scripted(package);
    let others: Vec<&Arc<Unpacked>> = earlier.iter().chain(choice.present.iter().filter(is_configured)).chain(&choice.by_dpkg).collect();
    let mut found = BTreeMap::new();
    for package in choice.present.iter().filter(|package| is_scripted(package)) {
        for (path, _) in &package.record.conffiles {
            let Ok(at) = LayerPath::parse(path.trim_start_matches('/').as_bytes()) else { continue };
            let is_file = package.index.get(&at).is_some_and(|entry| entry.node.kind() == Kind::File);
            if is_file && !others.iter().any(|other| other.index.get(&at).is_some()) {
                found.insert(path.as_str(), package.name());
            }
        }
    }
    found
}
