//! The shell script of the configure step: what dpkg does for a fresh system, by its own programs.
//!
//! The files are in place already, so what is left of an installation is: each preinst, in order; dpkg's
//! own unpacking for the few packages that need it; then `dpkg --configure -a`. Each preinst runs with
//! the variables that dpkg sets for it (dpkg's `lib/dpkg/execname.c`, `src/main/script.c`).

use std::fmt::Write;

use super::scripted::Choice;

/// Where the .debs that dpkg unpacks itself are shown in the step.
pub const DEBS: &str = "/run/silo/debs";

/// Options of every dpkg call: its syncing is for machines that may lose power, not for a throw-away root.
const DPKG: &str = "dpkg --force-unsafe-io --force-confnew --log=/dev/null";

/// Moves a package's own files back that a diversion of its own preinst moved away: dpkg would have run
/// the preinst before the files were there.
const RESTORE: &str = r#"
restore_own() {
  [ -s /var/lib/dpkg/diversions ] || return 0
  while IFS= read -r from && IFS= read -r to && IFS= read -r package; do
    if [ "$package" = "$1" ] && [ -e "$to" ] && [ ! -e "$from" ] && grep -qxF "$from" "/var/lib/dpkg/info/$2.list"; then
      mv "$to" "$from"
    fi
  done < /var/lib/dpkg/diversions
}
"#;

/// Writes the script of a step.
pub fn script(choice: &Choice<'_>) -> String {
    let mut text = format!("set -e\numask 022\ncd /\n{RESTORE}");
    let mut line = |line: std::fmt::Arguments<'_>| writeln!(text, "{line}").expect("writing to a string cannot fail");
    for package in choice.present.iter().filter(|package| package.record.members.contains("preinst")) {
        let stanza = &package.record.stanza;
        let (name, arch, base) = (stanza.package(), stanza.architecture(), stanza.info_base());
        line(format_args!("echo 'preinst of {name}'"));
        line(format_args!(
            "DPKG_ADMINDIR=/var/lib/dpkg DPKG_ROOT= DPKG_MAINTSCRIPT_NAME=preinst DPKG_MAINTSCRIPT_PACKAGE='{name}' DPKG_MAINTSCRIPT_PACKAGE_REFCOUNT=1 DPKG_MAINTSCRIPT_ARCH='{arch}' '/var/lib/dpkg/info/{base}.preinst' install || {{ echo 'preinst of {name} failed' >&2; exit 1; }}"
        ));
        line(format_args!("restore_own '{name}' '{base}'"));
    }
    for package in &choice.by_dpkg {
        line(format_args!("{DPKG} --unpack '{DEBS}/{}.deb'", package.record.stanza.package()));
    }
    line(format_args!("{DPKG} --configure -a"));
    text
}
