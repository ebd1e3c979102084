//! The shell script of a configure step: installs unpacked packages with dpkg's own programs.
//!
//! The files are already unpacked, so the script runs the rest of an installation. First each preinst runs, in order. Then dpkg unpacks the
//! few packages that need it, and `dpkg --configure -a` configures all. Each preinst runs with the variables that dpkg sets for it (dpkg's
//! `lib/dpkg/execname.c`, `src/main/script.c`).

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;

use super::select_packages::{Candidates, Unpacked};

/// Directory in the step of the .debs that dpkg unpacks itself.
pub const DEBS: &str = "/run/silo/debs";

/// Options of every dpkg call. Syncing protects against a power cut, which does not matter for a throw-away root.
const DPKG: &str = "dpkg --force-unsafe-io --force-confnew --log=/dev/null";

/// Runs a preinst as dpkg does (its `src/main/script.c`): from `tmp.ci`, with symlinks to the package's control files, where debconf looks
/// for the templates and the package's name.
///
/// If the preinst diverts a file of its own package, the script moves the file back: dpkg would have run the preinst before unpacking it.
const PREINST: &str = r#"
dpkg_dir=/var/lib/dpkg
run_preinst() {
  name=$1 arch=$2 base=$3 count=$4
  shift 4
  echo "preinst of $name"
  mkdir "$dpkg_dir/tmp.ci"
  for member; do ln -s "$dpkg_dir/info/$base.$member" "$dpkg_dir/tmp.ci/$member"; done
  DPKG_ADMINDIR=$dpkg_dir DPKG_ROOT= DPKG_MAINTSCRIPT_NAME=preinst DPKG_MAINTSCRIPT_PACKAGE=$name \
    DPKG_MAINTSCRIPT_PACKAGE_REFCOUNT=$count DPKG_MAINTSCRIPT_ARCH=$arch \
    "$dpkg_dir/tmp.ci/preinst" install || { echo "preinst of $name failed" >&2; exit 1; }
  rm -r "$dpkg_dir/tmp.ci"
  [ -s "$dpkg_dir/diversions" ] || return 0
  while IFS= read -r from && IFS= read -r to && IFS= read -r package; do
    if [ "$package" = "$name" ] && [ -e "$to" ] && [ ! -e "$from" ] && grep -qxF "$from" "$dpkg_dir/info/$base.list"; then
      mv "$to" "$from"
    fi
  done < "$dpkg_dir/diversions"
}
"#;

/// Renames configuration files of packages that are not configured as dpkg does when it unpacks them; see `conffiles`. Each line of its input
/// is a package and a path. The file of a diverted path is at another one, except for the package that diverts it.
const RENAME: &str = r#"perl -e '
my %diverted;
if (open my $list, "<", "/var/lib/dpkg/diversions") {
  chomp(my @lines = <$list>);
  while (my ($from, $to, $by) = splice @lines, 0, 3) { $diverted{$from} = [$to, $by]; }
}
while (<STDIN>) {
  chomp;
  my ($package, $path) = split / /, $_, 2;
  my $place = $diverted{$path};
  $path = $place->[0] if $place and $place->[1] ne $package;
  next unless -f $path;
  rename $path, "$path.dpkg-new" or die "$path: $!\n";
}
'"#;

/// Recompiles Python's caches with a fixed hash seed.
///
/// Before Python 3.11 a compiled set is in hash order, with a random seed in each process. Debian starts its compiler with `-E`, so the
/// environment variable that fixes the seed has no effect there.
const PYTHON: &str = r#"
for python in /usr/bin/python3.[0-9] /usr/bin/python3.10; do
  [ -x "$python" ] || continue
  find /usr -name "*.cpython-3${python#*python3.}.pyc" -newer /tmp/silo-began | LC_ALL=C sort | "$python" -c '
import importlib.util, os, py_compile, sys
for line in sys.stdin:
    try:
        source = importlib.util.source_from_cache(line[:-1])
        if os.path.exists(source):
            py_compile.compile(source, line[:-1], doraise=True)
    except (ValueError, py_compile.PyCompileError):
        pass
'
done
"#;

/// Terminator of the here-documents, whose lines have several words.
const END: &str = "SILO-END";

/// The packages of a step.
pub struct Packages<'a> {
    /// The step's packages.
    pub choice: &'a Candidates,
    /// The packages of the earlier steps.
    pub earlier: &'a [Arc<Unpacked>],
    /// The configuration files that are not in their place until dpkg configures their packages, by path.
    pub unconfigured_files: &'a BTreeMap<&'a str, &'a str>,
}

/// Generates the script of a step; debconf gets `answers` first.
pub fn script(packages: &Packages<'_>, answers: &[&str]) -> String {
    let Packages { choice, earlier, unconfigured_files } = packages;
    let mut text = format!("set -e\numask 022\ncd /\n: > /tmp/silo-began\n{PREINST}");
    if !answers.is_empty() {
        write!(text, "debconf-set-selections <<'{END}'\n{}\n{END}\n", answers.join("\n")).expect("writing to a string cannot fail");
    }
    let mut line = |line: std::fmt::Arguments<'_>| writeln!(text, "{line}").expect("writing to a string cannot fail");
    for package in choice.present.iter().filter(|package| package.record.members.contains("preinst")) {
        let (stanza, members) = (&package.record.stanza, &package.record.members);
        let (name, arch, base) = (stanza.package(), stanza.architecture(), stanza.info_base());
        // dpkg writes the list of files itself, later.
        let members: Vec<&str> = members.iter().map(String::as_str).filter(|member| *member != "list").collect();
        // The number of the package's instances, one for each architecture.
        let before = choice.present.iter().take_while(|other| !Arc::ptr_eq(other, package));
        let instances = 1 + earlier.iter().chain(before).filter(|other| other.name() == name).count();
        line(format_args!("run_preinst '{name}' '{arch}' '{base}' {instances} {}", members.join(" ")));
    }
    for package in &choice.by_dpkg {
        line(format_args!("{DPKG} --unpack '{DEBS}/{}.deb'", package.label()));
    }
    if !unconfigured_files.is_empty() {
        let lines: String = unconfigured_files.iter().map(|(path, package)| format!("{package} {path}\n")).collect();
        line(format_args!("{RENAME} <<'{END}'\n{lines}{END}"));
    }
    line(format_args!("{DPKG} --configure -a"));
    text.push_str(PYTHON);
    text
}
