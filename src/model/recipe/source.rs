//! Additions to Debian's own packages: other apt archives with their keys, .deb files in the recipe's directory, and debconf answers.

use std::path::{Component, Path};

use schemars::JsonSchema;
use serde::Deserialize;

use super::check::sorted;
use super::error::Error;
use super::types::{AptSource, LocalDeb};

/// Maximum length of an archive key; Debian's complete keyring has 60 KB.
const MAX_KEY_BYTES: usize = 256 << 10;

/// An additional apt archive.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct SourceTable {
    /// Address, as in sources.list(5): `https://packages.example.com/apt`.
    pub uri: String,
    /// Suite.
    pub suite: String,
    /// Components; by default only `main`.
    pub components: Option<Vec<String>>,
    /// Signing key, ASCII-armoured; by default Debian's own keys.
    pub key: Option<String>,
    /// File with the signing key, in the recipe's directory.
    pub key_file: Option<String>,
}

/// Returns the address at the start of an [`AptSource::line`].
pub fn uri_of(line: &str) -> &str {
    line.split(' ').next().unwrap_or_default()
}

/// Checks an archive. A key file must have been read before.
pub fn check(table: SourceTable) -> Result<AptSource, Error> {
    let wrong = |value: &str, what: &'static str| Error::Source { value: value.to_owned(), what };
    let uri = table.uri.trim_end_matches('/').to_owned();
    let is_plain = |c: char| c.is_ascii_graphic() && !"\"'<>\\`{}|^@".contains(c);
    if !["https://", "http://", "file:/"].iter().any(|start| uri.starts_with(start)) || !uri.chars().all(is_plain) {
        return Err(wrong(&table.uri, "an address that begins with https://, http:// or file:/, without a login"));
    }
    if uri.contains("/../") || uri.ends_with("/..") {
        return Err(wrong(&table.uri, "an address without \"..\""));
    }
    if !is_word(&table.suite) {
        return Err(wrong(&table.suite, "a suite in one word; archives without suites (\"./\") cannot be used"));
    }
    let components = sorted(table.components.unwrap_or_else(|| vec!["main".to_owned()]));
    if components.is_empty() {
        return Err(Error::Empty("debian.sources.components"));
    }
    if let Some(wrong_one) = components.iter().find(|component| !is_word(component)) {
        return Err(wrong(wrong_one, "a component in one word"));
    }
    if let Some(key) = &table.key
        && (key.len() > MAX_KEY_BYTES || !key.contains("-----BEGIN PGP PUBLIC KEY BLOCK-----"))
    {
        return Err(wrong(
            "key",
            "an ASCII-armoured public key (-----BEGIN PGP PUBLIC KEY BLOCK-----), as `gpg --armor --export` writes it",
        ));
    }
    Ok(AptSource { uri, suite: table.suite, components, key: table.key })
}

/// Checks the name of a .deb file in `dir`: a path below it, in characters that locks can contain.
pub fn check_deb(name: &str, dir: &Path) -> Result<LocalDeb, Error> {
    let name = name.strip_prefix("./").unwrap_or(name);
    let below = Path::new(name).components().all(|part| matches!(part, Component::Normal(_)));
    let plain = |c: char| c.is_ascii_alphanumeric() || "+-._~/".contains(c);
    if below && name.ends_with(".deb") && name.len() <= 512 && name.chars().all(plain) && !name.contains("//") {
        Ok(LocalDeb { name: name.to_owned(), dir: dir.to_owned() })
    } else {
        Err(Error::Deb(name.to_owned()))
    }
}

/// Checks a debconf answer in the format of debconf-set-selections(1): owner, question, type and value.
pub fn check_answer(line: String) -> Result<String, Error> {
    let words: Vec<&str> = line.split_whitespace().take(3).collect();
    let known = ["string", "boolean", "select", "multiselect", "note", "text", "title", "error"];
    match words[..] {
        [owner, question, kind]
            if super::package_spec::is_package(owner)
                && question.contains('/')
                && known.contains(&kind)
                && !line.contains(['\n', '\r', '\0']) =>
        {
            Ok(line.trim().to_owned())
        }
        _ => Err(Error::Answer(line)),
    }
}

/// Returns the package of an answer.
pub fn owner(answer: &str) -> &str {
    answer.split_whitespace().next().unwrap_or_default()
}

fn is_word(text: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    text.starts_with(|c: char| c.is_ascii_alphanumeric()) && text.chars().all(plain) && !text.contains("..")
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "-----BEGIN PGP PUBLIC KEY BLOCK-----\n";

    #[test]
    fn sources_are_checked() {
        let table = |uri: &str, suite: &str, key: Option<&str>| SourceTable {
            uri: uri.to_owned(),
            suite: suite.to_owned(),
            key: key.map(str::to_owned),
            ..SourceTable::default()
        };
        let source = check(table("https://example.com/apt/", "stable", Some(KEY))).expect("a source");
        assert_eq!((source.uri.as_str(), source.components.as_slice()), ("https://example.com/apt", ["main".to_owned()].as_slice()));
        assert!(source.line().starts_with("https://example.com/apt stable main key "));
        assert_eq!(uri_of(&source.line()), "https://example.com/apt");
        for (uri, suite, key) in [
            ("ftp://example.com", "stable", None),
            ("/srv/apt", "stable", None),
            ("https://me:word@example.com", "stable", None),
            ("https://example.com/a b", "stable", None),
            ("https://example.com/a/../b", "stable", None),
            ("https://example.com", "./", None),
            ("https://example.com", "../x", None),
            ("https://example.com", "stable", Some("no key")),
        ] {
            assert!(check(table(uri, suite, key)).is_err(), "{uri} {suite}");
        }
    }

    #[test]
    fn local_debs_are_below_the_recipe() {
        let dir = Path::new("/r");
        assert_eq!(check_deb("./debs/a_1.0~x_amd64.deb", dir).expect("a name").name, "debs/a_1.0~x_amd64.deb");
        for wrong in ["a", "../a.deb", "/a.deb", "a/../b.deb", "a b.deb", "a\n.deb", "x//a.deb", ".deb/"] {
            assert!(check_deb(wrong, dir).is_err(), "{wrong}");
        }
    }

    #[test]
    fn answers_are_as_debconf_takes_them() {
        assert!(check_answer("postfix postfix/main_mailer_type select No configuration".to_owned()).is_ok());
        assert!(check_answer("tzdata tzdata/Areas select Europe".to_owned()).is_ok());
        // Everybody with the image can read a password in it.
        for wrong in
            ["", "postfix", "postfix a select x", "postfix postfix/x password y", "a b/c select x\nd e/f select y", "-o a/b select x"]
        {
            assert!(check_answer(wrong.to_owned()).is_err(), "{wrong}");
        }
        assert_eq!(owner("postfix postfix/x select y"), "postfix");
    }
}
