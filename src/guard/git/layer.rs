//! The private layer of a run over a repository: its files, its repositories, and its end.
//!
//! ```text
//! <run>/upper         writes of the sandbox, as overlayfs stores them
//! <run>/work          work directory of overlayfs
//! <run>/begin.json    state of the repository at the start
//! <run>/lock          held by the silo of the run
//! ```
//!
//! A layer without a lock holder was left by a killed silo: see `left`.

use std::collections::BTreeSet;
use std::fs::{self, DirBuilder, File, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use silo_store::locked_file::LockedFile;
use silo_store::path_error::PathError;
use silo_store::removal::remove_tree;

use silo_base::sanitize;
use silo_launch::UNLAYERED;

use super::dir_fd::Dir;
use super::history::History;
use super::import::Import;
use super::layer_inputs::{Error, LayerInputs, Opened, Place, Record};
use super::objects::RunPhase;

/// Lock file of a layer, held by its run.
pub const LOCK: &str = "lock";
/// Retries at the end while another process holds a lock on the host, and the delay between them.
const TRIES: usize = 20;
const BETWEEN: Duration = Duration::from_millis(100);

/// Message after the host replaced the repository of a run.
const REPLACED: &str = "the repository was moved, removed or replaced here during the run; a repository in its place was \
    read-only inside and nothing was imported into it; check its configuration and hooks before you use git there";

/// A private layer over a repository.
#[derive(Debug)]
pub struct Layer {
    dir: PathBuf,
    upper: Dir,
    imports: Vec<(PathBuf, Import)>,
    place: Place,
    is_replaced: bool,
    _lock: LockedFile,
}

/// Result of the end of a layer.
#[derive(Debug, Default)]
pub struct Finished {
    /// Messages about everything that was not imported unchanged.
    pub told: Vec<String>,
    /// Refs that were set or removed on the host.
    pub brought: Vec<String>,
    /// Directory of the layer, if not everything could be imported.
    pub left: Option<PathBuf>,
}

impl Layer {
    /// Makes a new layer, and records the current state of the repository.
    pub fn begin(over: LayerInputs<'_>) -> Result<Layer, Error> {
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| Error::File { path, source }
        };
        private(over.layers).map_err(failed(over.layers))?;
        // A search for leftovers must not find a layer without a lock holder.
        let all = File::open(over.layers).and_then(LockedFile::shared).map_err(failed(over.layers))?;
        let dir = tempfile::Builder::new().prefix("").rand_bytes(8).tempdir_in(over.layers).map_err(failed(over.layers))?;
        let lock = silo_store::private::create_new(&dir.path().join(LOCK)).map_err(failed(dir.path()))?;
        let lock = LockedFile::exclusive(lock).map_err(failed(dir.path()))?;
        drop(all);
        let lower = over.repository.common();
        let mode = fs::metadata(lower).map_err(failed(lower))?.mode() & 0o777;
        let upper = upper(dir.path());
        for (path, mode) in [(&upper, mode | 0o700), (&dir.path().join("work"), 0o700)] {
            DirBuilder::new().mode(0o700).create(path).map_err(failed(path))?;
            fs::set_permissions(path, Permissions::from_mode(mode)).map_err(failed(path))?;
        }
        let record = Record::of_repositories(over)?;
        record.write(dir.path()).map_err(failed(dir.path()))?;
        let upper = Dir::open(&upper).map_err(failed(&upper))?;
        let run = run_of(dir.path());
        let opened = record.open(&run).map_err(failed(dir.path()))?;
        Ok(Layer::of(opened, dir.keep(), upper, lock))
    }

    /// Opens a layer that a killed silo left; the caller holds its lock.
    pub fn reopen(dir: PathBuf, lock: LockedFile) -> io::Result<Layer> {
        let opened = Record::read(&dir)?.open(&run_of(&dir))?;
        let upper = Dir::open(&upper(&dir))?;
        Ok(Layer::of(opened, dir, upper, lock))
    }

    fn of(opened: Opened, dir: PathBuf, upper: Dir, lock: LockedFile) -> Layer {
        Layer { dir, upper, imports: opened.imports, place: opened.place, is_replaced: opened.is_replaced, _lock: lock }
    }

    /// True if the repository was moved, removed or replaced since the layer was made.
    pub fn is_replaced(&self) -> bool {
        self.is_replaced || self.place.is_replaced()
    }

    /// True if the program inside wrote nothing.
    pub fn is_unused(&self) -> bool {
        self.upper.list(1).is_ok_and(|names| names.is_empty())
    }

    /// Returns the overlayfs upper directory.
    pub fn upper(&self) -> PathBuf {
        upper(&self.dir)
    }

    /// Returns the overlayfs work directory.
    pub fn work(&self) -> PathBuf {
        self.dir.join("work")
    }

    /// True if the sandbox could not mount the layer.
    pub fn is_unlayered(&self) -> bool {
        self.work().join(UNLAYERED).exists()
    }

    /// Records whether another repository replaced this one: the kernel then removes the overlay.
    fn check_replaced(&mut self) {
        self.is_replaced |= self.place.is_replaced();
    }

    /// Lists the new commits of the program inside.
    pub fn histories(&self) -> Vec<History> {
        self.imports.iter().map(|(tree, import)| History::of(tree, import, &self.upper)).collect()
    }

    /// Imports the current changes during the run. Errors are retried later.
    pub fn round(&mut self) {
        self.check_replaced();
        for (_, import) in &mut self.imports {
            // The end of the run tries again and reports errors.
            let _ = import.round(&self.upper, RunPhase::Live);
        }
    }

    /// Imports everything possible after the sandbox has ended, and removes the layer.
    pub fn finish(mut self) -> Finished {
        let mut finished = Finished::default();
        let mut failures = BTreeSet::new();
        for _ in 0..TRIES {
            failures.clear();
            let mut is_busy = false;
            for (tree, import) in &mut self.imports {
                if let Err(error) = import.round(&self.upper, RunPhase::Ended) {
                    failures.insert(format!("{}{error}", within(tree)));
                }
                failures.extend(import.busy().iter().map(|name| format!("{}{name} is locked here", within(tree))));
                is_busy |= !import.busy().is_empty();
            }
            if !is_busy {
                break;
            }
            thread::sleep(BETWEEN);
        }
        self.check_replaced();
        if self.is_replaced {
            finished.told.push(REPLACED.to_owned());
        }
        if self.is_replaced && self.imports.iter().all(|(_, import)| import.is_gone()) && !failures.is_empty() {
            // No repository is left to import into.
            failures.clear();
            finished.told.push("the repository of the run was removed here, and the last changes made inside are lost".to_owned());
        }
        for (tree, import) in &self.imports {
            finished.told.extend(import.messages().into_iter().map(|line| format!("{}{line}", within(tree))));
            finished.brought.extend(import.brought().iter().map(|name| format!("{}{name}", within(tree))));
        }
        if failures.is_empty() {
            if let Err(error) = remove(&self.dir) {
                finished.told.push(silo_base::error_chain::of(&error).join(": "));
            }
        } else {
            finished.told.extend(failures);
            finished.left = Some(self.dir.clone());
        }
        finished
    }
}

/// Prefix of messages about a submodule.
fn within(tree: &Path) -> String {
    if tree.as_os_str().is_empty() { String::new() } else { format!("{}: ", sanitize::path(tree)) }
}

/// Name of a run, which is part of ref names.
fn run_of(dir: &Path) -> String {
    dir.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// Returns the overlayfs upper directory of a layer.
pub fn upper(dir: &Path) -> PathBuf {
    dir.join("upper")
}

/// Removes a layer; the caller holds its lock. The lock file goes last, so a partly removed layer still has a lock holder.
pub fn remove(dir: &Path) -> Result<(), PathError> {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten().filter(|entry| entry.file_name() != LOCK) {
        remove_tree(&entry.path())?;
    }
    remove_tree(dir)
}

/// Makes a directory that only its owner can use.
fn private(dir: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    fs::set_permissions(dir, Permissions::from_mode(0o700))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::process::Command;

    use super::super::leftover_layers;
    use super::super::oid::Format;
    use super::super::repository::Repository;
    use super::*;

    struct Bench {
        _place: tempfile::TempDir,
        root: PathBuf,
        format: &'static str,
    }

    impl Bench {
        /// A repository with one commit; `None` without git.
        #[allow(clippy::print_stdout, reason = "a test that cannot run says so")]
        fn new(format: &'static str) -> Option<Bench> {
            let place = tempfile::tempdir().expect("a directory");
            let root = fs::canonicalize(place.path()).expect("there");
            fs::create_dir(root.join("p")).expect("made");
            let bench = Bench { _place: place, root, format };
            if Command::new("git").arg("--version").output().is_err() {
                println!("SKIPPED: there is no git here");
                return None;
            }
            bench.git("p/.git", &["init", "-q", &format!("--object-format={format}"), "-b", "main"]);
            fs::write(bench.root.join("p/file"), "one\n").expect("written");
            bench.git("p/.git", &["add", "file"]);
            bench.git("p/.git", &["commit", "-qm", "one"]);
            bench.git("p/.git", &["branch", "other"]);
            bench.git("p/.git", &["branch", "gone"]);
            Some(bench)
        }

        fn git(&self, dir: &str, words: &[&str]) -> String {
            let mut command = Command::new("git");
            let who = ["user.name=a", "user.email=a@example.com", "gc.auto=0"].iter().flat_map(|setting| ["-c", *setting]);
            command.args(who).args(words).current_dir(self.root.join("p")).env_clear().env("PATH", "/usr/local/bin:/usr/bin:/bin");
            command.env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_CONFIG_NOSYSTEM", "1");
            command.env("GIT_DIR", self.root.join(dir)).env("GIT_WORK_TREE", self.root.join("p"));
            let done = command.output().expect("git runs");
            assert!(done.status.success(), "{words:?} ({}): {}", self.format, String::from_utf8_lossy(&done.stderr));
            String::from_utf8_lossy(&done.stdout).trim().to_owned()
        }

        /// A layer with all files copied up, as after a program has touched them.
        fn layer(&self) -> (Layer, String) {
            let repository = Repository::find(&self.root.join("p")).expect("read").expect("a repository");
            let (layers, project) = (self.root.join("layers"), self.root.join("p"));
            let layer =
                Layer::begin(LayerInputs { layers: &layers, project: &project, repository: &repository, submodules: &[] }).expect("made");
            let copied = Command::new("cp").args(["-a", "p/.git/."]).arg(layer.upper()).current_dir(&self.root).status();
            assert!(copied.is_ok_and(|status| status.success()));
            let upper = layer.upper().strip_prefix(&self.root).expect("ours").to_string_lossy().into_owned();
            (layer, upper)
        }

        /// Opens the layer that is left.
        fn left(&self) -> Layer {
            leftover_layers::of_project(&self.root.join("layers"), &self.root.join("p")).pop().expect("a layer is left")
        }

        fn is_whole(&self) {
            assert_eq!(self.git("p/.git", &["fsck", "--full", "--strict", "--no-dangling"]), "");
        }
    }

    fn whiteout(path: &Path) {
        let _ = fs::remove_file(path);
        let made = Command::new("mknod").arg(path).args(["c", "0", "0"]).status().expect("coreutils");
        assert!(made.success(), "a whiteout needs no privilege");
    }

    #[test]
    fn commits_come_and_nothing_that_git_obeys_does() {
        for format in ["sha1", "sha256"] {
            let Some(bench) = Bench::new(format) else { return };
            let (mut layer, upper) = bench.layer();
            let config = fs::read(bench.root.join("p/.git/config")).expect("read");
            fs::write(bench.root.join("p/new"), "inside\n").expect("written");
            bench.git(&upper, &["add", "new"]);
            bench.git(&upper, &["commit", "-qm", "two"]);
            bench.git(&upper, &["tag", "-a", "-m", "tag", "v1"]);
            bench.git(&upper, &["config", "core.fsmonitor", "/evil"]);
            for (name, text) in [
                ("hooks/pre-commit", "evil"),
                ("info/attributes", "* filter=x"),
                ("objects/info/alternates", "/evil"),
                ("commondir", "/evil"),
            ] {
                fs::write(layer.upper().join(name), text).expect("written");
            }
            layer.round();
            assert_eq!(bench.git("p/.git", &["log", "-1", "--format=%s"]), "two");
            assert_eq!(bench.git("p/.git", &["status", "--short"]), "");
            fs::remove_file(layer.upper().join("commondir")).expect("there");
            // Both continue: the host on one branch, the sandbox on the same and on another.
            let tree = bench.git("p/.git", &["rev-parse", "HEAD^{tree}"]);
            let ours = bench.git("p/.git", &["commit-tree", "-m", "host", &tree]);
            bench.git("p/.git", &["update-ref", "refs/heads/other", &ours]);
            fs::remove_file(layer.upper().join("objects/info/alternates")).expect("there");
            let theirs = bench.git(&upper, &["commit-tree", "-m", "inside", &tree]);
            bench.git(&upper, &["update-ref", "refs/heads/other", &theirs]);
            bench.git(&upper, &["update-ref", "refs/heads/fresh", &theirs]);
            whiteout(&layer.upper().join("refs/heads/gone"));
            let run = run_of(&layer.dir);
            let finished = layer.finish();
            assert_eq!(finished.left, None, "{finished:?}");
            assert_eq!(
                bench.git("p/.git", &["rev-parse", "other", "fresh", &format!("refs/silo/{run}/heads/other")]),
                format!("{ours}\n{theirs}\n{theirs}")
            );
            assert!(finished.told.iter().any(|line| line.contains("refs/heads/other moved here")), "{finished:?}");
            assert!(finished.told.iter().any(|line| line.contains("refs/heads/gone was removed inside")), "{finished:?}");
            assert!(!bench.git("p/.git", &["for-each-ref"]).contains("refs/heads/gone"));
            assert_eq!(fs::read(bench.root.join("p/.git/config")).expect("read"), config);
            for name in ["hooks/pre-commit", "info/attributes", "objects/info/alternates", "commondir"] {
                assert!(!bench.root.join("p/.git").join(name).exists(), "{name}");
            }
            assert_eq!(fs::read_dir(bench.root.join("layers")).expect("there").count(), 0);
            bench.is_whole();
        }
    }

    #[test]
    fn packs_come_verified_with_an_index_of_our_own() {
        for format in ["sha1", "sha256"] {
            let Some(bench) = Bench::new(format) else { return };
            let (layer, upper) = bench.layer();
            for number in 0..20 {
                let text: String = (0..400).map(|line| format!("{} line {line}\n", if line == number { "changed" } else { "a" })).collect();
                fs::write(bench.root.join("p/file"), text).expect("written");
                bench.git(&upper, &["commit", "-qam", &format!("change {number}")]);
            }
            bench.git(&upper, &["gc", "-q", "--prune=now"]);
            assert!(layer.upper().join("packed-refs").exists());
            // As overlayfs stores it: the files below are removed.
            ["main", "other", "gone"].iter().for_each(|name| whiteout(&layer.upper().join("refs/heads").join(name)));
            let finished = layer.finish();
            assert!(finished.left.is_none() && finished.told.is_empty(), "{finished:?}");
            assert_eq!(bench.git("p/.git", &["rev-list", "--count", "main"]), "21");
            bench.is_whole();
            let packs: Vec<_> = fs::read_dir(bench.root.join("p/.git/objects/pack")).expect("there").flatten().collect();
            assert_eq!(packs.len(), 2, "{packs:?}");
            let index =
                packs.iter().map(fs::DirEntry::path).find(|path| path.extension().is_some_and(|end| end == "idx")).expect("an index");
            bench.git("p/.git", &["verify-pack", index.to_str().expect("text")]);

            // A pack with any changed byte is refused.
            let pack = fs::read(index.with_extension("pack")).expect("read");
            let place = bench.root.join("bad");
            for at in (0..pack.len()).step_by(pack.len() / 60 + 1) {
                let mut wrong = pack.clone();
                wrong[at] ^= 0x11;
                fs::write(&place, &wrong).expect("written");
                let kind = if format == "sha1" { Format::Sha1 } else { Format::Sha256 };
                let verified = crate::git::pack::verify(
                    &File::open(&place).expect("there"),
                    wrong.len() as u64,
                    kind,
                    &mut crate::git::budget::Budget::new(1 << 30),
                );
                assert!(verified.is_err(), "{at}");
            }
        }
    }

    #[test]
    fn a_hostile_layer_brings_nothing() {
        let Some(bench) = Bench::new("sha1") else { return };
        let outside = bench.root.join("secret");
        fs::write(&outside, "1111111111111111111111111111111111111111\n").expect("written");
        let before = bench.git("p/.git", &["for-each-ref"]);
        let (layer, _) = bench.layer();
        let upper = layer.upper();
        let write = |name: &str, text: &[u8]| {
            fs::create_dir_all(upper.join(name).parent().expect("not the root")).expect("made");
            fs::write(upper.join(name), text).expect("written");
        };
        symlink(&outside, upper.join("refs/heads/link")).expect("made");
        symlink("..", upper.join("refs/heads/up")).expect("made");
        symlink("/dev/zero", upper.join("MERGE_HEAD")).expect("made");
        assert!(Command::new("mkfifo").arg(upper.join("refs/heads/pipe")).status().is_ok_and(|status| status.success()));
        write("refs/heads/-x", b"1111111111111111111111111111111111111111\n");
        write("refs/heads/no-object", b"1111111111111111111111111111111111111111\n");
        write("refs/replace/1111111111111111111111111111111111111111", before.split(' ').next().unwrap_or_default().as_bytes());
        write("refs/heads/long", &vec![b'1'; 1 << 20]);
        write("objects/11/11111111111111111111111111111111111111", b"no object");
        write("objects/pack/pack-1111111111111111111111111111111111111111.pack", b"PACK\0\0\0\x02\xff\xff\xff\xff");
        write("objects/pack/pack-1111111111111111111111111111111111111111.idx", b"");
        write("rebase-merge/git-rebase-todo", b"exec touch /evil\n");
        write("HEAD", b"ref: ../../x\n");
        write("index", b"DIRC\0\0\0\x02\xff\xff\xff\xff");
        fs::remove_dir_all(upper.join("logs")).expect("there");
        symlink(bench.root.join("p"), upper.join("logs")).expect("made");
        let finished = layer.finish();
        assert_eq!(finished.left, None, "{finished:?}");
        assert_eq!(bench.git("p/.git", &["for-each-ref"]), before);
        assert_eq!(bench.git("p/.git", &["status", "--short"]), "");
        for name in ["MERGE_HEAD", "rebase-merge", "objects/11", "refs/replace"] {
            assert!(
                !bench.root.join("p/.git").join(name).join("git-rebase-todo").exists() && !bench.root.join("p/.git").join(name).is_file()
            );
        }
        let told = finished.told.join("\n");
        for word in [
            "refs/heads/link",
            "refs/heads/pipe",
            "refs/heads/-x",
            "no-object",
            "refs/replace",
            "refs/heads/long",
            "rebase inside",
            "objects/11",
        ] {
            assert!(told.contains(word), "{word}: {told}");
        }
        bench.is_whole();
    }

    #[test]
    fn nothing_comes_into_another_repository_than_the_run_began_with() {
        for moved in ["moved away", "removed", "removed after silo was killed"] {
            let Some(bench) = Bench::new("sha1") else { return };
            let (mut layer, upper) = bench.layer();
            bench.git(&upper, &["commit", "-q", "--allow-empty", "-m", "inside"]);
            let project = bench.root.join("p");
            fs::rename(project.join(".git"), project.join("old")).expect("our own");
            bench.git("p/.git", &["init", "-q", "-b", "main"]);
            if moved != "moved away" {
                fs::remove_dir_all(project.join("old")).expect("our own");
            }
            let finished = if moved == "removed after silo was killed" {
                drop(layer);
                bench.left().finish()
            } else {
                layer.round();
                layer.finish()
            };
            assert_eq!(finished.left, None, "{moved}: {finished:?}");
            assert!(finished.told.iter().any(|line| line == REPLACED), "{moved}: {finished:?}");
            assert_eq!(bench.git("p/.git", &["for-each-ref"]), "", "{moved}");
            assert_eq!(bench.git("p/.git", &["count-objects"]), "0 objects, 0 kilobytes", "{moved}");
            if moved == "moved away" {
                assert_eq!(bench.git("p/old", &["log", "-1", "--format=%s"]), "inside");
            }
            assert_eq!(fs::read_dir(bench.root.join("layers")).expect("there").count(), 0, "{moved}");
        }
    }

    #[test]
    fn a_killed_silo_loses_nothing() {
        let Some(bench) = Bench::new("sha1") else { return };
        let (layer, upper) = bench.layer();
        bench.git(&upper, &["commit", "-q", "--allow-empty", "-m", "before the kill"]);
        let (layers, project) = (bench.root.join("layers"), bench.root.join("p"));
        assert!(leftover_layers::of_project(&layers, &project).is_empty(), "it is held");
        drop(layer);
        assert!(leftover_layers::of_project(&layers, &bench.root).is_empty(), "another project's");
        assert!(bench.left().finish().left.is_none());
        assert_eq!(bench.git("p/.git", &["log", "-1", "--format=%s"]), "before the kill");
        assert!(leftover_layers::of_project(&layers, &project).is_empty());
    }
}
