//! mmdebstrap, given exactly the packages of an image: Debian's own tools making the same root.

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use silo_store::layer;
use silo_store::layout::Store;

use super::{Installed, Silo};

/// Where Debian's mmdebstrap has the hook that shows apt a local mirror without copying it.
const HOOK: &str = "/usr/share/mmdebstrap/hooks/file-mirror-automount";

/// An archive for apt with exactly the packages of an image.
pub struct Mirror {
    dir: PathBuf,
    include: Vec<String>,
    foreign: Vec<String>,
    epoch: i64,
}

/// How the archive's files come into the root.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Each is copied, which leaves nothing behind.
    Copied,
    /// The archive is mounted, which is faster and leaves its mount point behind.
    Mounted,
}

/// The order in which the packages are installed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// dpkg installs all of them in one run, without regard to what they pre-depend on. It is fast, and enough for most packages.
    Together,
    /// dpkg installs the essential ones, and apt the others: it unpacks a package when those that it pre-depends on are configured.
    EssentialFirst,
}

impl Mirror {
    /// Makes the archive below `place`, from the files that `silo` has fetched.
    pub fn of(silo: &Silo, installed: &Installed, place: &Path) -> Mirror {
        let dir = place.join("mirror");
        fs::create_dir(&dir).expect("our own directory");
        let store = Store::open(&silo.path("")).expect("a store");
        let mut index = String::new();
        let mut include = Vec::new();
        for id in &installed.image.layers {
            let record = layer::read_manifest(&store, id).expect("a manifest").record;
            let ([deb], [package]) = (record.inputs.as_slice(), record.packages.as_slice()) else { continue };
            let (from, to) = (silo.path("downloads").join(deb), dir.join(format!("{deb}.deb")));
            fs::hard_link(&from, &to).or_else(|_| fs::copy(&from, &to).map(drop)).expect("a package that was fetched");
            let size = fs::metadata(&to).expect("our own file").len();
            let info = fs::read_dir(store.tree(id).join("var/lib/dpkg/info")).expect("dpkg's directory").flatten();
            let control = info.map(|entry| entry.path()).find(|path| path.extension().is_some_and(|kind| kind == "control"));
            let control = fs::read_to_string(control.expect("a control stanza")).expect("a control stanza");
            write!(index, "{}\nFilename: ./{deb}.deb\nSize: {size}\nSHA256: {deb}\n\n", control.trim_end())
                .expect("writing to a string cannot fail");
            include.push(package.replacen(' ', "=", 1));
        }
        fs::write(dir.join("Packages"), index).expect("our own file");
        Mirror { dir, include, foreign: installed.image.foreign.clone(), epoch: installed.image.epoch }
    }

    /// The command that makes `root`, as root. Each of `links` is a link into /usr before the first package comes.
    pub fn mmdebstrap(&self, root: &Path, way: Way, order: Order, links: &[&str]) -> Command {
        let mut command = Command::new("mmdebstrap");
        // A variable such as PYTHONDONTWRITEBYTECODE would change the results of the packages' scripts.
        command.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").env("SOURCE_DATE_EPOCH", self.epoch.to_string());
        // As in a step of ours: Python before 3.11 compiles sets in an order that hangs on it.
        command.env("PYTHONHASHSEED", "0");
        let variant = if order == Order::Together { "custom" } else { "essential" };
        command.args(["--mode=root", "--format=directory", &format!("--variant={variant}")]);
        command.arg(format!("--include={}", self.include.join(",")));
        if !self.foreign.is_empty() {
            command.arg(format!("--architectures={},{}", silo_base::system::Arch::host(), self.foreign.join(",")));
        }
        if !links.is_empty() {
            let links = links.join(" ");
            command.arg(format!("--setup-hook=for d in {links}; do ln -s usr/$d \"$1/$d\"; mkdir -p \"$1/usr/$d\"; done"));
        }
        let mut method = "copy";
        if way == Way::Mounted && Path::new(HOOK).exists() {
            method = "file";
            command.arg(format!("--hook-dir={HOOK}"));
        }
        // The essential packages are searched for in the archive of this name. Ours has none.
        command.arg("").arg(root).arg(format!("deb [trusted=yes] {method}:{} ./", self.dir.display()));
        command
    }
}
