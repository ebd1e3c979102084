//! Packages of Debian by the shared libraries, pkg-config files and C headers that they contain.
//!
//! Pure: the list is in the program, and only hints use it.

use std::io::Read;

/// The list, made by `.ci/libraries`: in each line a package of trixie and its files, separated by spaces.
const LIST: &[u8] = include_bytes!("../../recipes/libraries.zst");
/// The most bytes of the list.
const MAX_BYTES: u64 = 8 << 20;
/// The most bytes of a file's name in a message.
const MAX_NAME_BYTES: usize = 128;
/// Suites before trixie, where no package has the suffix of the change to 64-bit times.
const BEFORE_TIME64: [&str; 2] = ["bookworm", "bullseye"];

/// A file in a message of a loader, a linker, pkg-config or a compiler.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum File<'a> {
    /// A shared library by its file name, with or without a version: `libxcb.so.1`, `libmagic`.
    Library(&'a str),
    /// A library by the name that the linker gets: `-lffi`.
    Linked(&'a str),
    /// A module of pkg-config.
    Module(&'a str),
    /// A header by its path in `#include`.
    Header(&'a str),
    /// A package of CMake, in any case: `ZLIB`.
    Cmake(&'a str),
}

impl File<'_> {
    /// The name for a message.
    pub fn name(&self) -> String {
        match self {
            File::Linked(name) => format!("lib{name}.so"),
            File::Module(name) => format!("{name}.pc"),
            File::Library(name) | File::Header(name) | File::Cmake(name) => (*name).to_owned(),
        }
    }

    /// Names in the list, the best first. A name that ends with `.so.` matches every version.
    fn candidates(&self) -> Vec<String> {
        match self {
            File::Library(name) if name.contains(".so") => vec![(*name).to_owned()],
            // Programs ask for `libcairo-2`, `cairo-2` and `cairo`, where the file is `libcairo.so.2`.
            File::Library(name) => {
                let stem = name.strip_prefix("lib").unwrap_or(name);
                let (short, version) = match stem.rsplit_once('-') {
                    Some((short, version)) if version.chars().all(|digit| digit.is_ascii_digit()) => (short, version),
                    _ => (stem, ""),
                };
                vec![format!("lib{stem}.so."), format!("lib{short}.so.{version}"), format!("lib{stem}.so")]
            }
            File::Linked(name) => vec![format!("lib{name}.so")],
            File::Module(name) => vec![format!("{name}.pc")],
            File::Header(name) => {
                let dir = name.split_once('/').map(|(dir, _)| format!("{dir}/"));
                std::iter::once((*name).to_owned()).chain(dir).collect()
            }
            File::Cmake(name) => {
                let name = name.to_ascii_lowercase();
                vec![format!("{name}.pc"), format!("lib{name}.pc"), format!("lib{name}.so"), format!("{name}.h")]
            }
        }
    }
}

/// Returns the package of a suite that has a file.
pub fn package(file: &File<'_>, suite: &str) -> Option<String> {
    let is_plain = |letter: char| letter.is_ascii_alphanumeric() || "-_.+/".contains(letter);
    let name = file.name();
    if name.len() > MAX_NAME_BYTES || !name.chars().all(is_plain) {
        return None;
    }
    let mut list = String::new();
    zstd::Decoder::new(LIST).ok()?.take(MAX_BYTES).read_to_string(&mut list).ok()?;
    let found = file.candidates().iter().find_map(|wanted| find(&list, wanted))?;
    let suite = suite.split('-').next().unwrap_or(suite);
    Some(if BEFORE_TIME64.contains(&suite) { found.trim_end_matches("t64").to_owned() } else { found.to_owned() })
}

/// Finds the line that has a name, or with a final `.so.` any version of it.
fn find<'a>(list: &'a str, wanted: &str) -> Option<&'a str> {
    let is_it = |file: &str| if wanted.ends_with(".so.") { file.starts_with(wanted) } else { file == wanted };
    list.lines().filter(|line| line.contains(wanted)).find_map(|line| {
        let (package, files) = line.split_once(' ')?;
        files.split(' ').any(is_it).then_some(package)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_found_with_their_packages() {
        for (file, package_of_it) in [
            (File::Library("libxcb.so.1"), "libxcb1"),
            (File::Library("libGL.so.1"), "libgl1"),
            (File::Library("libmagic"), "libmagic1t64"),
            (File::Library("gobject-2.0-0"), "libglib2.0-0t64"),
            (File::Library("libcairo-2"), "libcairo2"),
            (File::Linked("ffi"), "libffi-dev"),
            (File::Module("openssl"), "libssl-dev"),
            (File::Header("ffi.h"), "libffi-dev"),
            (File::Header("openssl/ssl.h"), "libssl-dev"),
            (File::Cmake("ZLIB"), "zlib1g-dev"),
        ] {
            assert_eq!(package(&file, "trixie").as_deref(), Some(package_of_it), "{file:?}");
        }
        assert_eq!(package(&File::Library("libmagic"), "bookworm-backports").as_deref(), Some("libmagic1"));
        for nothing in [
            File::Library("libof-nobody.so.3"),
            File::Library(""),
            File::Library("libxcb.so.1 libxcb1"),
            File::Header("x\n.h"),
            File::Header("nobody/of.h"),
            File::Linked(""),
            File::Module(""),
            File::Cmake(""),
        ] {
            assert_eq!(package(&nothing, "trixie"), None, "{nothing:?}");
        }
    }
}
