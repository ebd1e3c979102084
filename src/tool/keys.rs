//! The keys of this user: own secret keys, trusted public keys, and revoked ones. They are files in the home, and no project can add one.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use silo_store::digest::Digest;
use silo_store::path_error::PathError;
use silo_store::private;
use silo_store::read_limited;

use silo_base::home::Home;
use silo_sign::external::Signer;
use silo_sign::key::{Algorithm, KeyError, Public, Secret};

use super::default_cache;

/// The most bytes of a key file.
const MAX_BYTES: u64 = 64 << 10;
/// The longest name of a key.
const MAX_NAME_BYTES: usize = 64;
/// The name of the compiled-in key.
const BUILT_IN: &str = "release";
/// The least characters of a fingerprint's beginning that names a key.
const MIN_PREFIX: usize = 8;

/// Error of a key.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The name cannot name a file.
    #[error("\"{0}\" cannot name a key: letters, digits, \"-\", \"_\" and \".\"")]
    Name(String),
    /// A key of that name exists.
    #[error("there is a key {name} already: {path}", path = .path.display())]
    Taken {
        /// The name.
        name: String,
        /// Its file.
        path: PathBuf,
    },
    /// There is no such key.
    #[error("there is no key {0}")]
    Absent(String),
    /// Several keys have the name, or fingerprints with this beginning.
    #[error("{word} names several keys: {}", .fingerprints.join(", "))]
    Ambiguous {
        /// The name or beginning.
        word: String,
        /// The beginnings of the fingerprints, with the state of each key.
        fingerprints: Vec<String>,
    },
    /// The text is not a key.
    #[error("{place}")]
    Key {
        /// The file or variable.
        place: String,
        /// The fault.
        #[source]
        source: KeyError,
    },
    /// The key was revoked.
    #[error("the key {fingerprint:.12} was revoked: {path}", path = .path.display())]
    Revoked {
        /// Its fingerprint.
        fingerprint: String,
        /// The file that says so.
        path: PathBuf,
    },
    /// Several own keys exist, and none was chosen.
    #[error("there are several keys: {}", .0.join(", "))]
    Several(Vec<String>),
    /// The build of this program compiled in a malformed key or cache.
    #[error("this silo was built with a malformed cache or key: {0}")]
    Build(String),
    /// A file operation failed.
    #[error(transparent)]
    File(#[from] PathError),
}

/// The state of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    /// Its secret is here; it is trusted, too.
    Own,
    /// Images that it signed count.
    Trusted,
    /// Images that it signed count, because the build of this program says so.
    BuiltIn,
    /// It was trusted, and is not any more.
    Revoked,
}

impl State {
    /// The states of keys that are files.
    const OF_FILES: [State; 3] = [State::Own, State::Trusted, State::Revoked];

    /// Returns its name, which is also that of the directory of the key files.
    pub fn name(self) -> &'static str {
        match self {
            State::Own => "own",
            State::Trusted => "trusted",
            State::BuiltIn => "built-in",
            State::Revoked => "revoked",
        }
    }
}

/// A key with its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named {
    /// The name.
    pub name: String,
    /// The public key.
    pub public: Public,
    /// The state.
    pub state: State,
}

/// Makes a key of this user's own.
pub fn new(home: &Home, name: &str, algorithm: Algorithm) -> Result<Named, Error> {
    let path = path(home, State::Own, name)?;
    if path.exists() {
        return Err(Error::Taken { name: name.to_owned(), path });
    }
    let key = |source| Error::Key { place: path.display().to_string(), source };
    let secret = Secret::new(algorithm).map_err(key)?;
    write(&path, &secret.to_pem())?;
    Ok(Named { name: name.to_owned(), public: secret.public(), state: State::Own })
}

/// Lists all keys: own ones, trusted ones, the compiled-in one, revoked ones.
pub fn list(home: &Home) -> Result<Vec<Named>, Error> {
    let mut all = Vec::new();
    for state in State::OF_FILES {
        let dir = home.keys().join(state.name());
        let listing = match fs::read_dir(&dir) {
            Ok(listing) => listing,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(source) => return Err(PathError { doing: "list", path: dir, source }.into()),
        };
        for entry in listing {
            let path = entry.map_err(|source| PathError { doing: "list", path: dir.clone(), source })?.path();
            let name = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.strip_suffix(".pem"));
            // Other files are not ours.
            let Some(name) = name.filter(|name| check(name).is_ok()).map(str::to_owned) else { continue };
            all.push(Named { public: public(&path, state)?, name, state });
        }
    }
    let built_in = default_cache::get().map_err(Error::Build)?;
    all.extend(built_in.map(|found| Named { name: BUILT_IN.to_owned(), public: found.key, state: State::BuiltIn }));
    all.sort_by(|a, b| (a.state, &a.name).cmp(&(b.state, &b.name)));
    Ok(all)
}

/// Returns the keys whose signatures count: own and trusted ones, without those that were revoked.
pub fn trusted(home: &Home) -> Result<Vec<Named>, Error> {
    let all = list(home)?;
    let is_revoked = |key: &Named| all.iter().any(|other| other.state == State::Revoked && other.public == key.public);
    Ok(all.iter().filter(|key| key.state != State::Revoked && !is_revoked(key)).cloned().collect())
}

/// Returns the name of a key for messages: its name here, else its fingerprint.
pub fn title(keys: &[Named], key: &Public) -> String {
    let named = keys.iter().find(|named| named.public == *key);
    named.map_or_else(|| format!("{:.12}", key.fingerprint().to_string()), |named| named.name.clone())
}

/// Trusts a public key.
pub fn trust(home: &Home, name: &str, text: &str, place: &str) -> Result<Named, Error> {
    let key = Public::parse(text).map_err(|source| Error::Key { place: place.to_owned(), source })?;
    if let Some(revoked) = list(home)?.into_iter().find(|other| other.state == State::Revoked && other.public == key) {
        let path = path(home, State::Revoked, &revoked.name)?;
        return Err(Error::Revoked { fingerprint: key.fingerprint().to_string(), path });
    }
    // One name for two keys would be ambiguous.
    if let Some(own) = list(home)?.into_iter().find(|own| own.state == State::Own && own.name == name && own.public != key) {
        return Err(Error::Taken { name: own.name, path: path(home, State::Own, name)? });
    }
    let path = path(home, State::Trusted, name)?;
    if path.exists() && public(&path, State::Trusted)? != key {
        return Err(Error::Taken { name: name.to_owned(), path });
    }
    write(&path, &key.to_pem())?;
    Ok(Named { name: name.to_owned(), public: key, state: State::Trusted })
}

/// Revokes a key by its name or the beginning of its fingerprint: its signatures do not count any more, whatever its state was.
pub fn revoke(home: &Home, word: &str) -> Result<Named, Error> {
    let all = list(home)?;
    let key = find(&all, word)?;
    write(&path(home, State::Revoked, &key.public.fingerprint().to_string()[..MAX_NAME_BYTES.min(32)])?, &key.public.to_pem())?;
    for other in all.iter().filter(|other| other.state == State::Trusted && other.public == key.public) {
        let path = path(home, State::Trusted, &other.name)?;
        fs::remove_file(&path).map_err(|source| PathError { doing: "remove", path, source })?;
    }
    Ok(Named { state: State::Revoked, ..key.clone() })
}

/// Finds a key by its name, or by the beginning of its fingerprint. Several different keys are an error.
pub fn find<'a>(all: &'a [Named], word: &str) -> Result<&'a Named, Error> {
    let begins = |key: &&Named| word.len() >= MIN_PREFIX && key.public.fingerprint().to_string().starts_with(word);
    let named: Vec<&Named> = all.iter().filter(|key| key.name == word).collect();
    let found = if named.is_empty() { all.iter().filter(begins).collect() } else { named };
    let first = *found.first().ok_or_else(|| Error::Absent(word.to_owned()))?;
    if found.iter().all(|key| key.public == first.public) {
        return Ok(first);
    }
    let fingerprints = found.iter().map(|key| format!("{:.12} ({})", key.public.fingerprint().to_string(), key.state.name()));
    Err(Error::Ambiguous { word: word.to_owned(), fingerprints: fingerprints.collect() })
}

/// The choice of a signer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Choice {
    /// The only own key; none if there is no own key.
    Usual,
    /// An own key by its name, or a file with a secret key.
    Named(String),
    /// A secret key in PEM, from the environment variable of that name.
    Text(String, String),
    /// A program, and the trusted key or the file of the public key of its signatures.
    Program(PathBuf, String),
}

/// Returns the signer; `None` if no key was chosen, and there is none.
pub fn signer(home: &Home, choice: &Choice) -> Result<Option<Signer>, Error> {
    let secret = |text: &str, place: String| {
        Secret::parse(text).map(|secret| Signer::Key(Box::new(secret))).map_err(|source| Error::Key { place, source })
    };
    match choice {
        Choice::Usual => {
            let own: Vec<String> = list(home)?.into_iter().filter(|key| key.state == State::Own).map(|key| key.name).collect();
            match own.as_slice() {
                [] => Ok(None),
                [name] => signer(home, &Choice::Named(name.clone())),
                _ => Err(Error::Several(own)),
            }
        }
        Choice::Named(word) => {
            let path = if word.contains('/') { PathBuf::from(word) } else { path(home, State::Own, word)? };
            if !path.exists() {
                return Err(Error::Absent(word.clone()));
            }
            secret(&text(&path)?, path.display().to_string()).map(Some)
        }
        Choice::Text(variable, text) => secret(text, variable.clone()).map(Some),
        Choice::Program(program, word) => {
            let key = match word.contains('/') {
                true => public(Path::new(word), State::Trusted)?,
                false => find(&list(home)?, word)?.public.clone(),
            };
            Ok(Some(Signer::Program { program: program.clone(), public: key }))
        }
    }
}

fn public(path: &Path, state: State) -> Result<Public, Error> {
    let text = text(path)?;
    let read = if state == State::Own { Secret::parse(&text).map(|secret| secret.public()) } else { Public::parse(&text) };
    read.map_err(|source| Error::Key { place: path.display().to_string(), source })
}

fn text(path: &Path) -> Result<String, Error> {
    let bytes = read_limited::read(path, MAX_BYTES);
    let text = bytes.and_then(|bytes| String::from_utf8(bytes).map_err(io::Error::other));
    text.map_err(|source| PathError { doing: "read", path: path.to_owned(), source }.into())
}

fn write(path: &Path, text: &str) -> Result<(), Error> {
    private::make_dir(path.parent().unwrap_or(path))?;
    let staged = path.with_extension(format!("{}.new", std::process::id()));
    let failed = |source| PathError { doing: "write", path: path.to_owned(), source };
    private::write(&staged, text.as_bytes()).map_err(failed)?;
    fs::rename(&staged, path).map_err(failed)?;
    Ok(())
}

fn check(name: &str) -> Result<(), Error> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    let fits = name.len() <= MAX_NAME_BYTES && name.starts_with(|c: char| c.is_ascii_alphanumeric()) && name.chars().all(plain);
    if fits { Ok(()) } else { Err(Error::Name(name.to_owned())) }
}

fn path(home: &Home, state: State, name: &str) -> Result<PathBuf, Error> {
    check(name)?;
    Ok(home.keys().join(state.name()).join(format!("{name}.pem")))
}

/// Returns the digest that names a key.
pub fn fingerprint(key: &Named) -> Digest {
    key.public.fingerprint()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_made_trusted_and_revoked() {
        let dir = tempfile::tempdir().expect("a directory");
        let home = Home::new(dir.path().to_owned());
        assert_eq!(signer(&home, &Choice::Usual).expect("no key").map(|signer| signer.public()), None);
        let own = new(&home, "me", Algorithm::P256).expect("made");
        assert!(matches!(new(&home, "me", Algorithm::P256), Err(Error::Taken { .. })));
        for name in ["", "../x", "a b", ".x", "a/b"] {
            assert!(matches!(new(&home, name, Algorithm::P256), Err(Error::Name(_))), "{name}");
        }
        let other = Secret::new(Algorithm::Ed25519).expect("a key").public();
        let named = trust(&home, "team", &other.to_pem(), "a file").expect("trusted");
        assert_eq!(trusted(&home).expect("keys"), [own.clone(), named.clone()]);
        assert_eq!(signer(&home, &Choice::Usual).expect("one").map(|signer| signer.public()), Some(own.public.clone()));
        let third = Secret::new(Algorithm::P256).expect("a key").public();
        assert!(matches!(trust(&home, "team", &third.to_pem(), "a file"), Err(Error::Taken { .. })));
        let prefix = other.fingerprint().to_string()[..12].to_owned();
        assert_eq!(revoke(&home, &prefix).expect("revoked").public, other);
        assert_eq!(trusted(&home).expect("keys"), std::slice::from_ref(&own));
        assert!(matches!(trust(&home, "again", &other.to_pem(), "a file"), Err(Error::Revoked { .. })));
        assert!(matches!(trust(&home, "me", &third.to_pem(), "a file"), Err(Error::Taken { .. })));
        // An earlier silo trusted keys under the name of an own one.
        write(&path(&home, State::Trusted, "me").expect("a name"), &third.to_pem()).expect("written");
        assert!(matches!(revoke(&home, "me"), Err(Error::Ambiguous { .. })));
        assert_eq!(revoke(&home, &third.fingerprint().to_string()[..16]).expect("revoked").public, third);
        // An own key that is revoked signs, but does not count.
        revoke(&home, "me").expect("revoked");
        assert_eq!(trusted(&home).expect("keys"), []);
        assert!(matches!(revoke(&home, "nobody"), Err(Error::Absent(_))));
    }
}
