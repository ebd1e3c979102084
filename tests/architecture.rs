//! Rules of the code base: module order, sizes, names, and the allowed places of special calls.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn rust_files(below: &str) -> Vec<(PathBuf, String)> {
    let mut files = Vec::new();
    let mut dirs = vec![root().join(below)];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(&dir).expect("the source tree can be read").flatten() {
            let path = entry.path();
            if path.is_dir() {
                dirs.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).expect("source is text");
                files.push((path.strip_prefix(root()).expect("a file of ours").to_owned(), text));
            }
        }
    }
    files.sort();
    files
}

/// The code of a file without its tests, which are at the end.
fn code(text: &str) -> &str {
    text.split("#[cfg(test)]\nmod tests").next().unwrap_or(text)
}

/// Reads the modules of a `lib.rs` or `mod.rs` with the number of their floor, the lowest first.
fn floors(text: &str) -> BTreeMap<String, usize> {
    let mut floors = BTreeMap::new();
    let mut floor = 0;
    let mut open = false;
    for line in text.lines() {
        let declared = line
            .strip_prefix("pub mod ")
            .or_else(|| line.strip_prefix("mod "))
            .or_else(|| line.strip_prefix("pub(crate) mod "))
            .or_else(|| line.strip_prefix("pub(super) mod "));
        if let Some(name) = declared.and_then(|rest| rest.strip_suffix(';')) {
            floors.insert(name.to_owned(), floor);
            open = true;
        } else if line.is_empty() && open {
            floor += 1;
            open = false;
        }
    }
    floors
}

/// Finds `prefix::name` in code and returns the names.
fn uses<'a>(text: &'a str, prefix: &str) -> Vec<&'a str> {
    let mut names = Vec::new();
    for line in code(text).lines().filter(|line| !line.trim_start().starts_with("//")) {
        for (at, _) in line.match_indices(prefix) {
            let rest = &line[at + prefix.len()..];
            let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(rest.len());
            if end > 0 {
                names.push(&rest[..end]);
            } else if let Some(group) = rest.strip_prefix('{') {
                names.extend(
                    group
                        .split([',', '}'])
                        .map(|item| item.trim().split([':', ' ']).next().unwrap_or_default())
                        .filter(|name| !name.is_empty()),
                );
            }
        }
    }
    names
}

fn check_floors(src: &str) {
    let text = fs::read_to_string(root().join(src).join("lib.rs")).expect("a library has a lib.rs");
    let floors = floors(&text);
    let mut wrong = Vec::new();
    for (path, text) in rust_files(src) {
        let room = path
            .strip_prefix(src)
            .expect("below src")
            .components()
            .next()
            .expect("a file")
            .as_os_str()
            .to_string_lossy()
            .replace(".rs", "");
        let Some(mine) = floors.get(&room) else { continue };
        for used in uses(&text, "crate::") {
            if let Some(theirs) = floors.get(used)
                && used != room
                && theirs >= mine
            {
                wrong.push(format!("{}: uses {used}, which is not on a lower floor", path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The source folder of each package.
fn packages() -> Vec<String> {
    let mut found: Vec<String> = rust_files("src")
        .into_iter()
        .chain(rust_files("store/src"))
        .filter(|(path, _)| path.ends_with("lib.rs"))
        .filter_map(|(path, _)| Some(path.parent()?.to_string_lossy().into_owned()))
        .collect();
    found.sort();
    assert!(found.len() > 10, "the packages were not found: {found:?}");
    found
}

#[test]
fn modules_use_only_floors_below() {
    for source in packages() {
        check_floors(&source);
    }
}

/// Checks the floors of each folder of a package, and that no module uses an item of a module around it.
fn check_floors_inside(src: &str) {
    let files = rust_files(src);
    let mut wrong = Vec::new();
    for (list, text) in files.iter().filter(|(path, _)| path.ends_with("lib.rs") || path.ends_with("mod.rs")) {
        let folder = list.parent().expect("a file has a folder");
        let floors = floors(text);
        // A module may have a file of another name for each system.
        let names: BTreeMap<&str, &str> = text
            .split("#[path = \"")
            .skip(1)
            .filter_map(|rest| Some((rest.split_once(".rs")?.0, rest.split_once("mod ")?.1.split_once(';')?.0)))
            .collect();
        let outer: Vec<String> =
            folder.strip_prefix(src).expect("below src").iter().map(|part| part.to_string_lossy().into_owned()).collect();
        for (path, text) in files.iter().filter(|(path, _)| path != list && path.starts_with(folder)) {
            let inner: Vec<String> = path
                .strip_prefix(folder)
                .expect("below it")
                .with_extension("")
                .iter()
                .map(|part| part.to_string_lossy().into_owned())
                .collect();
            let room = names.get(inner[0].as_str()).copied().unwrap_or(&inner[0]);
            // Files of tests are no modules of the room.
            let Some(mine) = floors.get(room) else { continue };
            let depth = inner.iter().filter(|part| *part != "mod").count();
            let prefixes =
                [["crate::", &outer.iter().map(|part| format!("{part}::")).collect::<String>()].concat(), "super::".repeat(depth)];
            for prefix in prefixes {
                for used in uses_in_one_line(text, &prefix) {
                    match floors.get(&used) {
                        Some(theirs) if used != room && theirs >= mine => {
                            wrong.push(format!("{}: {used} is not on a lower floor", path.display()))
                        }
                        None if used != "super" && used != "self" => {
                            wrong.push(format!("{}: uses {used} of {}", path.display(), list.display()))
                        }
                        _ => {}
                    }
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Like [`uses`], for paths that begin with the prefix, also if a group continues on other lines.
fn uses_in_one_line(text: &str, prefix: &str) -> Vec<String> {
    let lines = code(text).lines().filter(|line| !line.trim_start().starts_with("//"));
    let line = lines.map(str::trim).collect::<Vec<_>>().join(" ");
    let mut names = Vec::new();
    for (at, _) in line.match_indices(prefix) {
        // The tail of a longer path is no path.
        if line[..at].ends_with(|letter: char| letter.is_alphanumeric() || letter == '_' || letter == ':' || letter == '$') {
            continue;
        }
        let rest = &line[at + prefix.len()..];
        let mut depth = 0;
        // Only the first part of each path of a group counts.
        let mut is_first = true;
        let mut name = String::new();
        for letter in rest.chars() {
            if letter.is_alphanumeric() || letter == '_' {
                name.extend(is_first.then_some(letter));
                continue;
            }
            if !name.is_empty() {
                names.push(std::mem::take(&mut name));
                is_first = false;
            }
            match letter {
                '{' => depth += 1,
                '}' => depth -= 1,
                ',' if depth == 1 => is_first = true,
                _ => {}
            }
            if depth <= 0 {
                break;
            }
        }
    }
    names
}

#[test]
fn rooms_of_the_launcher_have_floors_inside() {
    for source in ["src/launch", "src/guest/init/src", "src/guest/wire/src"] {
        check_floors_inside(source);
    }
}

#[test]
fn files_are_rooms() {
    /// A module has 100 to 300 lines; above this limit it must be split by concept. Tests do not count.
    const MAX_LINES: usize = 500;
    for (path, text) in rust_files("src").into_iter().chain(rust_files("store/src")) {
        let lines = code(&text).lines().count();
        assert!(lines <= MAX_LINES, "{} has {lines} lines", path.display());
        assert!(text.starts_with("//!"), "{} does not begin by saying what it is", path.display());
    }
}

#[test]
fn names_name_things() {
    const BANNED: [&str; 10] = ["util", "utils", "helper", "helpers", "common", "misc", "manager", "handler", "service", "factory"];
    for (path, _) in rust_files("src").into_iter().chain(rust_files("store/src")).chain(rust_files("tests")) {
        for part in path.with_extension("").components() {
            let part = part.as_os_str().to_string_lossy().into_owned();
            assert!(!BANNED.contains(&part.as_str()), "{}: {part} names nothing", path.display());
        }
    }
}

/// True if a file is a module of tests alone.
fn is_of_tests(path: &Path) -> bool {
    let (Some(dir), Some(name)) = (path.parent(), path.file_stem().and_then(|name| name.to_str())) else { return false };
    let declared = format!("#[cfg(test)]\nmod {name};");
    ["lib.rs", "mod.rs"].iter().any(|above| fs::read_to_string(dir.join(above)).is_ok_and(|text| text.contains(&declared)))
}

/// Fails if the text occurs in code outside `allowed`.
fn only_in(what: &str, allowed: &[&str]) {
    for (path, text) in rust_files("src").into_iter().chain(rust_files("store/src")).filter(|(path, _)| !is_of_tests(path)) {
        let stands = code(&text).lines().any(|line| !line.trim_start().starts_with("//") && line.contains(what));
        let path = path.to_string_lossy();
        assert!(!stands || allowed.iter().any(|place| path.starts_with(place)), "{path}: {what} may stand only in {allowed:?}");
    }
}

#[test]
fn special_things_stand_in_one_place() {
    only_in("unsafe {", &["src/launch/kernel/sys.rs", "src/launch/vm/vz_bindings.rs", "src/guest/init/src/sys.rs"]);
    only_in("unsafe fn", &["src/launch/kernel/sys.rs"]);
    // syncfs exists on Linux only; the launcher's own module lists choose the process starters.
    let choices = ["src/launch/lib.rs", "src/launch/tier.rs", "src/launch/host/mod.rs", "src/launch/vm/mod.rs"];
    only_in("target_os", &[&choices[..], &["src/launch/reexec.rs", "store/src/system.rs", "src/guest/init/src/lib.rs"]].concat());
    only_in("std::env::var", &["src/cli/env.rs", "src/launch/host/source.rs"]);
    only_in("process::exit", &[]);
    only_in("\".silo\"", &["src/base/home.rs", "src/run/private_dirs.rs"]);
    // A blob that a push finds counts as young.
    only_in("SystemTime::now", &["src/cli/env.rs", "src/fetch/registry/layout_writer.rs", "src/launch/host/clock.rs"]);
    only_in("anyhow", &["src/cli/"]);
    // A worker that panicked; all other faults have errors of their own.
    only_in("Error::Worker", &["src/builder/step.rs", "src/builder/configure.rs"]);
    // One implementation removes trees, and it follows no link.
    only_in("remove_dir_all", &[]);
    // Files in a home are private to their owner. The exceptions are files that the user named, files for guests, and kernel files.
    let apart = [
        "src/builder/image/export.rs",
        "src/fetch/registry/layout_writer.rs",
        "src/builder/configure.rs",
        "src/builder/generated_secrets.rs",
        "src/launch/",
    ];
    only_in("fs::create_dir", &[&apart[..], &["src/run/", "src/cli/ide.rs"]].concat());
    only_in("File::create", &["src/builder/image/export.rs", "src/fetch/registry/layout_writer.rs", "src/cli/timing.rs"]);
    only_in(" fs::write(", &[&apart[..], &["src/builder/step.rs", "src/builder/generated_secrets.rs"]].concat());
}

/// All output is escaped, so it has a single exit. The output of a sandboxed program passes unchanged through the descriptors of
/// `rustix::stdio`, in the launcher and in `overheard.rs`, which copies it; `notices.rs` escapes its own lines.
#[test]
fn text_leaves_through_the_sink_alone() {
    for way in ["print!(", "println!(", "eprint!(", "eprintln!(", " io::stderr()", "(io::stderr()", "std::io::stderr()", "error.print()"] {
        only_in(way, &["src/cli/ui.rs"]);
    }
    // The other process of a step answers its parent through a pipe.
    only_in(" io::stdout()", &["src/cli/ui.rs", "src/launch/reexec.rs"]);
    only_in("(io::stdout()", &["src/cli/ui.rs"]);
    // The interactive view of a review draws escaped texts.
    only_in("screen_output(", &["src/cli/ui.rs", "src/cli/full_screen.rs"]);
    only_in("stdio::std", &["src/launch/", "src/cli/restore_tty.rs"]);
    only_in("dup2_std", &["src/launch/", "src/cli/captured_stderr.rs"]);
    only_in("/dev/tty", &["src/launch/"]);
}

/// The system may refuse a thread, and these would panic.
#[test]
fn threads_are_started_where_it_can_fail() {
    for way in ["thread::spawn(", "scope.spawn(", "enable_steady_tick", "new_multi_thread", "spawn_blocking"] {
        only_in(way, &[]);
    }
    // Its global pool panics; the one that is built there does not.
    only_in("rayon", &["store/src/parallel.rs"]);
}

#[test]
fn no_registry_is_spelled_out() {
    let hosts = [
        ["deb", "debian"],
        ["snapshot", "debian"],
        ["security", "debian"],
        ["registry", "npmjs"],
        ["files", "pythonhosted"],
        ["index", "crates"],
        ["static", "crates"],
    ]
    .map(|parts| parts.join("."));
    let mut wrong = Vec::new();
    let mut dirs: Vec<PathBuf> =
        ["src", "store", "recipes", "docs", "examples", "tests", "benches"].iter().map(|dir| root().join(dir)).collect();
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                dirs.push(path);
            } else {
                let text = String::from_utf8_lossy(&fs::read(&path).expect("a file of ours")).into_owned();
                wrong.extend(hosts.iter().filter(|host| text.contains(host.as_str())).map(|host| format!("{}: {host}", path.display())));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Lists the functions of a file by name, with their parameters.
fn functions(text: &str) -> Vec<(String, Vec<String>)> {
    let lines = code(text).lines().filter(|line| !line.trim_start().starts_with("//"));
    let text = lines.collect::<Vec<_>>().join("\n");
    let mut found = Vec::new();
    for (at, _) in text.match_indices("fn ") {
        if text[..at].ends_with(|letter: char| letter.is_alphanumeric() || letter == '_') {
            continue;
        }
        let rest = &text[at + 3..];
        let name: String = rest.chars().take_while(|letter| letter.is_alphanumeric() || *letter == '_').collect();
        // The type of a function pointer has no name.
        if !name.is_empty() {
            found.push((name.clone(), parameters(&rest[name.len()..])));
        }
    }
    found
}

/// Splits the first list in parentheses after the generic parameters at its commas.
fn parameters(text: &str) -> Vec<String> {
    let mut depth = 0;
    let mut last = ' ';
    // The open list; `None` before it.
    let mut list: Option<Vec<String>> = None;
    for letter in text.chars() {
        let is_arrow = letter == '>' && ['-', '='].contains(&last);
        last = letter;
        match (&mut list, letter) {
            (None, '(') if depth == 0 => {
                list = Some(vec![String::new()]);
                continue;
            }
            (Some(_), ')') if depth == 0 => break,
            (Some(list), ',') if depth == 0 => {
                list.push(String::new());
                continue;
            }
            _ => {}
        }
        match letter {
            '(' | '[' | '<' => depth += 1,
            ')' | ']' => depth -= 1,
            '>' if !is_arrow => depth -= 1,
            _ => {}
        }
        if let Some(one) = list.as_mut().and_then(|list| list.last_mut()) {
            one.push(letter);
        }
    }
    let list = list.unwrap_or_default().into_iter().map(|one| one.trim().to_owned());
    list.filter(|one| !one.is_empty()).collect()
}

#[test]
fn functions_are_found_with_their_parameters() {
    let text = "pub fn plain() {}\nfn generic<T: Fn(u8, bool) -> bool>(act: T, list: &[(u8, bool)]) -> bool {\n    let of: fn(bool) = act;\n}\n\
        // fn comment(a: bool) {}\nfn long(\n    &mut self,\n    map: BTreeMap<u8, (u8, u8)>,\n    is_it: bool,\n) -> u8;\nstruct Fn;\n";
    let expect = [
        ("plain", vec![]),
        ("generic", vec!["act: T", "list: &[(u8, bool)]"]),
        ("long", vec!["&mut self", "map: BTreeMap<u8, (u8, u8)>", "is_it: bool"]),
    ];
    let found = functions(text);
    let found: Vec<(&str, Vec<&str>)> =
        found.iter().map(|(name, list)| (name.as_str(), list.iter().map(String::as_str).collect())).collect();
    assert_eq!(found, expect);
}

/// A caller that passes `true` says nothing: such a parameter is an enum, or there are two functions. A flag of the command line becomes an
/// enum in a function `of_flag` or `of_flags`.
#[test]
fn functions_take_no_bools_and_few_parameters() {
    const MAX_PARAMETERS: usize = 5;
    // A trait of the solver's library has this one.
    const NOT_OURS: [&str; 1] = ["filter_candidates"];
    let mut wrong = Vec::new();
    let mut count = 0;
    for (path, text) in rust_files("src").into_iter().chain(rust_files("store/src")) {
        for (name, parameters) in functions(&text) {
            count += 1;
            let is_bool = |parameter: &String| {
                let kind = parameter.rsplit_once(": ").map_or("", |(_, kind)| kind);
                ["bool", "&bool", "&mut bool", "Option<bool>"].contains(&kind)
            };
            if parameters.iter().any(is_bool) && !name.starts_with("of_flag") && !NOT_OURS.contains(&name.as_str()) {
                wrong.push(format!("{}: {name} takes a bool", path.display()));
            }
            if parameters.len() > MAX_PARAMETERS {
                wrong.push(format!("{}: {name} takes {} parameters", path.display(), parameters.len()));
            }
        }
    }
    assert!(count > 2000, "only {count} functions were found");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
