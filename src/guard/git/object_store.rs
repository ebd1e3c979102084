//! Reads single objects by id, from the layer of a run and from the host's repository. Each object is compared with its id, because the
//! index of a pack from a sandbox can lead to any bytes.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use super::budget::Budget;
use super::dir_fd::Dir;
use super::objects::{self, MAX_FILES};
use super::oid::{Format, Oid};
use super::{loose_object, pack, pack_index};

/// Maximum size of one object.
const MAX_OBJECT_BYTES: u64 = 64 << 20;

/// The objects of a repository with a layer over it.
#[derive(Debug)]
pub struct ObjectStore {
    format: Format,
    host: Vec<Place>,
    layer: Option<Place>,
    budget: Budget,
}

/// A directory of objects.
#[derive(Debug)]
struct Place {
    objects: Dir,
    /// Each pack with its index.
    packs: Vec<(File, File)>,
}

impl ObjectStore {
    /// Opens the objects of a host's repository, and of the layer over it. Reads at most `most_bytes` of decompressed data.
    pub fn open(layer: &Dir, host: &Dir, format: Format, most_bytes: u64) -> ObjectStore {
        ObjectStore {
            format,
            host: objects::stores(host).map(Place::open).collect(),
            layer: layer.dir(Path::new("objects")).ok().map(Place::open),
            budget: Budget::new(most_bytes),
        }
    }

    /// True if the host has an object.
    pub fn is_on_host(&self, oid: &Oid) -> bool {
        self.host.iter().any(|place| place.has(oid, self.format))
    }

    /// True if an object is a commit of which the host has no parent.
    pub fn lacks_parents(&mut self, oid: &Oid) -> bool {
        let Some(("commit", content)) = self.read(oid) else { return false };
        let head = content.split(|byte| *byte == b'\n').take_while(|line| !line.is_empty());
        let mut parents = head.filter_map(|line| self.format.parse(line.strip_prefix(b"parent ")?));
        !parents.any(|parent| self.is_on_host(&parent))
    }

    /// Reads an object: its type and its content. `None` if it is missing, damaged or too large.
    pub fn read(&mut self, oid: &Oid) -> Option<(&'static str, Vec<u8>)> {
        let (format, budget) = (self.format, &mut self.budget);
        let places = self.host.iter().chain(&self.layer);
        places.filter_map(|place| place.read(oid, format, budget)).find(|(kind, content)| format.of_object(kind, content) == Some(*oid))
    }
}

impl Place {
    fn open(objects: Dir) -> Place {
        let mut packs = Vec::new();
        if let Ok(dir) = objects.dir(Path::new("pack")) {
            let names = dir.list(MAX_FILES).unwrap_or_default();
            let stems = names.iter().filter_map(|name| name.to_str()?.strip_suffix(".idx"));
            let open = |name: String| dir.file(Path::new(&name)).ok().map(|(file, _)| file);
            packs.extend(stems.filter_map(|stem| Some((open(format!("{stem}.pack"))?, open(format!("{stem}.idx"))?))));
        }
        Place { objects, packs }
    }

    fn has(&self, oid: &Oid, format: Format) -> bool {
        let is_loose = self.objects.stat(&loose(oid)).is_ok_and(|stat| stat.is_some());
        is_loose || self.packs.iter().any(|(_, index)| pack_index::has(index, oid, format))
    }

    fn read(&self, oid: &Oid, format: Format, budget: &mut Budget) -> Option<(&'static str, Vec<u8>)> {
        if let Ok((file, _)) = self.objects.file(&loose(oid))
            && let Ok(found) = loose_object::read(file.take(MAX_OBJECT_BYTES), MAX_OBJECT_BYTES, budget)
        {
            return Some(found);
        }
        self.packs.iter().find_map(|(pack, index)| {
            let find = |oid: &Oid| pack_index::find(index, oid, format);
            pack::read(pack, (find(oid)?, MAX_OBJECT_BYTES), format, &find, budget).ok()
        })
    }
}

/// Returns the path of a loose object.
fn loose(oid: &Oid) -> std::path::PathBuf {
    let text = oid.to_string();
    Path::new(&text[..2]).join(&text[2..])
}
