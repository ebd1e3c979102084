//! The changes of a review as JSON.

use serde_json::{Value, json};

use silo_guard::git::dir_fd::Kind;

use crate::changes::Entry;
use crate::commits::Commits;
use crate::difference::Comparison;
use crate::lookalike;
use crate::view::View;
use crate::weigh::{Weighed, Weight, groups};

/// Version of the document.
const VERSION: u32 = 1;

/// Returns the whole review.
pub fn json(view: &View, all: &[Weighed], commits: &Commits) -> Value {
    let mut comparison = Comparison::default();
    let changes: Vec<Value> = all.iter().map(|one| change(view, one, &mut comparison)).collect();
    let generated: Vec<Value> = groups(all)
        .into_iter()
        .map(|(path, group)| {
            let shown = lookalike::name(&path);
            json!({ "path": path.to_string_lossy(), "shown": shown, "files": group.files, "bytes": group.bytes, "safe": group.is_safe })
        })
        .collect();
    json!({
        "version": VERSION,
        "project": view.session.project().to_string_lossy(),
        "shown": lookalike::name(&view.session.project()),
        "tool": view.session.tool(),
        "running": view.session.is_busy(),
        "repository": view.repository.has_changes(),
        "commits": committed(commits),
        "changes": changes,
        "generated": generated,
    })
}

fn committed(commits: &Commits) -> Value {
    let files = commits.obeyed.iter().map(|one| {
        json!({
            "path": one.path.to_string_lossy(),
            "shown": lookalike::name(&one.path),
            "change": one.what.word(),
            "reason": lookalike::line(&one.reason),
            "commit": one.commit,
        })
    });
    json!({
        "count": commits.number,
        "safe": commits.is_safe(),
        "obeyed": files.collect::<Vec<_>>(),
        "others": commits.others,
        "problems": commits.problems.iter().map(|problem| lookalike::line(problem)).collect::<Vec<_>>(),
    })
}

/// Returns an empty review.
pub fn none() -> Value {
    json!({ "version": VERSION, "changes": [], "generated": [], "repository": false })
}

fn change(view: &View, one: &Weighed, comparison: &mut Comparison) -> Value {
    let change = &one.change;
    let diff = if one.weight == Weight::Generated { None } else { Some(comparison.lines(view, change)) };
    json!({
        "path": change.path.to_string_lossy(),
        "shown": lookalike::name(&change.path),
        "change": change.what.word(),
        "weight": one.weight.word(),
        "reason": one.reason.as_deref().map(lookalike::line),
        "safe": one.is_safe,
        "conflict": one.conflict.as_deref().map(lookalike::line),
        "problem": change.problem.as_deref().map(lookalike::line),
        "before": change.before.as_ref().map(entry),
        "after": change.after.as_ref().map(entry),
        "diff": diff,
    })
}

fn entry(entry: &Entry) -> Value {
    let kind = match entry.kind {
        Kind::File => "file",
        Kind::Dir => "directory",
        Kind::Link => "link",
        Kind::Socket => "socket",
        Kind::Whiteout | Kind::Other => "other",
    };
    json!({
        "kind": kind,
        "mode": format!("{:04o}", entry.mode),
        "bytes": entry.size,
        "target": entry.target.as_ref().map(|target| target.to_string_lossy()),
        "shownTarget": entry.target.as_deref().map(lookalike::name),
    })
}
