//! Lists the secrets and identities that packages generated and an image lacks, for its lock.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use silo_store::digest::LayerId;
use silo_store::{layer, resolve_in_root};

use silo_model::lock::Secret;

use super::context::BuildContext;
use super::error::Error;
use super::known_secrets::{self, Form, KnownSecret};

/// Lists the secrets that the image at `root` lacks: those that its steps removed, and the known ones of its packages.
pub(super) fn of(ctx: &BuildContext<'_>, root: &Path, steps: &[LayerId]) -> Result<BTreeMap<String, Secret>, Error> {
    let mut removed = Vec::new();
    // Many steps may have one layer, such as the one without changes.
    for step in steps.iter().collect::<BTreeSet<_>>() {
        let manifest = layer::read_manifest(ctx.store, step);
        let manifest = manifest.map_err(|source| Error::store(format!("reading the manifest of layer {step}"), source))?;
        removed.extend(manifest.record.removed);
    }
    Ok(list(root, &removed))
}

fn list(root: &Path, removed: &[String]) -> BTreeMap<String, Secret> {
    let has = |path: &str| resolve_in_root::exists(root, Path::new(path));
    // Packages ship the directory of a database cluster, and it is empty.
    let is_absent = |path: &str| match resolve_in_root::list(root, Path::new(path)) {
        Ok(names) => names.is_empty(),
        Err(_) => !has(path),
    };
    let locked = |known: Option<&KnownSecret>| Secret {
        package: known.map(|known| known.package.to_owned()),
        made_at_start: known.is_some_and(|known| !matches!(known.form, Form::Never { .. })),
    };
    let removed = removed.iter().filter(|path| is_absent(path.trim_start_matches('/')));
    let mut secrets: BTreeMap<String, Secret> =
        removed.map(|path| (path.clone(), locked(known_secrets::at(path.trim_start_matches('/'), has)))).collect();
    for known in known_secrets::ALL.iter().filter(|known| has(known.marker) && is_absent(known.path)) {
        secrets.entry(format!("/{}", known.path)).or_insert_with(|| locked(Some(known)));
    }
    secrets
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn absent_secrets_are_listed_with_their_packages() {
        let root = tempfile::tempdir().expect("a directory");
        let write = |path: &str| {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().expect("below the root")).expect("a directory");
            std::fs::write(path, "x").expect("a file");
        };
        for path in ["usr/sbin/munged", "usr/sbin/sshd", "usr/bin/pg_createcluster", "etc/ssh/ssh_host_ed25519_key", "etc/later.key"] {
            write(path);
        }
        std::fs::create_dir_all(root.path().join("var/lib/postgresql")).expect("a directory");
        let listed = list(root.path(), &["/etc/munge/munge.key", "/etc/other.key", "/etc/later.key"].map(str::to_owned));
        let of = |package: Option<&str>, made_at_start| Secret { package: package.map(str::to_owned), made_at_start };
        let expect = [
            ("/etc/munge/munge.key", of(Some("munge"), true)),
            ("/etc/other.key", of(None, false)),
            ("/var/lib/postgresql", of(Some("postgresql-common"), false)),
        ];
        assert_eq!(listed, expect.map(|(path, secret)| (path.to_owned(), secret)).into());
        write("var/lib/postgresql/17/main/PG_VERSION");
        assert_eq!(list(root.path(), &[]).into_keys().collect::<Vec<_>>(), ["/etc/munge/munge.key"]);
    }
}
