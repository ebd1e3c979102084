//! Parses file addresses: local paths, display without credentials, and the server's identity.

use std::path::PathBuf;

use reqwest::Url;

use super::error::Error;

/// Returns the path of a local address: `file:` or an absolute path.
pub(super) fn local_path(url: &str) -> Result<Option<PathBuf>, Error> {
    if url.starts_with('/') {
        return Ok(Some(PathBuf::from(url)));
    }
    let wrong = |cause: &str| Error::Address { url: shown(url), cause: cause.to_owned() };
    let parsed = Url::parse(url).map_err(|err| wrong(&err.to_string()))?;
    match parsed.scheme() {
        "http" | "https" => Ok(None),
        "file" => parsed.to_file_path().map(Some).map_err(|()| wrong("a file address must hold an absolute path and no host")),
        _ => Err(wrong("only http, https and file addresses are known")),
    }
}

/// Returns `url` for display, without user name and password.
pub(super) fn shown(url: &str) -> String {
    match Url::parse(url) {
        Ok(mut parsed) if !parsed.username().is_empty() || parsed.password().is_some() => {
            // Both fail only on URLs that cannot hold credentials; this one can.
            let _ = parsed.set_username("");
            let _ = parsed.set_password(None);
            parsed.to_string()
        }
        _ => url.to_owned(),
    }
}

/// Returns the scheme, host and port of an address.
pub(super) fn server(url: &str) -> String {
    let end = url.find("://").map_or(0, |at| at + 3);
    let host = url[end..].find('/').map_or(url.len(), |at| end + at);
    url[..host].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        assert_eq!(local_path("/srv/a b").ok(), Some(Some(PathBuf::from("/srv/a b"))));
        assert_eq!(local_path("file:///srv/a%20b").ok(), Some(Some(PathBuf::from("/srv/a b"))));
        assert_eq!(local_path("file:/srv/a").ok(), Some(Some(PathBuf::from("/srv/a"))));
        assert_eq!(local_path("https://example.com/a").ok(), Some(None));
        for wrong in ["ftp://example.com/a", "relative", "", "http://", "file://host.example.com/a"] {
            assert!(local_path(wrong).is_err(), "{wrong}");
        }
        assert_eq!(shown("http://me:secret@example.com/a"), "http://example.com/a");
        assert_eq!(server("http://example.com:80/a/b"), "http://example.com:80");
        assert_eq!(server("/srv/a"), "");
    }
}
