//! What a registry is shown: a name and password themselves, or a token that its own service hands out.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::AtomicBool;

use serde_json::Value;

use crate::document;
use crate::oci::reference::{Place, Reference};

use super::{Context, Error, accepted, base, credentials};

/// Most bytes of an answer with a token.
const MAX_TOKEN_BYTES: u64 = 1 << 20;

/// Answers a challenge: returns the addresses that the pass is for, by their beginning, and the pass.
pub fn pass(context: Context<'_>, reference: &Reference, url: &str, challenge: &str) -> Result<(String, String), Error> {
    let Place::Registry { host, repository } = &reference.place else {
        return Err(Error::Challenge { url: url.to_owned(), challenge: challenge.to_owned() });
    };
    let basic = known(context.user_home, host, context.cancel).map(|login| format!("Basic {login}"));
    // With the slash, so that it is not shown where only the name begins alike.
    let prefix = format!("{}/", base(&reference.place));
    let (scheme, words) = parse(challenge);
    let refused = || Error::Challenge { url: url.to_owned(), challenge: challenge.to_owned() };
    match scheme.to_ascii_lowercase().as_str() {
        "basic" => Ok((prefix, basic.ok_or_else(refused)?)),
        "bearer" => {
            let realm = words.get("realm").ok_or_else(refused)?;
            // A login is not carried to where it could be read on its way.
            if !realm.starts_with("https://") && prefix.starts_with("https://") {
                return Err(refused());
            }
            let scope = words.get("scope").cloned().unwrap_or_else(|| format!("repository:{repository}:pull"));
            let service = words.get("service").map(|service| format!("service={}&", escaped(service))).unwrap_or_default();
            let asked = format!("{realm}{}{service}scope={}", if realm.contains('?') { '&' } else { '?' }, escaped(&scope));
            let answer = context.transport.ask(&asked, "application/json", basic.as_deref(), MAX_TOKEN_BYTES, context.cancel)?;
            let bytes = accepted(realm, answer)?;
            let value: Value = serde_json::from_slice(&bytes).unwrap_or_default();
            let token = value["token"].as_str().or_else(|| value["access_token"].as_str());
            let plain = |token: &&str| !token.is_empty() && token.chars().all(|c| c.is_ascii_graphic());
            let token =
                token.filter(plain).ok_or_else(|| Error::Document { url: realm.clone(), what: "it hands out no token".to_owned() })?;
            Ok((prefix, format!("Bearer {token}")))
        }
        _ => Err(refused()),
    }
}

/// Takes a challenge apart: `Bearer realm="…",service="…"`.
fn parse(challenge: &str) -> (&str, BTreeMap<String, String>) {
    let challenge = challenge.trim();
    let (scheme, mut rest) = challenge.split_once(' ').unwrap_or((challenge, ""));
    let mut words = BTreeMap::new();
    while let Some((name, after)) = rest.split_once('=') {
        let (value, left) = match after.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"').unwrap_or((quoted, "")),
            None => after.split_once(',').unwrap_or((after, "")),
        };
        words.insert(name.trim_matches([',', ' ']).to_ascii_lowercase(), value.to_owned());
        rest = left;
    }
    (scheme, words)
}

/// Escapes what could not stand in a query.
fn escaped(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' | b'/' | b':' | b',' => out.push(char::from(byte)),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

/// Finds the login that podman or docker keeps for a registry, or that a helper of theirs knows: a name and password, encoded
/// as it is shown.
fn known(user_home: &Path, host: &str, cancel: &AtomicBool) -> Option<String> {
    for file in [".config/containers/auth.json", ".docker/config.json"] {
        // A file that cannot be read has no login.
        let Some(text) = document::text_of(&user_home.join(file)).ok().flatten() else { continue };
        let value: Value = serde_json::from_str(&text).unwrap_or_default();
        let auths = value["auths"].as_object();
        let found = auths.into_iter().flatten().find(|(name, _)| {
            let name = name.trim_start_matches("https://").trim_start_matches("http://");
            name.split('/').next() == Some(host)
        });
        let login = found.and_then(|(_, entry)| entry["auth"].as_str());
        if let Some(login) =
            login.filter(|login| !login.is_empty() && login.chars().all(|c| c.is_ascii_alphanumeric() || "+/=".contains(c)))
        {
            return Some(login.to_owned());
        }
        if let Some(login) = credentials::helper(&value, host).and_then(|name| credentials::ask(name, host, cancel)) {
            return Some(login);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn challenges_are_taken_apart() {
        let (scheme, words) =
            parse("Bearer realm=\"https://auth.example.com/token\",service=\"registry, the\", scope=\"repository:a/b:pull,push\"");
        assert_eq!(scheme, "Bearer");
        assert_eq!(words["realm"], "https://auth.example.com/token");
        assert_eq!((words["service"].as_str(), words["scope"].as_str()), ("registry, the", "repository:a/b:pull,push"));
        assert_eq!(parse("Basic realm=x"), ("Basic", BTreeMap::from([("realm".to_owned(), "x".to_owned())])));
        assert_eq!(parse("Negotiate").0, "Negotiate");
        assert_eq!(escaped("a b&c"), "a%20b%26c");
    }

    #[test]
    fn logins_of_podman_and_docker_are_found() {
        let dir = tempfile::tempdir().expect("a directory");
        std::fs::create_dir_all(dir.path().join(".docker")).expect("made");
        let text =
            "{\"auths\":{\"https://registry.example.com/v1/\":{\"auth\":\"bWU6c2VjcmV0\"},\"other.example.com\":{\"auth\":\"x\\ny\"}}}";
        std::fs::write(dir.path().join(".docker/config.json"), text).expect("written");
        assert_eq!(known(dir.path(), "registry.example.com", &AtomicBool::new(false)).as_deref(), Some("bWU6c2VjcmV0"));
        assert_eq!(known(dir.path(), "other.example.com", &AtomicBool::new(false)), None);
        assert_eq!(known(dir.path(), "example.com", &AtomicBool::new(false)), None);
    }
}
