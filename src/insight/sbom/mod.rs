//! Bills of materials: the packages of an image, with their origins and licenses.
//!
//! All data comes from the image: dpkg's database, the copyright files, the layers' manifests. The same image gives the same bytes, so
//! there is no random id, and the only time is the image's own.

pub mod copyright;
pub mod purl;

pub mod cyclonedx;
pub mod spdx;

use std::collections::{BTreeMap, BTreeSet};

use silo_store::digest::Digest;

use silo_base::timestamp;
use silo_fetch::unpack::record::Stanza;

use super::error::Error;
use super::image_view::ImageView;
use super::why_installed;
use copyright::License;

/// The bill of materials of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bill {
    /// The tool, or the image's id.
    pub name: String,
    /// The tool's version; `None` if no tool uses the image.
    pub version: Option<String>,
    /// The image's id.
    pub image: Digest,
    /// The architecture.
    pub arch: String,
    /// The image's own date.
    pub date: String,
    /// The distribution of the packages.
    pub distribution: Distribution,
    /// The packages, by name.
    pub packages: Vec<Item>,
}

/// A distribution, as in its os-release(5).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Distribution {
    /// Its id, such as `debian`.
    pub id: String,
    /// Its display name.
    pub name: String,
    /// The release's codename, such as `trixie`.
    pub codename: String,
}

/// A package.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Its architecture; `None` if dpkg does not have the package.
    pub architecture: Option<String>,
    /// Its origin.
    pub origin: Origin,
    /// The source package and its version.
    pub source: Option<(String, String)>,
    /// Its one-line description.
    pub summary: Option<String>,
    /// Its home page.
    pub homepage: Option<String>,
    /// Its licenses, if its copyright file is machine-readable.
    pub license: Option<License>,
    /// The digest of the package file.
    pub sha256: Option<String>,
    /// The indexes of its dependencies.
    pub depends: Vec<usize>,
}

/// The origin of a package.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The distribution's archive, or the base image.
    Distribution,
    /// A file that a step installed, with the package's stated maintainer.
    Elsewhere(Option<Maintainer>),
}

/// A package's stated maintainer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Maintainer {
    /// The name.
    pub name: String,
    /// The mail address.
    pub mail: Option<String>,
}

/// Reads the bill of materials of an image.
pub fn bill(inside: &ImageView) -> Result<Bill, Error> {
    let stanzas = inside.stanzas()?;
    let key = |stanza: &Stanza| {
        (stanza.package().to_owned(), stanza.get("Version").unwrap_or_default().to_owned(), stanza.architecture().to_owned())
    };
    let archived: BTreeSet<_> = inside.stanzas_before_steps()?.iter().map(key).collect();
    let mut packages = Vec::new();
    for (stanza, depends) in stanzas.iter().zip(why_installed::dependencies(inside.image.arch, &stanzas)) {
        let origin = match archived.contains(&key(stanza)) {
            true => Origin::Distribution,
            false => Origin::Elsewhere(stanza.get("Maintainer").and_then(maintainer)),
        };
        packages.push(item(inside, stanza, origin, depends)?);
    }
    packages.extend(others(inside, &stanzas));
    let tool = inside.tools.first();
    Ok(Bill {
        name: tool.map_or_else(|| inside.id.to_string(), |tool| tool.name.clone()),
        version: tool.map(|tool| tool.version.clone()),
        image: inside.id.digest(),
        arch: inside.image.arch.to_string(),
        date: timestamp::rfc3339(inside.image.epoch),
        distribution: distribution(&text(inside, "usr/lib/os-release")?.unwrap_or_default()),
        packages,
    })
}

fn text(inside: &ImageView, path: &str) -> Result<Option<String>, Error> {
    Ok(inside.read(path)?.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()))
}

fn item(inside: &ImageView, stanza: &Stanza, origin: Origin, depends: Vec<usize>) -> Result<Item, Error> {
    let name = stanza.package();
    let version = stanza.get("Version").unwrap_or_default();
    let copyright = text(inside, &format!("usr/share/doc/{name}/copyright"))?;
    Ok(Item {
        name: name.to_owned(),
        version: version.to_owned(),
        architecture: Some(stanza.architecture().to_owned()),
        origin,
        source: Some(source(stanza)),
        summary: stanza.get("Description").and_then(|text| text.lines().next()).map(str::to_owned),
        homepage: stanza.get("Homepage").map(str::to_owned),
        license: copyright.and_then(|text| copyright::read(&text)),
        sha256: digest(inside, &format!("{name} {version}")),
        depends,
    })
}

/// Parses `Name <address>`. Parentheses are removed, because they would end the address in SPDX.
fn maintainer(text: &str) -> Option<Maintainer> {
    let (name, mail) = match text.trim().strip_suffix('>').and_then(|text| text.rsplit_once('<')) {
        Some((name, mail)) => (name, Some(mail.trim().to_owned()).filter(|mail| !mail.is_empty())),
        None => (text, None),
    };
    let plain = |text: &str| text.chars().filter(|c| !c.is_control() && !"()".contains(*c)).collect::<String>().trim().to_owned();
    let name = Some(plain(name)).filter(|name| !name.is_empty()).or_else(|| mail.as_deref().map(plain))?;
    Some(Maintainer { name, mail: mail.as_deref().map(plain) })
}

/// Returns the digest of the package file: the input of the layer that has this package and no other.
fn digest(inside: &ImageView, package: &str) -> Option<String> {
    let layer = inside.layers.iter().find(|layer| layer.record.packages == [package])?;
    match &layer.record.inputs[..] {
        [input] => Digest::parse(input).ok().map(|digest| digest.to_string()),
        _ => None,
    }
}

/// Returns the source package of a binary one: `Source: name (version)`; missing parts default to the binary package's own.
fn source(stanza: &Stanza) -> (String, String) {
    let own = stanza.get("Version").unwrap_or_default();
    let Some(source) = stanza.get("Source") else { return (stanza.package().to_owned(), own.to_owned()) };
    match source.split_once(" (") {
        Some((name, version)) => (name.to_owned(), version.trim_end_matches(')').to_owned()),
        None => (source.to_owned(), own.to_owned()),
    }
}

/// Returns packages that are in layers' manifests and not in dpkg's database: steps installed them by other means.
fn others(inside: &ImageView, stanzas: &[Stanza]) -> Vec<Item> {
    let said = inside.layers.iter().flat_map(|layer| &layer.record.packages).map(|package| super::diff::name_and_version(package));
    let mut others: BTreeMap<String, String> = said.collect();
    others.retain(|name, _| !stanzas.iter().any(|stanza| stanza.package() == name));
    let other = |(name, version)| Item {
        name,
        version,
        architecture: None,
        origin: Origin::Elsewhere(None),
        source: None,
        summary: None,
        homepage: None,
        license: None,
        sha256: None,
        depends: Vec::new(),
    };
    others.into_iter().map(other).collect()
}

/// Parses an os-release(5).
fn distribution(text: &str) -> Distribution {
    let value = |key: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
        line.unwrap_or_default().trim_matches(['"', '\'']).to_owned()
    };
    Distribution { id: value("ID"), name: value("NAME"), codename: value("VERSION_CODENAME") }
}

/// Returns a UUID made of the first bytes of a digest: version 8 (RFC 9562).
fn uuid(of: &Digest) -> String {
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&of.as_bytes()[..16]);
    bytes[6] = bytes[6] & 0x0f | 0x80;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}

/// Supplier of an image: Silo built it on this machine.
const SUPPLIER: &str = "built locally with silo";

/// Name of this program in bills.
const MAKER: &str = env!("CARGO_PKG_NAME");
/// Its version.
const MAKER_VERSION: &str = env!("CARGO_PKG_VERSION");

#[cfg(test)]
mod tests {
    use super::*;
    use silo_fetch::unpack::record::parse_stanza;

    #[test]
    fn sources_are_read() {
        for (field, expect) in [("", ("a", "1-2+b1")), ("Source: s\n", ("s", "1-2+b1")), ("Source: s (1-2)\n", ("s", "1-2"))] {
            let stanza = parse_stanza(format!("Package: a\nVersion: 1-2+b1\nArchitecture: all\n{field}").as_bytes()).expect("a stanza");
            assert_eq!(source(&stanza), (expect.0.to_owned(), expect.1.to_owned()));
        }
    }

    #[test]
    fn maintainers_are_read() {
        for (text, name, mail) in [
            ("A B <a@example.com>", "A B", Some("a@example.com")),
            ("A (the first) <a@example.com>", "A the first", Some("a@example.com")),
            ("<a@example.com>", "a@example.com", Some("a@example.com")),
            ("A", "A", None),
        ] {
            assert_eq!(maintainer(text), Some(Maintainer { name: name.to_owned(), mail: mail.map(str::to_owned) }), "{text}");
        }
        assert_eq!(maintainer(" "), None);
    }

    #[test]
    fn distributions_are_read() {
        let got = distribution("PRETTY_NAME=\"x\"\nNAME=\"Debian GNU/Linux\"\nVERSION_CODENAME=trixie\nID=debian\n");
        assert_eq!((got.id.as_str(), got.name.as_str(), got.codename.as_str()), ("debian", "Debian GNU/Linux", "trixie"));
    }

    #[test]
    fn a_uuid_is_one() {
        assert_eq!(uuid(&Digest::from_bytes([0xff; 32])), "ffffffff-ffff-8fff-bfff-ffffffffffff");
    }
}
