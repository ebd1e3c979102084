//! The documentation as a site: links and anchors resolve, named files exist, and every page and every source file has its place.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use crate::support::golden;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Returns the pages of `docs/` and of the top directory, with their text.
fn pages() -> Vec<(PathBuf, String)> {
    let mut pages = Vec::new();
    for dir in [root().to_owned(), root().join("docs")] {
        for entry in fs::read_dir(dir).expect("our own directory").flatten() {
            let path = entry.path();
            if path.extension().is_some_and(|kind| kind == "md") {
                let text = fs::read_to_string(&path).expect("our own file");
                pages.push((path, text));
            }
        }
    }
    pages.sort();
    pages
}

/// Removes code blocks and code spans, which contain no links.
fn prose(text: &str) -> String {
    let mut prose = String::new();
    let mut is_code = false;
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            is_code = !is_code;
        } else if !is_code {
            prose.extend(line.split('`').step_by(2));
        }
        prose.push('\n');
    }
    prose
}

/// Returns the targets of `[text](target)` and `![text](target)`, with the number of their line.
fn links(text: &str) -> Vec<(usize, String)> {
    let mut links = Vec::new();
    for (number, line) in prose(text).lines().enumerate() {
        let mut rest = line;
        while let Some((_, behind)) = rest.split_once("](") {
            let Some((target, after)) = behind.split_once(')') else { break };
            links.push((number + 1, target.to_owned()));
            rest = after;
        }
    }
    links
}

/// Returns the anchors of a page's headings, as GitHub and mdBook form them.
fn anchors(text: &str) -> BTreeSet<String> {
    let mut anchors = BTreeSet::new();
    let mut is_code = false;
    for line in text.lines() {
        is_code ^= line.trim_start().starts_with("```");
        let title = line.trim_start_matches('#');
        if is_code || title.len() == line.len() || !title.starts_with(' ') {
            continue;
        }
        let slug: String = title
            .trim()
            .to_lowercase()
            .chars()
            .filter(|letter| letter.is_alphanumeric() || "-_ ".contains(*letter))
            .map(|letter| if letter == ' ' { '-' } else { letter })
            .collect();
        let free = (0..).map(|count| if count == 0 { slug.clone() } else { format!("{slug}-{count}") });
        anchors.extend(free.into_iter().find(|slug| !anchors.contains(slug)));
    }
    anchors
}

#[test]
fn headings_have_the_anchors_of_github() {
    let anchors = anchors("# One\n## `silo why`: a file's reason\n```\n# no heading\n```\n## One\n#no heading\n");
    assert_eq!(anchors.into_iter().collect::<Vec<_>>(), ["one", "one-1", "silo-why-a-files-reason"]);
}

#[test]
fn links_are_found_outside_of_code() {
    let found = links("[a](b.md) and ![c](d.svg), `[no](link)`\n```\n[no](link)\n```\n[e](#f)\n");
    assert_eq!(found, [(1, "b.md".to_owned()), (1, "d.svg".to_owned()), (5, "#f".to_owned())]);
}

#[test]
fn links_and_anchors_of_the_docs_resolve() {
    let pages: BTreeMap<PathBuf, String> = pages().into_iter().collect();
    let mut broken = Vec::new();
    let mut count = 0;
    for (page, text) in &pages {
        for (line, target) in links(text) {
            if target.starts_with("https://") || target.starts_with("mailto:") {
                continue;
            }
            count += 1;
            let (path, anchor) = target.split_once('#').unwrap_or((&target, ""));
            let file = if path.is_empty() { page.clone() } else { page.parent().expect("a file").join(path) };
            let Ok(file) = fs::canonicalize(&file) else {
                broken.push(format!("{}:{line}: {target}: there is no such file", page.display()));
                continue;
            };
            if !anchor.is_empty() && !fs::read_to_string(&file).is_ok_and(|text| anchors(&text).contains(anchor)) {
                broken.push(format!("{}:{line}: {target}: the page has no such heading", page.display()));
            }
        }
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
    assert!(count > 100, "only {count} links were found");
}

/// Paths in code spans that end like a source file, or are below a folder of the source: relative to the top directory or to `src/`.
#[test]
fn files_named_in_the_docs_exist() {
    let folders: BTreeSet<String> = [root().to_owned(), root().join("src")]
        .iter()
        .flat_map(|dir| fs::read_dir(dir).expect("our own directory").flatten())
        .filter(|entry| entry.path().is_dir())
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect();
    let mut missing = Vec::new();
    let mut count = 0;
    for (page, text) in pages() {
        for word in text.split('`').skip(1).step_by(2) {
            let first = word.split('/').next().unwrap_or_default();
            let is_folder = word.ends_with('/') && word.matches('/').count() > 1 && folders.contains(first);
            let is_path = is_folder || word.contains('/') && (word.ends_with(".rs") || word.ends_with(".py"));
            if !is_path || !word.chars().all(|letter| letter.is_ascii_alphanumeric() || "/._-".contains(letter)) {
                continue;
            }
            count += 1;
            let is_there = |place: &&str| {
                let path = root().join(place).join(word);
                if is_folder { path.is_dir() } else { path.is_file() }
            };
            if !["", "src"].iter().any(is_there) {
                missing.push(format!("{}: {word}", page.display()));
            }
        }
    }
    assert!(missing.is_empty(), "{}", missing.join("\n"));
    assert!(count > 50, "only {count} files are named");
}

/// The summary is the site's table of contents, and mdBook leaves out pages that it does not name.
#[test]
fn concepts_have_a_file_of_their_own() {
    let text = fs::read_to_string(root().join("docs/architecture.md")).expect("our own file");
    let (_, section) = text.split_once("\n## Where to find\n").expect("the section");
    let section = section.split("\n## ").next().unwrap_or_default();
    let mut concepts = BTreeSet::new();
    let mut files = BTreeSet::new();
    for row in section.lines().filter(|line| line.starts_with("| ")).skip(1) {
        let mut cells = row.split('|').skip(1).map(str::trim);
        let concept = cells.next().expect("a concept");
        assert!(concepts.insert(concept), "{concept} has two rows");
        let paths: Vec<&str> = cells.next().expect("the files").split('`').skip(1).step_by(2).collect();
        assert!(!paths.is_empty(), "{concept} has no file");
        for path in paths {
            assert!(["", "src"].iter().any(|place| root().join(place).join(path).is_file()), "{concept}: there is no {path}");
            assert!(files.insert(path), "{path} is in two rows");
        }
    }
    assert!(concepts.len() >= 20, "only {} concepts are listed", concepts.len());
}

#[test]
fn every_page_is_in_the_summary() {
    let summary = fs::read_to_string(root().join("docs/SUMMARY.md")).expect("the summary");
    let listed: Vec<String> = links(&summary).into_iter().map(|(_, target)| target).collect();
    for (page, _) in pages() {
        if page.parent().is_some_and(|dir| dir.ends_with("docs")) && !page.ends_with("SUMMARY.md") {
            let name = page.file_name().expect("a file").to_string_lossy().into_owned();
            assert_eq!(listed.iter().filter(|target| **target == name).count(), 1, "docs/SUMMARY.md must name {name} once");
        }
    }
}

#[test]
fn packages_use_only_those_below_them_in_the_table() {
    let page = fs::read_to_string(root().join("docs/architecture.md")).expect("the page");
    let mut table: Vec<(&str, String)> = Vec::new();
    for line in page.lines().filter(|line| line.starts_with("| `silo")) {
        let cells: Vec<&str> = line.split('`').collect();
        let folder = if cells[1] == "silo" { ".".to_owned() } else { cells[3].trim_end_matches('/').to_owned() };
        table.push((cells[1], folder));
    }
    assert!(table.len() > 8, "{table:?}");
    for (place, (name, folder)) in table.iter().enumerate() {
        let manifest = [folder.clone(), format!("src/{folder}")].map(|dir| root().join(dir).join("Cargo.toml"));
        let text = manifest.iter().find_map(|path| fs::read_to_string(path).ok()).expect("the package has a manifest");
        let text = text.split("[dependencies]").nth(1).unwrap_or_default();
        let uses = text.lines().take_while(|line| !line.starts_with('[')).filter_map(|line| line.split(['.', ' ', '=']).next());
        for used in uses.filter(|used| used.starts_with("silo-")) {
            assert!(table[place + 1..].iter().any(|(below, _)| *below == used), "{name} uses {used}, which is not below it in the table");
        }
    }
}

/// Returns the first sentence of a file's `//!` comment, on one line.
fn first_sentence(text: &str) -> String {
    let lines = text.lines().map_while(|line| line.strip_prefix("//!")).map(str::trim).take_while(|line| !line.is_empty());
    let text = lines.collect::<Vec<_>>().join(" ");
    let text = text.replace("[`", "`").replace("`]", "`").replace('|', "\\|");
    let sentence = text.split_once(". ").map_or(text.as_str(), |(first, _)| first);
    sentence.trim_end_matches('.').to_owned()
}

#[test]
fn every_file_is_in_the_architecture_page() {
    const BEGIN: &str = "<!-- files -->\n";
    const END: &str = "<!-- end of files -->\n";
    fn walk(dir: &Path, into: &mut BTreeMap<PathBuf, Vec<(String, String)>>) {
        for entry in fs::read_dir(dir).expect("our own directory").flatten() {
            let path = entry.path();
            if path.is_dir() {
                walk(&path, into);
            } else if path.extension().is_some_and(|kind| kind == "rs") {
                let name = path.file_name().expect("a file").to_string_lossy().into_owned();
                let sentence = first_sentence(&fs::read_to_string(&path).expect("our own file"));
                into.entry(dir.to_owned()).or_default().push((name, sentence));
            }
        }
    }
    let mut folders = BTreeMap::new();
    for dir in ["src", "store/src"] {
        walk(&root().join(dir), &mut folders);
    }
    let mut list = String::new();
    for (folder, mut files) in folders {
        files.sort();
        let folder = folder.strip_prefix(root()).expect("a folder of ours").display().to_string();
        list.push_str(&format!("### {folder}/\n\n| file | contents |\n|---|---|\n"));
        for (name, sentence) in files {
            list.push_str(&format!("| `{name}` | {sentence} |\n"));
        }
        list.push('\n');
    }
    let page = fs::read_to_string(root().join("docs/architecture.md")).expect("the page");
    let (before, rest) = page.split_once(BEGIN).expect("the page marks the list's beginning");
    let (_, after) = rest.split_once(END).expect("the page marks the list's end");
    golden("../../docs/architecture.md", &format!("{before}{BEGIN}\n{list}{END}{after}"));
}
