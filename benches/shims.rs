//! A shim that passes its call on, compared with the program itself and with a bash shim.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::support::{self, Silo};
use crate::table::{Promise, Table, timed};

/// Most that a call may take longer through a shim.
const LONGER: Duration = Duration::from_millis(2);

/// A minimal shim like pyenv's: a script that starts another, which looks for a version file in the parent directories and then in PATH.
/// Both are reduced to the case of the system's own program.
const SHIM: &str = "#!/usr/bin/env bash\nset -e\nprogram=\"${0##*/}\"\nexec \"${0%/shims/*}/exec\" \"$program\" \"$@\"\n";
const EXEC: &str = "#!/usr/bin/env bash\nset -e\nname=\"$1\"\nshift\nroot=\"$PWD\"\nwhile [ -n \"$root\" ]; do\n  [ -s \"$root/.version\" ] && break\n  root=\"${root%/*}\"\ndone\nIFS=: read -r -a dirs <<< \"$PATH\"\nfor dir in \"${dirs[@]}\"; do\n  [ \"$dir\" = \"${0%/*}/shims\" ] && continue\n  [ -x \"$dir/$name\" ] && exec \"$dir/$name\" \"$@\"\ndone\nexit 127\n";

pub fn run(rounds: usize) -> bool {
    let silo = Silo::new();
    let place = silo.home().join("machine");
    let dirs = ["bin", "bash/shims", "project/a/b"].map(|name| place.join(name));
    for dir in &dirs {
        fs::create_dir_all(dir).expect("our own directory");
    }
    let [bin, shims, deep] = &dirs;
    // The program does nothing, so only the shim's own time remains.
    symlink("/bin/true", bin.join("nothing")).expect("our own directory");
    script(&shims.join("nothing"), SHIM);
    script(&place.join("bash/exec"), EXEC);
    silo.write(".silo/shims", "silo shims 1\ntool nothing free\nshim nothing\n");
    fs::create_dir(silo.path("bin")).expect("our own directory");
    symlink(support::program(), silo.path("program")).expect("our own directory");
    symlink("../program", silo.path("bin/nothing")).expect("our own directory");
    let settings = place.join("project/silo.toml");

    let mut table = Table::new("a program that does nothing, by a name on PATH");
    let bare = table.row("itself");
    let handed_on = table.row("silo's shim, handed on, no project around");
    let in_project = table.row("silo's shim, handed on, in a project of other tools");
    let bash = table.row("a shim in bash, in pyenv's style");
    let call = |dir: &Path, way: &Path| {
        let mut command = Command::new(way.join("nothing"));
        let path = format!("{}:{}:/usr/local/bin:/usr/bin:/bin", way.display(), bin.display());
        command.current_dir(dir).env_clear().env("HOME", silo.home()).env("PATH", path);
        timed(&mut command)
    };
    for _ in 0..rounds {
        // No silo.toml is found, so all directories up to / are looked at.
        let _ = fs::remove_file(&settings);
        table.add(bare, call(deep, bin));
        table.add(handed_on, call(deep, &silo.path("bin")));
        table.add(bash, call(deep, shims));
        fs::write(&settings, "tools = [\"python\", \"node\"]\npassEnv = [\"TOKEN\"]\n").expect("our own project");
        table.add(in_project, call(deep, &silo.path("bin")));
    }
    let promise = |row| Promise::Longer { row, by: LONGER, than: bare };
    table.print(bare, &[promise(handed_on), promise(in_project), Promise::AtMost { row: handed_on, times: 1.0, of: bash }])
}

fn script(path: &Path, text: &str) {
    fs::write(path, text).expect("our own file");
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("our own file");
}
