//! Detects the tools and add-ons of a project by the names of its files, and the directories that a sandbox should replace by its own.

use std::collections::BTreeSet;

/// Files that indicate a tool or add-on.
struct Indicator {
    /// Tool or add-on.
    name: &'static str,
    /// File names, any of which is enough.
    files: &'static [&'static str],
    /// Directories to exclude.
    exclude: &'static [&'static str],
}

/// Tools, in the order of the output.
const TOOLS: [Indicator; 6] = [
    Indicator {
        name: "python",
        files: &["requirements.txt", "pyproject.toml", "setup.py", "setup.cfg", "Pipfile", "uv.lock"],
        exclude: &[".venv"],
    },
    Indicator { name: "node", files: &["package.json"], exclude: &["node_modules"] },
    Indicator { name: "rust", files: &["Cargo.toml"], exclude: &["target"] },
    Indicator { name: "go", files: &["go.mod"], exclude: &[] },
    Indicator { name: "deno", files: &["deno.json", "deno.jsonc"], exclude: &[] },
    Indicator { name: "java", files: &["pom.xml", "build.gradle"], exclude: &[] },
];

/// Endings of source files, which count in a directory without any of these files.
const ENDINGS: [(&str, &str, &str); 6] = [
    ("python", ".py", "*.py"),
    ("node", ".js", "*.js"),
    ("node", ".mjs", "*.mjs"),
    ("rust", ".rs", "*.rs"),
    ("go", ".go", "*.go"),
    ("java", ".java", "*.java"),
];

/// Add-ons of python.
const OF_PYTHON: [Indicator; 2] =
    [Indicator { name: "poetry", files: &["poetry.lock"], exclude: &[] }, Indicator { name: "uv", files: &["uv.lock"], exclude: &[] }];

/// Languages that are added to another tool.
const LANGUAGES: [Indicator; 2] = [
    Indicator { name: "kotlin", files: &["build.gradle.kts", "settings.gradle.kts"], exclude: &[] },
    Indicator { name: "ruby", files: &["Gemfile"], exclude: &[] },
];

/// A detected tool or add-on, with the file that indicates it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DetectedTool {
    /// Tool or add-on.
    pub name: &'static str,
    /// File name, or a pattern of file names.
    pub file: &'static str,
}

/// Everything detected in a directory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Detected {
    /// Tools.
    pub tools: Vec<DetectedTool>,
    /// Add-ons of python.
    pub of_python: Vec<DetectedTool>,
    /// Languages, as add-ons of some tool.
    pub languages: Vec<DetectedTool>,
}

/// Detects tools and add-ons by the file names of a directory.
pub fn detect(names: &BTreeSet<String>) -> Detected {
    let found = |marks: &'static [Indicator]| {
        let one =
            |mark: &'static Indicator| Some(DetectedTool { name: mark.name, file: mark.files.iter().find(|file| names.contains(**file))? });
        marks.iter().filter_map(one).collect()
    };
    let mut detected = Detected { tools: found(&TOOLS), of_python: found(&OF_PYTHON), languages: found(&LANGUAGES) };
    if detected.tools.is_empty() && detected.languages.is_empty() {
        detected.tools = by_endings(names);
    }
    detected
}

/// Detects tools by source files.
fn by_endings(names: &BTreeSet<String>) -> Vec<DetectedTool> {
    let mut tools: Vec<DetectedTool> = Vec::new();
    for (name, ending, file) in ENDINGS {
        if tools.iter().all(|tool| tool.name != name) && names.iter().any(|file| file.ends_with(ending)) {
            tools.push(DetectedTool { name, file });
        }
    }
    tools
}

/// Returns the project directories to exclude for these tools.
pub fn excludes<'a>(tools: impl Iterator<Item = &'a str>) -> Vec<&'static str> {
    let of = |tool: &str| TOOLS.iter().find(|mark| mark.name == tool).map_or(&[][..], |mark| mark.exclude);
    tools.flat_map(|tool| of(tool).iter().copied()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_marks() {
        let check = |files: &[&str], expect: &[&str]| {
            let detected = detect(&files.iter().map(|file| (*file).to_owned()).collect());
            let all = detected.tools.iter().chain(&detected.of_python).chain(&detected.languages);
            assert_eq!(all.map(|found| found.name).collect::<Vec<_>>(), expect, "{files:?}");
        };
        check(&["README.md"], &[]);
        check(&["hello.py"], &["python"]);
        check(&["a.js", "b.mjs", "main.go"], &["node", "go"]);
        check(&["hello.py", "package.json"], &["node"]);
        check(&["Gemfile", "hello.py"], &["ruby"]);
        check(&["package.json", "requirements.txt"], &["python", "node"]);
        check(&["pyproject.toml", "uv.lock"], &["python", "uv"]);
        check(&["Cargo.toml", "go.mod", "deno.jsonc"], &["rust", "go", "deno"]);
        check(&["build.gradle.kts", "pom.xml", "Gemfile"], &["java", "kotlin", "ruby"]);
        assert_eq!(excludes(["python", "other", "rust"].into_iter()), [".venv", "target"]);
    }
}
