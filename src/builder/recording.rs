//! Records the responses that a step gets from the network, and lets a later run of the step see the same bytes.
//!
//! A step with a pinned output runs with its record if that is on this machine or in a cache. Otherwise it runs with the network, and the
//! broker records the responses ([`silo_launch::broker::recording`]). A run is repeated without the inspection of a host if a program refuses
//! the certificate of the run there, because a step must have the same result with a record and without one.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use silo_store::digest::{Digest, LayerId};
use silo_store::path_error::PathError;
use silo_store::private;

use silo_base::event::Event;
use silo_launch::broker::authority::Authority;
use silo_launch::broker::recording::document::{Request, Unrecorded};
use silo_launch::broker::recording::frames::{self, Contents};
use silo_launch::spec::Spec;
use silo_launch::spec::recording::Recording as Files;
use silo_model::recipe::Step;

use super::context::{BuildContext, Target};
use super::error::Error;
use super::network;
use super::record_files::{self, Stored};
use super::workdir::Workdir;

/// Most runs of a step that find hosts that cannot be inspected; the next run is not recorded.
const MAX_RUNS: usize = 4;
/// Most bytes of the responses of one step.
const MAX_BYTES: u64 = 16 << 30;
/// Names in a step's working directory.
const RESPONSES: &str = "responses";
const ROOTS: &str = "roots.pem";
const RECORD: &str = "record";

/// The recording of one step in one build.
#[derive(Default)]
pub(super) struct Recording(Mutex<State>);

#[derive(Default)]
struct State {
    source: Source,
    /// Places that are not inspected.
    except: BTreeSet<Unrecorded>,
    runs: usize,
    /// The file of the last run.
    found: Option<(Contents, File)>,
    /// The record that this build made.
    made: Option<Stored>,
}

/// The source of a step's responses.
#[derive(Clone, Debug, Default)]
enum Source {
    /// Not decided.
    #[default]
    Unknown,
    /// The network.
    Network,
    /// A record.
    Record(Stored),
}

/// The record that a pinned step may use.
pub(super) struct Pin {
    /// The digest in the lock.
    pub record: Option<Digest>,
    /// The key of the output, for the record of an earlier run here.
    pub output: Option<Digest>,
}

/// The output of a finished run.
pub(super) struct Output {
    /// Its layer.
    pub layer: LayerId,
    /// The layer that the lock pins.
    pub pinned: Option<LayerId>,
    /// The key of the layer as the output of the step.
    pub key: Option<Digest>,
}

impl Recording {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds the network of a step to its launch spec.
    pub fn prepare(
        &self,
        ctx: &BuildContext<'_>,
        (step, target): (&Step, &Target<'_>),
        pin: Option<&Pin>,
        (workdir, spec): (&Workdir, &mut Spec),
    ) -> Result<(), Error> {
        let mut state = self.state();
        let command = step.title();
        if matches!(state.source, Source::Unknown) {
            state.source = found(ctx, &command, pin)?;
        }
        // The second run of a check sees the bytes of the first one.
        if let Some(made) = &state.made {
            state.source = Source::Record(made.clone());
        }
        let root = spec.root.lower.clone();
        if state.runs >= MAX_RUNS {
            network::reach(ctx, target.recipe, &step.network, &root, None)?.furnish(spec);
            return Ok(());
        }
        let authority = Authority::new().map_err(|error| Error::fault(error.to_string()))?;
        let (patch, from, roots) = match &state.source {
            Source::Record(stored) => {
                let from = workdir.file(RECORD);
                record_files::lay_out(ctx, &command, stored, &from)?;
                (network::replay(ctx, &stored.record, &root, &authority.pem()), Some(from), Vec::new())
            }
            _ => {
                let patch = network::reach(ctx, target.recipe, &step.network, &root, Some(&authority.pem()))?;
                (patch, None, network::roots(ctx.outside, &root))
            }
        };
        patch.furnish(spec);
        let files = Files {
            authority,
            roots: written(workdir.file(ROOTS), &roots)?,
            into: workdir.file(RESPONSES),
            max_bytes: MAX_BYTES,
            from,
            except: state.except.iter().map(|one| one.place.clone()).collect(),
        };
        if let Some(network) = &mut spec.network {
            network.recording = Some(files);
        }
        Ok(())
    }

    /// Reads the file of a finished run. Returns true if the step must run again.
    pub fn ended(&self, ctx: &BuildContext<'_>, step: &Step, workdir: &Workdir, error: Option<&Error>) -> Result<bool, Error> {
        let mut state = self.state();
        state.found = None;
        let Ok(mut file) = File::open(workdir.file(RESPONSES)) else { return Ok(false) };
        let contents = frames::read(&mut file);
        let path = workdir.file(RESPONSES);
        let contents = contents.map_err(|source| Error::File(PathError { doing: "read", path, source }))?;
        if let Source::Record(_) = state.source {
            let is_short = error.is_some() && !contents.missing.is_empty();
            let again = is_short && state.without_record(ctx, step, &contents.missing)?;
            state.found = Some((contents, file));
            return Ok(again);
        }
        if !contents.refused.is_empty() && state.runs < MAX_RUNS {
            state.runs += 1;
            for refused in &contents.refused {
                let Unrecorded { place, why } = refused;
                let text = format!("{}: {place} cannot be recorded ({why}), so the step runs again without that", step.title());
                (ctx.sink)(Event::Note { text });
            }
            state.except.extend(contents.refused);
            return Ok(true);
        }
        state.found = Some((contents, file));
        Ok(false)
    }

    /// Takes the output of a finished run, and stores the record of a first one. Returns true if the step must run again.
    pub fn made(&self, ctx: &BuildContext<'_>, step: &Step, workdir: &Workdir, output: &Output) -> Result<bool, Error> {
        let mut state = self.state();
        let Some((contents, file)) = state.found.take() else { return Ok(false) };
        if let Source::Record(_) = state.source {
            if contents.missing.is_empty() {
                return Ok(false);
            }
            if output.pinned.is_some_and(|pinned| pinned != output.layer) && workdir.is_first() {
                return state.without_record(ctx, step, &contents.missing);
            }
            if !workdir.is_first() {
                let text = format!("{}; its first run did not ask for it", no_response(step, &contents.missing));
                (ctx.sink)(Event::Warning { text });
            }
            return Ok(false);
        }
        if !workdir.is_first() || contents.record.responses.is_empty() {
            return Ok(false);
        }
        let warn = |why: String| (ctx.sink)(Event::Warning { text: format!("{}: its network is not recorded: {why}", step.title()) });
        if contents.is_cut {
            warn("there are more responses than a record may have".to_owned());
            return Ok(false);
        }
        let mut contents = contents;
        contents.record.unrecorded.extend(state.except.iter().cloned());
        // The output is pinned in any case, so a record that cannot be stored fails no step.
        let stored = record_files::store(ctx, contents, &file, network::registries_of(ctx.outside));
        match stored.and_then(|stored| output.key.map_or(Ok(()), |key| record_files::note(ctx, &key, stored.digest)).map(|()| stored)) {
            Ok(stored) => state.made = Some(stored).filter(|stored| stored.record.unrecorded.is_empty()),
            Err(Error::Stopped) => return Err(Error::Stopped),
            Err(error) => warn(silo_base::error_chain::of(&error).join(": ")),
        }
        Ok(false)
    }

    /// Returns the digest of the record that this build made.
    pub fn digest(&self) -> Option<Digest> {
        self.state().made.as_ref().map(|made| made.digest)
    }
}

impl State {
    /// Gives up a record that lacks a response. Returns true: the step must run again. Fails if there is no network.
    fn without_record(&mut self, ctx: &BuildContext<'_>, step: &Step, missing: &[Request]) -> Result<bool, Error> {
        let error = no_response(step, missing);
        if ctx.transport.is_offline() {
            return Err(error);
        }
        (ctx.sink)(Event::Note { text: format!("{error}, so it runs again with the network") });
        self.source = Source::Network;
        Ok(true)
    }
}

fn no_response(step: &Step, missing: &[Request]) -> Error {
    let (method, url) = missing.first().map_or_else(Default::default, |request| (request.method.clone(), request.url.clone()));
    Error::NoResponse { command: step.title(), method, url, others: missing.len().saturating_sub(1) }
}

/// Decides the source of a step's responses.
fn found(ctx: &BuildContext<'_>, command: &str, pin: Option<&Pin>) -> Result<Source, Error> {
    match usable(ctx, command, pin) {
        Ok(Some(stored)) => Ok(Source::Record(stored)),
        Ok(None) if ctx.transport.is_offline() => Err(Error::Offline { command: command.to_owned() }),
        Err(error) if ctx.transport.is_offline() => Err(error),
        Err(error) => {
            (ctx.sink)(Event::Note { text: format!("{error}, so the step runs with the network") });
            Ok(Source::Network)
        }
        Ok(None) => Ok(Source::Network),
    }
}

/// Returns the record of a pinned step, complete and verified.
fn usable(ctx: &BuildContext<'_>, command: &str, pin: Option<&Pin>) -> Result<Option<Stored>, Error> {
    let Some(Pin { record, output }) = pin else { return Ok(None) };
    let noted = || output.and_then(|output| record_files::noted(ctx, &output));
    for digest in record.iter().copied().chain(noted()) {
        let Some(stored) = record_files::load(ctx, command, digest)? else { continue };
        if let Some(Unrecorded { place, why }) = stored.record.unrecorded.first() {
            return Err(Error::NoRecord { command: command.to_owned(), what: format!("it lacks the connections to {place} ({why})") });
        }
        drop(record_files::bodies(ctx, command, &stored)?);
        return Ok(Some(stored));
    }
    Ok(None)
}

fn written(path: PathBuf, bytes: &[u8]) -> Result<PathBuf, Error> {
    // A run that was repeated left another one.
    drop(fs::remove_file(&path));
    match private::write(&path, bytes) {
        Ok(()) => Ok(path),
        Err(source) => Err(Error::File(PathError { doing: "write", path, source })),
    }
}
