//! The files and the size of a virtual machine.

use std::ffi::OsString;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::text;

/// A virtual machine with a kernel of its own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VmFiles {
    /// The architecture of the machine. One of another processor than the host's is emulated.
    pub arch: silo_base::system::Arch,
    /// The root of the image with QEMU and the kernel's modules.
    #[serde(with = "text::one")]
    pub root: PathBuf,
    /// The kernel, unpacked.
    #[serde(with = "text::one")]
    pub kernel: PathBuf,
    /// The initramfs.
    #[serde(with = "text::one")]
    pub initial: PathBuf,
    /// A file system image of the program's root, with the same content as `root.lower` of the spec. Without one the directories themselves
    /// are shared, which is slower to read.
    #[serde(with = "text::perhaps", default)]
    pub disk: Option<PathBuf>,
    /// Memory in bytes.
    pub memory_bytes: u64,
    /// Number of processors.
    pub cpus: u32,
    /// The time of the processor.
    #[serde(default)]
    pub time: MachineTime,
    /// The directory of snapshots of such VMs; without it each VM boots.
    #[serde(with = "text::perhaps", default)]
    pub snapshots: Option<PathBuf>,
    /// A command run once before the VM's snapshot is taken, so that its files are in the page cache.
    #[serde(with = "text::list", default)]
    pub warm_up: Vec<OsString>,
}

/// The time of a VM's processor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MachineTime {
    /// The host's.
    #[default]
    Host,
    /// A count of instructions, from the spec's fixed time on. The processor is emulated.
    Counted,
}
