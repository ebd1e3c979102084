//! Evicts the least recently used files of package caches, file by file and never a whole cache.
//!
//! The caches of a running sandbox are left alone. Private state and excluded directories are not caches, and are never touched.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use silo_store::dir_fd::{ListedFile, Rooted};

use silo_base::home::Home;
use silo_model::config::Cache;

use super::kept_dirs::{self, Class, Error};

/// Default limit on all caches together, unless cache.tools.maxSizeMB is set.
const MAX_SIZE_BYTES: u64 = 4096 << 20;
/// Default age of unused files, unless cache.tools.maxAgeDays is set.
const MAX_AGE: Duration = Duration::from_secs(30 * 86_400);
/// Limit on the examined files: far above any cache, and few enough to fit in memory.
const MAX_FILES: usize = 2_000_000;

/// Limits on caches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// All caches together, in bytes.
    pub max_size: Option<u64>,
    /// Age of an unused file.
    pub max_age: Option<Duration>,
    /// A single cache, or each cache of a tool, in bytes.
    pub per_mount: BTreeMap<String, u64>,
}

impl Policy {
    /// Reads the settings; 0 is no limit.
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

    /// Returns the limit of a single cache: by its path, by the last component of its path, or by its tool.
    fn of_mount(&self, cache: &CacheDir) -> Option<u64> {
        let last = cache.name.rsplit("%2F").next().unwrap_or(&cache.name);
        let names = [format!("{}/{}", cache.tool, cache.name.replace("%2F", "/")), format!("{}/{last}", cache.tool), cache.tool.clone()];
        names.iter().find_map(|name| self.per_mount.get(name)).copied()
    }
}

/// A package cache on disk.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct CacheDir {
    /// The storage directory of the project or tool, which is locked while in use.
    room: PathBuf,
    /// The tool.
    pub tool: String,
    /// Its path in the sandbox, encoded as a file name.
    name: String,
    /// The directory.
    pub path: PathBuf,
}

/// A file of a cache, relative to the cache's open directory.
#[derive(Clone, Debug)]
struct Item {
    cache: usize,
    /// Its directory, relative to the cache's.
    dir: PathBuf,
    file: ListedFile,
}

/// Files selected for eviction.
#[derive(Clone, Debug, Default)]
pub struct EvictedFiles {
    files: BTreeMap<CacheDir, Vec<(PathBuf, ListedFile)>>,
    count: usize,
    /// Their disk space.
    pub bytes: u64,
}

impl EvictedFiles {
    /// Returns the number of files.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Returns true if there are no files.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    fn take(&mut self, caches: &[CacheDir], item: Item) {
        self.bytes += item.file.bytes;
        self.count += 1;
        self.files.entry(caches[item.cache].clone()).or_default().push((item.dir, item.file));
    }
}

/// Lists the package caches.
pub fn caches(home: &Home) -> Result<Vec<CacheDir>, Error> {
    let mut all = Vec::new();
    for id in kept_dirs::names(&home.kept_projects())? {
        let room = home.kept_project(&id);
        let dir = room.join(Class::Cache.name());
        for tool in kept_dirs::names(&dir)? {
            all.extend(of_tool(&room, &dir.join(&tool), &tool)?);
        }
    }
    for tool in kept_dirs::names(&home.kept().join("tools"))? {
        let room = home.kept_tool(&tool);
        all.extend(of_tool(&room, &room.join(Class::Cache.name()), &tool)?);
    }
    Ok(all)
}

fn of_tool(room: &Path, dir: &Path, tool: &str) -> Result<Vec<CacheDir>, Error> {
    let names = kept_dirs::names(dir)?.into_iter();
    Ok(names.map(|name| CacheDir { room: room.to_owned(), tool: tool.to_owned(), path: dir.join(&name), name }).collect())
}

/// Selects the files to evict: first files that are too old, then by the limit of each cache, then by the limit of all.
pub fn choose(home: &Home, policy: &Policy, now: SystemTime) -> Result<EvictedFiles, Error> {
    let caches = caches(home)?;
    let mut items = Vec::new();
    for (number, cache) in caches.iter().enumerate() {
        // A cache in use is neither examined nor counted: its program may be changing it.
        if let Some(_ours) = kept_dirs::take(&cache.room) {
            walk(number, cache, &mut items);
        }
    }
    items.sort_by(|a, b| (a.file.used, &a.dir, &a.file.name).cmp(&(b.file.used, &b.dir, &b.file.name)));
    let mut sizes: Vec<u64> = vec![0; caches.len()];
    items.iter().for_each(|item| sizes[item.cache] += item.file.bytes);
    let mut total: u64 = sizes.iter().sum();
    let limits: Vec<Option<u64>> = caches.iter().map(|cache| policy.of_mount(cache)).collect();
    let mut choice = EvictedFiles::default();
    let mut stays = Vec::new();
    for item in items {
        let too_old = policy.max_age.is_some_and(|age| now.duration_since(item.file.used).is_ok_and(|since| since >= age));
        if too_old || limits[item.cache].is_some_and(|limit| sizes[item.cache] > limit) {
            sizes[item.cache] -= item.file.bytes;
            total -= item.file.bytes;
            choice.take(&caches, item);
        } else {
            stays.push(item);
        }
    }
    for item in stays.into_iter().take_while(|item| {
        let too_much = policy.max_size.is_some_and(|limit| total > limit);
        total -= if too_much { item.file.bytes } else { 0 };
        too_much
    }) {
        choice.take(&caches, item);
    }
    Ok(choice)
}

/// Lists the files of a cache. Unreadable directories are not counted and stay.
fn walk(number: usize, cache: &CacheDir, items: &mut Vec<Item>) {
    let Ok(top) = Rooted::open(&cache.path) else { return };
    let mut dirs = vec![PathBuf::new()];
    let mut seen = 0;
    while let Some(dir) = dirs.pop() {
        seen += 1;
        if seen > MAX_FILES || items.len() >= MAX_FILES {
            return;
        }
        let Ok(listed) = top.list(&dir) else { continue };
        dirs.extend(listed.dirs.into_iter().map(|name| dir.join(name)));
        items.extend(listed.files.into_iter().map(|file| Item { cache: number, dir: dir.clone(), file }));
    }
}

/// Removes selected files that are unchanged and not in use; returns their number and their size.
///
/// The storage directory stays locked during the removal. A program that ran since the selection may have replaced directories, also by
/// symlinks. So they are opened again relative to the cache's own directory, without following symlinks.
pub fn remove(choice: &EvictedFiles) -> (usize, u64) {
    let mut gone = (0, 0);
    for (cache, files) in &choice.files {
        let Some(_ours) = kept_dirs::take(&cache.room) else { continue };
        let Ok(top) = Rooted::open(&cache.path) else { continue };
        for (dir, file) in files {
            // If a removal fails, the next run examines the file again.
            if let Ok(true) = top.remove(dir, file) {
                gone = (gone.0 + 1, gone.1 + file.bytes);
            }
        }
    }
    gone
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File, FileTimes, Permissions};
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;
    use silo_model::recipe::kept_dirs::{KeptDir, Scope};

    const DAY: Duration = Duration::from_secs(86_400);

    fn file(dir: &Path, name: &str, kib: usize, days: u32) {
        fs::write(dir.join(name), vec![1; kib << 10]).expect("written");
        let used = SystemTime::now() - DAY * days;
        let file = File::options().write(true).open(dir.join(name)).expect("there");
        file.set_times(FileTimes::new().set_accessed(used).set_modified(used)).expect("set");
    }

    fn names(dir: &Path) -> Vec<String> {
        kept_dirs::names(dir).expect("listed")
    }

    #[test]
    fn the_oldest_files_go_first_and_state_stays() {
        let place = tempfile::tempdir().expect("a directory");
        let home = Home::new(place.path().join("home"));
        let keeper = kept_dirs::Keeper::new(&home, Some(place.path()), None);
        let of = |guest: &str, class| {
            keeper.kept("python", class, &KeptDir { guest: guest.to_owned(), scope: Scope::Project, env: None }).expect("a project")
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
        assert!(choose(&home, &policy(""), now).expect("chosen").is_empty(), "it is in use");
        drop(held);
        let by_age = choose(&home, &policy(""), now).expect("chosen");
        assert_eq!((by_age.len(), by_age.bytes), (2, 128 << 10));
        let held = keeper.open(std::slice::from_ref(&pip)).expect("made");
        assert_eq!(remove(&by_age), (0, 0), "it is in use");
        drop(held);
        assert_eq!(remove(&by_age), (2, 128 << 10));
        assert_eq!(names(&pip), ["less", "young"]);
        // 0 is no limit, and one cache has its own limit.
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
    #[test]
    fn a_file_swapped_in_for_the_chosen_one_stays_with_its_target() {
        let place = tempfile::tempdir().expect("a directory");
        let home = Home::new(place.path().join("home"));
        let keeper = kept_dirs::Keeper::new(&home, Some(place.path()), None);
        let kept = KeptDir { guest: "~/.cache/x".to_owned(), scope: Scope::Project, env: None };
        let cache = keeper.kept("python", Class::Cache, &kept).expect("a project");
        drop(keeper.open(std::slice::from_ref(&cache)).expect("made"));
        let outside = place.path().join("outside");
        for dir in [&outside, &cache.join("a/b"), &cache.join("c"), &cache.join("closed")] {
            fs::create_dir_all(dir).expect("made");
            file(dir, "old", 4, 40);
        }
        let closed = |mode| fs::set_permissions(cache.join("closed"), Permissions::from_mode(mode)).expect("set");
        closed(0o500);
        let policy = Policy::of(&Cache::default());
        let choice = choose(&home, &policy, SystemTime::now()).expect("chosen");
        assert_eq!(choice.len(), 3);
        // Changes that a program may make between selection and removal.
        fs::rename(cache.join("a/b"), cache.join("moved")).expect("moved");
        symlink(&outside, cache.join("a/b")).expect("linked");
        fs::remove_file(cache.join("c/old")).expect("removed");
        fs::hard_link(outside.join("old"), cache.join("c/old")).expect("linked");
        assert_eq!(remove(&choice).0, 1, "only the one in a directory that was closed");
        assert_eq!(
            (names(&outside), names(&cache.join("moved")), names(&cache.join("closed"))),
            (vec!["old".to_owned()], vec!["old".to_owned()], vec![])
        );
        fs::remove_file(cache.join("a/b")).expect("removed");
        fs::create_dir(place.path().join("other")).expect("made");
        fs::rename(&cache, place.path().join("other/cache")).expect("moved");
        symlink(place.path().join("other/cache"), &cache).expect("linked");
        assert!(choose(&home, &policy, SystemTime::now()).expect("chosen").is_empty(), "a symlink is not a cache");
    }
}
