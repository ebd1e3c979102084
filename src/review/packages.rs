//! Weighs package.json and package-lock.json: the commands that npm runs.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

/// Scripts that npm runs by itself on an install, in order.
const LIFECYCLE: [&str; 9] =
    ["preinstall", "install", "postinstall", "prepublish", "preprepare", "prepare", "postprepare", "dependencies", "prepack"];
/// Keys of package.json that other programs obey.
const OBEYED: [(&str, &str); 10] = [
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
];

/// Returns the reason why a new package.json is obeyed: a changed script, or a key that another program obeys.
pub fn manifest(before: Option<&[u8]>, after: &[u8]) -> Option<String> {
    let Some(after) = parse(after) else { return Some("package.json that silo cannot read".to_owned()) };
    let before = before.and_then(parse).unwrap_or_default();
    let (old, new) = (scripts(&before), scripts(&after));
    let changed: BTreeSet<&str> = new.iter().filter(|(name, text)| old.get(*name) != Some(*text)).map(|(name, _)| name.as_str()).collect();
    if let Some(name) = LIFECYCLE.iter().find(|name| changed.contains(**name)) {
        return Some(format!("npm {name}"));
    }
    if let Some((key, what)) = OBEYED.iter().find(|(key, _)| after.get(*key).is_some() && after.get(*key) != before.get(*key)) {
        return Some(format!("{what}: \"{key}\" of package.json"));
    }
    changed.first().map(|name| format!("npm script \"{name}\""))
}

/// Returns the reason why a new package-lock.json is obeyed: packages with install scripts that the old one does not have.
pub fn lock(before: Option<&[u8]>, after: &[u8]) -> Option<String> {
    let Some(after) = parse(after) else { return Some("lock file that silo cannot read".to_owned()) };
    let before = before.and_then(parse).unwrap_or_default();
    let old = with_scripts(&before);
    let new = with_scripts(&after).difference(&old).count();
    if after.get("packages").is_none() {
        return Some("lock file: packages that can have install scripts".to_owned());
    }
    match new {
        0 => None,
        1 => Some("lock file: 1 package with install scripts".to_owned()),
        many => Some(format!("lock file: {many} packages with install scripts")),
    }
}

fn parse(bytes: &[u8]) -> Option<Value> {
    serde_json::from_slice(bytes).ok().filter(Value::is_object)
}

fn scripts(manifest: &Value) -> BTreeMap<String, Value> {
    let scripts = manifest.get("scripts").and_then(Value::as_object);
    scripts.into_iter().flatten().map(|(name, text)| (name.clone(), text.clone())).collect()
}

/// Lists the packages with install scripts, each by its place, version, source and digest.
fn with_scripts(lock: &Value) -> BTreeSet<String> {
    let packages = lock.get("packages").and_then(Value::as_object);
    let has_scripts = |(_, package): &(&String, &Value)| package.get("hasInstallScript").and_then(Value::as_bool) == Some(true);
    let text = |package: &Value, key: &str| package.get(key).map(ToString::to_string).unwrap_or_default();
    let id = |(place, package): (&String, &Value)| {
        format!("{place} {} {} {}", text(package, "version"), text(package, "resolved"), text(package, "integrity"))
    };
    packages.into_iter().flatten().filter(has_scripts).map(id).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_of_npm_are_found() {
        let old = br#"{"scripts": {"test": "a", "postinstall": "p"}, "dependencies": {}}"#;
        for (new, expect) in [
            (&br#"{"scripts": {"test": "a", "postinstall": "p"}, "dependencies": {"x": "1"}}"#[..], None),
            (br#"{"scripts": {"test": "b", "postinstall": "q"}}"#, Some("npm postinstall")),
            (br#"{"scripts": {"test": "b", "postinstall": "p"}}"#, Some("npm script \"test\"")),
            (br#"{"scripts": {"test": "a"}, "husky": {"hooks": {}}}"#, Some("git hook: \"husky\" of package.json")),
            (b"{", Some("package.json that silo cannot read")),
            (b"[]", Some("package.json that silo cannot read")),
        ] {
            assert_eq!(manifest(Some(old), new).as_deref(), expect, "{}", String::from_utf8_lossy(new));
        }
        assert_eq!(manifest(None, old).as_deref(), Some("npm postinstall"));
    }

    #[test]
    fn new_packages_with_install_scripts_are_counted() {
        let of = |names: &[&str]| {
            let packages: BTreeMap<String, Value> = names
                .iter()
                .map(|name| {
                    (format!("node_modules/{name}"), serde_json::json!({ "version": "1", "hasInstallScript": !name.starts_with('-') }))
                })
                .collect();
            serde_json::json!({ "packages": packages }).to_string().into_bytes()
        };
        for (old, new, expect) in [
            (&["a"][..], &["a", "-b"][..], None),
            (&["a"], &["a", "b"], Some("lock file: 1 package with install scripts")),
            (&[], &["a", "b", "c"], Some("lock file: 3 packages with install scripts")),
        ] {
            assert_eq!(lock(Some(&of(old)), &of(new)).as_deref(), expect);
        }
        assert!(lock(None, b"{}").is_some() && lock(None, b"x").is_some());
    }
}
