//! Reasons not to follow a redirect of a server.

use reqwest::Url;

/// The most redirects of a request; browsers stop at 20, mirrors need one or two.
const MAX_REDIRECTS: usize = 10;

/// Returns the reason not to follow a redirect, if there is one.
pub fn refuse(previous: &[Url], next: &Url) -> Option<String> {
    if previous.len() > MAX_REDIRECTS {
        return Some(format!("more than {MAX_REDIRECTS} in a row"));
    }
    if !matches!(next.scheme(), "http" | "https") {
        return Some(format!("it redirects to a {} URL", next.scheme()));
    }
    let secure = previous.last().is_some_and(|url| url.scheme() == "https");
    (secure && next.scheme() != "https").then(|| "it redirects from https to http".to_owned())
}

/// Like [`refuse`], for requests that write: another server would receive the bytes, and act on them.
pub fn refuse_others(previous: &[Url], next: &Url) -> Option<String> {
    let leaves = previous.first().is_some_and(|first| first.origin() != next.origin());
    refuse(previous, next).or_else(|| leaves.then(|| format!("it sends what is written to {}", next.origin().ascii_serialization())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirects_end_and_never_lose_encryption() {
        let url = |text: &str| Url::parse(text).expect("the table holds addresses");
        let (plain, secure) = (url("http://example.com/a"), url("https://example.com/a"));
        assert_eq!(refuse(std::slice::from_ref(&plain), &secure), None);
        assert!(refuse(std::slice::from_ref(&secure), &plain).is_some());
        assert!(refuse(&vec![plain.clone(); MAX_REDIRECTS + 1], &plain).is_some());
        assert_eq!(refuse_others(std::slice::from_ref(&secure), &url("https://example.com/b")), None);
        assert!(refuse_others(std::slice::from_ref(&secure), &url("https://other.example/a")).is_some());
    }
}
