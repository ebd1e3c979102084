//! The review as one HTML page without other files. The page shows every text of the project as text, and loads nothing.

use serde_json::Value;
use sha2::{Digest, Sha256};

const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");

/// Returns the page of a review.
pub fn page(review: &Value) -> String {
    // No text of the data can end its element: a parser of HTML looks for `<`.
    let data = silo_base::sanitize::json(&review.to_string()).replace('<', "\\u003c").replace('>', "\\u003e").replace('&', "\\u0026");
    let policy = format!("default-src 'none'; style-src '{}'; script-src '{}'", digest(STYLE), digest(SCRIPT));
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<meta http-equiv=\"Content-Security-Policy\" \
        content=\"{policy}\">\n<meta name=\"viewport\" content=\"width=device-width\">\n<title>Silo: changes to review</title>\n\
        <style>{STYLE}</style>\n</head>\n<body>\n<h1>Changes to review</h1>\n<p id=\"where\"></p>\n\
        <p><input id=\"filter\" type=\"search\" placeholder=\"Filter by path or reason\" aria-label=\"Filter\"></p>\n\
        <main id=\"all\"></main>\n<script type=\"application/json\" id=\"data\">{data}</script>\n<script>{SCRIPT}</script>\n</body>\n</html>\n"
    )
}

/// Returns the digest of an element, as a policy names it.
fn digest(text: &str) -> String {
    let mut name = "sha256-".to_owned();
    for chunk in Sha256::digest(text.as_bytes()).chunks(3) {
        let bits = chunk.iter().fold(0u32, |bits, byte| (bits << 8) | u32::from(*byte)) << (8 * (3 - chunk.len()));
        for place in 0..4 {
            let letter = if place > chunk.len() { '=' } else { char::from(LETTERS[((bits >> (18 - 6 * place)) & 63) as usize]) };
            name.push(letter);
        }
    }
    name
}

const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_text_of_a_project_becomes_markup() {
        let evil = "</script><script>alert(1)</script>\u{202e}&amp;<!--";
        let page = page(&serde_json::json!({ "project": evil, "changes": [{ "path": evil, "diff": [evil] }] }));
        assert_eq!(page.matches("<script").count(), 2, "{page}");
        assert!(!page.contains("alert(1)</script>") && !page.contains('\u{202e}') && !page.contains("<!--"));
        let data = page.split("id=\"data\">").nth(1).and_then(|rest| rest.split("</script>").next()).expect("the data");
        let data: Value = serde_json::from_str(data).expect("JSON");
        assert_eq!(data["project"], evil);
    }

    #[test]
    fn a_policy_has_the_digests_of_its_elements() {
        assert_eq!(digest(""), "sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=");
        assert_eq!(digest("abc"), "sha256-ungWv48Bz+pBQUDeXa4iI7ADYaOWF3qctBD/YfIAFa0=");
    }
}
