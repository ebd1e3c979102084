//! Program start in a sandbox, compared with bubblewrap and with no sandbox.
//!
//! With `SILO_BENCH_BEFORE=<path of another silo>` each round also measures that program.

use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::support::{self, As, Silo};
use crate::table::{Promise, Table, timed};

/// The directory of programs and libraries in a root on this architecture.
const MULTIARCH: &str = if cfg!(target_arch = "aarch64") { "aarch64-linux-gnu" } else { "x86_64-linux-gnu" };
const LOADER: &str = if cfg!(target_arch = "aarch64") { "ld-linux-aarch64.so.1" } else { "ld-linux-x86-64.so.2" };

/// The most time of a sandbox, as a multiple of bubblewrap's.
const TIMES_BUBBLEWRAP: f64 = 2.2;
/// Rounds in which the other sandboxes take part.
const OTHERS: usize = 10;
/// Most that a project with a repository may add to a start, in times of one without a project.
const TIMES_REPOSITORY: f64 = 2.0;
/// Most that finding that there is nothing to do may take.
const NOTHING_TO_DO: Duration = Duration::from_millis(20);

pub fn run(rounds: usize) -> bool {
    let silo = Silo::shared(As::Me);
    let shell = compare(&silo, "warm start of `sh -c true`", "sh", &["dash", "-c", "true"], rounds);
    let python = compare(&silo, "warm start of `python3 -c pass`", "python", &["python3", "-c", "pass"], rounds);
    let projects = projects(&silo, rounds);
    nothing_to_do(&silo, rounds) && shell && python && projects
}

fn compare(silo: &Silo, title: &'static str, tool: &str, command: &[&str], rounds: usize) -> bool {
    let (program, args) = command.split_first().expect("a command");
    let mut table = Table::new(title);
    let root = silo.installed(tool).root;
    let bare = table.row("bare: the image's program on the host, no sandbox");
    let ours = table.row("silo run, whole process");
    let neighbour = support::has("bwrap").then(|| table.row("bwrap, all namespaces, same root"));
    if neighbour.is_none() {
        table.absent("bwrap", "not installed");
    }
    let bundle = tempfile::tempdir().expect("a directory");
    let others = others(&root, bundle.path(), program, args);
    let mut others: Vec<(usize, Command)> =
        others.into_iter().filter_map(|mut other| Some((other.row(&mut table)?, other.command))).collect();
    for round in 0..rounds {
        // Some of them take a tenth of a second.
        for (row, command) in others.iter_mut().filter(|_| round < OTHERS) {
            table.add(*row, timed(command));
        }
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

/// The cost of a project, and of a project with a repository, whose `.git` is an overlay inside and is imported at the end.
fn projects(silo: &Silo, rounds: usize) -> bool {
    let before = std::env::var_os("SILO_BENCH_BEFORE");
    let (plain, repository) = (silo.project().join("plain"), silo.project().join("repository"));
    for dir in [&plain, &repository] {
        std::fs::create_dir_all(dir).expect("a directory of our own");
    }
    let git = |words: &[&str]| {
        let mut git = Command::new("git");
        let done = git.args(["-c", "user.name=a", "-c", "user.email=a@example.com"]).args(words).current_dir(&repository).status();
        done.is_ok_and(|status| status.success())
    };
    let has_git = git(&["init", "--quiet"]) && git(&["commit", "--quiet", "--allow-empty", "--message=one"]);
    let mut table = Table::new("warm start of `sh -c true` in a project");
    let places = [("no project", None), ("a project", Some(&plain)), ("a project with a repository", Some(&repository))];
    let rows = places.map(|(name, _)| (table.row(name), before.as_ref().map(|_| table.row(&format!("{name}, the other silo")))));
    for _ in 0..rounds {
        for ((_, place), (now, other)) in places.iter().zip(rows) {
            let words = ["run"].into_iter().chain(place.is_none().then_some("--no-project")).chain(["sh", "-c", "true"]);
            let mut ours = silo.command(words);
            ours.current_dir(place.unwrap_or(&plain));
            if let Some((other, before)) = other.zip(before.as_ref()) {
                table.add(other, timed(&mut same(&ours, before)));
            }
            table.add(now, timed(&mut ours));
        }
    }
    if !has_git {
        table.absent("a project with a repository", "git is not installed");
    }
    let ratio = Promise::AtMost { row: rows[2].0, times: TIMES_REPOSITORY, of: rows[0].0 };
    let than_before = rows.iter().filter_map(|(row, other)| other.map(|of| Promise::AtMost { row: *row, times: 1.1, of }));
    let promises: Vec<Promise> = [ratio].into_iter().filter(|_| has_git).chain(than_before).collect();
    table.print(rows[0].0, &promises)
}

/// The same command by another program.
fn same(command: &Command, program: &OsStr) -> Command {
    let mut other = Command::new(program);
    other.args(command.get_args()).env_clear();
    other.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    if let Some(dir) = command.get_current_dir() {
        other.current_dir(dir);
    }
    other
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

/// Another program that starts sandboxes.
struct Other {
    name: &'static str,
    command: Command,
}

impl Other {
    /// Adds a row, if the program is here and can start a sandbox.
    fn row(&mut self, table: &mut Table) -> Option<usize> {
        if !support::has(self.command.get_program().to_str().expect("a name")) {
            table.absent(self.name, "not installed");
            return None;
        }
        let status = self.command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
        if !status.is_ok_and(|status| status.success()) {
            table.absent(self.name, "cannot start a sandbox on this machine");
            return None;
        }
        Some(table.row(self.name))
    }
}

/// Other sandboxes without a network. All but firejail, which shows the host's files, use the same root.
fn others(root: &Path, bundle: &Path, program: &str, args: &[&str]) -> Vec<Other> {
    let with = |name: &str, words: &[&OsStr]| {
        let mut command = Command::new(name);
        command.args(words).arg(program).args(args);
        command
    };
    let root_arg = |option: &str| OsString::from(format!("{option}{}", root.display()));
    let words = |words: &'static str| words.split(' ').map(OsStr::new).collect::<Vec<&OsStr>>();
    let nspawn = root_arg("--directory=");
    let mut nspawn_words = words("--quiet --register=no --keep-unit --read-only --private-network --timezone=off --resolv-conf=off");
    nspawn_words.push(&nspawn);
    let mut podman_words = words("run --rm --network=none --rootfs");
    podman_words.push(root.as_os_str());
    let words_of_program: Vec<&str> = [program].iter().chain(args).copied().collect();
    let process = serde_json::json!({ "cwd": "/", "user": { "uid": 0, "gid": 0 }, "env": ["PATH=/usr/bin"],
        "args": words_of_program });
    let namespaces = ["pid", "network", "ipc", "uts", "mount"].map(|kind| serde_json::json!({ "type": kind }));
    let config = serde_json::json!({ "ociVersion": "1.0.0", "process": process, "root": { "path": root, "readonly": true },
        "mounts": [{ "destination": "/proc", "type": "proc", "source": "proc" }], "linux": { "namespaces": namespaces } });
    std::fs::write(bundle.join("config.json"), config.to_string()).expect("our own directory");
    let mut crun = Command::new("crun");
    crun.args(["--cgroup-manager=disabled", "run", "--bundle"]).arg(bundle).arg("silo-bench");
    vec![
        Other { name: "crun, same root", command: crun },
        Other { name: "podman run, same root", command: with("podman", &podman_words) },
        Other { name: "systemd-nspawn, same root", command: with("systemd-nspawn", &nspawn_words) },
        Other {
            name: "firejail, the host's own files",
            command: with("firejail", &words("--quiet --noprofile --net=none --private-tmp --private-dev")),
        },
    ]
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
