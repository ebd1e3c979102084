//! Limits on all of a sandbox's processes together, if part of the cgroup tree is delegated to the user.
//!
//! Only cgroup v2. Systemd delegates a subtree to each user's session. A limit needs a parent directory that is writable and enables the
//! controllers for its children. Otherwise only the limits of [`super::rlimits`] apply, and `doctor` reports that.

use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, open};

use super::proc_files::read_proc;
use crate::spec::Limits;

/// The cgroup of one sandbox; removed on drop, after all its processes are gone.
pub struct Cgroup {
    path: PathBuf,
    directory: OwnedFd,
}

/// Prefix of our cgroups' names; the rest is the silo process's PID.
const PREFIX: &str = "silo-";

impl Cgroup {
    /// Creates one with these limits; `None` if no limit is set or no cgroup is delegated.
    pub fn make(limits: &Limits) -> Option<Cgroup> {
        if limits.memory_bytes.is_none() && limits.tasks.is_none() && limits.cpu_thousandths.is_none() {
            return None;
        }
        Cgroup::make_below(&delegated()?, limits).ok()
    }

    fn make_below(parent: &Path, limits: &Limits) -> io::Result<Cgroup> {
        sweep(parent);
        let path = parent.join(format!("{PREFIX}{}", std::process::id()));
        fs::create_dir(&path)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let made = open(&path, flags, Mode::empty()).map_err(io::Error::from);
        let cgroup = match made {
            Ok(directory) => Cgroup { path, directory },
            Err(error) => {
                let _ = fs::remove_dir(&path);
                return Err(error);
            }
        };
        if let Some(bytes) = limits.memory_bytes {
            cgroup.write("memory.max", &bytes.to_string())?;
            // Kernels without swap accounting lack the first file, old ones the second.
            let _ = cgroup.write("memory.swap.max", "0");
            let _ = cgroup.write("memory.oom.group", "1");
        }
        if let Some(tasks) = limits.tasks {
            // One more for PID 1.
            cgroup.write("pids.max", &(tasks + 1).to_string())?;
        }
        if let Some(thousandths) = limits.cpu_thousandths {
            cgroup.write("cpu.max", &format!("{} 100000", thousandths * 100))?;
        }
        Ok(cgroup)
    }

    /// Returns the directory for `clone3`.
    pub fn directory(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }

    fn write(&self, file: &str, text: &str) -> io::Result<()> {
        fs::write(self.path.join(file), text)
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // If this fails, a later start removes the empty cgroup.
        let _ = fs::remove_dir(&self.path);
    }
}

/// Removes cgroups of killed silo processes; a cgroup with processes in it cannot be removed.
fn sweep(parent: &Path) {
    let Ok(entries) = fs::read_dir(parent) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let pid = name.to_str().and_then(|name| name.strip_prefix(PREFIX));
        if pid.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
            let _ = fs::remove_dir(entry.path());
        }
    }
}

/// Finds the nearest cgroup above our own that enables the controllers for its children and that we may write.
pub fn delegated() -> Option<PathBuf> {
    let own = read_proc("/proc/self/cgroup").ok()?;
    // The root has none above it.
    let own = own.lines().find_map(|line| line.strip_prefix("0::/")).filter(|own| !own.is_empty())?;
    let mounts = read_proc("/proc/self/mounts").ok()?;
    let mount = mounts.lines().find_map(|line| {
        let mut words = line.split(' ').skip(1);
        let place = words.next()?;
        (words.next()? == "cgroup2").then(|| PathBuf::from(place))
    })?;
    find(&mount, own)
}

fn find(mount: &Path, own: &str) -> Option<PathBuf> {
    // Only leaf cgroups have processes, so our own cgroup cannot have children; the ones above it may.
    let place = mount.join(own);
    place.ancestors().skip(1).take_while(|dir| dir.starts_with(mount)).find_map(|dir| {
        let handed = fs::read_to_string(dir.join("cgroup.subtree_control")).ok()?;
        let complete = ["memory", "pids"].iter().all(|c| handed.split_whitespace().any(|h| h == *c));
        let ours =
            [dir.to_owned(), dir.join("cgroup.procs")].iter().all(|path| rustix::fs::access(path, rustix::fs::Access::WRITE_OK).is_ok());
        (complete && ours).then(|| dir.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_what_is_delegated_and_writes_the_limits() {
        let place = tempfile::tempdir().expect("a temporary directory");
        let mount = place.path();
        let slice = mount.join("user.slice/app.slice");
        fs::create_dir_all(slice.join("shell.scope")).expect("made");
        for dir in [mount.to_owned(), mount.join("user.slice"), slice.clone()] {
            fs::write(dir.join("cgroup.procs"), "").expect("written");
            fs::write(dir.join("cgroup.subtree_control"), "cpu pids").expect("written");
        }
        let own = "user.slice/app.slice/shell.scope";
        assert_eq!(find(mount, own), None, "no memory controller anywhere");
        fs::write(slice.join("cgroup.subtree_control"), "cpu memory pids").expect("written");
        assert_eq!(find(mount, own), Some(slice.clone()));
        assert_eq!(find(mount, ""), None, "the root is not above itself");

        let limits = Limits { tasks: Some(9), cpu_thousandths: Some(1500), ..Limits::default() };
        let cgroup = Cgroup::make_below(&slice, &limits).expect("an ordinary directory will do");
        let read = |file: &str| fs::read_to_string(cgroup.path.join(file)).expect("written");
        assert_eq!(read("pids.max"), "10");
        assert_eq!(read("cpu.max"), "150000 100000");
        assert!(!cgroup.path.join("memory.max").exists());
    }
}
