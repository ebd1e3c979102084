//! The secrets of a run: a placeholder for each, and the certificate authority for their hosts. No value is read here.

use std::fmt::Write;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use silo_base::secret::Source;
use silo_launch::broker::authority::Authority;
use silo_launch::spec::secrets::{Secret, Secrets};
use silo_model::config::Settings;

use super::error::Error;

/// Begins each placeholder.
const PREFIX: &str = "silo-secret-";

/// Inputs that decide the secrets of a run.
pub struct SecretInputs<'a> {
    /// The user's own settings.
    pub settings: &'a Settings,
    /// Name of the tool.
    pub tool: &'a str,
    /// The user's home directory.
    pub user_home: &'a Path,
    /// The host's CA bundle.
    pub roots: Option<&'a Path>,
}

/// Returns the secrets of a tool, if it has some.
pub fn of(given: &SecretInputs<'_>) -> Result<Option<Secrets>, Error> {
    let secrets = given.settings.secrets(given.tool);
    if secrets.is_empty() {
        return Ok(None);
    }
    let own = |(name, secret): (&str, &silo_model::config::Secret)| {
        Ok(Secret {
            name: name.to_owned(),
            placeholder: placeholder()?,
            from: at_home(&secret.from, given.user_home),
            hosts: secret.hosts.clone(),
        })
    };
    let list = secrets.into_iter().map(own).collect::<Result<_, Error>>()?;
    let authority = Authority::new().map_err(|error| Error::Secret(error.to_string()))?;
    Ok(Some(Secrets { authority, roots: given.roots.map(Path::to_owned), list }))
}

/// Makes a placeholder with 128 random bits.
fn placeholder() -> Result<String, Error> {
    let mut bytes = [0; 16];
    let read = File::open("/dev/urandom").and_then(|mut random| random.read_exact(&mut bytes));
    read.map_err(|error| Error::Secret(format!("/dev/urandom: {error}")))?;
    Ok(bytes.iter().fold(PREFIX.to_owned(), |mut text, byte| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    }))
}

/// Replaces `~` in the path of a file.
fn at_home(source: &Source, home: &Path) -> Source {
    match source {
        Source::File(path) => Source::File(path.strip_prefix("~").map_or_else(|_| PathBuf::clone(path), |inner| home.join(inner))),
        other => other.clone(),
    }
}

#[cfg(test)]
mod tests {
    use silo_model::config::read;

    use super::*;

    #[test]
    fn each_run_has_placeholders_and_an_authority_of_its_own() {
        let text = "[secrets]\nA = { from = \"file:~/.token\", hosts = [\"a.example\"] }\n[overrides.t.secrets]\nB = { from = \"env:X\", hosts = [\"b.example:8443\"] }";
        let settings = read::parse(text, Path::new("silo.toml")).expect("settings");
        let of = |tool| {
            of(&SecretInputs { settings: &settings, tool, user_home: Path::new("/home/me"), roots: None }).expect("made").expect("some")
        };
        let (one, two) = (of("t"), of("t"));
        assert_eq!(one.list.iter().map(|secret| secret.name.as_str()).collect::<Vec<_>>(), ["A", "B"]);
        assert_eq!(one.list[0].from, Source::File("/home/me/.token".into()));
        assert!(one.list[0].placeholder != two.list[0].placeholder && one.authority != two.authority);
        assert_eq!(one.list[0].placeholder.len(), PREFIX.len() + 32);
        assert_eq!(of("u").list.len(), 1);
    }
}
