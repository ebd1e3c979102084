//! Resolves a path through an image's symlinks, using its index only.

use silo_store::entry::{Entry, Node};
use silo_store::index::Index;
use silo_store::path::LayerPath;

/// Limit on the symlinks of a path, as in Linux.
const MAX_LINKS: usize = 40;

/// Result of resolving a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResolvedPath {
    /// The symlinks on the path, in order.
    pub links: Vec<Link>,
    /// The final path, which may not exist; `None` for the root itself, and for a symlink loop.
    pub end: Option<LayerPath>,
}

/// A symlink on the path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// The symlink.
    pub path: LayerPath,
    /// Its target.
    pub target: Vec<u8>,
    /// True if this is the last component of the path, and not a parent directory.
    pub is_last: bool,
}

/// Resolves `path`, absolute or not, through the symlinks of `index`.
pub fn follow(index: &Index, path: &[u8]) -> ResolvedPath {
    let mut todo = parts(path);
    let mut at: Vec<Vec<u8>> = Vec::new();
    let mut links = Vec::new();
    while let Some(part) = todo.pop() {
        if part == b".." {
            at.pop();
            continue;
        }
        at.push(part);
        let Ok(here) = LayerPath::parse(&at.join(&b'/')) else { return ResolvedPath { links, end: None } };
        let Some(Entry { node: Node::Symlink { target }, .. }) = index.get(&here) else { continue };
        if links.len() == MAX_LINKS {
            return ResolvedPath { links, end: None };
        }
        links.push(Link { path: here, target: target.clone(), is_last: todo.is_empty() });
        at.pop();
        if target.starts_with(b"/") {
            at.clear();
        }
        todo.extend(parts(target));
    }
    ResolvedPath { links, end: LayerPath::parse(&at.join(&b'/')).ok() }
}

/// Returns the components of a path in reverse order, without empty ones and `.`.
fn parts(path: &[u8]) -> Vec<Vec<u8>> {
    path.split(|byte| *byte == b'/').rev().filter(|part| !part.is_empty() && *part != b".").map(<[u8]>::to_vec).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_lead_somewhere_inside() {
        let text = "silo-index 1\nl 0 0 bin usr/bin\nl 0 0 circle circle\nl 0 0 out /../../usr/bin/\nd 0755 0 0 usr\nd 0755 0 0 usr/bin\nl 0 0 usr/bin/py py3\nl 0 0 usr/bin/py3 /bin/python\n";
        let index = Index::parse(text.as_bytes()).expect("an index");
        for (path, links, end) in [
            ("/bin/py", "bin usr/bin/py! usr/bin/py3! bin", Some("usr/bin/python")),
            ("bin", "bin!", Some("usr/bin")),
            ("/usr/./bin/../x/", "", Some("usr/x")),
            ("/out/py3", "out usr/bin/py3! bin", Some("usr/bin/python")),
            ("/", "", None),
            ("/..", "", None),
            ("/\0", "", None),
        ] {
            let way = follow(&index, path.as_bytes());
            let told: Vec<String> = way.links.iter().map(|link| format!("{}{}", link.path, if link.is_last { "!" } else { "" })).collect();
            // A symlink met while resolving another's target is last only if no components remain.
            assert_eq!((told.join(" ").as_str(), way.end.map(|end| end.to_string()).as_deref()), (links, end), "{path}");
        }
        let round = follow(&index, b"/circle/x");
        assert_eq!((round.links.len(), round.end), (MAX_LINKS, None));
    }
}
