//! Finds the package of a path in dpkg's database: the packages' file lists, and the diversions.
//!
//! For a package unpacked into its own layer, the manifest is enough. Packages that dpkg unpacked in a step share the step's layer, and
//! only dpkg's files name their paths.

use silo_store::path::LayerPath;

use silo_fetch::unpack::record::INFO;

use super::error::Error;
use super::image_view::ImageView;

/// dpkg's list of diversions.
const DIVERSIONS: &str = "var/lib/dpkg/diversions";

/// A diversion: the new path of a file for all packages but one.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Diversion<'a> {
    from: &'a str,
    to: &'a str,
    by: &'a str,
}

/// Finds the package that owns `path`, or `None` if no package does.
pub fn owner(inside: &ImageView, path: &LayerPath) -> Result<Option<String>, Error> {
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

/// Parses dpkg's diversions: three lines each, of which the last is the diverting package, or `:` for none.
fn diversions(text: &str) -> Vec<Diversion<'_>> {
    let lines: Vec<&str> = text.lines().collect();
    lines.chunks_exact(3).map(|part| Diversion { from: part[0], to: part[1], by: part[2] }).collect()
}

/// Returns true if a package with this file list owns `path`, after diversions.
fn owns(list: &str, package: &str, path: &str, diversions: &[Diversion<'_>]) -> bool {
    list.lines().any(|listed| {
        let diverted = diversions.iter().find(|diversion| diversion.from == listed && diversion.by != package);
        let stands = diverted.map_or(listed, |diversion| diversion.to);
        // On a merged /usr, old packages still list files by paths without `/usr`.
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
