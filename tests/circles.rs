//! No circles between the files of a package, `lib.rs` and `mod.rs` included.
//!
//! File A uses file B if A names an item of B by a path. A path that only names a module does not count. Tests at the end of a file are left
//! out.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// A module's path in its package; empty for `lib.rs`.
type Module = Vec<String>;

/// The modules of one package, with the text of each, without comments, strings and tests.
struct Package {
    modules: BTreeMap<Module, String>,
}

impl Package {
    fn read(lib: &Path) -> Package {
        let mut package = Package { modules: BTreeMap::new() };
        package.add(Vec::new(), lib, lib.parent().expect("a file is in a directory"));
        package
    }

    /// Adds a file and the files of its `mod` declarations, which are in `dir`.
    fn add(&mut self, module: Module, file: &Path, dir: &Path) {
        let text = fs::read_to_string(file).expect("source is text");
        let text = text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default();
        let mut other_file = None;
        for line in text.lines() {
            if let Some(path) = line.trim().strip_prefix("#[path = \"") {
                other_file = path.strip_suffix("\"]").map(|path| dir.join(path));
            } else if let Some(name) = declared(line) {
                let below = dir.join(name);
                let files = [dir.join(format!("{name}.rs")), below.join("mod.rs")];
                if let Some(file) = other_file.take().iter().chain(&files).find(|file| file.is_file()) {
                    self.add(module.iter().cloned().chain([name.to_owned()]).collect(), file, &below);
                }
            }
        }
        // Each system may have its own file of a module.
        self.modules.entry(module).or_default().push_str(&plain(text));
    }

    fn child(&self, module: &Module, name: &str) -> Option<Module> {
        let child: Module = module.iter().cloned().chain([name.to_owned()]).collect();
        self.modules.contains_key(&child).then_some(child)
    }

    /// Resolves a path as seen from `from`: the module, and whether the path goes on to an item in it.
    fn resolve(&self, from: &Module, known: &BTreeMap<String, Module>, path: &[String]) -> Option<(Module, bool)> {
        let mut rest = path;
        let mut at = match path.first()?.as_str() {
            "crate" => Vec::new(),
            "self" | "super" => from.clone(),
            name => known.get(name).cloned().or_else(|| self.child(from, name))?,
        };
        if !matches!(path[0].as_str(), "self" | "super") {
            rest = &path[1..];
        }
        while let Some(word @ ("self" | "super")) = rest.first().map(String::as_str) {
            if word == "super" {
                at.pop();
            }
            rest = &rest[1..];
        }
        while let Some(child) = rest.first().and_then(|name| self.child(&at, name)) {
            at = child;
            rest = &rest[1..];
        }
        Some((at, !rest.is_empty()))
    }

    /// Returns the files whose items each file uses.
    fn uses(&self) -> BTreeMap<&Module, BTreeSet<Module>> {
        let of = |(module, text): (&'_ Module, &String)| {
            let mut known = BTreeMap::new();
            let mut used = BTreeSet::new();
            let (imports, body) = split_imports(text);
            for mut path in imports.iter().flat_map(|tree| expand(tree)) {
                let name =
                    path.iter().position(|word| word == "as").map(|at| path.split_off(at)).and_then(|renamed| renamed.get(1).cloned());
                if path.last().is_some_and(|word| word == "self") && path.len() > 1 {
                    path.pop();
                }
                match self.resolve(module, &BTreeMap::new(), &path) {
                    Some((at, true)) => drop(used.insert(at)),
                    Some((at, false)) => drop(known.insert(name.or_else(|| path.last().cloned()).unwrap_or_default(), at)),
                    None => {}
                }
            }
            for path in paths(&body) {
                if let Some((at, true)) = self.resolve(module, &known, &path) {
                    used.insert(at);
                }
            }
            used.remove(module);
            used
        };
        self.modules.iter().map(|(module, text)| (module, of((module, text)))).collect()
    }
}

/// Returns the name in a line `mod name;`, with any visibility.
fn declared(line: &str) -> Option<&str> {
    let (before, name) = line.trim().strip_suffix(';')?.rsplit_once("mod ")?;
    let visibility = before.is_empty() || before.starts_with("pub");
    (visibility && name.chars().all(|c| c.is_alphanumeric() || c == '_')).then_some(name)
}

/// Blanks comments and the content of strings.
fn plain(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let raw = rest.strip_prefix('r').map(|after| after.len() - after.trim_start_matches('#').len());
        let raw = raw.filter(|hashes| rest[1 + hashes..].starts_with('"') && !out.ends_with(|c: char| c.is_alphanumeric() || c == '_'));
        let length = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if let Some(hashes) = raw {
            let end = format!("\"{}", "#".repeat(hashes));
            rest[hashes + 2..].find(&end).map_or(rest.len(), |at| hashes + 2 + at + end.len())
        } else if c == '"' {
            let mut escaped = false;
            let end = rest[1..].find(|c| {
                let ends = c == '"' && !escaped;
                escaped = c == '\\' && !escaped;
                ends
            });
            end.map_or(rest.len(), |at| at + 2)
        } else if rest.starts_with("'\"'") || rest.starts_with("'\\\"'") {
            rest[1..].find('\'').map_or(rest.len(), |at| at + 2)
        } else {
            out.push(c);
            rest = &rest[c.len_utf8()..];
            continue;
        };
        out.push(' ');
        rest = &rest[length..];
    }
    out
}

/// Splits a text into the trees of its `use` items, and everything else.
fn split_imports(text: &str) -> (Vec<String>, String) {
    let (mut imports, mut body) = (Vec::new(), String::new());
    let mut open: Option<String> = None;
    for line in text.lines() {
        let start = line.trim_start();
        let tree = start.strip_prefix("use ").or_else(|| {
            let (visibility, tree) = start.split_once("use ")?;
            (visibility.starts_with("pub") && !visibility.contains(['{', ';', '=', '"'])).then_some(tree)
        });
        match (&mut open, tree) {
            (Some(tree), _) => tree.push_str(line),
            (None, Some(tree)) => open = Some(tree.to_owned()),
            (None, None) => {
                body.push_str(line);
                body.push('\n');
            }
        }
        if let Some(tree) = open.take() {
            match tree.split_once(';') {
                Some((whole, _)) => imports.push(whole.to_owned()),
                None => open = Some(tree),
            }
        }
    }
    (imports, body)
}

/// Expands a tree `a::{b, c::d}` into its paths; a renamed path ends in `as` and the name.
fn expand(tree: &str) -> Vec<Vec<String>> {
    let words = |text: &str| -> Vec<String> { text.split("::").flat_map(str::split_whitespace).map(str::to_owned).collect() };
    let Some((before, inner)) = tree.split_once('{') else { return vec![words(tree)] };
    let inner = inner.rsplit_once('}').map_or(inner, |(inner, _)| inner);
    let (mut depth, mut parts, mut part) = (0, Vec::new(), String::new());
    for c in inner.chars().chain([',']) {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(std::mem::take(&mut part));
                continue;
            }
            _ => {}
        }
        part.push(c);
    }
    let prefix = words(before);
    let joined = |path: Vec<String>| prefix.iter().cloned().chain(path).collect();
    parts.iter().filter(|part| !part.trim().is_empty()).flat_map(|part| expand(part)).map(joined).collect()
}

/// Returns the paths of at least two words in code.
fn paths(code: &str) -> Vec<Vec<String>> {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let mut found = Vec::new();
    let mut path: Vec<String> = Vec::new();
    let mut rest = code;
    while !rest.is_empty() {
        let length = rest.find(|c| !is_word(c)).unwrap_or(rest.len());
        if length > 0 {
            path.push(rest[..length].to_owned());
            rest = &rest[length..];
            if let Some(after) = rest.strip_prefix("::")
                && after.starts_with(is_word)
            {
                rest = after;
                continue;
            }
        } else {
            let c = rest.chars().next().map_or(1, char::len_utf8);
            // `<T>::name` and `.name::<T>` are no paths of modules.
            rest = &rest[c..];
        }
        let whole = std::mem::take(&mut path);
        if whole.len() > 1 {
            found.push(whole);
        }
    }
    found
}

/// Returns the groups of files that use each other, directly or through others.
fn circles(uses: &BTreeMap<&Module, BTreeSet<Module>>) -> Vec<Vec<String>> {
    let reach = |from: &Module| -> BTreeSet<Module> {
        let mut seen = BTreeSet::new();
        let mut next: Vec<Module> = uses.get(from).into_iter().flatten().cloned().collect();
        while let Some(module) = next.pop() {
            if seen.insert(module.clone()) {
                next.extend(uses.get(&module).into_iter().flatten().cloned());
            }
        }
        seen
    };
    let reached: BTreeMap<&Module, BTreeSet<Module>> = uses.keys().map(|module| (*module, reach(module))).collect();
    let mut groups: BTreeSet<Vec<String>> = BTreeSet::new();
    for (module, below) in reached.iter().filter(|(module, below)| below.contains(**module)) {
        let group = below.iter().filter(|other| reached.get(other).is_some_and(|back| back.contains(*module)));
        groups.insert(group.map(|module| if module.is_empty() { "lib".to_owned() } else { module.join("::") }).collect());
    }
    groups.into_iter().collect()
}

fn libraries(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).expect("the source tree can be read").flatten() {
        let path = entry.path();
        if path.is_dir() {
            libraries(&path, found);
        } else if path.file_name().is_some_and(|name| name == "lib.rs") {
            found.push(path);
        }
    }
}

#[test]
fn files_do_not_use_each_other_in_circles() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    libraries(&root.join("src"), &mut found);
    libraries(&root.join("store/src"), &mut found);
    assert!(found.len() > 10, "the packages were not found: {found:?}");
    let mut wrong = Vec::new();
    for lib in found {
        let package = Package::read(&lib);
        for circle in circles(&package.uses()) {
            wrong.push(format!("{}: {}", lib.strip_prefix(root).expect("a file of ours").display(), circle.join(", ")));
        }
    }
    assert!(wrong.is_empty(), "files use each other:\n{}", wrong.join("\n"));
}

#[test]
fn circles_are_found() {
    let dir = tempfile::tempdir().expect("a directory");
    let write = |name: &str, text: &str| fs::write(dir.path().join(name), text).expect("written");
    fs::create_dir(dir.path().join("d")).expect("made");
    write("lib.rs", "mod a;\nmod b;\npub mod c;\nmod d;\nuse a::One;\npub struct Top(One);\n");
    write(
        "a.rs",
        "use super::{b::{self, Two as T}, c};\npub struct One(T, b::Other);\n// crate::Top\nconst TEXT: &str = \"crate::Top\";\n",
    );
    write("b.rs", "pub struct Two;\npub struct Other(crate::c::Three);\n");
    write("c.rs", "pub struct Three;\n#[cfg(test)]\nmod tests {\n    use super::super::a::One;\n}\n");
    write("d/mod.rs", "mod e;\npub struct Mine;\nfn f() { e::g() }\n");
    write("d/e.rs", "pub fn g() { super::h::<super::Mine>() }\n");
    let package = Package::read(&dir.path().join("lib.rs"));
    assert_eq!(circles(&package.uses()), [["d", "d::e"]]);
    write("c.rs", "pub struct Three(super::Top);\n");
    let package = Package::read(&dir.path().join("lib.rs"));
    assert_eq!(circles(&package.uses()), [vec!["d", "d::e"], vec!["lib", "a", "b", "c"]]);
}
