//! Apple's Virtualization framework, as far as Silo uses it: one machine of a [`Configuration`], started and stopped.
//!
//! The only unsafe code for macOS. Its rules, which Apple's headers state:
//!
//! * A machine belongs to one serial queue. It is asked and tells on that queue alone, and is let go of there, so what is
//!   not on the queue holds it only behind [`OnQueue`].
//! * A machine does not keep its delegate; whoever made it does.
//! * What is wrong with an argument may be told by an exception. One that reached a frame of Rust would end the process,
//!   so every call stands within [`guarded`].
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

use super::apple::{Configuration, Holds, Share};
use crate::launch::spec::Access;

/// How long the framework may take to say that a machine has started; it then has not booted yet.
const START: Duration = Duration::from_secs(60);
/// How long it may take to end one. What does not end by then ends with this process.
const STOP: Duration = Duration::from_secs(10);
/// The queue's name, for debuggers.
const QUEUE: &str = "silo.machine";

/// Why the framework does not do what it is asked.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// It says so.
    #[error("{0}")]
    Said(String),
    /// It raised an exception.
    #[error("the framework raised an exception: {0}")]
    Raised(String),
    /// It says nothing.
    #[error("the framework does not answer")]
    Silent,
    /// It would be given a path that it cannot take.
    #[error("{} is not there, or not what it should be", .0.display())]
    Path(PathBuf),
}

impl From<Retained<NSError>> for Refusal {
    fn from(error: Retained<NSError>) -> Refusal {
        Refusal::Said(told(&error))
    }
}

/// What a machine is connected to.
pub struct Ends {
    /// The far end of the port for frames.
    pub port: OwnedFd,
    /// Where its console goes.
    pub console: OwnedFd,
    /// Where it is said how it ended, if it ended by itself.
    pub told: UnixStream,
}

/// Whether this machine and this program may have virtual machines at all.
pub fn is_supported() -> bool {
    // SAFETY: a question to the class, without arguments.
    guarded(|| Ok(unsafe { VZVirtualMachine::isSupported() })).unwrap_or(false)
}

/// A machine; stopped when dropped.
pub struct Virtual {
    queue: DispatchRetained<DispatchQueue>,
    machine: Option<Arc<OnQueue<Retained<VZVirtualMachine>>>>,
    // The machine only points at it.
    _delegate: Arc<OnQueue<Retained<Delegate>>>,
}

impl Virtual {
    /// Makes a machine and starts it. `files` are the directories for those shares that hold one file, in their order.
    pub fn start(configuration: &Configuration, initial: &Path, files: &[PathBuf], ends: Ends) -> Result<Virtual, Refusal> {
        let Ends { port, console, told } = ends;
        let configured = guarded(|| configure(configuration, initial, files, port, console))?;
        let queue = DispatchQueue::new(QUEUE, None);
        let delegate = Arc::new(OnQueue(Delegate::new(told)));
        let made = guarded(|| {
            // SAFETY: the queue is a serial one; the configuration is whole and is copied.
            Ok(unsafe { VZVirtualMachine::initWithConfiguration_queue(VZVirtualMachine::alloc(), &configured, &queue) })
        })?;
        let this = Virtual { queue, machine: Some(Arc::new(OnQueue(made))), _delegate: Arc::clone(&delegate) };
        this.ask(START, move |machine, answer| {
            let delegate: &ProtocolObject<dyn VZVirtualMachineDelegate> = ProtocolObject::from_ref(&**delegate.get());
            let done = RcBlock::new(move |error: *mut NSError| answer_with(&answer, error));
            // SAFETY: on the machine's queue; the delegate is kept for as long as the machine is.
            unsafe {
                machine.setDelegate(Some(delegate));
                machine.startWithCompletionHandler(&done);
            }
        })?;
        Ok(this)
    }

    /// Has something done on the queue, and waits until it is answered.
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
                // Nobody waits for it any more if it took too long.
                let _ = raised.send(Err(refusal));
            }
        });
        answered.recv_timeout(most).unwrap_or(Err(Refusal::Silent))
    }
}

impl Drop for Virtual {
    fn drop(&mut self) {
        let stopped = self.ask(STOP, |machine, answer| {
            // SAFETY: on the machine's queue.
            if !unsafe { machine.canStop() } {
                // It has ended already, or never begun.
                let _ = answer.send(Ok(()));
                return;
            }
            let done = RcBlock::new(move |error: *mut NSError| answer_with(&answer, error));
            // SAFETY: on the machine's queue.
            unsafe { machine.stopWithCompletionHandler(&done) };
        });
        // One that cannot be stopped ends with this process, which has nothing left to do.
        drop(stopped);
        let machine = self.machine.take();
        self.queue.exec_async(move || drop(machine));
    }
}

/// Something that belongs to the queue and may be held elsewhere.
struct OnQueue<T>(T);

// SAFETY: it is opened by `get` alone, which this file calls on the queue only, and its last owner is let go of there or,
// for the delegate, holds nothing but a socket.
unsafe impl<T> Send for OnQueue<T> {}
// SAFETY: as above.
unsafe impl<T> Sync for OnQueue<T> {}

impl<T> OnQueue<T> {
    /// Opens it. A method and no field, of which a closure would take hold by itself.
    fn get(&self) -> &T {
        &self.0
    }
}

define_class!(
    // SAFETY: NSObject asks nothing of a class that is made of it, and this one has no Drop.
    #[unsafe(super(NSObject))]
    #[name = "SiloMachineDelegate"]
    #[ivars = UnixStream]
    struct Delegate;

    // SAFETY: a class that is made of NSObject is one.
    unsafe impl NSObjectProtocol for Delegate {}

    // SAFETY: both methods have the types of the protocol's.
    unsafe impl VZVirtualMachineDelegate for Delegate {
        #[unsafe(method(guestDidStopVirtualMachine:))]
        fn ended(&self, _: &VZVirtualMachine) {
            self.tell("ended by itself");
        }

        #[unsafe(method(virtualMachine:didStopWithError:))]
        fn broke(&self, _: &VZVirtualMachine, error: &NSError) {
            self.tell(&format!("ended by itself: {}", told(error)));
        }
    }
);

impl Delegate {
    fn new(saying: UnixStream) -> Retained<Delegate> {
        let this = Self::alloc().set_ivars(saying);
        // SAFETY: NSObject's `init` takes nothing and returns the object.
        unsafe { msg_send![super(this), init] }
    }

    fn tell(&self, how: &str) {
        // Whoever would hear it is gone.
        let _ = self.ivars().write_all(how.as_bytes());
    }
}

/// Sends what a completion handler was given, which is nothing or an error.
fn answer_with(answer: &Sender<Result<(), Refusal>>, error: *mut NSError) {
    // SAFETY: the framework calls with null or an error that lives for the call.
    let result = match unsafe { error.as_ref() } {
        None => Ok(()),
        Some(error) => Err(Refusal::Said(told(error))),
    };
    // Nobody waits for it any more if it took too long.
    let _ = answer.send(result);
}

fn told(error: &NSError) -> String {
    let why = error.localizedFailureReason().map(|why| format!(": {why}")).unwrap_or_default();
    format!("{}{why} ({} {})", error.localizedDescription(), error.domain(), error.code())
}

/// Makes an exception an error.
fn guarded<T>(call: impl FnOnce() -> Result<T, Refusal>) -> Result<T, Refusal> {
    objc2::exception::catch(AssertUnwindSafe(call)).unwrap_or_else(|exception| {
        Err(Refusal::Raised(exception.map_or_else(|| "without a word".to_owned(), |exception| format!("{exception:?}"))))
    })
}

/// Builds the framework's own description of a machine.
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
    // SAFETY: these are setters of objects that were made here and that nobody else has; each is given the class that its
    // type names, and numbers within the bounds that the class itself tells.
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

/// The console, and the port that carries frames, by its name.
fn ports(name: &str, port: OwnedFd, console: OwnedFd) -> Result<Retained<VZVirtioConsoleDeviceConfiguration>, Refusal> {
    let other_way = port.try_clone().map_err(|error| Refusal::Said(format!("copying a descriptor: {error}")))?;
    // SAFETY: as in `configure`. Each descriptor is given away whole: its handle alone closes it.
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
    // SAFETY: as in `configure`; the file is there. What is only read needs no writing through; `Cached`, because the
    // automatic choice has shown guests other bytes than the file's.
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
        // SAFETY: as in `configure`; the directory is there.
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
    // SAFETY: as above; the tag is one that the framework has looked at.
    unsafe {
        VZVirtioFileSystemDeviceConfiguration::validateTag_error(&tag)?;
        let device = VZVirtioFileSystemDeviceConfiguration::initWithTag(VZVirtioFileSystemDeviceConfiguration::alloc(), &tag);
        device.setShare(Some(&shared));
        Ok(device.into_super())
    }
}

/// A file's address. One that is not there would be answered by an exception.
fn file(path: &Path) -> Result<Retained<NSURL>, Refusal> {
    let url = if path.is_file() { NSURL::from_file_path(path) } else { None };
    url.ok_or_else(|| Refusal::Path(path.to_owned()))
}

/// A directory's address, in the same way.
fn directory(path: &Path) -> Result<Retained<NSURL>, Refusal> {
    let url = if path.is_dir() { NSURL::from_directory_path(path) } else { None };
    url.ok_or_else(|| Refusal::Path(path.to_owned()))
}
