//! Starting a program in a sandbox, beside bubblewrap doing the same and beside no sandbox at all.

use std::ffi::OsStr;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::support::{self, As, Silo};
use crate::table::{Promise, Table, timed};

/// Where the programs and libraries of a root lie on this architecture.
const MULTIARCH: &str = if cfg!(target_arch = "aarch64") { "aarch64-linux-gnu" } else { "x86_64-linux-gnu" };
const LOADER: &str = if cfg!(target_arch = "aarch64") { "ld-linux-aarch64.so.1" } else { "ld-linux-x86-64.so.2" };

/// Most that a sandbox may take, in times of what bubblewrap takes for the same.
const TIMES_BUBBLEWRAP: f64 = 3.0;
/// Most that finding that there is nothing to do may take.
const NOTHING_TO_DO: Duration = Duration::from_millis(20);

pub fn run(rounds: usize) -> bool {
    let silo = Silo::shared(As::Me);
    let shell = compare(&silo, "warm start of `sh -c true`", "sh", "dash", &["-c", "true"], rounds);
    let python = compare(&silo, "warm start of `python3 -c pass`", "python", "python3", &["-c", "pass"], rounds);
    nothing_to_do(&silo, rounds) && shell && python
}

fn compare(silo: &Silo, title: &'static str, tool: &str, program: &str, args: &[&str], rounds: usize) -> bool {
    let mut table = Table::new(title);
    let root = silo.installed(tool).root;
    let bare = table.row("bare: the image's program on the host, no sandbox");
    let ours = table.row("silo run, whole process");
    let neighbour = support::has("bwrap").then(|| table.row("bwrap, all namespaces, same root"));
    if neighbour.is_none() {
        table.absent("bwrap", "not installed");
    }
    for _ in 0..rounds {
        table.add(bare, timed(&mut on_the_host(&root, program, args)));
        let words = ["run", "--no-project", tool].into_iter().chain(args.iter().copied());
        table.add(ours, timed(&mut silo.command(words)));
        if let Some(neighbour) = neighbour {
            table.add(neighbour, timed(&mut bubblewrap(&root, program, args)));
        }
    }
    let promise = neighbour.map(|of| Promise::AtMost { row: ours, times: TIMES_BUBBLEWRAP, of });
    table.print(neighbour.unwrap_or(bare), promise.as_slice())
}

fn nothing_to_do(silo: &Silo, rounds: usize) -> bool {
    let mut table = Table::new("nothing to do");
    let version = table.row("silo --version: the process itself");
    let install = table.row("silo install python, installed already");
    for _ in 0..rounds {
        table.add(version, timed(&mut silo.command(["--version"])));
        table.add(install, timed(&mut silo.command(["install", "--quiet", "python"])));
    }
    table.print(version, &[Promise::Within { row: install, limit: NOTHING_TO_DO }])
}

/// The program with the image's own loader and libraries, so that only the sandbox is missing.
fn on_the_host(root: &Path, program: &str, args: &[impl AsRef<OsStr>]) -> Command {
    let libraries = root.join("usr/lib").join(MULTIARCH);
    let mut command = Command::new(libraries.join(LOADER));
    command.arg("--library-path").arg(&libraries).arg(root.join("usr/bin").join(program)).args(args);
    command.env_clear().env("PYTHONHOME", root.join("usr")).env("PYTHONDONTWRITEBYTECODE", "1").env("LANG", "C.UTF-8");
    command
}

fn bubblewrap(root: &Path, program: &str, args: &[impl AsRef<OsStr>]) -> Command {
    let mut command = Command::new("bwrap");
    command.args(["--unshare-all", "--die-with-parent", "--ro-bind"]).arg(root).arg("/");
    command.args(["--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp", "--hostname", "silo", "--"]);
    command.arg(Path::new("/usr/bin").join(program)).args(args);
    command.env_clear().env("PYTHONDONTWRITEBYTECODE", "1").env("LANG", "C.UTF-8");
    command
}
