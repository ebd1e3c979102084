//! Private directories, which tools see only after the user's confirmation.

use std::fs;
use std::path::Path;

use silo_base::home::Home;
use silo_tool::trust;

/// Returns why a directory is hidden from tools, unless the user approved showing it.
pub fn hidden(home: &Home, user_home: &Path, dir: &Path) -> Result<Option<&'static str>, trust::Error> {
    let Some(why) = why_private(home, user_home, dir) else { return Ok(None) };
    Ok((!trust::approved(home, dir)?.contains(&approval(why))).then_some(why))
}

/// Returns why a directory is hidden from tools by default.
pub fn why_private(home: &Home, user_home: &Path, dir: &Path) -> Option<&'static str> {
    let real = |path: &Path| fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let own = real(home.root());
    let holds_own = own.starts_with(dir) || dir.starts_with(&own);
    exposes(dir, &real(user_home)).or_else(|| holds_own.then_some("it holds Silo's own files, keys and approvals"))
}

/// Returns the approval line for showing a directory anyway.
pub fn approval(why: &str) -> String {
    format!("it is shown to tools although {why}")
}

/// Returns why a directory needs an explicit approval.
fn exposes(project: &Path, home: &Path) -> Option<&'static str> {
    if project == Path::new("/") {
        Some("it is the whole machine")
    } else if home.starts_with(project) {
        Some("it holds your home directory with its keys and logins")
    } else if project.starts_with(home) && project != home && is_private(project.strip_prefix(home).unwrap_or(project)) {
        Some("it holds keys or logins")
    } else if ["/etc", "/proc", "/sys", "/dev", "/run", "/boot", "/usr", "/var", "/bin", "/lib", "/sbin"]
        .iter()
        .any(|system| project == Path::new(system))
    {
        Some("it belongs to the system")
    } else {
        None
    }
}

fn is_private(below_home: &Path) -> bool {
    let first = below_home.components().next().map(|part| part.as_os_str().to_owned()).unwrap_or_default();
    [".ssh", ".gnupg", ".aws", ".config", ".kube", ".docker", ".silo", ".local", ".mozilla", ".netrc", ".cargo", ".npm"]
        .iter()
        .any(|private| first == *private)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_with_secrets_are_not_shown() {
        for (project, expect) in [
            ("/", true),
            ("/home", true),
            ("/home/me", true),
            ("/home/me/.ssh", true),
            ("/home/me/.config/x", true),
            ("/home/me/project", false),
            ("/home/you", false),
            ("/etc", true),
            ("/srv/work", false),
        ] {
            assert_eq!(exposes(Path::new(project), Path::new("/home/me")).is_some(), expect, "{project}");
        }
    }
}
