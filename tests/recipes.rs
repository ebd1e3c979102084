//! The recipes that ship: each parses, is in the catalogue, and is locked for every architecture.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use silo::lock::{self, Asked};
use silo::recipe::catalog::{self, Places};
use silo::system::Arch;

use crate::support::golden;

fn recipes() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("recipes")
}

#[test]
fn none_is_forgotten() {
    let listing = std::fs::read_dir(recipes()).expect("the recipes are there");
    let names = listing.flatten().filter_map(|entry| entry.file_name().to_str()?.strip_suffix(".toml").map(str::to_owned));
    let built_in: BTreeSet<String> = catalog::BUILT_IN.iter().map(|recipe| recipe.name.to_owned()).collect();
    assert_eq!(names.collect::<BTreeSet<_>>(), built_in);
}

#[test]
fn each_is_locked_for_what_it_asks() {
    for recipe in catalog::BUILT_IN {
        let found = catalog::find(&Places::default(), recipe.name).expect("a built-in recipe is right");
        let locks = lock::parse(recipe.lock, &recipes().join(format!("{}.lock", recipe.name))).expect("a built-in lock is right");
        assert_eq!(locks.keys().collect::<Vec<_>>(), [recipe.name]);
        let lock = &locks[recipe.name];
        assert_eq!(lock.asked, Asked::by(&found.recipe.debian), "{}: run `silo lock {0} --update --output recipes/{0}.lock`", recipe.name);
        for arch in Arch::ALL {
            let packages = &lock.packages[&arch];
            for wanted in found.recipe.debian.packages.iter().chain([&found.recipe.debian.version_of]) {
                assert!(packages.contains_key(wanted), "{}: {wanted} is not locked for {arch}", recipe.name);
            }
        }
        assert_eq!(lock::write(&locks), recipe.lock, "a lock is stable under reading and writing");
    }
}

#[test]
fn the_schemas_are_those_of_the_types() {
    for (of, file) in [("addon", "addon.json"), ("recipe", "recipe.json"), ("silo", "silo.json")] {
        let text = crate::support::Silo::new().ok(["schema", of]);
        golden(&format!("../../docs/schema/{file}"), &text);
    }
}
