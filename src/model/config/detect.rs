//! Which tools and add-ons a directory is for, by the names of files that stand in it, and which of its directories a
//! sandbox is better off with its own of.

use std::collections::BTreeSet;

/// What a file is the mark of.
struct Mark {
    /// The tool or add-on.
    name: &'static str,
    /// The files, any of which is enough.
    files: &'static [&'static str],
    /// Directories to exclude.
    exclude: &'static [&'static str],
}

/// Tools, in the order in which they are told.
const TOOLS: [Mark; 5] = [
    Mark {
        name: "python",
        files: &["requirements.txt", "pyproject.toml", "setup.py", "setup.cfg", "Pipfile", "uv.lock"],
        exclude: &[".venv"],
    },
    Mark { name: "node", files: &["package.json"], exclude: &["node_modules"] },
    Mark { name: "rust", files: &["Cargo.toml"], exclude: &["target"] },
    Mark { name: "go", files: &["go.mod"], exclude: &[] },
    Mark { name: "deno", files: &["deno.json", "deno.jsonc"], exclude: &[] },
];

/// Add-ons of python.
const OF_PYTHON: [Mark; 2] =
    [Mark { name: "poetry", files: &["poetry.lock"], exclude: &[] }, Mark { name: "uv", files: &["uv.lock"], exclude: &[] }];

/// Languages that are laid over another tool.
const LANGUAGES: [Mark; 3] = [
    Mark { name: "kotlin", files: &["build.gradle.kts", "settings.gradle.kts"], exclude: &[] },
    Mark { name: "java", files: &["pom.xml", "build.gradle"], exclude: &[] },
    Mark { name: "ruby", files: &["Gemfile"], exclude: &[] },
];

/// Something that was found, with the file that shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The tool or add-on.
    pub name: &'static str,
    /// The file.
    pub file: &'static str,
}

/// What a directory is for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Detected {
    /// Tools.
    pub tools: Vec<Found>,
    /// Add-ons of python.
    pub of_python: Vec<Found>,
    /// Languages, which are laid over some tool.
    pub languages: Vec<Found>,
}

/// Looks at the names in a directory.
pub fn detect(names: &BTreeSet<String>) -> Detected {
    let found = |marks: &'static [Mark]| {
        let one = |mark: &'static Mark| Some(Found { name: mark.name, file: mark.files.iter().find(|file| names.contains(**file))? });
        marks.iter().filter_map(one).collect()
    };
    Detected { tools: found(&TOOLS), of_python: found(&OF_PYTHON), languages: found(&LANGUAGES) }
}

/// Returns the directories of a project that a sandbox with these tools has of its own.
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
        check(&["package.json", "requirements.txt"], &["python", "node"]);
        check(&["pyproject.toml", "uv.lock"], &["python", "uv"]);
        check(&["Cargo.toml", "go.mod", "deno.jsonc"], &["rust", "go", "deno"]);
        check(&["build.gradle.kts", "pom.xml", "Gemfile"], &["kotlin", "java", "ruby"]);
        assert_eq!(excludes(["python", "other", "rust"].into_iter()), [".venv", "target"]);
    }
}
