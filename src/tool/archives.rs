//! Lists the apt archives and local files that a recipe's packages may come from.

use std::fs::File;
use std::io::{self, Read};
use std::path::PathBuf;

use silo_store::digest::{Digest, Hasher};

use silo_base::system::Arch;
use silo_fetch::unpack::{deb, package};
use silo_model::lock::Archive;
use silo_model::recipe::{AptSource, LocalDeb};
use silo_model::recipe::{Debian, package_spec};
use silo_resolve::packages::Index;

/// Suites without a separate suite of updates.
const ROLLING: [&str; 4] = ["sid", "unstable", "testing", "experimental"];

/// Suffix of a backports suite, after the release's name.
const BACKPORTS: &str = "-backports";

/// Limit on the size of a local .deb.
const MAX_DEB_BYTES: u64 = 8 << 30;

/// The packages of a suite that may be chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SuitePackages {
    /// All.
    All,
    /// Packages that the recipe requests from this suite by name, and their dependencies from it.
    Named,
    /// All, unless the suite is marked `NotAutomatic`, as in apt.
    AsTheSuiteSays,
}

/// A suite of an archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// The suite.
    pub suite: String,
    /// The archive.
    pub archive: Archive,
    /// The components.
    pub components: Vec<String>,
    /// The signing key; `None` for Debian's own.
    pub key: Option<String>,
    /// The packages that may be chosen.
    pub counts: SuitePackages,
}

/// Returns the release of a suite: `trixie` for `trixie-backports`.
pub fn release(suite: &str) -> &str {
    suite.strip_suffix(BACKPORTS).unwrap_or(suite)
}

/// Lists the suites for a recipe's packages, in apt's usual order.
pub fn of(debian: &Debian) -> Vec<Source> {
    let of_debian = |suite: String, archive, counts| Source { suite, archive, components: debian.components.clone(), key: None, counts };
    let release = release(&debian.suite);
    let mut sources = vec![of_debian(release.to_owned(), Archive::Main, SuitePackages::All)];
    if !ROLLING.contains(&release) {
        sources.push(of_debian(format!("{release}-updates"), Archive::Main, SuitePackages::All));
        sources.push(of_debian(format!("{release}-security"), Archive::Security, SuitePackages::All));
    }
    if release != debian.suite {
        sources.push(of_debian(debian.suite.clone(), Archive::Main, SuitePackages::All));
    }
    for AptSource { uri, suite, components, key } in &debian.sources {
        sources.push(Source {
            suite: suite.clone(),
            archive: Archive::Source(uri.clone()),
            components: components.clone(),
            key: key.clone(),
            counts: SuitePackages::AsTheSuiteSays,
        });
    }
    let packages = debian.packages.iter().chain(&debian.added).chain(&debian.build);
    for suite in packages.filter_map(|package| package_spec::parse(package)?.suite) {
        if !sources.iter().any(|source| source.suite == suite) {
            sources.push(of_debian(suite.to_owned(), Archive::Main, SuitePackages::Named));
        }
    }
    sources
}

/// Lists the foreign architectures of a recipe's root: those of its packages and local files whose programs the root's kernel runs.
pub fn foreign(debian: &Debian, local: &Index<'_>, arch: Arch) -> Vec<&'static str> {
    let packages = || debian.packages.iter().chain(&debian.added).chain(&debian.build).filter_map(|package| package_spec::parse(package));
    let is_requested = |known: &str| packages().any(|wanted| wanted.of == Some(known) && wanted.is_for(arch));
    let is_local = |known: &str| local.packages.iter().any(|package| package.architecture == known);
    arch.foreign().iter().copied().filter(|known| is_requested(known) || is_local(known)).collect()
}

/// Returns the other architecture of a lock.
pub fn other_than(arch: Arch) -> Arch {
    Arch::ALL.into_iter().find(|other| *other != arch).unwrap_or(arch)
}

/// Error of using a local .deb.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It cannot be read.
    #[error("debian.debs: cannot read {path}", path = .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// It is outside the recipe's directory.
    #[error("debian.debs: {path} is a symlink out of the recipe's directory", path = .path.display())]
    Outside {
        /// The file.
        path: PathBuf,
    },
    /// It is not a valid package.
    #[error("debian.debs")]
    Deb(#[from] deb::Error),
}

/// Generates a package index of the local files.
pub fn index_of(debs: &[LocalDeb]) -> Result<String, Error> {
    let mut text = String::new();
    for LocalDeb { name, dir } in debs {
        let path = dir.join(name);
        let failed = |source| Error::Read { path: path.clone(), source };
        let real = path.canonicalize().map_err(failed)?;
        if !real.starts_with(dir.canonicalize().map_err(failed)?) {
            return Err(Error::Outside { path });
        }
        let (digest, size) = digest(&real).map_err(failed)?;
        let control = package::control(name, File::open(&real).map_err(failed)?, digest)?;
        let control = String::from_utf8_lossy(&control).into_owned();
        text.push_str(&format!("{}\nFilename: {name}\nSize: {size}\nSHA256: {digest}\n\n", control.trim()));
    }
    Ok(text)
}

fn digest(path: &std::path::Path) -> io::Result<(Digest, u64)> {
    let file = File::open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file"));
    }
    let mut from = file.take(MAX_DEB_BYTES + 1);
    let (mut hasher, mut buffer, mut size) = (Hasher::new(), vec![0; 1 << 16], 0);
    loop {
        let got = from.read(&mut buffer)?;
        if got == 0 {
            break;
        }
        hasher.update(&buffer[..got]);
        size += got as u64;
    }
    if size > MAX_DEB_BYTES {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("it has more than {MAX_DEB_BYTES} bytes")));
    }
    Ok((hasher.finish(), size))
}

#[cfg(test)]
mod tests {
    use super::*;
    use silo_model::recipe::file;

    #[test]
    fn suites_come_in_apts_order() {
        for (text, expect) in [
            ("", "trixie trixie-updates trixie-security"),
            ("suite = \"sid\"", "sid"),
            ("suite = \"bookworm-backports\"", "bookworm bookworm-updates bookworm-security bookworm-backports"),
            ("packages = [\"jq/trixie-backports\", \"git/trixie-backports\"]", "trixie trixie-updates trixie-security trixie-backports?"),
            (
                "packages = [\"xx/own\"]\nsources = [{ uri = \"https://example.com/apt\", suite = \"own\" }]",
                "trixie trixie-updates trixie-security own*",
            ),
        ] {
            let file = toml::from_str(&format!("[debian]\n{text}")).expect("a recipe");
            let debian = file::check("x", file).expect("a recipe").debian;
            let told: Vec<String> = of(&debian)
                .iter()
                .map(|source| match source.counts {
                    SuitePackages::All => source.suite.clone(),
                    SuitePackages::Named => format!("{}?", source.suite),
                    SuitePackages::AsTheSuiteSays => format!("{}*", source.suite),
                })
                .collect();
            assert_eq!(told.join(" "), expect);
        }
    }
}
