//! Network rules of settings, and how they merge.

use schemars::JsonSchema;
use serde::Deserialize;

use silo_base::grant::Grant;

/// Network rules: hosts as in [`HostGrant`](silo_base::grant::HostGrant), or ecosystems such as `@pypi`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Network {
    /// Allowed hosts: `name`, `name:port`, `name:from-to`, `*.name`, `*`, or an ecosystem such as `@pypi`.
    #[serde(default)]
    pub allow: Vec<Grant>,
    /// Denied hosts, unless a more specific rule allows them; without a port, all ports are denied.
    #[serde(default)]
    pub deny: Vec<Grant>,
    /// Allowed hosts for commands of `silo build` and `postInstall` without a list of their own.
    #[serde(default)]
    pub install_allow: Vec<Grant>,
    /// Ignore `allow` from the recipe and outer settings.
    #[serde(default)]
    pub reset: bool,
    /// Old place of the same lists.
    #[serde(default)]
    pub proxy: Option<Proxy>,
    /// Old setting that grants all services of this machine; read as `host.silo.internal`, which is ports 443 and 80. Name other ports:
    /// `host.silo.internal:5432`.
    #[serde(default)]
    pub host_access: Option<bool>,
}

/// Lists of a [`Network`] in their old place.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Proxy {
    /// Allowed hosts.
    #[serde(default)]
    pub allow: Vec<Grant>,
    /// Denied hosts.
    #[serde(default)]
    pub deny: Vec<Grant>,
    /// Allowed hosts for build commands.
    #[serde(default)]
    pub install_allow: Vec<Grant>,
}

impl Network {
    /// Converts old keys to current ones.
    pub(super) fn today(self) -> Network {
        let proxy = self.proxy.unwrap_or_default();
        let machine = self.host_access.filter(|access| *access).map(|_| Grant::of_machine());
        Network {
            allow: union(union(self.allow, proxy.allow), machine.into_iter().collect()),
            deny: union(self.deny, proxy.deny),
            install_allow: union(self.install_allow, proxy.install_allow),
            reset: self.reset,
            proxy: None,
            host_access: None,
        }
    }
}

/// Merges network settings. A denial always stays.
pub(super) fn merge_network(under: Network, over: Network) -> Network {
    Network {
        allow: if over.reset { over.allow } else { union(under.allow, over.allow) },
        deny: union(under.deny, over.deny),
        install_allow: union(under.install_allow, over.install_allow),
        reset: under.reset || over.reset,
        proxy: None,
        host_access: None,
    }
}

/// Joins two lists without duplicates.
pub(super) fn union<T: PartialEq>(mut under: Vec<T>, over: Vec<T>) -> Vec<T> {
    for item in over {
        if !under.contains(&item) {
            under.push(item);
        }
    }
    under
}
