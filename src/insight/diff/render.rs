//! Renders a difference as text and as JSON.

use std::cmp::Reverse;
use std::fmt::Write;

use serde_json::{Value, json};
use silo_store::entry::Kind;

use crate::change::{Aspect, kind_name};
use crate::display;
use silo_base::sanitize;

use super::{Change, Difference, PathChange, PathEntry, Side};

/// Limit on the lines for one kind of path change, unless the full list was requested.
const MAX_LINES: usize = 20;

/// The part of a difference to render.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Everything, with a summary of the paths.
    Outline,
    /// Packages only.
    Packages,
    /// All paths only.
    Paths,
}

impl Part {
    /// Reduces a difference to this part.
    pub fn of(self, difference: Difference) -> Difference {
        match self {
            Part::Outline => difference,
            Part::Packages => Difference { packages: difference.packages, ..Difference::default() },
            Part::Paths => Difference { paths: difference.paths, ..Difference::default() },
        }
    }
}

/// Renders a difference in lines: `-` only in the first, `+` only in the second, `~` changed.
pub fn text(a: &Side, b: &Side, difference: &Difference, part: Part) -> String {
    let mut out = format!("a  {}\nb  {}\n", sanitize::line(&a.title), sanitize::line(&b.title));
    if part == Part::Outline && !difference.settings.is_empty() {
        out.push_str("\nsettings\n");
        for (name, change) in &difference.settings {
            push_change(&mut out, name, change);
        }
    }
    if part != Part::Paths {
        let kinds = difference.packages.iter().map(|(_, change)| change);
        let _ = writeln!(out, "\npackages: {}", packages_total(kinds));
        for (name, change) in &difference.packages {
            push_change(&mut out, name, change);
        }
    }
    if part != Part::Packages {
        let _ = writeln!(out, "\npaths: {}", paths_total(&difference.paths));
        match part {
            Part::Paths => difference.paths.iter().for_each(|change| push_line(&mut out, &Line::of(change), "")),
            Part::Outline | Part::Packages => push_outline(&mut out, &difference.paths),
        }
    }
    out
}

// Writing to a string cannot fail, here and below.
fn push_change(out: &mut String, name: &str, change: &Change<String>) {
    let (name, plain) = (sanitize::line(name), sanitize::line);
    let _ = match change {
        Change::Added(value) => writeln!(out, "  + {name} {}", plain(value)),
        Change::Removed(value) => writeln!(out, "  - {name} {}", plain(value)),
        Change::Changed(old, new) => writeln!(out, "  ~ {name} {} -> {}", plain(old), plain(new)),
    };
}

fn packages_total<'a>(changes: impl Iterator<Item = &'a Change<String>>) -> String {
    let (mut added, mut removed, mut changed) = (0, 0, 0);
    for change in changes {
        match change {
            Change::Added(_) => added += 1,
            Change::Removed(_) => removed += 1,
            Change::Changed(..) => changed += 1,
        }
    }
    format!("{added} added, {removed} removed, {changed} with another version")
}

fn paths_total(changes: &[PathChange]) -> String {
    let (mut added, mut removed, mut changed) = ((0_usize, 0_u64), (0_usize, 0_u64), (0_usize, 0_u64, 0_u64));
    for change in changes {
        match &change.change {
            Change::Added(new) => added = (added.0 + 1, added.1 + new.size),
            Change::Removed(old) => removed = (removed.0 + 1, removed.1 + old.size),
            Change::Changed(old, new) => changed = (changed.0 + 1, changed.1 + old.size, changed.2 + new.size),
        }
    }
    let bytes = display::bytes;
    let grown = if changed.1 == changed.2 { bytes(changed.1) } else { format!("{} -> {}", bytes(changed.1), bytes(changed.2)) };
    format!("{} added ({}), {} removed ({}), {} changed ({grown})", added.0, bytes(added.1), removed.0, bytes(removed.1), changed.0)
}

/// A line of the list of paths: a path, or a directory with all entries below it.
struct Line<'a> {
    change: &'a PathChange,
    entries: usize,
    size: u64,
}

impl<'a> Line<'a> {
    fn of(change: &'a PathChange) -> Line<'a> {
        let size = match &change.change {
            Change::Added(spot) | Change::Removed(spot) => spot.size,
            Change::Changed(old, new) => old.size.max(new.size),
        };
        Line { change, entries: 1, size }
    }

    fn sign(&self) -> char {
        match self.change.change {
            Change::Removed(_) => '-',
            Change::Added(_) => '+',
            Change::Changed(..) => '~',
        }
    }
}

fn push_outline(out: &mut String, changes: &[PathChange]) {
    let mut lines: Vec<Line<'_>> = Vec::new();
    for change in changes {
        // Entries below an added or removed directory are counted in the directory's line.
        if let Some(open) = lines.last_mut()
            && !matches!(open.change.change, Change::Changed(..))
            && change.path.is_below(&open.change.path)
        {
            open.entries += 1;
            open.size += Line::of(change).size;
        } else {
            lines.push(Line::of(change));
        }
    }
    lines.sort_by_key(|line| Reverse(line.size));
    for (sign, word) in [('-', "removed"), ('+', "added"), ('~', "changed")] {
        let some: Vec<&Line<'_>> = lines.iter().filter(|line| line.sign() == sign).collect();
        if !some.is_empty() {
            let _ = writeln!(out, "  {word}, the largest first");
        }
        some.iter().take(MAX_LINES).for_each(|line| push_line(out, line, "  "));
        if some.len() > MAX_LINES {
            let _ = writeln!(out, "    and {} more; --paths lists every path", some.len() - MAX_LINES);
        }
    }
}

fn push_line(out: &mut String, line: &Line<'_>, indent: &str) {
    let PathChange { path, change, aspects } = line.change;
    let told = match change {
        Change::Added(spot) | Change::Removed(spot) => match spot.kind {
            Kind::Dir if line.entries > 1 => format!("/  {} entries, {}", line.entries, display::bytes(line.size)),
            Kind::Dir => "/".to_owned(),
            Kind::Symlink => format!("  -> {}", spot.target.as_deref().unwrap_or_default()),
            Kind::File | Kind::Hardlink | Kind::Whiteout => format!("  {}", display::bytes(spot.size)),
        },
        Change::Changed(old, new) => {
            let aspects: Vec<String> = aspects.iter().map(|aspect| describe(*aspect, old, new)).collect();
            format!("  {}", aspects.join(", "))
        }
    };
    let _ = writeln!(out, "  {indent}{} {}", line.sign(), sanitize::line(&format!("/{path}{told}")));
}

fn describe(aspect: Aspect, old: &PathEntry, new: &PathEntry) -> String {
    match aspect {
        Aspect::Type => format!("{} -> {}", kind_name(old.kind), kind_name(new.kind)),
        Aspect::Content if old.size != new.size => {
            format!("content ({} -> {})", display::bytes(old.size), display::bytes(new.size))
        }
        Aspect::Target => {
            format!("target {} -> {}", old.target.as_deref().unwrap_or_default(), new.target.as_deref().unwrap_or_default())
        }
        Aspect::Mode => format!("mode {:04o} -> {:04o}", old.mode, new.mode),
        Aspect::Owner => format!("owner {}:{} -> {}:{}", old.owner.0, old.owner.1, new.owner.0, new.owner.1),
        Aspect::Content | Aspect::Attributes | Aspect::Time => aspect.name().to_owned(),
    }
}

/// Renders a difference as JSON.
pub fn json(a: &Side, b: &Side, difference: &Difference, part: Part) -> Value {
    let mut out = json!({ "a": a.title, "b": b.title });
    let changes = |list: &mut dyn Iterator<Item = (&str, &Change<String>)>| -> Vec<Value> {
        list.map(|(name, change)| {
            let (old, new) = both(change);
            json!({ "name": name, "a": old, "b": new })
        })
        .collect()
    };
    if part == Part::Outline {
        out["settings"] = changes(&mut difference.settings.iter().map(|(name, change)| (*name, change))).into();
    }
    if part != Part::Paths {
        out["packages"] = changes(&mut difference.packages.iter().map(|(name, change)| (name.as_str(), change))).into();
    }
    if part != Part::Packages {
        out["paths"] = difference.paths.iter().map(path_json).collect();
    }
    out
}

fn path_json(change: &PathChange) -> Value {
    let (old, new) = both(&change.change);
    let aspects: Vec<&str> = change.aspects.iter().map(|aspect| aspect.name()).collect();
    json!({ "path": format!("/{}", change.path), "changed": aspects, "a": old.map(spot_json), "b": new.map(spot_json) })
}

fn spot_json(spot: &PathEntry) -> Value {
    let mut out = json!({
        "type": kind_name(spot.kind), "mode": format!("{:04o}", spot.mode), "uid": spot.owner.0, "gid": spot.owner.1, "bytes": spot.size,
    });
    if let Some(target) = &spot.target {
        out["target"] = json!(target);
    }
    out
}

/// Returns the first and the second value.
fn both<T>(change: &Change<T>) -> (Option<&T>, Option<&T>) {
    match change {
        Change::Added(new) => (None, Some(new)),
        Change::Removed(old) => (Some(old), None),
        Change::Changed(old, new) => (Some(old), Some(new)),
    }
}
