//! Finds missing libraries and headers in the messages of loaders, linkers, compilers and pkg-config.
//!
//! Pure: turns lines into names of files and their packages.

use super::libraries::{self, File};

/// The most files of one hint: a loader reports one at a time, a build several.
const MOST: usize = 6;

/// Returns the missing files in these lines with their packages in a suite, without packages that `has_package` finds in the image.
pub fn absent(lines: &[&str], suite: &str, has_package: &dyn Fn(&str) -> bool) -> Vec<(String, String)> {
    let is_ruby = lines.iter().any(|line| line.contains("extconf.rb failed"));
    let mut found: Vec<(String, String)> = Vec::new();
    let extconf = |line| if is_ruby { checked_header(line) } else { None };
    for file in lines.iter().filter_map(|line| named(line).or_else(|| extconf(line))) {
        if found.len() == MOST || found.iter().any(|(name, _)| *name == file.name()) {
            continue;
        }
        let Some(package) = libraries::package(&file, suite) else { continue };
        if !has_package(&package) && !found.iter().any(|(_, other)| *other == package) {
            found.push((file.name(), package));
        }
    }
    found
}

/// Returns the file that a line reports as missing.
fn named(line: &str) -> Option<File<'_>> {
    library(line).or_else(|| module(line)).or_else(|| header(line))
}

/// Messages of loaders and linkers, and of programs that load a library by its name.
fn library(line: &str) -> Option<File<'_>> {
    if let Some((before, _)) = line.split_once(": cannot open shared object file") {
        let path = before.rsplit([' ', '\'', '"', '(']).find(|word| !word.is_empty())?;
        // A library of the project, or of a program's own directory, is in no package.
        let name = match path.rsplit_once('/') {
            Some((dir, name)) if ["/lib", "/usr/lib"].iter().any(|of_system| dir.starts_with(of_system)) => name,
            Some(_) => return None,
            None => path,
        };
        return Some(File::Library(name));
    }
    if let Some(rest) = after(line, "Error loading shared library ") {
        return Some(File::Library(rest.split(':').next()?));
    }
    if let Some(rest) = after(line, "cannot find -l").or_else(|| after(line, "unable to find library -l")) {
        return Some(File::Linked(rest.split([':', ' ']).next()?));
    }
    // ctypes and cffi of Python, ffi of Ruby.
    let quoted = ["cannot load library ", "no library called ", "Could not open library "];
    if let Some(rest) = quoted.iter().find_map(|words| after(line, words)) {
        return Some(File::Library(rest.trim_start_matches(['\'', '"']).split(['\'', '"', ':']).next()?));
    }
    let plain = ["failed to find ", "unable to find ", "could not find ", "cannot find "];
    let lower = line.to_ascii_lowercase();
    let at = plain.iter().find_map(|words| lower.find(words).map(|at| at + words.len()))?;
    let word = line.get(at..)?.split([' ', ',', '.', ':', '\'', '"']).next()?;
    (word.len() > 3 && word.starts_with("lib")).then_some(File::Library(word))
}

/// Messages of pkg-config, of build tools that ask it, and of CMake.
fn module(line: &str) -> Option<File<'_>> {
    if let Some(rest) = line.strip_prefix("Could NOT find ").or_else(|| line.split("provided by \"").nth(1)) {
        return Some(File::Cmake(rest.split([' ', '"', ',']).next()?));
    }
    // The build script of the crate openssl-sys.
    if line.contains("Could not find directory of OpenSSL installation") {
        return Some(File::Module("openssl"));
    }
    let quoted = [
        ("No package '", "' found"),
        ("Package '", "', required by"),
        ("Package ", " was not found in the pkg-config search path"),
        ("The system library `", "` required by crate"),
        ("could not find system library '", "' required by"),
        ("Dependency \"", "\" not found"),
        ("Dependency '", "' is required but"),
    ];
    if let Some(name) = quoted.iter().find_map(|(start, end)| between(line, start, end)) {
        return Some(File::Module(name));
    }
    // A command that a build tool repeats after its failure.
    let command =
        after(line, "pkg-config ").filter(|_| line.contains("non-zero exit status") || line.contains("did not exit successfully"))?;
    let name = command.split([' ', '\'', '"', '`', ',']).find(|word| !word.is_empty() && !word.starts_with('-'))?;
    Some(File::Module(name))
}

/// Messages of compilers.
fn header(line: &str) -> Option<File<'_>> {
    let name = between(line, "fatal error: ", ": No such file or directory")
        .or_else(|| between(line, "fatal error: '", "' file not found"))
        .or_else(|| between(line, "Can't find the '", "' header"))?;
    Some(File::Header(name))
}

/// Messages of Ruby's extconf.
fn checked_header(line: &str) -> Option<File<'_>> {
    between(line, "checking for ", "... no").filter(|name| name.ends_with(".h")).map(File::Header)
}

fn after<'a>(line: &'a str, words: &str) -> Option<&'a str> {
    line.find(words).map(|at| &line[at + words.len()..])
}

fn between<'a>(line: &'a str, start: &str, end: &str) -> Option<&'a str> {
    let rest = after(line, start)?;
    rest.find(end).map(|at| &rest[..at])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packages(said: &str) -> String {
        let lines: Vec<&str> = said.lines().map(str::trim).collect();
        absent(&lines, "trixie", &|package| package == "libpng-dev").into_iter().map(|(_, package)| package).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn files_that_loaders_linkers_and_compilers_miss_are_found() {
        for (said, expect) in [
            ("ImportError: libxcb.so.1: cannot open shared object file: No such file or directory", "libxcb1"),
            ("Error: libsecret-1.so.0: cannot open shared object file: No such file or directory", "libsecret-1-0"),
            (
                "./tool: error while loading shared libraries: libpq.so.5: cannot open shared object file: No such file or directory",
                "libpq5",
            ),
            ("LoadError: libvips.so.42: cannot open shared object file: No such file or directory - /p/vendor/vips.so", "libvips42t64"),
            (
                "java.lang.UnsatisfiedLinkError: /jdk/lib/libfontmanager.so: libfreetype.so.6: cannot open shared object file: No such file or directory",
                "libfreetype6",
            ),
            ("dlopen: '/usr/lib/x86_64-linux-gnu/libGL.so.1: cannot open shared object file", "libgl1"),
            ("Error loading shared library libcurl.so.4: No such file or directory (needed by /p/x)", "libcurl4t64"),
            ("OSError: cannot load library 'libgobject-2.0-0': libgobject-2.0-0: cannot open shared object file", "libglib2.0-0t64"),
            ("OSError: no library called \"cairo-2\" was found", "libcairo2"),
            ("ImportError: failed to find libmagic.  Check your installation", "libmagic1t64"),
            ("/usr/bin/ld: cannot find -lssl: No such file or directory", "libssl-dev"),
            ("rust-lld: error: unable to find library -lz", "zlib1g-dev"),
            (
                "Package cairo was not found in the pkg-config search path.\nNo package 'cairo' found\nNo package 'pangocairo' found",
                "libcairo2-dev libpango1.0-dev",
            ),
            ("The system library `openssl` required by crate `openssl-sys` was not found.", "libssl-dev"),
            ("Could not find directory of OpenSSL installation, and this `-sys` crate cannot", "libssl-dev"),
            ("../meson.build:4:6: ERROR: Dependency \"libpng\" not found, tried pkgconfig", ""),
            ("Could NOT find ZLIB (missing: ZLIB_LIBRARY ZLIB_INCLUDE_DIR)", "zlib1g-dev"),
            ("subprocess.CalledProcessError: Command 'pkg-config --cflags libffi' returned non-zero exit status 1.", "libffi-dev"),
            ("x.c:1:10: fatal error: ffi.h: No such file or directory", "libffi-dev"),
            ("x.cc:2:10: fatal error: 'openssl/ssl.h' file not found", "libssl-dev"),
            ("checking for ffi.h... no\n*** extconf.rb failed ***", "libffi-dev"),
            // Optional parts, files of the project, and names of nobody.
            ("checking for ffi.h... no", ""),
            ("-- Could NOT find ZLIB (missing: ZLIB_LIBRARY)", ""),
            ("ImportError: /p/lib/libz.so.1: cannot open shared object file: No such file or directory", ""),
            ("libmine.so: cannot open shared object file", ""),
            (": cannot open shared object file", ""),
            ("cannot find -l", ""),
            ("failed to find lib", ""),
            ("failed to find ", ""),
            ("pkg-config returned non-zero exit status 1", ""),
        ] {
            assert_eq!(packages(said), expect, "{said}");
        }
    }
}
