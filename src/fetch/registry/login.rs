//! Authenticates to a registry: with a user name and password, or with a token from its token service.

use std::path::Path;
use std::sync::atomic::AtomicBool;

use reqwest::Url;
use serde_json::Value;

use crate::transport::Get;
use silo_base::sanitize::brief;
use silo_model::document;
use silo_model::oci::reference::{Place, Reference};

use super::challenge::{self, Challenge};
use super::error::Error;
use super::request::{Context, accepted, base};
use super::{credentials, realm};

/// The most bytes of a token answer.
const MAX_TOKEN_BYTES: u64 = 1 << 20;

/// An `Authorization` header and its scope.
pub struct Pass {
    /// The prefix of the addresses that receive it.
    pub prefix: String,
    /// The value of the `Authorization` header.
    pub value: String,
}

/// Answers the challenge of a registry for `url`. Call it only with a challenge from the registry itself, never from a server that it
/// redirected to.
pub fn pass(context: Context<'_>, reference: &Reference, url: &str, header: &str) -> Result<Pass, Error> {
    let refused = |why: &'static str| Error::Challenge { url: url.to_owned(), challenge: brief(header), why };
    let Place::Registry { host, repository } = &reference.place else { return Err(refused("only a registry asks for a login")) };
    let login = || find_login(context.user_home, host, repository, context.cancel).map(|login| format!("Basic {login}"));
    // Ends with a slash, so that a longer repository name does not match.
    let prefix = format!("{}/", base(&reference.place));
    let challenges = challenge::parse(header).ok_or_else(|| refused("it cannot be read"))?;
    let of = |scheme: &str| challenges.iter().find(|challenge| challenge.scheme == scheme);
    if let Some(bearer) = of("bearer") {
        let realm = bearer.parameters.get("realm").ok_or_else(|| refused("it names no token service"))?;
        let service = realm::parse(realm, host).map_err(refused)?;
        let asked = token_address(service, bearer, repository);
        let login = login();
        let base = base(&reference.place);
        let get = Get {
            url: asked.as_str(),
            accept: "application/json",
            pass: login.as_deref(),
            named_by: Some(&base),
            max_bytes: MAX_TOKEN_BYTES,
        };
        let answer = context.transport.ask(get, context.cancel)?;
        let bytes = accepted(&brief(realm), answer)?;
        let token = token(&bytes).ok_or_else(|| Error::Document { url: brief(realm), what: "it hands out no token".to_owned() })?;
        return Ok(Pass { prefix, value: format!("Bearer {token}") });
    }
    if of("basic").is_none() {
        return Err(refused("silo knows Basic and Bearer"));
    }
    Ok(Pass { prefix, value: login().ok_or_else(|| refused("there is no login for it"))? })
}

/// Adds the token's scope to the address of a token service.
fn token_address(mut service: Url, bearer: &Challenge, repository: &str) -> Url {
    service.set_fragment(None);
    let scope = bearer.parameters.get("scope").cloned().unwrap_or_else(|| format!("repository:{repository}:pull"));
    let mut query = service.query().map(|query| format!("{query}&")).unwrap_or_default();
    if let Some(name) = bearer.parameters.get("service") {
        query += &format!("service={}&", escaped(name));
    }
    query += &format!("scope={}", escaped(&scope));
    service.set_query(Some(&query));
    service
}

/// Extracts the token from a token service's answer.
fn token(answer: &[u8]) -> Option<String> {
    let value: Value = serde_json::from_slice(answer).ok()?;
    let token = value["token"].as_str().or_else(|| value["access_token"].as_str())?;
    let is_plain = !token.is_empty() && token.chars().all(|c| c.is_ascii_graphic());
    is_plain.then(|| token.to_owned())
}

/// Percent-escapes a query value.
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

/// Finds the user's login for a registry in the files of podman or docker, or through their credential helper: user name and password,
/// encoded for `Authorization`.
fn find_login(user_home: &Path, host: &str, repository: &str, cancel: &AtomicBool) -> Option<String> {
    for file in [".config/containers/auth.json", ".docker/config.json"] {
        // An unreadable file has no login.
        let Some(text) = document::text_of(&user_home.join(file)).ok().flatten() else { continue };
        let value: Value = serde_json::from_str(&text).unwrap_or_default();
        if let Some(login) = stored_login(&value, host, repository) {
            return Some(login);
        }
        if let Some(login) = credentials::helper(&value, host).and_then(|name| credentials::ask(name, host, cancel)) {
            return Some(login);
        }
    }
    None
}

/// Finds the login in a file for exactly this registry, host and port, and this repository or a parent of it. The longest matching key wins
/// (containers-auth.json(5)).
fn stored_login(file: &Value, host: &str, repository: &str) -> Option<String> {
    let whole = format!("{host}/{repository}");
    let names = |key: &str| {
        let name = key.strip_prefix("https://").or_else(|| key.strip_prefix("http://")).unwrap_or(key).trim_end_matches('/');
        // The older key format is a URL of the registry's API.
        let name = name.strip_suffix("/v1").or_else(|| name.strip_suffix("/v2")).unwrap_or(name);
        let rest = whole.strip_prefix(name).filter(|rest| rest.is_empty() || rest.starts_with('/'))?;
        // A key shorter than the host belongs to another host.
        (name.len() >= host.len()).then_some(whole.len() - rest.len())
    };
    let auths = file["auths"].as_object()?;
    let (_, entry) = auths.iter().filter_map(|(key, entry)| Some((names(key)?, entry))).max_by_key(|(length, _)| *length)?;
    let login = entry["auth"].as_str()?;
    let is_plain = !login.is_empty() && login.chars().all(|c| c.is_ascii_alphanumeric() || "+/=".contains(c));
    is_plain.then(|| login.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_asked_for_by_escaped_words() {
        let parameters = [("service", "a b&c#d"), ("scope", "repository:a/b:pull,push\r\nX: y")];
        let parameters = parameters.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        let bearer = Challenge { scheme: "bearer".to_owned(), parameters };
        let service = Url::parse("https://auth.example.com/token?x=1#part").expect("an address");
        let asked = token_address(service, &bearer, "a/b");
        let expect = "https://auth.example.com/token?x=1&service=a%20b%26c%23d&scope=repository:a/b:pull,push%0D%0AX:%20y";
        assert_eq!(asked.as_str(), expect);
    }

    #[test]
    fn tokens_are_plain() {
        assert_eq!(token(b"{\"token\":\"a.b\"}").as_deref(), Some("a.b"));
        assert_eq!(token(b"{\"access_token\":\"a\"}").as_deref(), Some("a"));
        for answer in [&b"{\"token\":\"\"}"[..], b"{\"token\":\"a b\"}", b"{\"token\":\"a\\r\\nX: y\"}", b"{\"token\":7}", b"[]", b"<html>"]
        {
            assert_eq!(token(answer), None, "{answer:?}");
        }
    }

    #[test]
    fn logins_are_found_by_exactly_the_registry_they_are_for() {
        let file = serde_json::json!({ "auths": {
            "https://registry.example.com/v1/": { "auth": "bWU6c2VjcmV0" },
            "registry.example.com/team": { "auth": "dGVhbQ==" },
            "registry.example.com:5000": { "auth": "cG9ydA==" },
            "other.example.com": { "auth": "x\ny" },
            "deep.example.com/team": { "auth": "dGVhbQ==" },
        } });
        for (host, repository, expect) in [
            ("registry.example.com", "a", Some("bWU6c2VjcmV0")),
            ("registry.example.com", "team/a", Some("dGVhbQ==")),
            ("registry.example.com", "teams/a", Some("bWU6c2VjcmV0")),
            ("registry.example.com:5000", "team/a", Some("cG9ydA==")),
            ("registry.example.com:443", "a", None),
            ("registry.example.co", "a", None),
            ("registry.example.com.evil.example", "a", None),
            ("example.com", "a", None),
            ("other.example.com", "a", None),
            ("deep.example.com", "a", None),
            ("deep.example.com", "team", Some("dGVhbQ==")),
        ] {
            assert_eq!(stored_login(&file, host, repository).as_deref(), expect, "{host}/{repository}");
        }
        let dir = tempfile::tempdir().expect("a directory");
        std::fs::create_dir_all(dir.path().join(".docker")).expect("made");
        std::fs::write(dir.path().join(".docker/config.json"), file.to_string()).expect("written");
        let known = find_login(dir.path(), "registry.example.com", "a", &AtomicBool::new(false));
        assert_eq!(known.as_deref(), Some("bWU6c2VjcmV0"));
    }
}
