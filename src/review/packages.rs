//! Weighs package.json and package-lock.json: the commands that npm runs.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use serde_json::Value;

/// Scripts that npm runs by itself on an install, in order.
const LIFECYCLE: [&str; 9] =
    ["preinstall", "install", "postinstall", "prepublish", "preprepare", "prepare", "postprepare", "dependencies", "prepack"];
/// Keys of package.json that other programs obey, with the reason. Every other key that is not [`INERT`] counts, too.
const OBEYED: [(&str, &str); 19] = [
    ("husky", "git hook"),
    ("simple-git-hooks", "git hook"),
    ("pre-commit", "git hook"),
    ("lint-staged", "git hook"),
    ("gitHooks", "git hook"),
    ("packageManager", "package manager to execute"),
    ("eslintConfig", "configuration that can load programs"),
    ("babel", "configuration that can load programs"),
    ("prettier", "configuration that can load programs"),
    ("jest", "configuration that can load programs"),
    ("overrides", "other packages to install"),
    ("resolutions", "other packages to install"),
    ("workspaces", "other packages to install"),
    ("bundleDependencies", "other packages to install"),
    ("bundledDependencies", "other packages to install"),
    ("pnpm", "packages that may run install scripts, or others to install"),
    ("trustedDependencies", "packages that may run install scripts"),
    ("publishConfig", "registry for publishing"),
    ("config", "npm settings"),
];
/// Keys with packages to install. Each can run scripts on its installation.
const DEPENDENCIES: [&str; 4] = ["dependencies", "devDependencies", "optionalDependencies", "peerDependencies"];
/// Keys that no program executes or loads by itself: descriptions, and names of source files.
const INERT: [&str; 33] = [
    "$schema",
    "author",
    "browser",
    "bugs",
    "contributors",
    "cpu",
    "description",
    "devEngines",
    "engines",
    "exports",
    "files",
    "funding",
    "homepage",
    "imports",
    "jsdelivr",
    "keywords",
    "license",
    "main",
    "maintainers",
    "man",
    "module",
    "name",
    "os",
    "peerDependenciesMeta",
    "private",
    "repository",
    "sideEffects",
    "type",
    "types",
    "typesVersions",
    "typings",
    "unpkg",
    "version",
];
/// The version of lock files that have all packages in one list, and no second one for older versions of npm.
const LOCK_VERSION: u64 = 3;

/// Returns the reason why a new package.json is obeyed: a changed script, a package to install, or a key that another program obeys.
pub fn manifest(before: Option<&[u8]>, after: &[u8]) -> Option<String> {
    let Some(after) = parse(after) else { return Some("package.json that silo cannot read".to_owned()) };
    let before = before.and_then(parse).unwrap_or_default();
    let scripts = changed(&before, &after, "scripts");
    if let Some(name) = LIFECYCLE.iter().find(|name| scripts.contains(**name)) {
        return Some(format!("npm {name}"));
    }
    let is_changed = |key: &str| after.get(key).is_some() && after.get(key) != before.get(key);
    if let Some((key, what)) = OBEYED.iter().find(|(key, _)| is_changed(key)) {
        return Some(format!("{what}: \"{key}\" of package.json"));
    }
    for key in DEPENDENCIES {
        if let Some(name) = changed(&before, &after, key).first() {
            return Some(format!("package to install: \"{name}\" of package.json"));
        }
        // npm reads an object only, and another program may read more.
        if is_changed(key) && !after[key].is_object() {
            return Some(format!("packages to install: \"{key}\" of package.json"));
        }
    }
    if let Some(name) = scripts.first() {
        return Some(format!("npm script \"{name}\""));
    }
    let is_known = |key: &str| INERT.contains(&key) || DEPENDENCIES.contains(&key) || key == "scripts" && after[key].is_object();
    let other = after.as_object().into_iter().flatten().map(|(key, _)| key).find(|key| !is_known(key) && is_changed(key));
    other.map(|key| format!("settings of a tool: \"{key}\" of package.json"))
}

/// Returns the reason why a new package-lock.json is obeyed: packages that the old one does not have in the same way. Each can run scripts
/// on its installation, also if the lock file denies it.
pub fn lock(before: Option<&[u8]>, after: &[u8]) -> Option<String> {
    let Ok(after) = serde_json::from_slice::<Lock>(after) else { return Some("lock file that silo cannot read".to_owned()) };
    if after.version != LOCK_VERSION {
        return Some("lock file of another version: packages that can have install scripts".to_owned());
    }
    let before = before.and_then(|bytes| serde_json::from_slice::<Lock>(bytes).ok()).unwrap_or_default();
    // The first entry is the project itself.
    let is_new = |(place, package): &(&String, &Package)| !place.is_empty() && before.packages.get(*place) != Some(*package);
    match after.packages.iter().filter(is_new).count() {
        0 => None,
        1 => Some("lock file: 1 new or changed package, which can have install scripts".to_owned()),
        many => Some(format!("lock file: {many} new or changed packages, which can have install scripts")),
    }
}

/// The parts of package-lock.json that select files to install. Others are skipped without a copy of them.
#[derive(Default, Deserialize)]
struct Lock {
    #[serde(default, rename = "lockfileVersion")]
    version: u64,
    #[serde(default)]
    packages: BTreeMap<String, Package>,
}

#[derive(PartialEq, Eq, Deserialize)]
struct Package {
    version: Option<String>,
    resolved: Option<String>,
    integrity: Option<String>,
    link: Option<bool>,
    #[serde(rename = "inBundle")]
    in_bundle: Option<bool>,
    #[serde(rename = "hasInstallScript")]
    has_install_script: Option<bool>,
}

fn parse(bytes: &[u8]) -> Option<Value> {
    serde_json::from_slice(bytes).ok().filter(Value::is_object)
}

/// Returns the names in a table of package.json that are new or changed.
fn changed<'a>(before: &Value, after: &'a Value, key: &str) -> BTreeSet<&'a str> {
    let old = before.get(key).and_then(Value::as_object);
    let new = after.get(key).and_then(Value::as_object).into_iter().flatten();
    new.filter(|(name, value)| old.and_then(|old| old.get(*name)) != Some(*value)).map(|(name, _)| name.as_str()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_and_packages_of_npm_are_found() {
        let old = br#"{"scripts": {"test": "a", "postinstall": "p"}, "dependencies": {"x": "1"}, "version": "1"}"#;
        for (new, expect) in [
            (&br#"{"scripts": {"test": "a", "postinstall": "p"}, "dependencies": {"x": "1"}, "version": "2"}"#[..], None),
            (br#"{"scripts": {"test": "a"}, "description": "d", "type": "module", "main": "x.js"}"#, None),
            (br#"{"scripts": {"test": "b", "postinstall": "q"}}"#, Some("npm postinstall")),
            (br#"{"scripts": {"test": "b", "postinstall": "p"}}"#, Some("npm script \"test\"")),
            (br#"{"scripts": {"test": "a"}, "husky": {"hooks": {}}}"#, Some("git hook: \"husky\" of package.json")),
            (br#"{"dependencies": {"x": "1", "y": "^2"}}"#, Some("package to install: \"y\" of package.json")),
            (br#"{"dependencies": {"x": "file:evil"}}"#, Some("package to install: \"x\" of package.json")),
            (br#"{"devDependencies": {"x": "git+ssh://example.com/x"}}"#, Some("package to install: \"x\" of package.json")),
            (br#"{"optionalDependencies": ["x"]}"#, Some("packages to install: \"optionalDependencies\" of package.json")),
            (br#"{"overrides": {"x": "2"}}"#, Some("other packages to install: \"overrides\" of package.json")),
            (br#"{"resolutions": {"x": "2"}}"#, Some("other packages to install: \"resolutions\" of package.json")),
            (br#"{"workspaces": ["evil"]}"#, Some("other packages to install: \"workspaces\" of package.json")),
            (
                br#"{"pnpm": {"onlyBuiltDependencies": ["x"]}}"#,
                Some("packages that may run install scripts, or others to install: \"pnpm\" of package.json"),
            ),
            (br#"{"trustedDependencies": ["x"]}"#, Some("packages that may run install scripts: \"trustedDependencies\" of package.json")),
            (br#"{"nodemonConfig": {"exec": "x"}}"#, Some("settings of a tool: \"nodemonConfig\" of package.json")),
            (br#"{"scripts": "x"}"#, Some("settings of a tool: \"scripts\" of package.json")),
            (b"{", Some("package.json that silo cannot read")),
            (b"[]", Some("package.json that silo cannot read")),
        ] {
            assert_eq!(manifest(Some(old), new).as_deref(), expect, "{}", String::from_utf8_lossy(new));
        }
        assert_eq!(manifest(None, old).as_deref(), Some("npm postinstall"));
    }

    #[test]
    fn each_package_that_a_lock_file_brings_or_changes_counts() {
        let old = r#"{"lockfileVersion": 3, "packages": {"": {"version": "1"},
            "node_modules/a": {"version": "1", "resolved": "https://example.com/a", "integrity": "sha512-a"}}}"#;
        let with = |from: &str, to: &str| {
            assert!(old.contains(from), "{from}");
            old.replace(from, to)
        };
        let one = Some("lock file: 1 new or changed package, which can have install scripts");
        for (new, expect) in [
            (old.to_owned(), None),
            (with(r#"{"version": "1"},"#, r#"{"version": "2", "license": "x"},"#), None),
            (with("sha512-a", "sha512-b"), one),
            (with("https://example.com/a", "https://example.com/b"), one),
            (with(r#""version": "1", "resolved""#, r#""version": "2", "resolved""#), one),
            (with(r#", "integrity": "sha512-a""#, ""), one),
            (with(r#""sha512-a"}"#, r#""sha512-a"}, "node_modules/b": {"version": "1", "hasInstallScript": false}"#), one),
            (
                with(r#""lockfileVersion": 3"#, r#""lockfileVersion": 1"#),
                Some("lock file of another version: packages that can have install scripts"),
            ),
            (with(r#""lockfileVersion": 3, "#, ""), Some("lock file of another version: packages that can have install scripts")),
            (with(r#""integrity": "#, r#""integrity": "sha512-c", "integrity": "#), Some("lock file that silo cannot read")),
            ("x".to_owned(), Some("lock file that silo cannot read")),
        ] {
            assert_eq!(lock(Some(old.as_bytes()), new.as_bytes()).as_deref(), expect, "{new}");
        }
        assert_eq!(lock(None, old.as_bytes()).as_deref(), one);
    }
}
