//! The worker's side of ssh: receives steps on its standard input, runs one at a time, and sends their results.
//!
//! It keeps layers and composed roots in a directory of its own, so a later step sends only new layers. When its input ends, the running
//! step is ended and the process exits.

use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::{Component, Path, PathBuf};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use silo_base::system::Arch;
use silo_build::away;
use silo_build::worker::{self, Places};
use silo_store::digest::LayerId;
use silo_store::flock;
use silo_store::import;
use silo_store::layout::Store;
use silo_store::manifest::Record;
use silo_store::private;

use crate::ssh_frames::{self, Done, FileReader, FileWriter, Hello, Needs, Order};

/// Limit on the files of one layer, whose archive proves its bytes.
const MAX_LAYER_BYTES: u64 = 64 << 30;
/// Directory of the orders, in the worker's own directory.
const ORDERS: &str = "orders";

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Serves until the input ends; answers go to `output`. `kept` is the worker's own directory.
pub fn serve(program: &Path, kept: &Path, scratch: &[PathBuf], output: impl Write) -> Result<(), Failure> {
    let mut input = BufReader::with_capacity(64 << 10, io::stdin());
    let mut output = BufWriter::with_capacity(64 << 10, output);
    output.write_all(ssh_frames::PREAMBLE)?;
    let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    ssh_frames::send(&mut output, &Hello { version: away::VERSION, arch: Arch::host().name().to_owned(), processors })?;
    private::make_dir(kept)?;
    private::make_dir(&kept.join(ORDERS))?;
    loop {
        let order: Order = match ssh_frames::receive(&mut input) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            order => order?,
        };
        let dir = tempfile::Builder::new().prefix("order-").tempdir_in(kept.join(ORDERS))?;
        take(&order, dir.path(), kept, (&mut input, &mut output))?;
        let places = Places { scratch, store: Some(kept) };
        // The code is in the report, too.
        let _ = worker::serve(program, dir.path(), Path::new(away::REQUEST), places, &is_alone);
        give(&order, dir.path(), &mut output)?;
    }
}

/// True if the client has gone: nothing may come from it while a step runs.
fn is_alone() -> bool {
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    let stdin = io::stdin();
    poll(&mut [PollFd::new(&stdin, PollFlags::IN)], Some(&now)).is_ok_and(|ready| ready > 0)
}

/// Receives the files of an order, and the layers that are new here.
fn take(order: &Order, dir: &Path, kept: &Path, (input, output): (&mut dyn Read, &mut dyn Write)) -> Result<(), Failure> {
    for name in &order.files {
        let path = dir.join(checked(name)?);
        path.parent().map_or(Ok(()), private::make_dir)?;
        io::copy(&mut FileReader::new(input), &mut private::create(&path)?)?;
    }
    let store = Store::open(&kept.join("store"))?;
    let shared = flock::share(&store)?;
    let layers = order.layers.iter().map(|layer| LayerId::parse(layer)).collect::<Result<Vec<_>, _>>()?;
    let missing: Vec<usize> = (0..layers.len()).filter(|number| !store.has(&layers[*number])).collect();
    ssh_frames::send(output, &Needs { layers: missing.clone() })?;
    for number in missing {
        let mut file = FileReader::new(input);
        let source = import::Source { from: &mut file, limit: MAX_LAYER_BYTES, name: &order.layers[number] };
        import::import(&store, &shared, &layers[number], &Record::default(), source)?;
        // The end of the archive is not the end of the file.
        io::copy(&mut file, &mut io::sink())?;
    }
    Ok(())
}

/// Sends the results.
fn give(order: &Order, dir: &Path, output: &mut dyn Write) -> Result<(), Failure> {
    let mut found = Vec::new();
    for name in &order.results {
        match File::open(dir.join(checked(name)?)) {
            Ok(file) => found.push((name.clone(), file)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error.into()),
        }
    }
    ssh_frames::send(output, &Done { files: found.iter().map(|(name, _)| name.clone()).collect() })?;
    for (_, mut file) in found {
        let mut writer = FileWriter::new(output);
        io::copy(&mut file, &mut writer)?;
        writer.finish()?;
    }
    Ok(())
}

/// Refuses a name that leaves the order's directory.
fn checked(name: &str) -> Result<&Path, Failure> {
    let path = Path::new(name);
    let is_below = !name.is_empty() && path.components().all(|part| matches!(part, Component::Normal(_)));
    is_below.then_some(path).ok_or_else(|| format!("the file {name:?} is not in the directory of the step").into())
}

/// Removes what killed workers left.
pub fn sweep(kept: &Path) {
    // No step runs as long as this.
    const OLD: std::time::Duration = std::time::Duration::from_secs(30 * 24 * 3600);
    for dir in [kept.join(ORDERS), kept.join("steps")] {
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            let age = entry.metadata().and_then(|found| found.modified()).ok().and_then(|time| time.elapsed().ok());
            if age.is_some_and(|age| age > OLD) {
                drop(silo_store::removal::remove_tree(&entry.path()));
            }
        }
    }
}
