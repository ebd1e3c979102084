//! Dependencies of a single-file Python script, from the comment that PEP 723 defines.

use serde::Deserialize;

/// Limit on the number of dependencies.
const MAX_DEPENDENCIES: usize = 500;
/// Longest dependency in bytes.
const MAX_DEPENDENCY_BYTES: usize = 1000;

/// First and last line of the comment.
const BEGIN: &str = "# /// script";
const END: &str = "# ///";

/// The metadata of a script.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ScriptMetadata {
    /// Supported versions of Python, as specifiers of PEP 440.
    pub requires_python: Option<String>,
    /// Dependencies, as requirements of PEP 508.
    pub dependencies: Vec<String>,
    /// Names of the tables for other programs, such as `uv`, which do not count.
    pub ignored: Vec<String>,
}

/// Invalid metadata.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Two comments of this kind.
    #[error("the script has several `# /// script` comments; keep one")]
    Several,
    /// The comment is not TOML, or a key has a wrong type.
    #[error("the `# /// script` comment is not valid: {0}")]
    Toml(String),
    /// A dependency that cannot be one.
    #[error("the `# /// script` comment: \"{0}\" is not a dependency; write a name and a version, as in \"requests>=2\"")]
    Dependency(String),
    /// More dependencies than supported.
    #[error("the `# /// script` comment has more than {MAX_DEPENDENCIES} dependencies")]
    Many,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Written {
    requires_python: Option<String>,
    #[serde(default)]
    dependencies: Vec<String>,
    #[serde(default)]
    tool: toml::Table,
}

/// Reads the metadata of a script; `None` if it has none.
pub fn metadata(text: &str) -> Result<Option<ScriptMetadata>, Error> {
    let lines: Vec<&str> = text.lines().collect();
    let mut blocks = Vec::new();
    let mut at = 0;
    while at < lines.len() {
        if lines[at] != BEGIN {
            at += 1;
            continue;
        }
        match block(&lines[at + 1..]) {
            Ok(block) => {
                at += block.len() + 2;
                blocks.push(block);
            }
            // Another begin in the same comment has no end, either.
            Err(length) => at += length + 1,
        }
    }
    match blocks.as_slice() {
        [] => Ok(None),
        [block] => checked(block).map(Some),
        _ => Err(Error::Several),
    }
}

/// Returns the lines of a comment up to its end: the last end line before a line of another kind. Without an end, fails with their number.
fn block<'a>(lines: &[&'a str]) -> Result<Vec<&'a str>, usize> {
    let comment: Vec<&str> = lines.iter().copied().take_while(|line| *line == "#" || line.starts_with("# ")).collect();
    let end = comment.iter().rposition(|line| *line == END).ok_or(comment.len())?;
    Ok(comment[..end].to_vec())
}

fn checked(block: &[&str]) -> Result<ScriptMetadata, Error> {
    let text: String = block.iter().map(|line| format!("{}\n", line.strip_prefix("# ").unwrap_or(""))).collect();
    let written: Written = toml::from_str(&text).map_err(|error| Error::Toml(error.message().to_owned()))?;
    if written.dependencies.len() > MAX_DEPENDENCIES {
        return Err(Error::Many);
    }
    let dependencies: Vec<String> = written.dependencies.iter().map(|text| text.trim().to_owned()).collect();
    if let Some(wrong) = dependencies.iter().find(|text| parse(text).is_none()) {
        return Err(Error::Dependency(wrong.chars().take(MAX_DEPENDENCY_BYTES).collect()));
    }
    Ok(ScriptMetadata { requires_python: written.requires_python, dependencies, ignored: written.tool.keys().cloned().collect() })
}

/// The parts of a dependency, in one form each, so that equal dependencies are equal.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Dependency {
    /// Normalised name.
    pub name: String,
    /// Extras, sorted.
    pub extras: Vec<String>,
    /// Version specifiers without spaces, sorted; or the address after an `@`.
    pub specifiers: Vec<String>,
    /// Environment marker without spaces and with double quotes.
    pub marker: String,
}

/// Parses a requirement of PEP 508; pip checks the details.
pub fn parse(text: &str) -> Option<Dependency> {
    let is_name = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    let is_plain = text.len() <= MAX_DEPENDENCY_BYTES && !text.contains(char::is_control);
    if !is_plain || !text.starts_with(|c: char| c.is_ascii_alphanumeric()) {
        return None;
    }
    let end = text.find(|c| !is_name(c)).unwrap_or(text.len());
    let (name, rest) = text.split_at(end);
    let (rest, marker) = rest.split_once(';').unwrap_or((rest, ""));
    let rest = rest.trim();
    let (extras, rest) = match rest.strip_prefix('[') {
        Some(rest) => rest.split_once(']')?,
        None => ("", rest),
    };
    let rest = rest.trim().trim_start_matches('(').trim_end_matches(')');
    let sorted = |text: &str| {
        let mut parts: Vec<String> = text.split(',').map(without_spaces).filter(|part| !part.is_empty()).collect();
        parts.sort();
        parts
    };
    Some(Dependency {
        name: normalised(name),
        extras: sorted(extras).iter().map(|extra| normalised(extra)).collect(),
        specifiers: sorted(rest),
        marker: without_spaces(marker).replace('\'', "\""),
    })
}

/// Returns the normalised form of a package's name.
pub fn normalised(name: &str) -> String {
    let mut normal = String::with_capacity(name.len());
    for c in name.chars() {
        match c {
            '-' | '_' | '.' if normal.ends_with('-') => {}
            '-' | '_' | '.' => normal.push('-'),
            c => normal.push(c.to_ascii_lowercase()),
        }
    }
    normal
}

fn without_spaces(text: &str) -> String {
    text.split_whitespace().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scripts_name_their_dependencies() {
        let text = "#!/usr/bin/env -S silo run python\n# /// script\n# requires-python = \">=3.11\"\n# dependencies = [\n#   \"requests<3\",\n#\n#   \"Rich [a]>=13 , <14\",\n# ]\n# [tool.uv]\n# x = 1\n# ///\nprint(1)\n";
        let found = metadata(text).expect("valid").expect("there");
        assert_eq!(found.requires_python.as_deref(), Some(">=3.11"));
        assert_eq!(found.dependencies, ["requests<3", "Rich [a]>=13 , <14"]);
        assert_eq!(found.ignored, ["uv"]);
        for none in ["", "# /// script\nprint(1)\n", "# /// other\n# a = 1\n# ///\n", "#/// script\n# ///\n", "# /// script\n#x\n# ///\n"] {
            assert_eq!(metadata(none), Ok(None), "{none}");
        }
        assert_eq!(metadata("# /// script\n# ///\n"), Ok(Some(ScriptMetadata::default())));
        // Each line is read once: with the square of their number this would take hours.
        assert_eq!(metadata(&"# /// script\n".repeat(300_000)), Ok(None));
    }

    #[test]
    fn invalid_metadata_is_refused() {
        let of = |content: &str| metadata(&format!("# /// script\n{content}\n# ///\n")).expect_err(content).to_string();
        assert!(of("# = 1").contains("is not valid"));
        assert!(of("# dependencies = 1").contains("is not valid"));
        for wrong in ["-e x", "--index-url=y", "", "a\\u0007"] {
            assert!(of(&format!("# dependencies = [\"{wrong}\"]")).contains("is not a dependency"), "{wrong}");
        }
        let twice = "# /// script\n# ///\n\n# /// script\n# ///\n";
        assert_eq!(metadata(twice), Err(Error::Several));
    }

    #[test]
    fn equal_dependencies_have_equal_parts() {
        for (one, other) in [
            ("Foo_Bar", "foo-bar"),
            ("a>=1,<2", "a <2, >=1"),
            ("a[x,y] ; python_version<'3'", "a[y, x];python_version < \"3\""),
            ("a (>=1)", "a>=1"),
        ] {
            assert_eq!(parse(one), parse(other), "{one}");
        }
        assert_ne!(parse("a>=1"), parse("a>1"));
    }
}
