//! Project directories that change a tool's environment if they exist, such as `.venv` for python.
//!
//! The recipe's rules name them. The search goes from the working directory up to the project root, nearest first. Nothing here becomes
//! part of an image. Pure: the caller answers whether a path exists.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use silo_model::recipe::Activation;

/// An active directory and its rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Active<'a> {
    /// Rule that matched.
    pub rule: &'a Activation,
    /// Active directory.
    pub dir: PathBuf,
}

impl Active<'_> {
    /// Path that had to exist.
    pub fn mark(&self) -> PathBuf {
        self.rule.has.as_ref().map_or_else(|| self.dir.clone(), |has| self.dir.join(has))
    }
}

/// Finds the active directories for a run that starts in `cwd`. Of several rules that set the same variable, the nearest directory wins,
/// then the first rule.
pub fn find<'a>(rules: &'a [Activation], project: &Path, cwd: &Path, is_there: impl Fn(&Path) -> bool) -> Vec<Active<'a>> {
    let from = if cwd.starts_with(project) { cwd } else { project };
    let mut set = BTreeSet::new();
    let mut found = Vec::new();
    for dir in from.ancestors().take_while(|dir| dir.starts_with(project)) {
        for rule in rules {
            let active = Active { rule, dir: dir.join(&rule.dir) };
            if is_there(&active.mark()) && rule.variable.as_ref().is_none_or(|variable| set.insert(variable)) {
                found.push(active);
            }
        }
    }
    found
}

/// Sets the variables of the active directories, and puts their program directories first on PATH, nearest first.
pub fn apply(active: &[Active<'_>], env: &mut BTreeMap<OsString, OsString>) {
    let mut path = OsString::new();
    for Active { rule, dir } in active {
        if let Some(variable) = &rule.variable {
            env.insert(variable.into(), dir.into());
        }
        if let Some(programs) = &rule.path {
            path.push(dir.join(programs));
            path.push(":");
        }
    }
    if !path.is_empty() {
        path.push(env.get(OsStr::new("PATH")).map_or_else(|| OsStr::new("/usr/local/bin:/usr/bin:/bin"), OsString::as_os_str));
        env.insert("PATH".into(), path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_counts_and_its_programs_come_first() {
        let rule = |dir: &str, has: &str, variable: Option<&str>, path: &str| Activation {
            dir: dir.to_owned(),
            has: Some(has.to_owned()),
            variable: variable.map(str::to_owned),
            path: Some(path.to_owned()),
            made_by: None,
        };
        let rules = [
            rule(".venv", "bin/python", Some("VIRTUAL_ENV"), "bin"),
            rule("venv", "bin/python", Some("VIRTUAL_ENV"), "bin"),
            rule("node_modules", ".bin", None, ".bin"),
        ];
        let there = ["/p/.venv/bin/python", "/p/venv/bin/python", "/p/a/venv/bin/python", "/p/node_modules/.bin", "/p/a/node_modules/.bin"];
        let env = |cwd: &str| {
            let active = find(&rules, Path::new("/p"), Path::new(cwd), |path| there.iter().any(|there| path == Path::new(there)));
            let mut env = BTreeMap::from([(OsString::from("PATH"), OsString::from("/bin"))]);
            apply(&active, &mut env);
            env.into_iter().map(|(name, value)| format!("{}={}", name.display(), value.display())).collect::<Vec<_>>()
        };
        let nearest = ["PATH=/p/a/venv/bin:/p/a/node_modules/.bin:/p/node_modules/.bin:/bin", "VIRTUAL_ENV=/p/a/venv"];
        let project = ["PATH=/p/.venv/bin:/p/node_modules/.bin:/bin", "VIRTUAL_ENV=/p/.venv"];
        assert_eq!(env("/p/a/b"), nearest);
        assert_eq!(env("/p"), project);
        assert_eq!(env("/elsewhere"), project, "a run that starts elsewhere has the project's");
    }
}
