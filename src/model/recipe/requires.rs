//! Merges the recipes that a recipe requires.
//!
//! Packages become separate layers, so tools that require the same one share them.

use super::{Recipe, kept_dirs};

/// Merges `base` under `recipe`: packages, steps, variables and grants of `base` come first, and `recipe` overrides them. The shims of
/// `base` are not inherited. Returns both suites if they differ, because packages of two releases cannot be mixed.
pub fn merge_base(mut recipe: Recipe, base: Recipe) -> Result<Recipe, (String, String)> {
    if recipe.debian.suite != base.debian.suite {
        return Err((recipe.debian.suite, base.debian.suite));
    }
    recipe.debian.packages = joined(recipe.debian.packages, base.debian.packages);
    recipe.debian.build = joined(recipe.debian.build, base.debian.build);
    recipe.debian.components = joined(recipe.debian.components, base.debian.components);
    recipe.debian.sources.extend(base.debian.sources);
    recipe.debian.sources.sort();
    recipe.debian.sources.dedup();
    recipe.debian.debs.extend(base.debian.debs);
    recipe.debian.debs.sort();
    recipe.debian.debs.dedup();
    recipe.debian.answers = joined(recipe.debian.answers, base.debian.answers);
    recipe.debian.recommends |= base.debian.recommends;
    recipe.steps = base.steps.into_iter().chain(recipe.steps).collect();
    recipe.install_allow = joined(recipe.install_allow, base.install_allow);
    recipe.ecosystems = base.ecosystems.into_iter().chain(recipe.ecosystems).collect();
    recipe.run.env = base.run.env.into_iter().chain(recipe.run.env).collect();
    recipe.run.pass_env = joined(recipe.run.pass_env, base.run.pass_env);
    recipe.run.network = joined(recipe.run.network, base.run.network);
    recipe.run.cache = kept_dirs::over(base.run.cache, recipe.run.cache);
    recipe.run.state = kept_dirs::over(base.run.state, recipe.run.state);
    recipe.run.activate.extend(base.run.activate);
    recipe.run.cpus = recipe.run.cpus.or(base.run.cpus);
    recipe.run.memory_mb = recipe.run.memory_mb.or(base.run.memory_mb);
    recipe.run.time_seconds = recipe.run.time_seconds.or(base.run.time_seconds);
    recipe.run.network_mb = recipe.run.network_mb.or(base.run.network_mb);
    recipe.run.review = recipe.run.review.or(base.run.review);
    Ok(recipe)
}

fn joined<T: Ord>(mut list: Vec<T>, more: Vec<T>) -> Vec<T> {
    list.extend(more);
    list.sort();
    list.dedup();
    list
}
