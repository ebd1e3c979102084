//! Comments, documentation and messages are in plain words; CONTRIBUTING.md has the rules.

use std::fs;
use std::path::{Path, PathBuf};

/// Clauses that stand for a noun: "what is kept" instead of "kept files".
const CLAUSES: [&str; 6] = ["what", "whatever", "who", "whoever", "whose", "whom"];
/// Home-made verbs for "report" and "describe".
const TELLING: [&str; 4] = ["tell", "tells", "told", "telling"];
/// Verbs of places for things that have none.
const PLACES: [&str; 11] = ["stand", "stands", "stood", "lie", "lies", "lead", "leads", "led", "bear", "bears", "borne"];
/// First words of a doc comment that does not name its subject.
const OPENINGS: [&str; 6] = ["What", "Who", "Whose", "Where", "How", "Which"];

/// Counts for some text.
#[derive(Default)]
struct Counts {
    words: usize,
    clauses: usize,
    telling: usize,
    places: usize,
}

impl Counts {
    fn add(&mut self, text: &str) {
        for word in without_code(text).split(|c: char| !(c.is_ascii_alphabetic() || c == '\'')).filter(|word| !word.is_empty()) {
            let word = word.to_ascii_lowercase();
            self.words += 1;
            self.clauses += usize::from(CLAUSES.contains(&word.as_str()));
            self.telling += usize::from(TELLING.contains(&word.as_str()));
            self.places += usize::from(PLACES.contains(&word.as_str()));
        }
    }

    fn of(text: &str) -> Counts {
        let mut counts = Counts::default();
        counts.add(text);
        counts
    }

    fn and(&mut self, other: &Counts) {
        self.words += other.words;
        self.clauses += other.clauses;
        self.telling += other.telling;
        self.places += other.places;
    }
}

/// Removes `code` and fenced blocks.
fn without_code(text: &str) -> String {
    let fences = text.split("```").step_by(2).collect::<Vec<_>>().join(" ");
    fences.split('`').step_by(2).collect::<Vec<_>>().join(" ")
}

/// Returns the comments of a source file, and its strings of errors, hints and help.
fn prose_of_code(text: &str) -> String {
    let mut prose = String::new();
    for line in text.lines() {
        let line = line.trim_start();
        if let Some(comment) = line.strip_prefix("//") {
            prose.push_str(comment.trim_start_matches(['/', '!']));
        } else if ["error", "hint", "help", "about", "message", "text"].iter().any(|key| line.contains(key))
            && let Some((_, string)) = line.split_once('"')
        {
            // Names in braces are code.
            let string = string.rsplit_once('"').map_or(string, |(string, _)| string);
            prose
                .push_str(&string.split('{').map(|part| part.split_once('}').map_or(part, |(_, rest)| rest)).collect::<Vec<_>>().join(" "));
        }
        prose.push('\n');
    }
    prose
}

/// Returns the running text of a page, without tables' rules and indented code.
fn prose_of_page(text: &str) -> String {
    let lines = text.lines().filter(|line| !line.trim_start().starts_with("|--") && !line.starts_with("    "));
    lines.collect::<Vec<_>>().join("\n")
}

fn files(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).expect("the tree can be read").flatten() {
        let path = entry.path();
        let name = entry.file_name();
        if path.is_dir() && name != "golden" && name != "target" {
            files(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs" || extension == "md") && name != "scoreboard.md" {
            found.push(path);
        }
    }
}

#[test]
fn texts_are_in_plain_words() {
    /// Hits in 1,000 words.
    const MOST_CLAUSES: f64 = 3.0;
    const MOST_CLAUSES_OF_A_FILE: f64 = 8.0;
    /// A short file may have this many at any rate.
    const FEW: usize = 2;
    const MOST_TELLING: f64 = 0.3;
    const MOST_PLACES: f64 = 0.5;
    const MOST_OPENINGS: f64 = 0.02;
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    ["src", "store", "docs"].iter().for_each(|dir| files(&root.join(dir), &mut found));
    let rate = |hits: usize, words: usize| hits as f64 * 1000.0 / words.max(1) as f64;
    let (mut all, mut comments, mut openings, mut wrong) = (Counts::default(), 0, 0, Vec::new());
    for path in found {
        let text = fs::read_to_string(&path).expect("text of ours");
        let is_code = path.extension().is_some_and(|extension| extension == "rs");
        let counts = Counts::of(&if is_code { prose_of_code(&text) } else { prose_of_page(&text) });
        let clauses = rate(counts.clauses, counts.words);
        if clauses >= MOST_CLAUSES_OF_A_FILE && counts.clauses > FEW {
            wrong.push(format!(
                "{}: {clauses:.1} of {CLAUSES:?} in 1,000 words",
                path.strip_prefix(root).expect("a file of ours").display()
            ));
        }
        all.and(&counts);
        let mut inside = false;
        for line in text.lines().map(str::trim_start).filter(|_| is_code) {
            let doc = line.strip_prefix("///").or_else(|| line.strip_prefix("//!"));
            if let Some(first) = doc.filter(|_| !inside) {
                comments += 1;
                openings += usize::from(first.split_whitespace().next().is_some_and(|word| OPENINGS.contains(&word)));
            }
            inside = doc.is_some();
        }
    }
    assert!(all.words > 100_000, "{} words are not all", all.words);
    for (name, hits, most) in
        [("clauses", all.clauses, MOST_CLAUSES), ("telling", all.telling, MOST_TELLING), ("places", all.places, MOST_PLACES)]
    {
        let rate = rate(hits, all.words);
        if rate >= most {
            wrong.push(format!("{name}: {rate:.2} in 1,000 words; the limit is {most}"));
        }
    }
    if f64::from(openings as u32) >= f64::from(comments as u32) * MOST_OPENINGS {
        wrong.push(format!("{openings} of {comments} doc comments open with one of {OPENINGS:?}"));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn words_are_counted() {
    let code = "//! What it is.\nfn f() {} // no\n/// Who `what` told.\n#[error(\"{what}: whose\")]\nlet hint = \"it stands\";\n";
    let counts = Counts::of(&prose_of_code(code));
    assert_eq!((counts.words, counts.clauses, counts.telling, counts.places), (8, 3, 1, 1));
    let page = Counts::of(&prose_of_page("What\n```\nwhat\n```\n    what\n|--|\nplain `who` words\n"));
    assert_eq!((page.words, page.clauses), (3, 1));
}
