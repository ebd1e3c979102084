//! Extends approvals of a repository's main worktree to its linked worktrees.
//!
//! Approvals follow content. If `silo.toml`, `silo.lock` and recipes are byte for byte those that count in the main worktree, the user has
//! approved them, as with `git checkout` there. The worktree must be registered in the repository itself, which no sandbox can write. Its
//! `.git` file is not enough, because anybody can write it. All three directories must have the same owner. A directory with files that no
//! tool should see is approved separately for each directory.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use silo_base::home::Home;
use silo_guard::git::repository::{self, Repository};
use silo_model::config::project::ProjectFiles;

use super::exposure::Exposures;
use super::record::digest_of;
use super::{Error, Verdict};

/// Returns the approved lines of the main worktree, if the files are in a linked worktree and equal those that count there.
pub fn approved_in_main(home: &Home, files: &ProjectFiles) -> Result<Exposures, Error> {
    let Some(main) = main_of(files.root()) else { return Ok(Exposures::new()) };
    let record = super::record::place(home, &main)?.read()?;
    let digests = files.digests();
    let counted = record.known.as_ref() == Some(&digests) || record.approved_files == Some(digest_of(&digests));
    let counts = counted || {
        // Approved, and no sandbox ran there since.
        let files = ProjectFiles::read(&main)?;
        files.digests() == digests && super::judge(home, &files)? == Verdict::Counts
    };
    Ok(if counts { record.approved } else { Exposures::new() })
}

/// Finds the main worktree of the linked worktree at a canonical path.
fn main_of(tree: &Path) -> Option<PathBuf> {
    let git = tree.join(".git");
    if !fs::symlink_metadata(&git).ok()?.is_file() {
        return None;
    }
    let repository = Repository::find(tree).ok()??;
    let (own, common) = (repository.own(), repository.common());
    let back = fs::canonicalize(own.join(repository::line(&own.join("gitdir"))?)).ok()?;
    let main = common.parent()?;
    let is_its_worktree = back == git && own.parent()? == common.join("worktrees") && common.file_name()? == ".git";
    let owner = |path: &Path| fs::symlink_metadata(path).ok().map(|found| found.uid());
    let is_one_users = owner(tree).is_some() && [own, common, main].iter().all(|path| owner(path) == owner(tree));
    (is_its_worktree && is_one_users && !own.starts_with(tree)).then(|| main.to_owned())
}

#[cfg(test)]
mod tests {
    use super::super::{approve, remember, revoke};
    use super::*;

    const LINE: &str = "every tool sees the variable TOKEN";

    /// A change of the repository under test.
    type Change = fn(&Ground);

    struct Ground {
        _place: tempfile::TempDir,
        root: PathBuf,
        home: Home,
    }

    impl Ground {
        /// A repository as git makes it, with a linked worktree of the same settings, which are approved in the main one.
        fn new() -> Ground {
            let place = tempfile::tempdir().expect("a directory");
            let root = fs::canonicalize(place.path()).expect("there");
            let ground = Ground { _place: place, home: Home::new(root.join("home")), root };
            let own = "main/.git/worktrees/tree";
            for dir in ["tree", "main/.git/objects", own] {
                fs::create_dir_all(ground.root.join(dir)).expect("made");
            }
            for (path, text) in [
                ("main/.git/HEAD", "ref: refs/heads/main\n".to_owned()),
                ("main/.git/config", String::new()),
                (&format!("{own}/HEAD"), "ref: refs/heads/tree\n".to_owned()),
                (&format!("{own}/commondir"), "../..\n".to_owned()),
                (&format!("{own}/gitdir"), format!("{}\n", ground.root.join("tree/.git").display())),
                ("tree/.git", format!("gitdir: {}\n", ground.root.join(own).display())),
                ("main/silo.toml", "passEnv = [\"TOKEN\"]\n".to_owned()),
                ("tree/silo.toml", "passEnv = [\"TOKEN\"]\n".to_owned()),
            ] {
                ground.write(path, &text);
            }
            approve(&ground.home, &ground.root.join("main"), &[LINE.to_owned()].into()).expect("approved");
            ground
        }

        fn write(&self, path: &str, text: &str) {
            fs::create_dir_all(self.root.join(path).parent().expect("not the root")).expect("made");
            fs::write(self.root.join(path), text).expect("written");
        }

        fn is_approved(&self) -> bool {
            let files = ProjectFiles::read(&self.root.join("tree")).expect("read");
            approved_in_main(&self.home, &files).expect("read").contains(LINE)
        }
    }

    #[test]
    fn a_linked_worktree_shares_approvals_of_equal_files() {
        let ground = Ground::new();
        assert!(ground.is_approved());
        // The main worktree changes; its last recorded files are those of the last run there.
        remember(&ground.home, &ProjectFiles::read(&ground.root.join("main")).expect("read")).expect("recorded");
        ground.write("main/silo.toml", "# another branch\n");
        assert!(ground.is_approved());
        ground.write("main/silo.toml", "passEnv = [\"TOKEN\"]\n");
        revoke(&ground.home, &ground.root.join("main")).expect("revoked");
        assert!(!ground.is_approved());
    }

    #[test]
    fn no_other_directory_and_no_other_file_has_it() {
        let spoilt: [(&str, Change); 7] = [
            ("other settings", |ground| ground.write("tree/silo.toml", "passEnv = [\"TOKEN\"]\n#\n")),
            ("an additional lock", |ground| ground.write("tree/silo.lock", "")),
            ("an additional recipe", |ground| ground.write("tree/recipes/x.toml", "")),
            ("the repository names another worktree", |ground| {
                ground.write("other/.git", "");
                let other = ground.root.join("other/.git");
                ground.write("main/.git/worktrees/tree/gitdir", &format!("{}\n", other.display()));
            }),
            ("a repository of its own", |ground| {
                fs::remove_file(ground.root.join("tree/.git")).expect("there");
                ground.write("tree/.git/HEAD", "ref: refs/heads/main\n");
                ground.write("tree/.git/commondir", &format!("{}\n", ground.root.join("main/.git").display()));
            }),
            ("no worktree of it", |ground| {
                ground.write("tree/.git", &format!("gitdir: {}\n", ground.root.join("main/.git").display()));
            }),
            ("a repository without a worktree", |ground| {
                fs::rename(ground.root.join("main/.git"), ground.root.join("main/bare")).expect("ours");
                ground.write("tree/.git", &format!("gitdir: {}\n", ground.root.join("main/bare/worktrees/tree").display()));
            }),
        ];
        for (why, spoil) in spoilt {
            let ground = Ground::new();
            spoil(&ground);
            assert!(!ground.is_approved(), "{why}");
        }
    }
}
