//! Making package caches smaller: the files that were used least lately go, one by one, never a whole cache at once.
//!
//! A cache that a running sandbox has is left alone. Private state and excluded directories are not caches, and nothing
//! here touches them.

use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use crate::config::Cache;
use crate::home::Home;

use super::kept::{self, Class, Error};

/// What all caches may take, unless cache.tools.maxSizeMB says otherwise.
const MAX_SIZE_BYTES: u64 = 4096 << 20;
/// How long files stay unused, unless cache.tools.maxAgeDays says otherwise.
const MAX_AGE: Duration = Duration::from_secs(30 * 86_400);
/// Most files that are looked at; far above any cache, small enough to hold.
const MAX_FILES: usize = 2_000_000;

/// How much caches may take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// All together, in bytes.
    pub max_size: Option<u64>,
    /// How long a file stays unused.
    pub max_age: Option<Duration>,
    /// One cache or each of a tool's, in bytes.
    pub per_mount: BTreeMap<String, u64>,
}

impl Policy {
    /// Reads what settings say; 0 is no limit.
    pub fn of(cache: &Cache) -> Policy {
        let tools = &cache.tools;
        let limit = |said: Option<u64>, unit: u64, otherwise: u64| match said {
            None => Some(otherwise),
            Some(0) => None,
            Some(number) => Some(number.saturating_mul(unit)),
        };
        let per_mount = tools.per_mount.iter().filter(|(_, mib)| **mib > 0);
        Policy {
            max_size: limit(tools.max_size_mb, 1 << 20, MAX_SIZE_BYTES),
            max_age: limit(tools.max_age_days, 86_400, MAX_AGE.as_secs()).map(Duration::from_secs),
            per_mount: per_mount.map(|(name, mib)| (name.clone(), mib.saturating_mul(1 << 20))).collect(),
        }
    }

    /// What a cache may take by itself: said of it, of its last name alone, or of its tool.
    fn of_mount(&self, cache: &CacheDir) -> Option<u64> {
        let last = cache.name.rsplit("%2F").next().unwrap_or(&cache.name);
        let names = [format!("{}/{}", cache.tool, cache.name.replace("%2F", "/")), format!("{}/{last}", cache.tool), cache.tool.clone()];
        names.iter().find_map(|name| self.per_mount.get(name)).copied()
    }
}

/// A package cache on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CacheDir {
    /// The project's or tool's room, which is locked while it is used.
    room: PathBuf,
    /// The tool.
    pub tool: String,
    /// Its path inside, as a file name.
    name: String,
    /// The directory.
    pub path: PathBuf,
}

/// A file of a cache.
#[derive(Clone, Debug)]
struct Item {
    used: SystemTime,
    bytes: u64,
    cache: usize,
    path: PathBuf,
}

/// Files that are to go.
#[derive(Clone, Debug, Default)]
pub struct Choice {
    files: Vec<(PathBuf, PathBuf)>,
    /// What they take on disk.
    pub bytes: u64,
}

impl Choice {
    /// How many they are.
    pub fn len(&self) -> usize {
        self.files.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.files.is_empty()
    }
}

/// Lists the package caches.
pub fn caches(home: &Home) -> Result<Vec<CacheDir>, Error> {
    let mut all = Vec::new();
    for id in kept::names(&home.kept_projects())? {
        let room = home.kept_project(&id);
        let dir = room.join(Class::Cache.name());
        for tool in kept::names(&dir)? {
            all.extend(of_tool(&room, &dir.join(&tool), &tool)?);
        }
    }
    for tool in kept::names(&home.kept().join("tools"))? {
        let room = home.kept_tool(&tool);
        all.extend(of_tool(&room, &room.join(Class::Cache.name()), &tool)?);
    }
    Ok(all)
}

fn of_tool(room: &Path, dir: &Path, tool: &str) -> Result<Vec<CacheDir>, Error> {
    let names = kept::names(dir)?.into_iter();
    Ok(names.map(|name| CacheDir { room: room.to_owned(), tool: tool.to_owned(), path: dir.join(&name), name }).collect())
}

/// Chooses what is to go: what is too old, then what is too much of one cache, then of all.
pub fn choose(home: &Home, policy: &Policy, now: SystemTime) -> Result<Choice, Error> {
    let caches = caches(home)?;
    let mut items = Vec::new();
    for (number, cache) in caches.iter().enumerate() {
        walk(number, &cache.path, &mut items);
    }
    items.sort_by(|a, b| (a.used, &a.path).cmp(&(b.used, &b.path)));
    let mut sizes: Vec<u64> = vec![0; caches.len()];
    items.iter().for_each(|item| sizes[item.cache] += item.bytes);
    let mut total: u64 = sizes.iter().sum();
    let limits: Vec<Option<u64>> = caches.iter().map(|cache| policy.of_mount(cache)).collect();
    let mut choice = Choice::default();
    let mut stays = Vec::new();
    for item in items {
        let too_old = policy.max_age.is_some_and(|age| now.duration_since(item.used).is_ok_and(|since| since >= age));
        if too_old || limits[item.cache].is_some_and(|limit| sizes[item.cache] > limit) {
            sizes[item.cache] -= item.bytes;
            total -= item.bytes;
            choice.take(&caches, item);
        } else {
            stays.push(item);
        }
    }
    for item in stays.into_iter().take_while(|item| {
        let too_much = policy.max_size.is_some_and(|limit| total > limit);
        total -= if too_much { item.bytes } else { 0 };
        too_much
    }) {
        choice.take(&caches, item);
    }
    Ok(choice)
}

impl Choice {
    fn take(&mut self, caches: &[CacheDir], item: Item) {
        self.bytes += item.bytes;
        self.files.push((caches[item.cache].room.clone(), item.path));
    }
}

/// Collects the files of a cache; what cannot be looked at is not counted, and stays.
fn walk(cache: usize, top: &Path, items: &mut Vec<Item>) {
    let mut dirs = vec![top.to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
            let Ok(found) = entry.metadata() else { continue };
            if found.is_dir() {
                dirs.push(entry.path());
            } else if items.len() < MAX_FILES {
                let used = found.modified().into_iter().chain(found.accessed()).max().unwrap_or(SystemTime::UNIX_EPOCH);
                items.push(Item { used, bytes: found.blocks() * 512, cache, path: entry.path() });
            }
        }
    }
}

/// Removes what was chosen, but for what is in use; returns how many files went and what they took.
pub fn remove(choice: &Choice) -> (usize, u64) {
    let mut gone = (0, 0);
    let mut rooms: BTreeMap<&Path, Vec<&Path>> = BTreeMap::new();
    for (room, file) in &choice.files {
        rooms.entry(room).or_default().push(file);
    }
    for (room, files) in rooms {
        // No guest is there to put a link in our way while this is held.
        let Some(_ours) = kept::take(room) else { continue };
        for file in files {
            let bytes = fs::symlink_metadata(file).map_or(0, |found| found.blocks() * 512);
            if remove_file(file).is_ok() {
                gone = (gone.0 + 1, gone.1 + bytes);
            }
        }
    }
    gone
}

/// Removes a file, also from a directory that a package client has made read-only, as Go's does.
fn remove_file(file: &Path) -> io::Result<()> {
    match (fs::remove_file(file), file.parent()) {
        (Err(error), Some(dir)) if error.kind() == io::ErrorKind::PermissionDenied => {
            fs::set_permissions(dir, Permissions::from_mode(0o700))?;
            fs::remove_file(file)
        }
        (done, _) => done,
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{File, FileTimes};

    use super::*;
    use crate::recipe::kept::{Kept, Scope};

    const DAY: Duration = Duration::from_secs(86_400);

    fn file(dir: &Path, name: &str, kib: usize, days: u32) {
        fs::write(dir.join(name), vec![1; kib << 10]).expect("written");
        let used = SystemTime::now() - DAY * days;
        let file = File::options().write(true).open(dir.join(name)).expect("there");
        file.set_times(FileTimes::new().set_accessed(used).set_modified(used)).expect("set");
    }

    fn names(dir: &Path) -> Vec<String> {
        kept::names(dir).expect("listed")
    }

    #[test]
    fn the_oldest_files_go_first_and_state_stays() {
        let place = tempfile::tempdir().expect("a directory");
        let home = Home::new(place.path().join("home"));
        let keeper = kept::Keeper::new(&home, Some(place.path()), None);
        let of = |guest: &str, class| {
            keeper.kept("python", class, &Kept { guest: guest.to_owned(), scope: Scope::Project, env: None }).expect("a project")
        };
        let (pip, uv, state) = (of("~/.cache/pip", Class::Cache), of("~/.cache/uv", Class::Cache), of("~/.login", Class::State));
        let held = keeper.open(&[pip.clone(), uv.clone(), state.clone()]).expect("made");
        for dir in [&pip, &uv, &state] {
            for (name, days) in [("old", 40), ("less", 20), ("young", 1)] {
                file(dir, name, 64, days);
            }
        }
        let policy = |text: &str| Policy::of(&toml::from_str::<Cache>(text).expect("settings"));
        let now = SystemTime::now();
        let by_age = choose(&home, &policy(""), now).expect("chosen");
        assert_eq!((by_age.len(), by_age.bytes), (2, 128 << 10));
        assert_eq!(remove(&by_age), (0, 0), "it is in use");
        drop(held);
        assert_eq!(remove(&by_age), (2, 128 << 10));
        assert_eq!(names(&pip), ["less", "young"]);
        // 0 is no limit, and one cache has its own.
        file(&uv, "big", 2048, 2);
        let one = choose(&home, &policy("[tools]\nmaxSizeMB = 0\nmaxAgeDays = 0\nperMount = { \"python/uv\" = 1 }"), now).expect("chosen");
        assert_eq!(remove(&one).0, 2);
        assert_eq!((names(&pip), names(&uv)), (vec!["less".to_owned(), "young".to_owned()], vec!["young".to_owned()]));
        file(&uv, "big", 2048, 2);
        let all = choose(&home, &policy("[tools]\nmaxSizeMB = 1\n"), now).expect("chosen");
        assert_eq!(remove(&all).0, 2);
        assert_eq!((names(&pip), names(&uv)), (vec!["young".to_owned()], vec!["young".to_owned()]));
        assert_eq!(names(&state), ["less", "old", "young"]);
    }
}
