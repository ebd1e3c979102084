//! Paths and names that both sides of a VM know.

/// The directory with Silo's files in QEMU's sandbox.
pub const GIVEN: &str = "/silo";
/// The mount point of the program's root in the VM.
pub const IMAGE: &str = "/image";
/// The mount point of the root's lower directories in the VM, if there is no disk.
pub const LOWER: &str = "/lower";
/// The tag of their share.
pub const LOWER_TAG: &str = "lower";
/// The directory for captured changes in the VM.
pub const CHANGES: &str = "/changes";
/// The mount point of the host's shares in the VM.
pub const SHARES: &str = "/share";
/// The VM's disk with the program's root.
pub const DISK: &str = "/dev/vda";
/// The name of the port to the host.
pub const PORT: &str = "silo.0";
/// The file of a snapshot's memory, in its directory.
pub const MEMORY: &str = "memory";
/// The file of the other VM state.
pub const STATE: &str = "state";
/// The snapshot's directory in QEMU's sandbox.
pub const SNAPSHOT: &str = "/silo/snapshot";
