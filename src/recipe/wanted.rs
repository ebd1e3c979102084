//! A wanted package as it is written: `name`, `name=version`, and either for one architecture alone, `name [arm64]`.

use crate::system::Arch;

/// Parts a wanted package from the architecture that it is wanted for, where it says one: `name [arm64]`.
pub fn for_arch(text: &str) -> (&str, Option<&str>) {
    match text.strip_suffix(']').and_then(|rest| rest.split_once(" [")) {
        Some((package, arch)) => (package, Some(arch)),
        None => (text, None),
    }
}

/// Whether a text is a wanted package: `name` or `name=version`, and perhaps an architecture.
pub fn is_package(text: &str) -> bool {
    let (text, arch) = for_arch(text);
    if arch.is_some_and(|arch| Arch::ALL.iter().all(|known| known.name() != arch)) {
        return false;
    }
    let (name, version) = text.split_once('=').unwrap_or((text, "0"));
    let rest = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "+-.".contains(c);
    let versions = |c: char| c.is_ascii_alphanumeric() || ".+-~:".contains(c);
    name.len() >= 2
        && name.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
        && name.chars().all(rest)
        && version.starts_with(|c: char| c.is_ascii_digit())
        && version.chars().all(versions)
}
