//! Lists and reads the logs of build steps.

use std::fs;
use std::path::PathBuf;
use std::time::UNIX_EPOCH;

use silo_store::digest::Digest;
use silo_store::layer::read_manifest;
use silo_store::path_error::PathError;
use silo_store::realisation::{self, Realisation};

use super::error::Error;
use super::image_view::{self, ImageView, LockedHome};

/// The log of a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    /// The derivation.
    pub derivation: Digest,
    /// The file.
    pub path: PathBuf,
    /// Its size in bytes.
    pub bytes: u64,
    /// The time of its last write, in seconds since 1970.
    pub written: i64,
    /// The name of the step; `None` without a layer, because the step failed or is still running.
    pub step: Option<String>,
    /// The installed tools with the layer in their image.
    pub tools: Vec<String>,
}

/// Lists the logs, the newest first.
pub fn list(look: &LockedHome<'_>) -> Result<Vec<Log>, Error> {
    let mut tools = Vec::new();
    for tool in image_view::tools(look)? {
        tools.push((tool.name, image_view::open(look, tool.image)?));
    }
    let dir = look.home.logs();
    let failed = |source| Error::File(PathError { doing: "list", path: dir.clone(), source });
    let listing = match fs::read_dir(&dir) {
        Ok(listing) => listing,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed(error)),
    };
    let mut logs = Vec::new();
    for entry in listing {
        let path = entry.map_err(failed)?.path();
        let stem = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.strip_suffix(".log"));
        // Other files are not logs of steps.
        let Some(derivation) = stem.and_then(|stem| Digest::parse(stem).ok()) else { continue };
        logs.push(log(look, derivation, path, &tools)?);
    }
    logs.sort_by(|a, b| (b.written, &a.path).cmp(&(a.written, &b.path)));
    Ok(logs)
}

fn log(look: &LockedHome<'_>, derivation: Digest, path: PathBuf, tools: &[(String, ImageView)]) -> Result<Log, Error> {
    let meta = fs::metadata(&path).map_err(|source| Error::File(PathError { doing: "inspect", path: path.clone(), source }))?;
    let written = meta.modified().ok().and_then(|at| at.duration_since(UNIX_EPOCH).ok()).map_or(0, |since| since.as_secs());
    // As in a build, an unreadable realisation counts as missing.
    let layer = match realisation::get(look.store, &derivation) {
        Ok(Realisation::Known(layer)) if look.store.has(&layer) => Some(layer),
        _ => None,
    };
    let has = |inside: &ImageView| layer.is_some_and(|layer| inside.image.layers.contains(&layer));
    Ok(Log {
        derivation,
        bytes: meta.len(),
        written: i64::try_from(written).unwrap_or(i64::MAX),
        step: layer.map(|layer| read_manifest(look.store, &layer)).transpose()?.map(|manifest| manifest.record.name),
        tools: tools.iter().filter(|(_, inside)| has(inside)).map(|(name, _)| name.clone()).collect(),
        path,
    })
}

/// Finds the logs of an argument: all logs of a tool's image, or the log with this prefix of a derivation.
pub fn named(look: &LockedHome<'_>, word: &str) -> Result<Vec<Log>, Error> {
    let logs = list(look)?;
    let of_drv = image_view::begin_with(logs.iter().map(|log| log.derivation).collect(), word);
    match of_drv[..] {
        [] => {}
        [drv] => return Ok(logs.into_iter().filter(|log| log.derivation == drv).collect()),
        _ => return Err(image_view::ambiguous(word, of_drv.iter().map(|drv| format!("step {:.20}", drv.to_string())).collect())),
    }
    let inside = image_view::named(look, word).map_err(|error| match error {
        Error::Unknown { word, .. } => Error::Unknown {
            word,
            not: "neither an installed tool nor the start of the derivation of a logged step",
            hint: "`silo log` lists the logs".to_owned(),
        },
        other => other,
    })?;
    // In the order of the steps.
    let order = |log: &Log| inside.layers.iter().position(|layer| layer.record.derivation == log.derivation.to_string());
    let mut found: Vec<(usize, Log)> = logs.into_iter().filter_map(|log| Some((order(&log)?, log))).collect();
    found.sort_by_key(|(place, _)| *place);
    if found.is_empty() {
        return Err(Error::Absent {
            what: format!("a log of a step of {word}"),
            place: look.home.logs().display().to_string(),
            hint: "`silo gc` removes old logs; a step writes a log only when it runs".to_owned(),
        });
    }
    Ok(found.into_iter().map(|(_, log)| log).collect())
}

/// Reads a log.
pub fn read(log: &Log) -> Result<Vec<u8>, Error> {
    fs::read(&log.path).map_err(|source| Error::File(PathError { doing: "read", path: log.path.clone(), source }))
}
