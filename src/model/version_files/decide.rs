//! Selects one version of a tool from all that its project's files request.

use super::findings::VersionWish;
use crate::version_request::{self, AvailableVersion, VersionRequest, newest};

/// The decision about a tool.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Decision {
    /// Version or prefix to write into silo.toml; `None` if no requested version is available.
    pub pin: Option<String>,
    /// The selected version.
    pub version: Option<String>,
    /// The file that decided.
    pub source: Option<String>,
    /// Requests that the decision does not fulfil, one line each.
    pub notes: Vec<String>,
}

/// Decides the version of a tool. The first request with an available version decides; of its versions, the newest that fits the other
/// requests too is selected, else the newest.
pub fn decide(tool: &str, wishes: &[&VersionWish], available: &[AvailableVersion]) -> Decision {
    let mut decision = Decision::default();
    let mut requests: Vec<(&VersionWish, VersionRequest)> = Vec::new();
    for wish in wishes {
        match version_request::parse(tool, &wish.text) {
            Ok(request) => requests.push((wish, request)),
            Err(error) => decision.notes.push(format!("{}: {error}", wish.source)),
        }
    }
    let Some((at, request)) = leader(tool, &requests, available) else {
        decision.notes.extend(requests.iter().map(|(wish, _)| unavailable(wish, available)));
        return decision;
    };
    let (leading, own) = &requests[at];
    let others = || requests.iter().enumerate().filter(|(other, _)| *other != at).map(|(_, (_, request))| request);
    let fits_all = |one: &&AvailableVersion| request.fits(one) && others().all(|other| other.fits(one));
    let Some(chosen) = newest(available.iter().filter(fits_all)).or_else(|| request.newest(available)) else { return decision };
    let agreeing: Vec<&VersionRequest> = std::iter::once(&request).chain(others().filter(|other| other.fits(chosen))).collect();
    let pin = match agreeing.as_slice() {
        [only] => only.pin(tool, &chosen.version),
        several => version_request::pin(several, tool, &chosen.version),
    };
    if !own.fits(chosen) {
        decision.notes.push(format!(
            "{} asks for {tool} {}, which is not available; {} is the version of its release line",
            leading.source, leading.text, chosen.version
        ));
    }
    for (other, (wish, request)) in requests.iter().enumerate().filter(|(other, _)| *other != at) {
        let line = request.of_line(tool);
        if request.fits(chosen) || line.as_ref().is_some_and(|line| other > at && line.fits(chosen)) {
            continue;
        }
        decision.notes.push(match request.newest(available).or_else(|| line?.newest(available)) {
            Some(_) => format!("{} asks for {tool} {}, but {} decides: {pin}", wish.source, wish.text, leading.source),
            None => unavailable(wish, available),
        });
    }
    decision.pin = Some(pin);
    decision.version = Some(chosen.version.clone());
    decision.source = Some(leading.source.clone());
    decision
}

/// Returns the first request with an available version; a request for a patch version may get another one of its release line.
fn leader(tool: &str, requests: &[(&VersionWish, VersionRequest)], available: &[AvailableVersion]) -> Option<(usize, VersionRequest)> {
    requests.iter().enumerate().find_map(|(at, (_, request))| {
        let line = request.of_line(tool);
        let found = [Some(request.clone()), line].into_iter().flatten().find(|request| request.newest(available).is_some());
        Some((at, found?))
    })
}

/// Describes a request without an available version.
pub fn unavailable(wish: &VersionWish, available: &[AvailableVersion]) -> String {
    format!("{} asks for {} {}, which is not available; {}", wish.source, wish.tool, wish.text, list(available))
}

/// Lists the available versions.
pub fn list(available: &[AvailableVersion]) -> String {
    let mut sorted: Vec<&AvailableVersion> = available.iter().collect();
    sorted.sort_by_key(|one| crate::recipe::versions::order(&one.version));
    let versions: Vec<&str> = sorted.iter().map(|one| one.version.as_str()).collect();
    match versions.as_slice() {
        [] => "there is no version".to_owned(),
        [only] => format!("there is {only}"),
        several => format!("there are {}", several.join(", ")),
    }
}
