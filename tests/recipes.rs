//! The recipes that ship: each parses, is in the catalogue, and is locked for every architecture.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use silo_base::system::Arch;
use silo_model::lock::{self, PackageRequest};
use silo_model::recipe::catalog::{self, RecipeSources};
use silo_model::recipe::package_spec::for_arch;
use silo_model::recipe::{Recipe, addon};

use crate::support::{Silo, golden};

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
fn each_recipe_has_a_current_lock() {
    for recipe in catalog::BUILT_IN {
        let found = catalog::find(&RecipeSources::default(), recipe.name).expect("a built-in recipe is right");
        let locks = lock::parse(recipe.lock, &recipes().join(format!("{}.lock", recipe.name))).expect("a built-in lock is right");
        assert_eq!(locks.keys().collect::<Vec<_>>(), [recipe.name]);
        let lock = &locks[recipe.name];
        assert_eq!(
            lock.asked,
            PackageRequest::by(&found.recipe),
            "{}: run `silo lock {0} --update --output recipes/{0}.lock`",
            recipe.name
        );
        for arch in Arch::ALL {
            let packages = &lock.packages[&arch];
            let wanted = found.recipe.debian.packages.iter().map(|wanted| for_arch(wanted));
            let here = wanted.filter(|(_, of)| of.is_none_or(|of| of == arch.name())).map(|(name, _)| name);
            for wanted in here.chain([found.recipe.debian.version_of.as_str()]) {
                assert!(packages.contains_key(wanted), "{}: {wanted} is not locked for {arch}", recipe.name);
            }
        }
        assert_eq!(lock::write(&locks), recipe.lock, "a lock is stable under reading and writing");
    }
}

/// A change of a tool's definition must be seen: everybody builds everything again.
#[test]
fn each_is_resolved_as_it_was() {
    let silo = Silo::new();
    for recipe in catalog::BUILT_IN {
        let mut shown: serde_json::Value = serde_json::from_str(&silo.ok(["show", recipe.name, "--json"])).expect("JSON");
        // How much that is differs from machine to machine.
        shown.as_object_mut().expect("an object").remove("locked");
        golden(&format!("recipes/{}.json", recipe.name), &format!("{}\n", serde_json::to_string_pretty(&shown).expect("JSON")));
    }
}

/// The output of a step with a network is pinned for the architecture of its build; on another one the first build pins it.
#[test]
fn each_step_with_a_network_is_pinned() {
    for built_in in catalog::BUILT_IN {
        let own = catalog::find(&RecipeSources::default(), built_in.name).expect("a built-in recipe is right").recipe;
        let networked = |recipe: &Recipe| recipe.steps.iter().filter(|step| !step.network.is_empty()).count();
        let of =
            |version: &String| catalog::find_version(&RecipeSources::default(), built_in.name, Some(version)).expect("it is right").recipe;
        let expect = networked(&own) + own.versions.keys().map(|version| networked(&of(version))).sum::<usize>();
        let locks = lock::parse(built_in.lock, Path::new("x.lock")).expect("a built-in lock is right");
        let pins = locks[built_in.name].steps.get(&Arch::Amd64).map_or(0, |steps| steps.len());
        assert_eq!(pins, expect, "{}", built_in.name);
    }
}

#[test]
fn required_tools_are_lower_layers() {
    let silo = Silo::new();
    silo.write(
        ".silo/recipes/base.toml",
        "env = { A = \"1\", B = \"1\" }\nsteps = [\"first\"]\n[debian]\npackages = [\"jq\"]\n[network]\nallow = [\"a.example.com\"]\n",
    );
    silo.write(
        ".silo/recipes/top.toml",
        "requires = [\"base\"]\nenv = { B = \"2\" }\nsteps = [\"second\"]\n[debian]\npackages = [\"file\"]\n",
    );
    let shown: serde_json::Value = serde_json::from_str(&silo.ok(["show", "top", "--json"])).expect("JSON");
    assert_eq!(shown["debian"]["packages"], serde_json::json!(["file", "jq"]));
    assert_eq!((&shown["steps"][0]["run"][2], &shown["steps"][1]["run"][2]), (&"first".into(), &"second".into()));
    assert_eq!(shown["env"], serde_json::json!({ "A": "1", "B": "2" }));
    assert_eq!(shown["network"]["allow"], serde_json::json!(["a.example.com"]));
    silo.write(".silo/recipes/base.toml", "requires = [\"top\"]\n");
    assert!(silo.fails(["show", "top"]).err.contains("these recipes require each other: top -> base -> top"));
    silo.write(".silo/recipes/base.toml", "requires = [\"nothing\"]\n");
    assert!(silo.fails(["show", "top"]).err.contains("base requires \"nothing\", but there is no recipe for it"));
    silo.write(".silo/recipes/base.toml", "[debian]\nsuite = \"sid\"\n");
    assert!(silo.fails(["show", "top"]).err.contains("top has packages of trixie, but requires base, which has packages of sid"));
}

#[test]
fn available_tools_are_listed_and_found() {
    let silo = Silo::new();
    let list: serde_json::Value = serde_json::from_str(&silo.ok(["list", "--available", "--json"])).expect("JSON");
    let node = list.as_array().into_iter().flatten().find(|row| row["tool"] == "node").expect("node is there");
    assert!(node["fetchedBytes"].as_u64().is_some_and(|bytes| bytes > 10 << 20) && node["installed"].is_null(), "{node}");
    assert!(node["versions"].as_object().is_some_and(|versions| versions.len() > 1), "{node}");
    let list = silo.ok(["list", "--available"]);
    assert!(list.lines().any(|line| line.starts_with("deno ") && line.contains("Debian trixie + @pypi")), "{list}");
    for (words, expect) in
        [(&["NPX"][..], "node "), (&["notebook", "python"], "jupyter "), (&["bundler"], "ruby "), (&["openjdk", "kotlin"], "kotlin ")]
    {
        let found = silo.ok(["search"].iter().chain(words));
        assert!(found.lines().any(|line| line.starts_with(expect)), "{words:?}: {found}");
    }
    let done = silo.fails(["search", "pyton"]);
    assert!(done.err.contains("no tool or add-on matches \"pyton\"; did you mean \"python\"?"), "{done:?}");
    let shown = silo.ok(["show", "playwright"]);
    assert!(shown.contains("requires      node\n") && shown.contains("# reaches @npm"), "{shown}");
}

#[test]
fn each_add_on_brings_its_commands() {
    for (name, _) in addon::BUILT_IN {
        let addon = addon::find(&RecipeSources::default(), name).expect("it can be read").expect("it is built in");
        assert!(addon.shims.contains_key(*name), "{name}: its own name is no command of it: {:?}", addon.shims.keys());
        assert_eq!(catalog::addon_with(name), Some(*name));
    }
    for (command, addon) in [("javac", "java"), ("mvn", "java"), ("kotlinc", "kotlin"), ("bundle", "ruby"), ("uvx", "uv"), ("python", "")] {
        assert_eq!(catalog::addon_with(command).unwrap_or_default(), addon, "{command}");
    }
}

#[test]
fn the_schemas_are_those_of_the_types() {
    for (of, file) in [("addon", "addon.json"), ("recipe", "recipe.json"), ("silo", "silo.json")] {
        let text = Silo::new().ok(["schema", of]);
        golden(&format!("../../docs/schema/{file}"), &text);
    }
}
