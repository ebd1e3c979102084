//! The record of a run's rights. Pure: it is derived from the launch spec alone, which has every right of a run.
//!
//! It has no arguments and no values of variables, because both may be secrets.

use std::collections::BTreeMap;
use std::path::Path;

use silo_base::home::Home;
use silo_base::sanitize;
use silo_insight::runs::{Granting, Open, Run, Space, cut};
use silo_launch::spec::{Access, Network, Spec};

use super::target::Target;

/// Facts of a run that are not in its launch spec.
pub struct Circumstances<'a> {
    /// The project and its access, if it is shown.
    pub project: Option<(&'a Path, Access)>,
    /// Start of the run, in seconds since 1970.
    pub now: u64,
    /// Process id of silo.
    pub pid: u32,
}

/// Returns the record of a run that is about to start.
pub fn of(home: &Home, target: &Target, spec: &Spec, at: &Circumstances<'_>) -> Open {
    let mut run = Run::new(&target.tool.name, at.now, at.pid);
    run.image = target.tool.image.to_string();
    run.project = at.project.map(|(path, _)| cut(&sanitize::path(path)));
    run.machine = spec.machine.is_some();
    let space = describe(spec, &mut run);
    Open::new(home, run, space)
}

/// Adds the contents of a launch spec.
fn describe(spec: &Spec, run: &mut Run) -> Space {
    let mut space = Space::default();
    run.program = spec.argv.first().map(|program| cut(&sanitize::path(Path::new(program)))).unwrap_or_default();
    run.arguments = spec.argv.len().saturating_sub(1) as u64;
    let granted = &mut run.granted;
    granted.memory_bytes = spec.limits.memory_bytes;
    granted.cpu_thousandths = spec.limits.cpu_thousandths;
    granted.time_seconds = spec.limits.time_seconds;
    granted.network_bytes = spec.network.as_ref().and_then(|network| network.max_bytes);
    if let Some(network) = &spec.network {
        let Network { allow, public, deny, learn, ports, ssh_agent, secrets, .. } = network;
        granted.hosts = space.list(allow.iter().chain(public).cloned().map(String::from));
        granted.denied = space.list(deny.iter().cloned().map(String::from));
        granted.all_public = learn.is_some();
        granted.ports = space.list(ports.iter().map(|port| format!("{}:{}", port.host, port.guest)));
        granted.ssh_agent = ssh_agent.is_some();
        let named =
            secrets.iter().flat_map(|secrets| &secrets.list).map(|secret| format!("{} for {}", secret.name, secret.hosts.join(" ")));
        granted.secrets = space.list(named);
    }
    // The project is mounted twice: at its own path and as /workspace.
    let mut files: BTreeMap<&Path, bool> = BTreeMap::new();
    for mount in &spec.mounts {
        *files.entry(mount.host.path()).or_default() |= mount.access == Access::ReadWrite;
    }
    for (path, writable) in files {
        if let Some(path) = space.take(&sanitize::path(path)) {
            granted.files.push(Granting { path, writable });
        }
    }
    granted.variables = space.list(spec.env.keys().map(|name| sanitize::path(Path::new(name))));
    space
}

#[cfg(test)]
mod tests {
    use silo_base::grant::HostGrant;
    use silo_launch::spec::{Mount, Root, Upper};

    use super::*;

    #[test]
    fn neither_arguments_nor_values_of_variables_are_recorded() {
        let root = Root { lower: vec!["/root".into()], upper: Upper::Ephemeral { size_bytes: 1 } };
        let secret = "s3cr3t-value";
        let mut spec = Spec::new(root, ["/bin/sh", "-c", secret, secret].map(Into::into).to_vec());
        spec.env.insert("TOKEN".into(), secret.into());
        spec.network = Some(Network { allow: vec![HostGrant::parse("a.example").expect("a grant")], ..Network::default() });
        spec.network.as_mut().expect("set").proxies.https = Some(format!("http://me:{secret}@proxy.example"));
        let mount = |guest: &str, access| Mount { host: "/home/me/p".into(), guest: guest.into(), access };
        spec.mounts = vec![mount("/home/me/p", Access::ReadOnly), mount("/workspace", Access::ReadWrite)];
        let mut run = Run::new("t", 1, 2);
        describe(&spec, &mut run);
        let text = serde_json::to_string(&run).expect("JSON");
        assert!(!text.contains(secret), "{text}");
        assert_eq!(run.granted.files, [Granting { path: "/home/me/p".to_owned(), writable: true }]);
        assert_eq!((run.program.as_str(), run.arguments), ("/bin/sh", 3));
        assert_eq!((run.granted.variables, run.granted.hosts), (vec!["TOKEN".to_owned()], vec!["a.example".to_owned()]));
    }
}
