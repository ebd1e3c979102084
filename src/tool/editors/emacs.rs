//! `.dir-locals.el`, whose variables Emacs applies to buffers of the project: entries for Eglot, between two comments in the file's list.

use super::languages::{Direction, Error, Languages};

const BEGIN: &str = ";; silo ide: begin";
const END: &str = ";; silo ide: end";
const VARIABLE: &str = "eglot-server-programs";

pub fn change(file: &'static str, known: &[&Languages], direction: Direction, before: &str) -> Result<String, Error> {
    let invalid = |reason: String| Error::Invalid { file, reason };
    let mut text = before.to_owned();
    if let Some(start) = text.find(BEGIN) {
        let end = text[start..].find(END).ok_or_else(|| invalid(format!("`{BEGIN}` has no end")))?;
        let (above, rest) = (&text[..start], &text[start + end + END.len()..]);
        // The white space that is written around them.
        let above = above.strip_suffix(' ').and_then(|above| above.strip_suffix('\n')).unwrap_or(above);
        let rest = rest.strip_prefix('\n').map_or(rest, |rest| rest.strip_prefix(' ').unwrap_or(rest));
        text = format!("{above}{rest}");
    }
    if direction == Direction::Remove || known.is_empty() {
        let is_empty = text != before && text.split_whitespace().collect::<String>() == "()";
        return Ok(if is_empty { String::new() } else { text });
    }
    if text.trim().is_empty() {
        text += "()\n";
    }
    let close = close_of_list(&text).map_err(invalid)?;
    if text.contains(VARIABLE) {
        return Err(Error::Differs { file, key: VARIABLE.to_owned() });
    }
    text.insert_str(close, &block(known));
    Ok(text)
}

/// The entries: the servers, and Eglot's start in the buffers of their languages.
fn block(known: &[&Languages]) -> String {
    let mut servers = String::new();
    let mut modes = Vec::new();
    for languages in known {
        let all = languages.emacs.iter().map(|(mode, language)| match language {
            Some(language) => format!("({mode} :language-id \"{language}\")"),
            None => (*mode).to_owned(),
        });
        let indent = if servers.is_empty() { "" } else { "\n                                    " };
        servers += &format!("{indent}(({}) . (\"silo\" \"lsp\" \"{}\"))", all.collect::<Vec<_>>().join(" "), languages.tool);
        modes.extend(languages.emacs.iter().map(|(mode, _)| format!("'{mode}")).filter(|mode| !modes.contains(mode)).collect::<Vec<_>>());
    }
    let modes = modes.join(" ");
    format!(
        "\n {BEGIN}\n (nil . (({VARIABLE} . ({servers}))\n         \
         (eval . (when (derived-mode-p {modes}) (eglot-ensure)))))\n {END}\n "
    )
}

/// Returns the place of the parenthesis that closes the only list of a text.
fn close_of_list(text: &str) -> Result<usize, String> {
    let line = |at: usize| text[..at].matches('\n').count() + 1;
    let (mut depth, mut close) = (0_usize, None);
    let mut chars = text.char_indices().peekable();
    let is_start = |at: usize| text[..at].ends_with(|char: char| char.is_whitespace() || "([".contains(char));
    while let Some((at, char)) = chars.next() {
        if depth == 0 && char != ';' && !char.is_whitespace() {
            match char {
                _ if close.is_some() => return Err(format!("line {}: something follows its list", line(at))),
                '(' => {}
                ')' => return Err(format!("line {}: a parenthesis too many", line(at))),
                _ => return Err(format!("line {}: it is no list", line(at))),
            }
        }
        match char {
            ';' => while chars.next_if(|(_, char)| *char != '\n').is_some() {},
            '"' => loop {
                match chars.next() {
                    Some((_, '"')) => break,
                    Some((_, '\\')) => {
                        let _ = chars.next();
                    }
                    Some(_) => {}
                    None => return Err(format!("line {}: a string has no end", line(at))),
                }
            },
            // A character, such as `?(` or `?\)`.
            '?' if is_start(at) => {
                if let Some((_, '\\')) = chars.next() {
                    let _ = chars.next();
                }
            }
            '\\' => {
                let _ = chars.next();
            }
            '(' | '[' => depth += 1,
            ')' | ']' => {
                depth -= 1;
                if depth == 0 {
                    close = Some(at);
                }
            }
            _ => {}
        }
    }
    close.ok_or_else(|| "a parenthesis is not closed".to_owned())
}

#[cfg(test)]
mod tests {
    use super::close_of_list;

    #[test]
    fn the_end_of_a_list_is_found_behind_strings_comments_and_characters() {
        for text in ["()", "; (a\n((nil . ((a . \")\\\"\"))))\n; )\n", "((a . ?\\)) (b . [?( 1]))", "((a . b?) (c\\) . d))"] {
            let close = close_of_list(text).expect("a list");
            assert_eq!((&text[close..=close], text[close + 1..].contains("((")), (")", false), "{text}");
            assert_eq!(text[close + 1..].trim_start_matches(['\n', ';', ' ', ')']), "", "{text}");
        }
        for (text, reason) in [
            ("(a", "not closed"),
            ("(a))", "line 1: something follows"),
            (")", "line 1: a parenthesis too many"),
            ("(a)\n(b)", "line 2: something follows"),
            ("a", "line 1: it is no list"),
            ("\"a\" (b)", "line 1: it is no list"),
            ("(b) \"a\"", "line 1: something follows"),
            ("(\n\"a", "line 2: a string has no end"),
            ("(?", "not closed"),
            ("(\"\\", "no end"),
            ("", "not closed"),
        ] {
            let error = close_of_list(text).expect_err("it is invalid");
            assert!(error.contains(reason), "{text}: {error}");
        }
    }
}
