//! The texts of a project's recipes and add-ons, read once: the checked texts are the used texts.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::document;

/// The recipes of a project.
#[derive(Clone, Debug, Default)]
pub struct ProjectRecipes {
    dir: PathBuf,
    /// Text of each file by its name below the directory, or the reason why it cannot be read.
    texts: Arc<BTreeMap<String, Result<String, String>>>,
}

impl ProjectRecipes {
    /// Makes the recipes of a directory from these texts.
    pub fn new(dir: PathBuf, texts: BTreeMap<String, Result<String, String>>) -> ProjectRecipes {
        ProjectRecipes { dir, texts: Arc::new(texts) }
    }

    /// Returns the directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// True if there is no file.
    pub fn is_empty(&self) -> bool {
        self.texts.is_empty()
    }

    /// Returns the text of `tool.toml`, `tool.lock`, `key.asc` or `addons/name.toml`, if there is one.
    pub fn text(&self, name: &str) -> Result<Option<&str>, document::Error> {
        match self.texts.get(name) {
            None => Ok(None),
            Some(Ok(text)) => Ok(Some(text)),
            Some(Err(why)) => Err(document::Error::Read { path: self.dir.join(name), source: io::Error::other(why.clone()) }),
        }
    }

    /// Returns the names of the documents in the directory or a subdirectory, without their extension.
    pub fn names(&self, dir: &str) -> BTreeSet<&str> {
        let names = self.texts.keys().filter_map(|name| name.strip_prefix(dir)?.strip_suffix(".toml"));
        names.filter(|name| !name.contains('/')).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_projects_recipes_are_the_texts_that_were_read() {
        let texts = [("a.toml", Ok("a")), ("a.lock", Ok("l")), ("addons/b.toml", Ok("b")), ("c.toml", Err("a pipe"))];
        let texts = texts.map(|(name, text)| (name.to_owned(), text.map(str::to_owned).map_err(str::to_owned)));
        let recipes = ProjectRecipes::new("/p/recipes".into(), texts.into());
        assert_eq!(recipes.names("").into_iter().collect::<Vec<_>>(), ["a", "c"]);
        assert_eq!(recipes.names("addons/").into_iter().collect::<Vec<_>>(), ["b"]);
        assert_eq!((recipes.text("a.toml").expect("read"), recipes.text("none.toml").expect("nothing")), (Some("a"), None));
        assert_eq!(recipes.text("c.toml").expect_err("a pipe").to_string(), "cannot read /p/recipes/c.toml");
    }
}
