//! Decides whether a call by a shim's name goes to a tool, and to which one, or to the next program on PATH. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use super::table::{Entry, Table};

/// Tools claimed in the directory of the call.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Claims {
    /// The root of the project around the working directory.
    pub root: PathBuf,
    /// Tools claimed by the project.
    pub project: BTreeSet<String>,
    /// Commands of the project's add-ons, by tool.
    pub local: BTreeMap<String, BTreeSet<String>>,
    /// Tools claimed by the user's settings.
    pub user: BTreeSet<String>,
}

/// The decision about a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Choice<'a> {
    /// Run this tool, in a sandbox.
    Tool(&'a Entry, ChoiceReason),
    /// Run the next program of that name on PATH: none of these tools is pinned or claimed.
    Next(Vec<&'a Entry>),
    /// Refuse: several tools are claimed equally.
    Several(Vec<&'a Entry>),
    /// No tool has such a shim.
    Nobody,
}

/// Reason for the choice of a tool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChoiceReason {
    /// The project claims it.
    Project,
    /// The user's settings claim it.
    User,
    /// It is pinned.
    Pinned,
}

/// Decides about a call by `name`. Calls `claims` only if they can change the decision.
pub fn choose<'a, E>(table: &'a Table, name: &str, claims: impl FnOnce() -> Result<Claims, E>) -> Result<Choice<'a>, E> {
    let owners: Vec<&Entry> = table.owners(name).collect();
    match owners.as_slice() {
        [] => return Ok(Choice::Nobody),
        [only] if only.pinned && only.answers_everywhere(name) => return Ok(Choice::Tool(only, ChoiceReason::Pinned)),
        _ => {}
    }
    let claims = claims()?;
    let local = |entry: &Entry| claims.local.get(&entry.tool).is_some_and(|commands| commands.contains(name));
    for (claimed, why) in [(&claims.project, ChoiceReason::Project), (&claims.user, ChoiceReason::User)] {
        let here = |entry: &&Entry| {
            claimed.contains(&entry.tool) && (entry.answers_everywhere(name) || why == ChoiceReason::Project && local(entry))
        };
        let claimed: Vec<&Entry> = owners.iter().copied().filter(here).collect();
        match claimed.as_slice() {
            [] => {}
            [only] => return Ok(Choice::Tool(only, why)),
            _ => return Ok(Choice::Several(claimed)),
        }
    }
    // The oldest pinned tool keeps the name: installing another tool later does not take it away.
    Ok(match owners.iter().copied().find(|entry| entry.pinned && entry.answers_everywhere(name)) {
        Some(pinned) => Choice::Tool(pinned, ChoiceReason::Pinned),
        None => Choice::Next(owners),
    })
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;
    use crate::shim::table::parse;

    #[test]
    fn claims_come_before_pins_and_pins_before_the_next_on_path() {
        let table = parse(
            "silo shims 1\ntool python pinned\nshim py\nshim pip\nlocal poetry\ntool python2 pinned\nshim py\nlocal poetry\ntool node free\nshim npm\ntool deno free\nshim npm\n",
        )
        .expect("a table");
        let told = |name: &str, project: &[&str], user: &[&str]| {
            let set = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
            // The project's python has the add-on, its python2 does not.
            let local = BTreeMap::from([("python".to_owned(), set(&["poetry"]))]);
            let claims = Claims { root: "/p".into(), project: set(project), local, user: set(user) };
            match choose::<Infallible>(&table, name, || Ok(claims)) {
                Ok(Choice::Tool(entry, why)) => format!("{} {why:?}", entry.tool),
                Ok(Choice::Next(of)) => format!("next {}", of.len()),
                Ok(Choice::Several(of)) => format!("several {}", of.len()),
                Ok(Choice::Nobody) => "nobody".to_owned(),
                Err(never) => match never {},
            }
        };
        for (name, project, user, expect) in [
            ("pip", &[][..], &[][..], "python Pinned"),
            ("py", &[], &[], "python Pinned"),
            ("py", &["python2"], &[], "python2 Project"),
            ("py", &["python2", "python"], &[], "several 2"),
            ("py", &[], &["python2"], "python2 User"),
            ("py", &["python"], &["python2"], "python Project"),
            ("npm", &[], &[], "next 2"),
            ("npm", &["python"], &[], "next 2"),
            ("npm", &["node"], &[], "node Project"),
            ("npm", &[], &["deno"], "deno User"),
            ("poetry", &[], &["python"], "next 2"),
            ("poetry", &["python"], &[], "python Project"),
            ("poetry", &["python2"], &[], "next 2"),
            ("poetry", &["python", "python2"], &[], "python Project"),
            ("cargo", &["cargo"], &[], "nobody"),
        ] {
            assert_eq!(told(name, project, user), expect, "{name} {project:?} {user:?}");
        }
    }

    #[test]
    fn a_pinned_tool_needs_no_look_at_the_project() {
        let table = parse("silo shims 1\ntool python pinned\nshim py\n").expect("a table");
        let choice = choose(&table, "py", || Err("not to be asked"));
        assert!(matches!(choice, Ok(Choice::Tool(_, ChoiceReason::Pinned))), "{choice:?}");
    }
}
