//! Applies settings to a recipe: packages, add-ons and commands.

use crate::recipe::addon::Addon;
use crate::recipe::steps::check_step;
use crate::recipe::{Recipe, Step};

use super::Override;
use silo_base::grant::Grant;

/// Applies the overrides of a tool to its recipe. `addons` are the add-ons that the overrides name, and `network` is the default network
/// access of commands.
pub fn over(mut recipe: Recipe, over: &Override, addons: &[Addon], network: &[Grant]) -> Result<Recipe, crate::recipe::error::Error> {
    let packages = addons.iter().flat_map(|addon| &addon.packages).chain(&over.packages);
    let own = recipe.debian.packages.clone();
    recipe.debian.added.extend(packages.filter(|package| !own.contains(package)).cloned());
    if recipe.image.is_some() && !recipe.debian.added.is_empty() {
        return Err(crate::recipe::error::Error::Both("packages that are added; use postInstall with the image's own package manager"));
    }
    recipe.debian.added.sort();
    recipe.debian.added.dedup();
    for addon in addons {
        recipe.steps.extend(addon.steps.iter().cloned());
        recipe.run.env.extend(addon.env.clone());
        recipe.run.shims.extend(addon.shims.clone());
    }
    let steps: Vec<Step> = over.post_install.iter().map(|step| check_step("postInstall", step.clone())).collect::<Result<_, _>>()?;
    recipe.steps.extend(steps.into_iter().map(|mut step| {
        if step.network.is_empty() {
            step.network = network.to_vec();
            step.network.sort();
        }
        step
    }));
    Ok(recipe)
}
