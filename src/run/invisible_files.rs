//! Finds files on the command line that are not visible in the sandbox, such as a script elsewhere on this machine.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use silo_launch::spec::{File, SYMLINK, Spec};

/// Returns the script on the command line, if it exists on this machine and not in the sandbox.
///
/// The first argument that is a file counts as the script. Later arguments belong to the script.
pub fn script(spec: &Spec, cwd: &Path, args: &[OsString]) -> Option<PathBuf> {
    let is_option = |arg: &OsString| arg.as_encoded_bytes().starts_with(b"-") || arg.is_empty();
    let named = args.iter().filter(|arg| !is_option(arg)).map(Path::new);
    let (arg, file) = named.map(|arg| (arg, cwd.join(arg))).find(|(_, file)| fs::metadata(file).is_ok_and(|found| found.is_file()))?;
    // A relative path is resolved inside in the program's working directory.
    (!is_shown(spec, &spec.cwd.join(arg))).then_some(file)
}

/// True if a path exists in the sandbox: in a mount, or in the image.
fn is_shown(spec: &Spec, guest: &Path) -> bool {
    let mut links = spec.files.iter().filter(|file| file.mode == SYMLINK);
    let behind = |file: &File| Some(Path::new(OsStr::from_bytes(&file.bytes.0)).join(guest.strip_prefix(&file.guest).ok()?));
    let guest = &links.find_map(behind).unwrap_or_else(|| guest.to_owned());
    let Some(real) = mounted(spec, guest) else {
        let inner = guest.strip_prefix("/").unwrap_or(guest);
        return spec.root.lower.iter().any(|root| root.join(inner).symlink_metadata().is_ok());
    };
    // A symlink can point out of the mount.
    fs::canonicalize(&real).is_ok_and(|end| end == real || mounted(spec, &end).is_some_and(|again| again.exists()))
}

/// Returns the host path of a guest path in its innermost mount.
fn mounted(spec: &Spec, guest: &Path) -> Option<PathBuf> {
    let covering = spec.mounts.iter().filter_map(|mount| Some((mount, guest.strip_prefix(&mount.guest).ok()?)));
    let (mount, inner) = covering.max_by_key(|(mount, _)| mount.guest.components().count())?;
    Some(if inner.as_os_str().is_empty() { mount.host.path().to_owned() } else { mount.host.path().join(inner) })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::run::spec::{Budget, Parts, assemble};
    use crate::run::user::{Accounts, User};
    use silo_launch::spec::{Access, Mount};

    #[test]
    fn the_first_file_of_this_machine_is_the_script() {
        let place = tempfile::tempdir().expect("a directory");
        let at = |name: &str| fs::canonicalize(place.path()).expect("a directory").join(name);
        for dir in ["root/usr/lib", "project/own", "kept", "bin"] {
            fs::create_dir_all(at(dir)).expect("made");
        }
        for file in ["root/usr/lib/in-image.py", "project/a.py", "project/own/b.py", "kept/c.py", "bin/tool", "data"] {
            fs::write(at(file), "").expect("written");
        }
        symlink(at("bin/tool"), at("project/link")).expect("made");
        symlink("a.py", at("project/near")).expect("made");
        let mount = |host: &str, guest: &str| Mount { host: at(host).into(), guest: at(guest), access: Access::ReadWrite };
        let user = User { uid: 1, gid: 1, name: "me".to_owned(), home: at("home") };
        let spec = assemble(Parts {
            root: at("root"),
            argv: Vec::new(),
            env: std::collections::BTreeMap::new(),
            mounts: vec![mount("project", "project"), mount("kept", "project/own")],
            read_only: Vec::new(),
            overlays: Vec::new(),
            hidden: Vec::new(),
            removable: Vec::new(),
            cwd: at("project"),
            user: &user,
            accounts: Accounts::default(),
            budget: Budget::default(),
            network: None,
            files: Vec::new(),
            alias: None,
            machine: None,
            abi: silo_launch::spec::Abi::Native,
        });
        let project = at("project");
        let check = |args: &[&str], expect: Option<&str>| {
            let args: Vec<OsString> = args.iter().map(OsString::from).collect();
            assert_eq!(script(&spec, &project, &args), expect.map(at), "{args:?}");
        };
        let (tool, data) = (at("bin/tool").display().to_string(), at("data").display().to_string());
        check(&[&tool], Some("bin/tool"));
        check(&["-u", "-W", "ignore", &tool, "x"], Some("bin/tool"));
        check(&["../bin/tool"], Some("project/../bin/tool"));
        check(&["link"], Some("project/link"));
        check(&["own/b.py"], Some("project/own/b.py"));
        check(&["a.py", &data], None);
        check(&["near"], None);
        check(&["-c", "print(1)"], None);
        check(&["/dev/null", "nowhere", "-"], None);
        check(&[], None);
    }
}
