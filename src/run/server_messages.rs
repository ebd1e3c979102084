//! The messages between an editor and a language server: their frames, and the paths in them.
//!
//! The project has the same path on both sides. A file of the image exists in the sandbox only, so its URI is changed to that of a read-only
//! copy on the host, `~/.silo/sources/<image>/<path>`, and back. A cache, such as Go's modules, has another path on the host, so its files
//! have copies as well, in a directory of the project. All other text is unchanged.
//!
//! Both sides are programs that anybody may have written: every size is bounded, and bytes that are no frames are copied.

use std::cell::Cell;
use std::ffi::OsStr;
use std::fs::{self, Permissions};
use std::io::{self, BufRead, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Component, Path, PathBuf};

use serde_json::Value;
use silo_store::private;
use silo_store::resolve_in_root;

/// Limit of a message whose paths are changed. A longer one is copied: servers send less, and memory is the host's.
const MAX_MESSAGE_BYTES: u64 = 64 << 20;
/// Limit of a line of a header, as a frame has short ones.
const MAX_LINE_BYTES: u64 = 1 << 10;
/// Limit of a path in a message, as Linux has it.
const MAX_PATH_BYTES: usize = 4096;
/// Limit of a copied file. The largest source file of a standard library has about 3 MiB.
const MAX_SOURCE_BYTES: u64 = 16 << 20;

/// Limit of all copies of a cache by one server: programs in the sandbox write the files.
const MAX_COPIED_BYTES: u64 = 256 << 20;

/// An empty file counts as one block of the file system.
const LEAST_COPIED_BYTES: u64 = 4096;

const SCHEME: &str = "file://";

/// Copies messages from one side to the other, each changed by `change`. Returns at the end of the input.
///
/// `change` returns `None` for a message that stays as it is.
pub fn relay(from: &mut impl BufRead, to: &mut impl Write, mut change: impl FnMut(&[u8]) -> Option<Vec<u8>>) -> io::Result<()> {
    loop {
        let (head, length) = header(from)?;
        let Some(length) = length else {
            // No frame of the protocol, or the end.
            to.write_all(&head)?;
            to.flush()?;
            return copy(from, to);
        };
        if length > MAX_MESSAGE_BYTES {
            to.write_all(&head)?;
            io::copy(&mut from.by_ref().take(length), to)?;
        } else {
            let mut body = Vec::new();
            from.by_ref().take(length).read_to_end(&mut body)?;
            match change(&body) {
                Some(body) => {
                    write!(to, "Content-Length: {}\r\n\r\n", body.len())?;
                    to.write_all(&body)?;
                }
                None => {
                    to.write_all(&head)?;
                    to.write_all(&body)?;
                }
            }
        }
        to.flush()?;
    }
}

/// Copies the rest as it comes.
fn copy(from: &mut impl BufRead, to: &mut impl Write) -> io::Result<()> {
    loop {
        let bytes = from.fill_buf()?;
        if bytes.is_empty() {
            return Ok(());
        }
        to.write_all(bytes)?;
        to.flush()?;
        let read = bytes.len();
        from.consume(read);
    }
}

/// Reads a header; returns its bytes, and the length of the message after it if it is one.
fn header(from: &mut impl BufRead) -> io::Result<(Vec<u8>, Option<u64>)> {
    let mut head = Vec::new();
    let mut length = None;
    loop {
        let start = head.len();
        from.by_ref().take(MAX_LINE_BYTES).read_until(b'\n', &mut head)?;
        let line = String::from_utf8_lossy(&head[start..]);
        let Some(line) = line.strip_suffix("\r\n") else { return Ok((head, None)) };
        if line.is_empty() {
            return Ok((head, length));
        }
        match line.split_once(':') {
            Some((name, value)) if name.eq_ignore_ascii_case("content-length") => match value.trim().parse() {
                Ok(number) => length = Some(number),
                Err(_) => return Ok((head, None)),
            },
            Some((name, _)) if name.eq_ignore_ascii_case("content-type") => {}
            _ => return Ok((head, None)),
        }
    }
}

/// Changes a message of the editor: copies of the image's files have their own paths again, and the server does not watch the editor's
/// process, which it cannot see and would take for ended.
pub fn from_editor(sources: &Path, body: &[u8]) -> Option<Vec<u8>> {
    // Most messages have neither, and are not parsed.
    let encoded = encode(sources);
    let has = |text: &[u8]| body.windows(text.len()).any(|window| window == text);
    let name = sources.file_name().unwrap_or_default();
    if !has(b"\"processId\"") && !has(name.as_bytes()) && !has(encoded.as_bytes()) {
        return None;
    }
    let mut message: Value = serde_json::from_slice(body).ok()?;
    let mut changed = false;
    if message["method"] == "initialize"
        && let Some(id) = message.pointer_mut("/params/processId").filter(|id| !id.is_null())
    {
        *id = Value::Null;
        changed = true;
    }
    changed |= change_strings(&mut message, &mut |text| {
        let path = path_of(text)?;
        let mut inside = path.strip_prefix(sources).ok()?.components();
        inside.next()?;
        Some(uri(&Path::new("/").join(inside.as_path())))
    });
    changed.then(|| message.to_string().into_bytes())
}

/// The files of an image, as an editor on the host sees them.
pub struct ImageFiles {
    /// The image's root.
    pub root: PathBuf,
    /// Directory of the copies: of this image alone.
    pub copies: PathBuf,
    /// The tool's caches: each path in the sandbox, with the directory on the host.
    pub caches: Vec<(PathBuf, PathBuf)>,
    /// Directory of the copies of their files: of this image and this project.
    pub of_caches: PathBuf,
    /// Bytes that were copied from them.
    pub copied: Cell<u64>,
    /// The project, whose files are the host's own.
    pub project: PathBuf,
}

/// Changes a message of the server: a URI of a file in the image becomes that of its copy, which is made first. `files` is called for the
/// first message with a URI.
pub fn from_server<'a>(files: impl FnOnce() -> Option<&'a ImageFiles>, body: &[u8]) -> Option<Vec<u8>> {
    if !body.windows(SCHEME.len()).any(|window| window == SCHEME.as_bytes()) {
        return None;
    }
    let files = files()?;
    let mut message: Value = serde_json::from_slice(body).ok()?;
    let changed = change_strings(&mut message, &mut |text| copied(files, &path_of(text)?).as_deref().map(uri));
    changed.then(|| message.to_string().into_bytes())
}

/// Returns the path of the copy of a file of the image; makes it if it is missing.
fn copied(files: &ImageFiles, path: &Path) -> Option<PathBuf> {
    let inside = path.strip_prefix("/").ok()?;
    if path.starts_with(&files.project) || inside.as_os_str().is_empty() {
        return None;
    }
    let cache = files.caches.iter().find_map(|(guest, host)| Some((host, path.strip_prefix(guest).ok()?)));
    if let Some((host, below)) = cache {
        // Programs in the sandbox change them.
        let bytes = resolve_in_root::read(host, &Path::new("/").join(below), MAX_SOURCE_BYTES).ok()?;
        let copy = files.of_caches.join(inside);
        if fs::symlink_metadata(&copy).is_ok_and(|found| found.is_file()) && fs::read(&copy).is_ok_and(|old| old == bytes) {
            return Some(copy);
        }
        let copied = files.copied.get() + (bytes.len() as u64).max(LEAST_COPIED_BYTES);
        if copied > MAX_COPIED_BYTES {
            return None;
        }
        files.copied.set(copied);
        return written(copy, &bytes);
    }
    let copy = files.copies.join(inside);
    if fs::symlink_metadata(&copy).is_ok_and(|found| found.is_file()) {
        return Some(copy);
    }
    let bytes = resolve_in_root::read(&files.root, path, MAX_SOURCE_BYTES).ok()?;
    written(copy, &bytes)
}

/// Writes a copy.
fn written(copy: PathBuf, bytes: &[u8]) -> Option<PathBuf> {
    let dir = copy.parent()?;
    private::make_dir(dir).ok()?;
    let mut file = tempfile::NamedTempFile::new_in(dir).ok()?;
    file.write_all(bytes).ok()?;
    file.as_file().set_permissions(Permissions::from_mode(0o400)).ok()?;
    file.persist(&copy).ok()?;
    Some(copy)
}

/// Calls `change` with each string and each key, and replaces those for which it returns another. Returns true if there was one.
fn change_strings(value: &mut Value, change: &mut impl FnMut(&str) -> Option<String>) -> bool {
    match value {
        Value::String(text) => match change(text) {
            Some(other) => {
                *text = other;
                true
            }
            None => false,
        },
        Value::Array(values) => values.iter_mut().fold(false, |changed, value| change_strings(value, change) | changed),
        Value::Object(members) => {
            let mut changed = members.values_mut().fold(false, |changed, value| change_strings(value, change) | changed);
            // A change of several files has them as keys.
            let keys: Vec<(String, String)> = members.keys().filter_map(|key| Some((key.clone(), change(key)?))).collect();
            for (old, new) in keys {
                if let Some(value) = members.remove(&old) {
                    members.insert(new, value);
                    changed = true;
                }
            }
            changed
        }
        _ => false,
    }
}

/// Returns the absolute path of a file URI of this host, without `..`.
fn path_of(uri: &str) -> Option<PathBuf> {
    let rest = uri.strip_prefix(SCHEME).filter(|rest| rest.starts_with('/') && rest.len() <= MAX_PATH_BYTES)?;
    let mut bytes = Vec::with_capacity(rest.len());
    let mut left = rest.as_bytes();
    while let Some((first, rest)) = left.split_first() {
        left = rest;
        if *first != b'%' {
            bytes.push(*first);
            continue;
        }
        let digits = std::str::from_utf8(left.get(..2)?).ok()?;
        bytes.push(u8::from_str_radix(digits, 16).ok().filter(|byte| *byte != 0)?);
        left = &left[2..];
    }
    let path = PathBuf::from(OsStr::from_bytes(&bytes));
    path.components().all(|part| matches!(part, Component::RootDir | Component::Normal(_))).then_some(path)
}

fn uri(path: &Path) -> String {
    format!("{SCHEME}{}", encode(path))
}

/// Encodes a path for a URI.
fn encode(path: &Path) -> String {
    let mut text = String::new();
    for byte in path.as_os_str().as_bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'/' | b'-' | b'.' | b'_' | b'~' => text.push(char::from(*byte)),
            _ => text += &format!("%{byte:02X}"),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn framed(text: &str) -> String {
        format!("Content-Length: {}\r\n\r\n{text}", text.len())
    }

    #[test]
    fn frames_are_changed_and_anything_else_is_copied() {
        let check = |input: &str, expect: &str| {
            let mut out = Vec::new();
            let change = |body: &[u8]| (body == b"old").then(|| b"newer".to_vec());
            relay(&mut input.as_bytes(), &mut out, change).expect("memory");
            assert_eq!(String::from_utf8_lossy(&out), expect, "{input:?}");
        };
        check(&(framed("old") + &framed("kept")), &(framed("newer") + &framed("kept")));
        check("content-length: 3\r\nContent-Type: x\r\n\r\nold", &framed("newer"));
        check("", "");
        for plain in ["said\n", "Content-Length: x\r\n\r\nold", "\r\n\r\nold", "Content-Length: 3\n\nold", "X: y\r\n\r\n"] {
            check(plain, plain);
        }
        let long = "x".repeat(5000);
        check(&long, &long);
        // A length that lies is the end.
        check("Content-Length: 9\r\n\r\nkept", "Content-Length: 9\r\n\r\nkept");
    }

    #[test]
    fn paths_of_the_image_become_copies_and_back() {
        let dir = tempfile::tempdir().expect("a directory");
        let root = dir.path().join("root");
        let sources = dir.path().join("the sources");
        fs::create_dir_all(root.join("usr/lib")).expect("our own");
        fs::write(root.join("usr/lib/a b.py"), "text").expect("our own");
        fs::create_dir_all(root.join("project")).expect("our own");
        fs::write(root.join("project/x.py"), "the image's").expect("our own");
        std::os::unix::fs::symlink(dir.path(), root.join("usr/out")).expect("our own");
        fs::write(dir.path().join("secret"), "the host's").expect("our own");
        let copies = sources.join("1234");
        let cache = dir.path().join("kept");
        fs::create_dir(&cache).expect("our own");
        fs::write(cache.join("x.go"), "first").expect("our own");
        std::os::unix::fs::symlink(dir.path().join("secret"), cache.join("out")).expect("our own");
        let files = ImageFiles {
            root: root.clone(),
            copies: copies.clone(),
            caches: vec![(PathBuf::from("/home/me/go"), cache.clone())],
            of_caches: sources.join("1234.project"),
            copied: Cell::default(),
            project: PathBuf::from("/project"),
        };
        let server = |text: &str| from_server(|| Some(&files), text.as_bytes()).map(|body| String::from_utf8(body).expect("text"));
        let there = format!("{}/usr/lib/a%20b.py", uri(&copies));
        let shown = server(r#"{"result":[{"uri":"file:///usr/lib/a%20b.py"}]}"#).expect("it is changed");
        assert_eq!(shown, format!(r#"{{"result":[{{"uri":"{there}"}}]}}"#));
        let copy = copies.join("usr/lib/a b.py");
        assert_eq!(fs::read_to_string(&copy).expect("a copy"), "text");
        assert_eq!(fs::metadata(&copy).expect("a copy").permissions().mode() & 0o777, 0o400);
        for same in [
            r#"{"uri":"file:///project/x.py"}"#,
            r#"{"uri":"file:///usr/lib/none.py"}"#,
            r#"{"uri":"file:///usr/lib"}"#,
            r#"{"uri":"file:///usr/lib/../lib/a%20b.py"}"#,
            r#"{"uri":"file:///usr/out/secret"}"#,
            r#"{"uri":"file:///home/me/go/out"}"#,
            r#"{"uri":"file:///home/me/go"}"#,
            r#"{"uri":"file:///home/me/x.go"}"#,
            r#"{"uri":"file:///%00"}"#,
            r#"{"uri":"file:///%"}"#,
            r#"{"uri":"file:///"}"#,
            r#"{"text":"a file:///usr/lib/a%20b.py"}"#,
            "file:// no JSON",
        ] {
            assert_eq!(server(same), None, "{same}");
        }
        let editor = |text: &str| from_editor(&sources, text.as_bytes()).map(|body| String::from_utf8(body).expect("text"));
        assert_eq!(editor(&shown).as_deref(), Some(r#"{"result":[{"uri":"file:///usr/lib/a%20b.py"}]}"#));
        assert_eq!(editor(&format!(r#"{{"{there}":1}}"#)).as_deref(), Some(r#"{"file:///usr/lib/a%20b.py":1}"#));
        assert_eq!(editor(r#"{"uri":"file:///project/x.py"}"#), None);
        // A file of a cache may change, and its copy is the project's own.
        let module = r#"{"uri":"file:///home/me/go/x.go"}"#;
        let copy = sources.join("1234.project/home/me/go/x.go");
        for text in ["first", "second"] {
            fs::write(cache.join("x.go"), text).expect("our own");
            let shown = server(module).expect("it is changed");
            assert_eq!(shown, format!(r#"{{"uri":"{}"}}"#, uri(&copy)));
            assert_eq!(fs::read_to_string(&copy).expect("a copy"), text);
            assert_eq!(editor(&shown).as_deref(), Some(module));
        }
        files.copied.set(MAX_COPIED_BYTES);
        fs::write(cache.join("x.go"), "third").expect("our own");
        assert_eq!(server(module), None);
        let initialize = r#"{"method":"initialize","params":{"processId":7}}"#;
        assert_eq!(editor(initialize).as_deref(), Some(r#"{"method":"initialize","params":{"processId":null}}"#));
        assert_eq!(editor(r#"{"method":"other","params":{"processId":7}}"#), None);
    }
}
