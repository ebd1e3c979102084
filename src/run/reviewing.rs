//! Review mode: the project is the lower directory of an overlay, and all changes stay in a private layer.

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;

use silo_base::home::Home;
use silo_base::{error_chain, sanitize, thread};
use silo_guard::git::layer::Layer;
use silo_launch::HAS_NATIVE;
use silo_launch::open_checked::{Links, OpenedPath};
use silo_launch::spec::{Access, Fallback, Mount, Overlay};
use silo_model::config::Review;
use silo_review::finish::{self, Caller};
use silo_review::session::Session;
use silo_review::view::View;
use silo_store::read_limited;
use silo_tool::trust;

use super::WORKSPACE;
use super::error::Error;

/// The kernel's list of mounts, and its maximum size.
const MOUNTS: &str = "/proc/self/mountinfo";
const MAX_MOUNTS_BYTES: u64 = 16 << 20;

/// A run in review mode.
pub struct Reviewing {
    /// The review, locked for this run.
    pub session: Session,
    /// The layer of the project's repository.
    pub layer: Option<Layer>,
    /// Decision about the changes.
    pub review: Review,
    /// The thread that marks the project's files.
    marking: Option<JoinHandle<Result<(), silo_review::Error>>>,
}

/// Inputs of a run in review mode.
pub struct Asked<'a> {
    /// Home of Silo, with all reviews.
    pub home: &'a Home,
    /// Name of the tool.
    pub tool: &'a str,
    /// Decision about the changes.
    pub review: Review,
}

/// A project below an overlay.
pub struct Layered {
    /// The run in review mode.
    pub reviewing: Reviewing,
    /// The overlay, at both guest paths of the project.
    pub overlay: Overlay,
    /// Mounts inside the project.
    pub mounts: Vec<Mount>,
    /// Descriptors that must stay open until the program has started.
    pub opened: Vec<OpenedPath>,
    /// Notes for the user.
    pub notes: Vec<String>,
}

/// Puts the project below an overlay.
pub fn begin(asked: &Asked<'_>, project: &OpenedPath) -> Result<Layered, Error> {
    if !HAS_NATIVE {
        let hint = "leave --review out, or set review = \"never\"; the tool then changes the project directly";
        return Err(Error::usage("review mode needs Linux: this system has no overlay file system", hint));
    }
    let (mut mounts, mut all_opened, mut notes) = (Vec::new(), Vec::new(), Vec::new());
    let session = finish_interrupted(asked.home, Session::begin(&asked.home.reviews(), project.path(), asked.tool)?, &mut notes)?;
    let guests = [project.path(), Path::new(WORKSPACE)];
    for point in inner_mounts(project.path()) {
        let shown = sanitize::path(&point);
        // An overlay shows one file system.
        match OpenedPath::open(&point, Links::Refuse) {
            Ok(opened) => {
                let inner = point.strip_prefix(project.path()).unwrap_or(&point);
                mounts.extend(guests.map(|guest| Mount { host: opened.host(), guest: guest.join(inner), access: Access::ReadOnly }));
                all_opened.push(opened);
                notes.push(format!("{shown} is a mount of its own, and read-only inside: a review covers one file system"));
            }
            Err(_) => notes.push(format!("{shown} is a mount of its own, and not visible inside: a review covers one file system")),
        }
    }
    let overlay = Overlay {
        lower: project.host(),
        upper: session.upper(),
        work: session.work(),
        guests: guests.map(Path::to_owned).to_vec(),
        fallback: Fallback::Fail,
    };
    let reviewing = Reviewing { session, layer: None, review: asked.review, marking: None };
    Ok(Layered { reviewing, overlay, mounts, opened: all_opened, notes })
}

/// Finishes the decisions of killed commands.
fn finish_interrupted(home: &Home, session: Session, notes: &mut Vec<String>) -> Result<Session, Error> {
    if !finish::is_unfinished(&session)? {
        return Ok(session);
    }
    let arrive = arrivals(home, session.project());
    let mut view = View::open(session)?;
    // Without the time, no decision is too old to keep.
    notes.extend(finish::finish_interrupted(&mut view, &Caller { now: 0, arrive: &arrive })?);
    Ok(view.session)
}

/// Returns the function that marks a project as suspect if Silo obeys an arriving file: its approval stays a decision of its own.
pub fn arrivals(home: &Home, project: PathBuf) -> impl Fn(&[PathBuf]) -> io::Result<()> {
    move |paths| trust::came_inside(home, &project, paths).map_err(io::Error::other)
}

impl Reviewing {
    /// Returns the directory with the layer of the project's repository.
    pub fn layers(&self) -> PathBuf {
        self.session.git()
    }

    /// Starts to mark the project's files. Call it after the program has started, because it makes a thread.
    pub fn start(&mut self) {
        let observer = self.session.observer();
        // Without a thread, the end of the run marks them.
        self.marking = thread::apart(move || observer.mark_files()).ok();
    }

    /// Completes the marks after the run.
    pub fn end(mut self) -> (Session, Vec<String>) {
        // A decision opens the layer of the repository again.
        drop(self.layer.take());
        let marked = match self.marking.take() {
            Some(thread) => thread.join().unwrap_or_else(|_| self.session.mark_files()),
            None => self.session.mark_files(),
        };
        let failed = marked.err().map(|error| {
            let cause = error_chain::of(&error).join(": ");
            format!("silo could not record the state of the project, so it may take files for changed ones: {cause}")
        });
        (self.session, failed.into_iter().collect())
    }
}

/// Finds the mount points inside a project.
fn inner_mounts(project: &Path) -> Vec<PathBuf> {
    let text = read_limited::read(Path::new(MOUNTS), MAX_MOUNTS_BYTES).unwrap_or_default();
    let mut points = points(&text, project);
    points.sort();
    points.dedup();
    points
}

fn points(text: &[u8], project: &Path) -> Vec<PathBuf> {
    let point = |line: &[u8]| Some(PathBuf::from(OsString::from_vec(unescaped(line.split(|byte| *byte == b' ').nth(4)?))));
    text.split(|byte| *byte == b'\n').filter_map(point).filter(|point| point.starts_with(project) && point != project).collect()
}

/// Decodes the kernel's octal escapes of blanks and line ends.
fn unescaped(word: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(word.len());
    let mut rest = word;
    while let Some((byte, after)) = rest.split_first() {
        let code = (*byte == b'\\').then(|| after.get(..3)).flatten().and_then(|digits| std::str::from_utf8(digits).ok());
        match code.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(code) => {
                plain.push(code);
                rest = &after[3..];
            }
            None => {
                plain.push(*byte);
                rest = after;
            }
        }
    }
    plain
}

/// Adds the reason to an overlay that could not be mounted.
pub fn hint(error: &io::Error) -> String {
    let what = match error.raw_os_error() {
        Some(number) if number == rustix::io::Errno::INVAL.raw_os_error() => {
            "the project or the home of silo is on a file system that cannot be part of an overlay, such as two overlays on each other"
        }
        _ => "the kernel refused the overlay of review mode",
    };
    format!("{what}; docs/review.md lists the file systems; `silo run --review=never` changes the project directly")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_inside_a_project_are_found() {
        let text =
            b"1 2 0:3 / /p rw - ext4 x rw\n2 2 0:3 / /p/a\\040b\\134 rw - ext4 x rw\n3 2 0:3 / /pq rw - x\n4 2 0:3 / /p/c rw\nshort\n";
        assert_eq!(points(text, Path::new("/p")), [PathBuf::from("/p/a b\\"), PathBuf::from("/p/c")]);
        assert_eq!(unescaped(b"\\9\\04"), b"\\9\\04");
    }
}
