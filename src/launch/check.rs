//! Results of testing the features that the launcher needs.

/// The result of trying one thing that the launcher needs.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Check {
    /// The name of the feature.
    pub name: &'static str,
    /// The outcome.
    pub state: State,
    /// The finding, as one plain sentence without a full stop.
    pub detail: String,
    /// The user's remedy; empty if none is needed.
    pub cure: String,
}

/// The outcome of a [`Check`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// It works.
    Ok,
    /// Sandboxes run with one protection or limit less; `detail` names it.
    Degraded,
    /// No sandbox can run on this tier.
    Missing,
}
