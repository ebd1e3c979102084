//! Bindings to Apple's Virtualization framework, as far as Silo needs it: starts and stops one VM from a [`Configuration`].
//!
//! The only unsafe code for macOS. It follows these rules from Apple's headers:
//!
//! * A VM belongs to one serial queue. All calls and callbacks run on that queue, and so does its release. Code outside the queue holds a
//!   VM only behind [`OnQueue`].
//! * A VM has only a weak reference to its delegate, so the creator must own the delegate.
//! * An invalid argument may raise an exception. An exception in a Rust frame would end the process, so every call runs within
//!   [`guarded`].
#![allow(unsafe_code)]

use std::io::Write;
use std::os::fd::{IntoRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::time::Duration;

use block2::RcBlock;
use dispatch2::{DispatchQueue, DispatchRetained};
use objc2::rc::Retained;
use objc2::runtime::ProtocolObject;
use objc2::{AnyThread, DefinedClass, define_class, msg_send};
use objc2_foundation::{NSArray, NSDictionary, NSError, NSFileHandle, NSObject, NSObjectProtocol, NSString, NSURL};
use objc2_virtualization::{
    VZDirectoryShare, VZDirectorySharingDeviceConfiguration, VZDiskImageCachingMode, VZDiskImageStorageDeviceAttachment,
    VZDiskImageSynchronizationMode, VZFileHandleSerialPortAttachment, VZLinuxBootLoader, VZMultipleDirectoryShare, VZSharedDirectory,
    VZSingleDirectoryShare, VZVirtioBlockDeviceConfiguration, VZVirtioConsoleDeviceConfiguration, VZVirtioConsolePortConfiguration,
    VZVirtioEntropyDeviceConfiguration, VZVirtioFileSystemDeviceConfiguration, VZVirtualMachine, VZVirtualMachineConfiguration,
    VZVirtualMachineDelegate,
};

use super::vz_spec::{Configuration, Holds, Share};
use crate::spec::Access;

/// Time limit for the framework to report that a VM has started, which is before the guest boots.
const START: Duration = Duration::from_secs(60);
/// Time limit for stopping a VM. After that it ends with this process.
const STOP: Duration = Duration::from_secs(10);
/// The queue's name, for debuggers.
const QUEUE: &str = "silo.machine";

/// The reason why the framework refused a request.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// It returned an error.
    #[error("{0}")]
    Said(String),
    /// It raised an exception.
    #[error("the framework raised an exception: {0}")]
    Raised(String),
    /// It did not answer in time.
    #[error("the framework does not answer")]
    Silent,
    /// The path does not exist or has the wrong type.
    #[error("{} does not exist or has the wrong type", .0.display())]
    Path(PathBuf),
}

impl From<Retained<NSError>> for Refusal {
    fn from(error: Retained<NSError>) -> Refusal {
        Refusal::Said(describe(&error))
    }
}

/// The connections of a VM.
pub struct Ends {
    /// The far end of the port for frames.
    pub port: OwnedFd,
    /// Receives the console's output.
    pub console: OwnedFd,
    /// Receives the reason if the VM ends by itself.
    pub told: UnixStream,
}

/// True if this host and this program may run VMs.
pub fn is_supported() -> bool {
    // SAFETY: a class method without arguments.
    guarded(|| Ok(unsafe { VZVirtualMachine::isSupported() })).unwrap_or(false)
}

/// A VM; dropping it stops the VM.
pub struct Virtual {
    queue: DispatchRetained<DispatchQueue>,
    machine: Option<Arc<OnQueue<Retained<VZVirtualMachine>>>>,
    // The VM has only a weak reference to it.
    _delegate: Arc<OnQueue<Retained<Delegate>>>,
}

impl Virtual {
    /// Creates a VM and starts it. `files` are the directories for the shares of a single file, in order.
    pub fn start(configuration: &Configuration, initial: &Path, files: &[PathBuf], ends: Ends) -> Result<Virtual, Refusal> {
        let Ends { port, console, told } = ends;
        let configured = guarded(|| configure(configuration, initial, files, port, console))?;
        let queue = DispatchQueue::new(QUEUE, None);
        let delegate = Arc::new(OnQueue(Delegate::new(told)));
        let made = guarded(|| {
            // SAFETY: the queue is a serial one; the configuration is complete and is copied.
            Ok(unsafe { VZVirtualMachine::initWithConfiguration_queue(VZVirtualMachine::alloc(), &configured, &queue) })
        })?;
        let this = Virtual { queue, machine: Some(Arc::new(OnQueue(made))), _delegate: Arc::clone(&delegate) };
        this.ask(START, move |machine, answer| {
            let delegate: &ProtocolObject<dyn VZVirtualMachineDelegate> = ProtocolObject::from_ref(&**delegate.get());
            let done = RcBlock::new(move |error: *mut NSError| answer_with(&answer, error));
            // SAFETY: on the VM's queue; the delegate lives as long as the VM.
            unsafe {
                machine.setDelegate(Some(delegate));
                machine.startWithCompletionHandler(&done);
            }
        })?;
        Ok(this)
    }

    /// Runs a closure on the queue, and waits for its answer.
    fn ask(
        &self,
        most: Duration,
        what: impl FnOnce(&VZVirtualMachine, Sender<Result<(), Refusal>>) + Send + 'static,
    ) -> Result<(), Refusal> {
        let Some(machine) = self.machine.clone() else { return Ok(()) };
        let (answer, answered) = channel();
        self.queue.exec_async(move || {
            let raised = answer.clone();
            if let Err(refusal) = guarded(|| {
                what(machine.get(), answer);
                Ok(())
            }) {
                // The receiver is gone after a timeout.
                let _ = raised.send(Err(refusal));
            }
        });
        answered.recv_timeout(most).unwrap_or(Err(Refusal::Silent))
    }
}

impl Drop for Virtual {
    fn drop(&mut self) {
        let stopped = self.ask(STOP, |machine, answer| {
            // SAFETY: on the VM's queue.
            if !unsafe { machine.canStop() } {
                // It has ended already, or never started.
                let _ = answer.send(Ok(()));
                return;
            }
            let done = RcBlock::new(move |error: *mut NSError| answer_with(&answer, error));
            // SAFETY: on the VM's queue.
            unsafe { machine.stopWithCompletionHandler(&done) };
        });
        // A VM that cannot be stopped ends with this process.
        drop(stopped);
        let machine = self.machine.take();
        self.queue.exec_async(move || drop(machine));
    }
}

/// A value that is used only on the queue, and may be owned elsewhere.
struct OnQueue<T>(T);

// SAFETY: only `get` gives access, and this file calls it on the queue only. The last owner is dropped there; the delegate may be dropped
// elsewhere, because it holds only a socket.
unsafe impl<T> Send for OnQueue<T> {}
// SAFETY: as above.
unsafe impl<T> Sync for OnQueue<T> {}

impl<T> OnQueue<T> {
    /// Returns the value. A method, because a closure would capture a field by itself.
    fn get(&self) -> &T {
        &self.0
    }
}

define_class!(
    // SAFETY: NSObject has no requirements for subclasses, and this class has no Drop.
    #[unsafe(super(NSObject))]
    #[name = "SiloMachineDelegate"]
    #[ivars = UnixStream]
    struct Delegate;

    // SAFETY: a subclass of NSObject conforms to the protocol.
    unsafe impl NSObjectProtocol for Delegate {}

    // SAFETY: both methods have the types that the protocol declares.
    unsafe impl VZVirtualMachineDelegate for Delegate {
        #[unsafe(method(guestDidStopVirtualMachine:))]
        fn ended(&self, _: &VZVirtualMachine) {
            self.report_end("ended by itself");
        }

        #[unsafe(method(virtualMachine:didStopWithError:))]
        fn broke(&self, _: &VZVirtualMachine, error: &NSError) {
            self.report_end(&format!("ended by itself: {}", describe(error)));
        }
    }
);

impl Delegate {
    fn new(saying: UnixStream) -> Retained<Delegate> {
        let this = Self::alloc().set_ivars(saying);
        // SAFETY: NSObject's `init` has no arguments and returns the object.
        unsafe { msg_send![super(this), init] }
    }

    fn report_end(&self, how: &str) {
        // Ignored if the receiver is gone.
        let _ = self.ivars().write_all(how.as_bytes());
    }
}

/// Sends the result of a completion handler: success, or an error.
fn answer_with(answer: &Sender<Result<(), Refusal>>, error: *mut NSError) {
    // SAFETY: the framework calls with null or an error that lives for the call.
    let result = match unsafe { error.as_ref() } {
        None => Ok(()),
        Some(error) => Err(Refusal::Said(describe(error))),
    };
    // The receiver is gone after a timeout.
    let _ = answer.send(result);
}

fn describe(error: &NSError) -> String {
    let why = error.localizedFailureReason().map(|why| format!(": {why}")).unwrap_or_default();
    format!("{}{why} ({} {})", error.localizedDescription(), error.domain(), error.code())
}

/// Converts an exception to an error.
fn guarded<T>(call: impl FnOnce() -> Result<T, Refusal>) -> Result<T, Refusal> {
    objc2::exception::catch(AssertUnwindSafe(call)).unwrap_or_else(|exception| {
        Err(Refusal::Raised(exception.map_or_else(|| "without a message".to_owned(), |exception| format!("{exception:?}"))))
    })
}

/// Builds the framework's VM configuration.
fn configure(
    from: &Configuration,
    initial: &Path,
    files: &[PathBuf],
    port: OwnedFd,
    console: OwnedFd,
) -> Result<Retained<VZVirtualMachineConfiguration>, Refusal> {
    let mut files = files.iter();
    let shares = from.shares.iter().map(|share| shared(share, &mut files)).collect::<Result<Vec<_>, _>>()?;
    let (kernel, initial) = (file(&from.kernel)?, file(initial)?);
    let disks = from.disk.iter().map(|path| disk(path)).collect::<Result<Vec<_>, _>>()?;
    // SAFETY: these are setters of objects that were created here and have no other owner. Each argument has the class that the type names,
    // and numbers are within the bounds that the class reports.
    unsafe {
        let boot = VZLinuxBootLoader::initWithKernelURL(VZLinuxBootLoader::alloc(), &kernel);
        boot.setInitialRamdiskURL(Some(&initial));
        boot.setCommandLine(&NSString::from_str(from.command_line));
        let made = VZVirtualMachineConfiguration::new();
        made.setBootLoader(Some(&boot));
        let most = VZVirtualMachineConfiguration::maximumAllowedCPUCount();
        made.setCPUCount((from.cpus as usize).clamp(VZVirtualMachineConfiguration::minimumAllowedCPUCount(), most));
        let most = VZVirtualMachineConfiguration::maximumAllowedMemorySize();
        made.setMemorySize(from.memory_bytes.clamp(VZVirtualMachineConfiguration::minimumAllowedMemorySize(), most));
        made.setStorageDevices(&NSArray::from_retained_slice(&disks));
        made.setDirectorySharingDevices(&NSArray::from_retained_slice(&shares));
        made.setConsoleDevices(&NSArray::from_retained_slice(&[ports(from.port, port, console)?.into_super()]));
        made.setEntropyDevices(&NSArray::from_retained_slice(&[VZVirtioEntropyDeviceConfiguration::new().into_super()]));
        made.validateWithError()?;
        Ok(made)
    }
}

/// Creates the console, and the named port for frames.
fn ports(name: &str, port: OwnedFd, console: OwnedFd) -> Result<Retained<VZVirtioConsoleDeviceConfiguration>, Refusal> {
    let other_way = port.try_clone().map_err(|error| Refusal::Said(format!("copying a descriptor: {error}")))?;
    // SAFETY: as in `configure`. Each descriptor is moved to its handle, which closes it.
    unsafe {
        let device = VZVirtioConsoleDeviceConfiguration::new();
        let ports = device.ports();
        ports.setMaximumPortCount(2);
        for (number, is_console, read, written) in [(0, true, None, console), (1, false, Some(other_way), port)] {
            let (read, written) = (read.map(handle), handle(written));
            let attached = VZFileHandleSerialPortAttachment::initWithFileHandleForReading_fileHandleForWriting(
                VZFileHandleSerialPortAttachment::alloc(),
                read.as_deref(),
                Some(&written),
            );
            let one = VZVirtioConsolePortConfiguration::new();
            one.setIsConsole(is_console);
            if !is_console {
                one.setName(Some(&NSString::from_str(name)));
            }
            one.setAttachment(Some(&attached));
            ports.setObject_atIndexedSubscript(Some(&one), number);
        }
        Ok(device)
    }
}

fn handle(fd: OwnedFd) -> Retained<NSFileHandle> {
    NSFileHandle::initWithFileDescriptor_closeOnDealloc(NSFileHandle::alloc(), fd.into_raw_fd(), true)
}

fn disk(image: &Path) -> Result<Retained<objc2_virtualization::VZStorageDeviceConfiguration>, Refusal> {
    // SAFETY: as in `configure`; the file exists. A read-only disk needs no synchronisation. `Cached`, because with the automatic choice
    // guests have read wrong bytes.
    unsafe {
        let attached = VZDiskImageStorageDeviceAttachment::initWithURL_readOnly_cachingMode_synchronizationMode_error(
            VZDiskImageStorageDeviceAttachment::alloc(),
            &*file(image)?,
            true,
            VZDiskImageCachingMode::Cached,
            VZDiskImageSynchronizationMode::None,
        )?;
        Ok(VZVirtioBlockDeviceConfiguration::initWithAttachment(VZVirtioBlockDeviceConfiguration::alloc(), &attached).into_super())
    }
}

fn shared<'a>(
    share: &Share,
    files: &mut impl Iterator<Item = &'a PathBuf>,
) -> Result<Retained<VZDirectorySharingDeviceConfiguration>, Refusal> {
    let tag = NSString::from_str(&share.tag);
    let is_read_only = share.access == Access::ReadOnly;
    let one = |path: &Path| -> Result<_, Refusal> {
        let url = directory(path)?;
        // SAFETY: as in `configure`; the directory exists.
        Ok(unsafe { VZSharedDirectory::initWithURL_readOnly(VZSharedDirectory::alloc(), &url, is_read_only) })
    };
    let single = |path: &Path| -> Result<Retained<VZDirectoryShare>, Refusal> {
        let directory = one(path)?;
        // SAFETY: as above.
        Ok(unsafe { VZSingleDirectoryShare::initWithDirectory(VZSingleDirectoryShare::alloc(), &directory) }.into_super())
    };
    let shared = match &share.holds {
        Holds::Directory(path) => single(path)?,
        Holds::File(path) => single(files.next().ok_or_else(|| Refusal::Path(path.clone()))?)?,
        Holds::Numbered(paths) => {
            let names: Vec<_> = (0..paths.len()).map(|number| NSString::from_str(&number.to_string())).collect();
            let names: Vec<&NSString> = names.iter().map(|name| &**name).collect();
            let directories = paths.iter().map(|path| one(path)).collect::<Result<Vec<_>, _>>()?;
            let named = NSDictionary::from_retained_objects(&names, &directories);
            // SAFETY: as above.
            unsafe { VZMultipleDirectoryShare::initWithDirectories(VZMultipleDirectoryShare::alloc(), &named) }.into_super()
        }
    };
    // SAFETY: as above; the framework has validated the tag.
    unsafe {
        VZVirtioFileSystemDeviceConfiguration::validateTag_error(&tag)?;
        let device = VZVirtioFileSystemDeviceConfiguration::initWithTag(VZVirtioFileSystemDeviceConfiguration::alloc(), &tag);
        device.setShare(Some(&shared));
        Ok(device.into_super())
    }
}

/// Returns a file's URL, if the file exists. A missing file would raise an exception.
fn file(path: &Path) -> Result<Retained<NSURL>, Refusal> {
    let url = if path.is_file() { NSURL::from_file_path(path) } else { None };
    url.ok_or_else(|| Refusal::Path(path.to_owned()))
}

/// Returns a directory's URL, if the directory exists.
fn directory(path: &Path) -> Result<Retained<NSURL>, Refusal> {
    let url = if path.is_dir() { NSURL::from_directory_path(path) } else { None };
    url.ok_or_else(|| Refusal::Path(path.to_owned()))
}
