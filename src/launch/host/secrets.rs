//! Reads the values of a run's secrets in the broker's process, before it is confined.

use std::path::Path;
use std::sync::Arc;

use silo_base::secret;
use silo_store::read_limited;

use super::source;
use crate::broker::exchange::Pair;
use crate::broker::intercept;
use crate::spec::secrets::{Secret, Secrets};

/// Limit on the size of the host's CA bundle; Debian's has 0.2 MB.
const MAX_ROOTS_BYTES: u64 = 16 << 20;

/// Reads the values. Reports each secret without a value; connections to its hosts then carry the placeholder.
pub fn read(secrets: &Secrets, tell: &dyn Fn(&str)) -> Option<Arc<intercept::Secrets>> {
    let mut entries = Vec::new();
    for Secret { name, placeholder, from, hosts } in &secrets.list {
        match source::read(from) {
            Ok(value) => {
                // Checked with the spec.
                let places = hosts.iter().filter_map(|host| secret::host(host).ok()).collect();
                entries.push((Pair { name: name.clone(), placeholder: placeholder.clone(), value }, places));
            }
            Err(error) => tell(&format!("the secret {name} has no value: {error}")),
        }
    }
    if entries.is_empty() {
        return None;
    }
    // Without a bundle, no host is verified, and each connection fails with a line.
    let bundle = secrets.roots.as_deref().and_then(|path: &Path| read_limited::read(path, MAX_ROOTS_BYTES).ok()).unwrap_or_default();
    match intercept::Secrets::new(secrets.authority.clone(), entries, &bundle) {
        Ok(secrets) => Some(Arc::new(secrets)),
        Err(error) => {
            tell(&format!("this run has no secrets: {error}"));
            None
        }
    }
}
