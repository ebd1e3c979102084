//! Whose a path is by dpkg's own account: the packages' lists of files, and the diversions that part two that hold one path.
//!
//! Layers say it for what was unpacked into a layer of its own. What dpkg unpacked within a step lies in the step's layer,
//! and only these files know more.

use silo_store::path::LayerPath;

use crate::unpack::record::INFO;

use super::error::Error;
use super::inside::Inside;

/// Where dpkg notes diversions.
const DIVERSIONS: &str = "var/lib/dpkg/diversions";

/// Another place for the files of all packages but one.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Diversion<'a> {
    from: &'a str,
    to: &'a str,
    by: &'a str,
}

/// Finds the package whose file `path` is, or `None` where it is no package's.
pub fn owner(inside: &Inside, path: &LayerPath) -> Result<Option<String>, Error> {
    let Ok(info) = LayerPath::parse(INFO.as_bytes()) else { return Ok(None) };
    let Ok(wanted) = std::str::from_utf8(path.as_bytes()).map(|path| format!("/{path}")) else { return Ok(None) };
    let diverted = inside.read(DIVERSIONS)?.unwrap_or_default();
    let diverted = String::from_utf8_lossy(&diverted);
    let diversions = diversions(&diverted);
    for entry in inside.index()?.below(&info) {
        let name = std::str::from_utf8(entry.path.name()).ok().and_then(|name| name.strip_suffix(".list"));
        let Some(package) = name.and_then(|name| name.split(':').next()) else { continue };
        let list = inside.read(&format!("{INFO}/{}.list", name.unwrap_or_default()))?.unwrap_or_default();
        if owns(&String::from_utf8_lossy(&list), package, &wanted, &diversions) {
            return Ok(Some(package.to_owned()));
        }
    }
    Ok(None)
}

/// Reads dpkg's diversions: three lines each, of which the last is the package that diverts, or `:` for nobody.
fn diversions(text: &str) -> Vec<Diversion<'_>> {
    let lines: Vec<&str> = text.lines().collect();
    lines.chunks_exact(3).map(|part| Diversion { from: part[0], to: part[1], by: part[2] }).collect()
}

/// Whether a package with this list of files holds `path`, after diversions.
fn owns(list: &str, package: &str, path: &str, diversions: &[Diversion<'_>]) -> bool {
    list.lines().any(|listed| {
        let diverted = diversions.iter().find(|diversion| diversion.from == listed && diversion.by != package);
        let stands = diverted.map_or(listed, |diversion| diversion.to);
        // Old packages still list what lies in /usr by the names that lead there through links.
        stands == path || path.strip_prefix("/usr").is_some_and(|short| short == stands)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn diversions_part_two_that_hold_one_path() {
        let text = "/usr/bin/zcat\n/usr/bin/zcat.gzip\nzutils\n/local\n/local.old\n:\n";
        let diversions = diversions(text);
        for (package, list, path, expect) in [
            ("gzip", "/.\n/usr/bin/zcat\n", "/usr/bin/zcat", false),
            ("gzip", "/.\n/usr/bin/zcat\n", "/usr/bin/zcat.gzip", true),
            ("zutils", "/usr/bin/zcat\n", "/usr/bin/zcat", true),
            ("any", "/local\n", "/local", false),
            ("any", "/bin/x\n", "/usr/bin/x", true),
            ("any", "/usr/bin/x\n", "/usr/bin/xy", false),
        ] {
            assert_eq!(owns(list, package, path, &diversions), expect, "{package} {path}");
        }
    }
}
