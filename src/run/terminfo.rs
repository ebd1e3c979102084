//! The description of the caller's terminal (terminfo), for an image that has none of that name.
//!
//! It comes from the host, or else from a list in the program. It goes to `/etc/terminfo`, which all builds of ncurses search.

use std::fmt::Write;
use std::io::Read;
use std::path::{Path, PathBuf};

use silo_store::read_limited;
use silo_store::resolve_in_root::Root;

use silo_launch::spec::{Bytes, File};

/// The most bytes of a description that ncurses reads.
const MAX_BYTES: u64 = 32 << 10;
/// The most bytes of a terminal's name.
const MAX_NAME_BYTES: usize = 128;
/// The most bytes of all built-in descriptions.
const MAX_BUILT_IN_BYTES: u64 = 4 << 20;
/// Directories of an image with descriptions.
const OF_IMAGE: [&str; 4] = ["etc/terminfo", "lib/terminfo", "usr/lib/terminfo", "usr/share/terminfo"];
/// Descriptions of today's terminals, made by `.ci/terminfo`: one a line, in hexadecimal.
const BUILT_IN: &[u8] = include_bytes!("../../recipes/terminfo.zst");

/// Returns the file with the description of `terminal`, unless the image at `root` has one. `dirs` are the host's directories.
pub fn file(terminal: &str, root: &Path, dirs: &[PathBuf]) -> Option<File> {
    if !is_name(terminal) {
        return None;
    }
    if let Ok(image) = Root::open(root)
        && OF_IMAGE.iter().any(|dir| places(terminal).any(|place| image.read(&Path::new(dir).join(place), MAX_BYTES).is_ok()))
    {
        return None;
    }
    let of_host = dirs.iter().flat_map(|dir| places(terminal).map(move |place| dir.join(place)));
    let mut of_host = of_host.filter_map(|path| read_limited::read(&path, MAX_BYTES).ok()).filter(|bytes| describes(bytes, terminal));
    let bytes = of_host.next().or_else(|| built_in(terminal))?;
    Some(File { guest: Path::new("/etc/terminfo").join(places(terminal).next()?), bytes: Bytes(bytes), mode: 0o644 })
}

fn is_name(terminal: &str) -> bool {
    let is_plain = |letter: char| letter.is_ascii_alphanumeric() || "-_.+".contains(letter);
    terminal.len() <= MAX_NAME_BYTES && terminal.starts_with(|first: char| first.is_ascii_alphanumeric()) && terminal.chars().all(is_plain)
}

/// The places of a description: below the first letter of its name, or below that letter's number, as on macOS.
fn places(terminal: &str) -> impl Iterator<Item = PathBuf> {
    let letter = terminal.get(..1).unwrap_or_default();
    let number = terminal.bytes().next().map(|byte| format!("{byte:02x}")).unwrap_or_default();
    [letter.to_owned(), number].map(|dir| Path::new(&dir).join(terminal)).into_iter()
}

/// Checks that bytes are a compiled description with this name: its header, and that all its parts are there.
fn describes(bytes: &[u8], terminal: &str) -> bool {
    let number = |at: usize| bytes.get(2 * at..2 * at + 2).map(|pair| usize::from(u16::from_le_bytes([pair[0], pair[1]])));
    let header: Option<Vec<usize>> = (0..6).map(number).collect();
    let Some([magic, names, flags, numbers, strings, text]) = header.as_deref() else { return false };
    let width = match magic {
        0o432 => 2,
        0o1036 => 4,
        _ => return false,
    };
    let before_numbers = 12 + names + flags;
    let length = before_numbers + before_numbers % 2 + numbers * width + strings * 2 + text;
    let Some((0, named)) = bytes.get(12..12 + names).and_then(|names| names.split_last()) else { return false };
    length <= bytes.len() && bytes.len() as u64 <= MAX_BYTES && named.split(|byte| *byte == b'|').any(|name| name == terminal.as_bytes())
}

/// Finds a built-in description.
fn built_in(terminal: &str) -> Option<Vec<u8>> {
    let mut all = String::new();
    zstd::Decoder::new(BUILT_IN).ok()?.take(MAX_BUILT_IN_BYTES).read_to_string(&mut all).ok()?;
    // In the line, the name is between `|`, or the header of six numbers and `|`.
    let name = terminal.bytes().fold(String::new(), |mut name, byte| {
        let _ = write!(name, "{byte:02X}");
        name
    });
    all.lines().filter(|line| line.contains(&name)).filter_map(unhex).find(|bytes| describes(bytes, terminal))
}

fn unhex(line: &str) -> Option<Vec<u8>> {
    line.as_bytes().chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn todays_terminals_are_built_in() {
        for terminal in [
            "alacritty",
            "contour",
            "foot",
            "ghostty",
            "iTerm2.app",
            "kitty",
            "konsole-256color",
            "rio",
            "screen.xterm-256color",
            "st-256color",
            "tmux-256color",
            "vte-256color",
            "wezterm",
            "xterm-direct",
            "xterm-ghostty",
            "xterm-kitty",
        ] {
            assert!(built_in(terminal).is_some(), "{terminal}");
        }
        for terminal in ["", "none", "Alacritty", "foot terminal", "lacritty"] {
            assert!(built_in(terminal).is_none(), "{terminal}");
        }
    }

    #[test]
    fn descriptions_are_checked() {
        let good = built_in("foot").expect("it is built in");
        assert!(describes(&good, "foot") && !describes(&good, "kitty") && !describes(&good, "foo"));
        for length in [0, 1, 11, 12, 20, 200] {
            assert!(!describes(&good[..length], "foot"), "{length}");
        }
        let with = |at: usize, byte: u8| {
            let mut bytes = good.clone();
            bytes[at] = byte;
            bytes
        };
        for (at, byte) in [(0, 0), (1, 9), (3, 0xff), (5, 0xff), (7, 0xff), (9, 0xff), (11, 0xff)] {
            assert!(!describes(&with(at, byte), "foot"), "{at}");
        }
        let long = [good, vec![0; MAX_BYTES as usize]].concat();
        assert!(!describes(&long, "foot"));
    }

    #[test]
    fn the_images_come_first_then_the_hosts_then_the_built_in() {
        let dir = tempfile::tempdir().expect("a directory");
        let (root, host) = (dir.path().join("root"), dir.path().join("host"));
        let put = |dir: &Path, name: &str, bytes: &[u8]| {
            std::fs::create_dir_all(dir.join(name).parent().expect("it has one")).expect("our own directory");
            std::fs::write(dir.join(name), bytes).expect("our own file");
        };
        std::fs::create_dir(&root).expect("our own directory");
        let found = |terminal: &str| file(terminal, &root, std::slice::from_ref(&host)).map(|file| (file.guest, file.bytes.0));
        let built_in = built_in("foot").expect("it is built in");
        assert_eq!(found("foot"), Some(("/etc/terminfo/f/foot".into(), built_in.clone())));
        // The host's, unless it is none.
        let own = [built_in.clone(), vec![0; 2]].concat();
        put(&host, "66/foot", &own);
        assert_eq!(found("foot"), Some(("/etc/terminfo/f/foot".into(), own)));
        put(&host, "66/foot", b"ssh-rsa");
        assert_eq!(found("foot").map(|(_, bytes)| bytes), Some(built_in));
        put(&host, "n/none", b"x");
        for terminal in ["none", "../../etc/passwd", "a/b", ".x", "", "a b"] {
            assert_eq!(found(terminal), None, "{terminal}");
        }
        put(&root, "usr/share/terminfo/f/foot", b"the image's");
        assert_eq!(found("foot"), None);
    }
}
