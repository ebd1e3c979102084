//! Merges settings: lists are joined, tables merged by key, single values replaced.

use std::collections::BTreeMap;

use crate::recipe::lsp;

use super::mounts::Mount;
use super::network::{merge_network, union};
use super::{Build, Cache, Gc, Limits, Mirrors, Override, RunLimits, Settings, Tier, ToolCaches};

/// Merges `over` into `under`: lists are joined, tables merged by key, single values replaced.
pub fn merge(under: Settings, over: Settings) -> Settings {
    let mut overrides = under.overrides;
    for (tool, over) in over.overrides {
        let merged = merge_override(overrides.remove(&tool).unwrap_or_default(), over);
        overrides.insert(tool, merged);
    }
    let mut ecosystems = under.ecosystems;
    for (name, grants) in over.ecosystems {
        let merged = union(ecosystems.remove(&name).unwrap_or_default(), grants);
        ecosystems.insert(name, merged);
    }
    let network = merge_network(under.network, over.network);
    let first = |over: Vec<String>, under: Vec<String>| if over.is_empty() { under } else { over };
    Settings {
        tools: union(under.tools, over.tools),
        pass_env: union(under.pass_env, over.pass_env),
        pass_files: union(under.pass_files, over.pass_files),
        pass_ssh_agent: under.pass_ssh_agent || over.pass_ssh_agent,
        secrets: tables(under.secrets, over.secrets),
        mount: Mount {
            mode: over.mount.mode.or(under.mount.mode),
            exclude: union(under.mount.exclude, over.mount.exclude),
            git: over.mount.git.or(under.mount.git),
            sockets: over.mount.sockets.or(under.mount.sockets),
            max_guarded: over.mount.max_guarded.or(under.mount.max_guarded),
        },
        project_id: over.project_id.or(under.project_id),
        mirrors: Mirrors {
            debian: first(over.mirrors.debian, under.mirrors.debian),
            debian_security: first(over.mirrors.debian_security, under.mirrors.debian_security),
            snapshot: over.mirrors.snapshot.or(under.mirrors.snapshot),
            snapshot_security: over.mirrors.snapshot_security.or(under.mirrors.snapshot_security),
            allow_stale: over.mirrors.allow_stale.or(under.mirrors.allow_stale),
        },
        caches: chain(under.caches, over.caches),
        network,
        ecosystems,
        limits: RunLimits {
            memory_mb: smaller(under.limits.memory_mb, over.limits.memory_mb),
            processes: smaller(under.limits.processes, over.limits.processes),
            time_seconds: smaller(under.limits.time_seconds, over.limits.time_seconds),
            network_mb: smaller(under.limits.network_mb, over.limits.network_mb),
        },
        overrides,
        remote: tables(under.remote, over.remote),
        build: Build { max_step_size: over.build.max_step_size.or(under.build.max_step_size) },
        gc: Gc {
            auto: over.gc.auto.or(under.gc.auto),
            max_size: over.gc.max_size.or(under.gc.max_size),
            max_age: over.gc.max_age.or(under.gc.max_age),
        },
        // A project can raise the tier, but not lower it: without a setting of yours, this machine's usual one counts.
        tier: over.tier.filter(|tier| *tier == Tier::Vm).or(under.tier),
        // The same for the review of its changes.
        review: under.review.max(over.review),
        cache: Cache {
            rootfs: merge_limits(under.cache.rootfs, over.cache.rootfs),
            tools: merge_caches(under.cache.tools, over.cache.tools),
        },
        trust: over.trust.or(under.trust),
    }
}

fn merge_override(mut under: Override, over: Override) -> Override {
    under.env.extend(over.env);
    Override {
        version: over.version.or(under.version),
        packages: union(under.packages, over.packages),
        addons: union(under.addons, over.addons),
        post_install: chain(under.post_install, over.post_install),
        env: under.env,
        pass_env: union(under.pass_env, over.pass_env),
        pass_files: union(under.pass_files, over.pass_files),
        cache: chain(under.cache, over.cache),
        state: chain(under.state, over.state),
        network: merge_network(under.network, over.network),
        ports: over.ports.or(under.ports),
        pass_ssh_agent: under.pass_ssh_agent || over.pass_ssh_agent,
        secrets: tables(under.secrets, over.secrets),
        workdir: over.workdir.or(under.workdir),
        cpus: smaller(under.cpus, over.cpus),
        memory_mb: smaller(under.memory_mb, over.memory_mb),
        time_seconds: smaller(under.time_seconds, over.time_seconds),
        network_mb: smaller(under.network_mb, over.network_mb),
        rootfs_size_mb: smaller(under.rootfs_size_mb, over.rootfs_size_mb),
        review: under.review.max(over.review),
        image: over.image.or(under.image),
        lsp: lsp::merge(under.lsp, over.lsp),
    }
}

/// Returns the stricter one of two limits.
pub fn smaller<T: Ord>(under: Option<T>, over: Option<T>) -> Option<T> {
    under.into_iter().chain(over).min()
}

fn merge_limits(under: Limits, over: Limits) -> Limits {
    Limits { max_size_mb: over.max_size_mb.or(under.max_size_mb), max_age_days: over.max_age_days.or(under.max_age_days) }
}

fn merge_caches(mut under: ToolCaches, over: ToolCaches) -> ToolCaches {
    under.per_mount.extend(over.per_mount);
    ToolCaches {
        max_size_mb: over.max_size_mb.or(under.max_size_mb),
        max_age_days: over.max_age_days.or(under.max_age_days),
        per_mount: under.per_mount,
    }
}

fn tables<T>(mut under: BTreeMap<String, T>, over: BTreeMap<String, T>) -> BTreeMap<String, T> {
    under.extend(over);
    under
}

fn chain<T>(mut under: Vec<T>, over: Vec<T>) -> Vec<T> {
    under.extend(over);
    under
}
