//! The paths of a Silo home (`~/.silo`) outside the layer store.
//!
//! `silo-store`'s `layout` has the store's own paths; no other module builds paths in a home.

use std::path::{Path, PathBuf};

use super::system::Arch;

/// A Silo home directory, with the records of one platform. Creating the value creates no files.
///
/// Layers, images, locks and downloads are the same for all platforms. The records of installed tools and of projects, and the kept
/// directories, exist once for each platform.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Home {
    root: PathBuf,
    arch: Arch,
}

impl Home {
    /// Returns the home at `root`, with the records of this machine's platform.
    pub fn new(root: PathBuf) -> Home {
        Home { root, arch: Arch::host() }
    }

    /// Returns the same home with the records of another platform.
    pub fn of_platform(&self, arch: Arch) -> Home {
        Home { root: self.root.clone(), arch }
    }

    /// The architecture of the images that the records name.
    pub fn arch(&self) -> Arch {
        self.arch
    }

    /// The directory of the records of the platform.
    fn records(&self) -> PathBuf {
        if self.arch == Arch::host() { self.root.clone() } else { self.root.join("platforms").join(self.arch.name()) }
    }

    /// Returns the home inside a user's home directory.
    pub fn of_user(user_home: &Path) -> Home {
        Home::new(user_home.join(".silo"))
    }

    /// The directory itself, which is also the layer store's root.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The user's settings.
    pub fn config(&self) -> PathBuf {
        self.root.join(PROJECT_CONFIG)
    }

    /// The user's recipes.
    pub fn recipes(&self) -> PathBuf {
        self.root.join(RECIPES)
    }

    /// Locks made on this host: for recipes without a lock, or with an out-of-date one.
    pub fn locks(&self) -> PathBuf {
        self.root.join("recipe-locks")
    }

    /// Locks of one-off tools.
    pub fn one_off(&self) -> PathBuf {
        self.root.join("one-off")
    }

    /// Fetched files, named by their sha-256.
    pub fn downloads(&self) -> PathBuf {
        self.root.join("downloads")
    }

    /// One image: its configuration and its composed root.
    pub fn image(&self, id: &str) -> PathBuf {
        self.root.join("images").join(id)
    }

    /// All images.
    pub fn images(&self) -> PathBuf {
        self.root.join("images")
    }

    /// Read-only copies of files of images and caches, for editors: one directory an image, and one an image and project.
    pub fn sources(&self) -> PathBuf {
        self.root.join("sources")
    }

    /// Records of the image that each derivation made.
    pub fn made(&self) -> PathBuf {
        self.root.join("made")
    }

    /// The records of steps with a network, by output: each file has the digest of a list among the downloads.
    pub fn recorded(&self) -> PathBuf {
        self.root.join("recorded")
    }

    /// Records of the layers that pools of remote builds have, by the key of a realisation.
    pub fn remote_layers(&self) -> PathBuf {
        self.root.join("remote-layers")
    }

    /// Digests of compressed layers, as repositories know them.
    pub fn blobs(&self) -> PathBuf {
        self.root.join("blobs")
    }

    /// The keys that sign images, and those whose signatures count.
    pub fn keys(&self) -> PathBuf {
        self.root.join("keys")
    }

    /// The records of installed tools.
    pub fn tools(&self) -> PathBuf {
        self.records().join("tools")
    }

    /// The record of one installed tool.
    pub fn tool(&self, name: &str) -> PathBuf {
        self.tools().join(format!("{name}.toml"))
    }

    /// The records of projects.
    pub fn projects(&self) -> PathBuf {
        self.records().join("projects")
    }

    /// The record of one project.
    pub fn project(&self, id: &str) -> PathBuf {
        self.projects().join(format!("{id}.toml"))
    }

    /// The journal: pending changes to files written by people.
    pub fn journal(&self) -> PathBuf {
        self.root.join("journal")
    }

    /// The mtime of this file is the time of the last automatic collection.
    pub fn collected(&self) -> PathBuf {
        self.root.join("collected")
    }

    /// The temporary name of this home before its removal, so that it disappears atomically.
    pub fn discarded(&self) -> PathBuf {
        self.root.with_extension("removed")
    }

    /// Learned package ecosystems.
    pub fn ecosystems(&self) -> PathBuf {
        self.root.join("ecosystems")
    }

    /// One learned package ecosystem.
    pub fn ecosystem(&self, name: &str) -> PathBuf {
        self.root.join("ecosystems").join(format!("{name}.toml"))
    }

    /// Approvals of projects.
    pub fn trust(&self) -> PathBuf {
        self.root.join("trust")
    }

    /// Approvals and records of one directory.
    pub fn trust_of(&self, key: &str) -> PathBuf {
        self.trust().join(key)
    }

    /// The directory of the shims, for the user's PATH.
    pub fn bin(&self) -> PathBuf {
        self.root.join("bin")
    }

    /// The shim of one name.
    pub fn shim(&self, name: &str) -> PathBuf {
        self.root.join("bin").join(name)
    }

    /// The table of shims and their tools.
    pub fn shims(&self) -> PathBuf {
        self.root.join("shims")
    }

    /// A symlink to the program, through which all shims go: if the program moves, one link changes.
    pub fn program(&self) -> PathBuf {
        self.root.join("program")
    }

    /// Terminal settings before a run, by the terminal's device number.
    pub fn terminals(&self) -> PathBuf {
        self.root.join("terminals")
    }

    /// Private overlays of projects' repositories.
    pub fn repositories(&self) -> PathBuf {
        self.root.join("repositories")
    }

    /// Private layers of projects with changes that are not decided yet.
    pub fn reviews(&self) -> PathBuf {
        self.root.join("reviews")
    }

    /// Directories that outlive runs: of projects, and of tools in all projects.
    pub fn kept(&self) -> PathBuf {
        self.records().join("kept")
    }

    /// Persistent directories of all projects.
    pub fn kept_projects(&self) -> PathBuf {
        self.kept().join("projects")
    }

    /// Persistent directories of one project.
    pub fn kept_project(&self, id: &str) -> PathBuf {
        self.kept_projects().join(id)
    }

    /// Persistent directories of a tool for all projects.
    pub fn kept_tool(&self, tool: &str) -> PathBuf {
        self.kept().join("tools").join(tool)
    }

    /// The user's settings in the format before `silo.toml`.
    pub fn legacy_config(&self) -> PathBuf {
        self.root.join(LEGACY_USER_CONFIG)
    }

    /// The lists of installed tools that older programs kept in the home: TOML, and YAML.
    pub fn legacy_tools(&self) -> [PathBuf; 2] {
        ["config.toml", "config.yaml"].map(|name| self.root.join(name))
    }

    /// Files and directories of older programs in the home. This one never reads them.
    pub fn legacy_data(&self) -> [PathBuf; 9] {
        ["rootfs-cache", "builds", "containers", "content", "lsp-cache", "vmlinux", "initfs.ext4", "state.json", "registry.yaml"]
            .map(|name| self.root.join(name))
    }

    /// Unfinished work outside the store's own stages: upper directories of running steps.
    pub fn work(&self) -> PathBuf {
        self.root.join("work")
    }

    /// Network logs of runs.
    pub fn network_logs(&self) -> PathBuf {
        self.logs().join("network")
    }

    /// Records of runs.
    pub fn run_records(&self) -> PathBuf {
        self.logs().join("runs")
    }

    /// Logs of build steps.
    pub fn logs(&self) -> PathBuf {
        self.root.join("logs")
    }
}

/// The name of the program; under any other name it runs as a shim.
pub const PROGRAM: &str = "silo";
/// The directory of recipes in a home or a project.
pub const RECIPES: &str = "recipes";
/// The file that makes a directory a project.
pub const PROJECT_CONFIG: &str = "silo.toml";
/// The settings of a project in the format before [`PROJECT_CONFIG`].
pub const LEGACY_CONFIG: &str = ".siloconf";
/// The settings of a user in the format before [`PROJECT_CONFIG`].
pub const LEGACY_USER_CONFIG: &str = "siloconf";
/// A project's lock file.
pub const PROJECT_LOCK: &str = "silo.lock";
