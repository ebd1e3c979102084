//! The recipes that ship: each parses, is in the catalogue, and is locked for every architecture.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use silo_base::system::Arch;
use silo_model::lock::{self, Package, PackageRequest};
use silo_model::recipe::catalog::{self, RecipeSources};
use silo_model::recipe::package_spec::for_arch;
use silo_model::recipe::{Lsp, Recipe, addon};

use crate::support::{Silo, golden};

fn recipes() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("recipes")
}

/// The recipe in all its versions.
fn versions(tool: &str) -> Vec<Recipe> {
    let of =
        |version: Option<&str>| catalog::find_version(&RecipeSources::default(), tool, version).expect("a built-in recipe is right").recipe;
    let own = of(None);
    own.versions.keys().map(|version| of(Some(version))).chain([own.clone()]).collect()
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
        let locks = lock::parse(recipe.lock, &recipes().join(format!("{}.lock", recipe.name))).expect("a built-in lock is right");
        let versions = versions(recipe.name);
        let server = server(recipe.name).map(|_| lock::server(recipe.name));
        let names: BTreeSet<&str> = versions.iter().map(|recipe| recipe.lock_name.as_str()).chain(server.as_deref()).collect();
        assert_eq!(locks.keys().map(String::as_str).collect::<BTreeSet<_>>(), names);
        for found in &versions {
            let lock = &locks[&found.lock_name];
            let advice = format!("{}: run `silo lock {0} --update --output recipes/{0}.lock`", recipe.name);
            assert_eq!(lock.asked, PackageRequest::by(found), "{advice}");
            for arch in Arch::ALL {
                let packages = &lock.packages[&arch];
                let wanted = found.debian.packages.iter().map(|wanted| for_arch(wanted));
                let here = wanted.filter(|(_, of)| of.is_none_or(|of| of == arch.name())).map(|(name, _)| name);
                for wanted in here.chain([found.debian.version_of.as_str()]) {
                    assert!(packages.contains_key(wanted), "{}: {wanted} is not locked for {arch}", found.lock_name);
                }
            }
        }
        assert_eq!(lock::write(&locks), recipe.lock, "a lock is stable under reading and writing");
    }
}

/// The language server of a tool that adds something to the tool's image.
fn server(tool: &str) -> Option<Lsp> {
    let found = catalog::find_version(&RecipeSources::default(), tool, None).expect("a built-in recipe is right").recipe;
    found.lsp.filter(|lsp| !lsp.packages.is_empty() || !lsp.steps.is_empty())
}

#[test]
fn language_servers_are_locked_in_what_ships() {
    let mut servers = Vec::new();
    for recipe in catalog::BUILT_IN {
        let Some(lsp) = server(recipe.name) else { continue };
        let locks = lock::parse(recipe.lock, &recipes().join(format!("{}.lock", recipe.name))).expect("a built-in lock is right");
        let (tool, server) = (&locks[recipe.name], &locks[&lock::server(recipe.name)]);
        let advice = format!("{0}: run `.ci/relock {0}`", recipe.name);
        // Its lock begins with the tool's own packages.
        assert_eq!(tool.epoch, server.epoch, "{advice}");
        for (arch, packages) in &tool.packages {
            let differs =
                |(name, package): &(&String, &Package)| server.packages[arch].get(*name).is_none_or(|own| own.sha256 != package.sha256);
            assert_eq!(packages.iter().find(differs), None, "{advice}");
            for wanted in &lsp.packages {
                assert!(server.packages[arch].contains_key(wanted), "{advice}: {wanted}");
            }
        }
        assert_eq!(
            PackageRequest { added: Vec::new(), ..server.asked.clone() },
            PackageRequest { added: Vec::new(), ..tool.asked.clone() }
        );
        servers.push(recipe.name);
    }
    assert_eq!(servers, ["go", "node", "python", "rust"]);
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
        let networked = |recipe: &Recipe| recipe.steps.iter().filter(|step| !step.network.is_empty()).count();
        let versions = versions(built_in.name);
        let locks = lock::parse(built_in.lock, Path::new("x.lock")).expect("a built-in lock is right");
        for (name, lock) in &locks {
            let of_server = server(built_in.name).filter(|_| lock::server(built_in.name) == *name);
            let of_server = of_server.map_or(0, |lsp| lsp.steps.iter().filter(|step| !step.network.is_empty()).count());
            let of_tool: usize = versions.iter().filter(|recipe| recipe.lock_name == *name).map(networked).sum();
            assert_eq!(lock.steps.get(&Arch::Amd64).map_or(0, |steps| steps.len()), of_tool + of_server, "{name}");
        }
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
fn a_version_has_packages_and_a_lock_of_its_own() {
    let silo = Silo::seeded();
    let other = "[versions.\"0.5\"]\nlabel = \"small\"\ndebian = { packages = [\"dash\"], versionOf = \"dash\" }\n";
    let image = "[versions.9]\nimage = \"registry.example.com/own:9\"\n";
    silo.write(".silo/recipes/own.toml", &format!("command = [\"sh\"]\n[debian]\npackages = [\"hello\"]\n{other}{image}"));
    let told = silo.ok(["lock", "own@0.5"]);
    assert!(told.starts_with("own 0.5.") && told.contains(" locked: packages"), "{told}");
    let lock = std::fs::read_to_string(silo.path("recipes/own.lock")).expect("it was written");
    assert!(lock.contains("[tool.\"own@0.5\"]") && !lock.contains("[tool.own]") && !lock.contains("\"hello\""), "{lock}");
    assert!(silo.ok(["lock", "own@0.5"]).contains("is locked already"));
    assert!(silo.ok(["show", "own"]).contains("0.5 (small), 9"));
    let found = |version| catalog::find_version(&places(&silo), "own", Some(version)).expect("it is right").recipe;
    let (small, image) = (found("0.5.12"), found("9"));
    assert_eq!((small.version, small.debian.packages), (None, vec!["dash".to_owned()]));
    assert_eq!((image.version.as_deref(), image.image.as_deref()), (Some("9"), Some("registry.example.com/own:9")));
}

fn places(silo: &Silo) -> RecipeSources {
    RecipeSources { user: Some(silo.path("recipes")), ..RecipeSources::default() }
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
