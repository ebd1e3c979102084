//! Review mode: a directory that the project already has is renamed as on any file system.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::PathBuf;

use crate::review::{changes, inside, state};
use crate::support::machine;
use crate::support::{As, Silo};

/// A project with a tree to rename.
fn project(silo: &Silo) -> PathBuf {
    let project = silo.project();
    for dir in ["lib/deep/er", "full", "empty", "wide"] {
        fs::create_dir_all(project.join(dir)).expect("our own project");
    }
    for (path, text) in [("lib/a.py", "a\n"), ("lib/deep/b.py", "b\n"), ("lib/deep/er/c.py", "c\n"), ("full/file", "f\n")] {
        fs::write(project.join(path), text).expect("our own project");
    }
    for number in 0..500 {
        fs::write(project.join(format!("wide/{number}")), number.to_string()).expect("our own project");
    }
    symlink("a.py", project.join("lib/link")).expect("our own project");
    fs::set_permissions(project.join("lib/deep"), fs::Permissions::from_mode(0o750)).expect("our own project");
    let old = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000_000);
    fs::File::open(project.join("lib/deep")).and_then(|dir| dir.set_modified(old)).expect("our own project");
    project
}

/// Renames in every way, and compares with the answers of any Linux file system.
const RENAMES: &str = r#"
import ctypes, errno, os, subprocess
libc = ctypes.CDLL(None, use_errno=True)

def refused(number, what, *args, **more):
    try:
        what(*args, **more)
    except OSError as error:
        assert error.errno == number, error
        return
    raise AssertionError(args)

def renameat2(old, new, flags):
    if libc.renameat2(-100, old.encode(), -100, new.encode(), flags) != 0:
        raise OSError(ctypes.get_errno(), "renameat2")

refused(errno.ENOTEMPTY, os.rename, "lib", "full")
refused(errno.EINVAL, os.rename, "lib", "lib/deep/inner")
refused(errno.ENOTDIR, os.rename, "lib", "full/file")
refused(errno.EISDIR, os.rename, "full/file", "empty")
refused(errno.ENOENT, os.rename, "nothing", "something")
refused(errno.ENOENT, os.rename, "lib", "nowhere/lib")
refused(errno.EEXIST, renameat2, "lib", "empty", 1)
refused(errno.EBUSY, os.rename, "lib/.", "other")
assert sorted(os.listdir("lib")) == ["a.py", "deep", "link"]

# An open file goes on, and keeps its inode.
reader = open("lib/a.py")
writer = open("lib/deep/b.py", "a")
os.rename("lib", "moved")
assert not os.path.exists("lib")
assert os.readlink("moved/link") == "a.py" and open("moved/deep/er/c.py").read() == "c\n"
assert reader.read() == "a\n"
writer.write("more\n"); writer.close()
assert open("moved/deep/b.py").read() == "b\nmore\n"
deep = os.stat("moved/deep")
assert (deep.st_mode & 0o7777, int(deep.st_mtime)) == (0o750, 1_000_000_000), deep
# Onto an empty directory; by descriptors; into another directory; and back.
os.rename("moved", "empty")
base = os.open(".", os.O_RDONLY)
os.rename("empty", "full/inner", src_dir_fd=base, dst_dir_fd=base)
os.rename(os.getcwd() + "/full/inner/", "lib//")
assert open("lib/deep/b.py").read() == "b\nmore\n" and not os.path.exists("full/inner")
# Directories made here, files, and links are as ever.
os.mkdir("own"); open("own/x", "w").write("x"); os.rename("own", "own2"); assert open("own2/x").read() == "x"
os.rename("own2/x", "lib/x"); os.rename("lib/link", "lib/link2"); assert os.readlink("lib/link2") == "a.py"
# A signal does not make the kernel call twice. A call that a signal ended did nothing.
import signal
caught = []
signal.signal(signal.SIGALRM, lambda *_: caught.append(1))
signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
def rename(old, new):
    while True:
        try:
            return os.rename(old, new)
        except InterruptedError:
            assert os.path.exists(old) and not os.path.exists(new)
for number in range(4):
    rename("wide", "wide2"); rename("wide2", "wide")
signal.setitimer(signal.ITIMER_REAL, 0)
assert caught
subprocess.run(["mv", "-T", "wide", "wider"], check=True)
assert len(os.listdir("wider")) == 500 and open("wider/499").read() == "499"
left = [name for name in os.listdir(".") + os.listdir("full") if name.startswith(".silo")]
assert left == [], left
print("all renamed")
"#;

fn is_seen_and_applied(silo: &Silo, project: &std::path::Path) {
    let found = changes(silo);
    for (path, kind) in [("wide", "removed"), ("wider/7", "added"), ("lib/deep/b.py", "changed"), ("lib/x", "added"), ("empty", "removed")]
    {
        assert_eq!(found.get(path).map(|change| change["change"].as_str().unwrap_or_default()), Some(kind), "{path}: {found:?}");
    }
    assert!(!found.contains_key("lib/a.py"), "a file that was moved back is unchanged: {found:?}");
    silo.ok(["apply"]);
    assert!(!project.join("wide").exists() && !project.join("empty").exists());
    assert_eq!(fs::read_to_string(project.join("wider/499")).expect("applied"), "499");
    assert_eq!(fs::read_to_string(project.join("lib/deep/b.py")).expect("applied"), "b\nmore\n");
    assert_eq!(project.join("lib/deep").metadata().expect("applied").mode() & 0o7777, 0o750);
}

/// Runs the renames with a shared home, and applies them.
fn are_renamed(silo: &Silo, options: &[&str]) {
    let project = project(silo);
    let before = state(&project);
    let words = [&["run", "--review"], options, &["--shim", "python3", "python", "--", "-c", RENAMES]].concat();
    let done = silo.run(words);
    assert!(done.code == 0 && done.out.contains("all renamed"), "{done:?}");
    assert_eq!(state(&project), before);
    is_seen_and_applied(silo, &project);
}

#[test]
fn directories_of_the_project_are_renamed() {
    are_renamed(&Silo::shared(As::Me), &[]);
}

#[test]
fn directories_of_the_project_are_renamed_in_a_machine() {
    are_renamed(&machine::silo(As::Me), &["--tier", "vm"]);
}

#[test]
fn a_rename_that_fails_leaves_the_directory_as_it_was() {
    let silo = Silo::shared(As::Me);
    let project = project(&silo);
    // Deeper than the limit.
    let deepest = (0..220).fold(project.join("shaft"), |path, _| path.join("d"));
    fs::create_dir_all(&deepest).expect("our own project");
    fs::write(deepest.join("end"), "end\n").expect("our own project");
    fs::write(project.join("shaft/file"), "file\n").expect("our own project");
    let done = inside(
        &silo,
        "import errno, os\n\
         try: os.rename('shaft', 'moved')\n\
         except OSError as error: assert error.errno == errno.EXDEV, error\n\
         else: raise AssertionError('renamed')\n\
         assert open('shaft/file').read() == 'file\\n' and not os.path.exists('moved')\n\
         assert not [name for name in os.listdir('.') if name.startswith('.silo')]\n\
         print('as it was')\n",
    );
    assert!(done.code == 0 && done.out.contains("as it was"), "{done:?}");
    let found = changes(&silo);
    assert!(!found.keys().any(|path| path.starts_with("moved") || path.contains(".silo")), "{found:?}");
}
