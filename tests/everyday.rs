//! Daily use: the projects of `examples/`, and the quickstart pages typed line by line.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::clients;
use crate::support::sandbox::until;
use crate::support::terminal::Session;
use crate::support::{As, Done, Silo, done, free_port, skip};

/// Copies a directory of the repository, such as an example, into the project.
fn take(silo: &Silo, dir: &str) {
    fn copy(from: &Path, to: &Path) {
        for entry in fs::read_dir(from).expect("our own directory").flatten() {
            let to = to.join(entry.file_name());
            if entry.path().is_dir() {
                fs::create_dir(&to).expect("our own project");
                copy(&entry.path(), &to);
            } else {
                fs::copy(entry.path(), &to).expect("our own project");
            }
        }
    }
    copy(&Path::new(env!("CARGO_MANIFEST_DIR")).join(dir), &silo.project());
}

/// A shell command in the project, with silo's shims first on its PATH.
fn shell(silo: &Silo, script: &str) -> Command {
    let mut command = Command::new("bash");
    let silos = silo.command(["shellenv"]);
    command.args(["--norc", "-c", &format!("eval \"$('{}' shellenv bash)\"; {script}", silos.get_program().display())]);
    command.current_dir(silo.project()).env_clear().envs(silos.get_envs().filter_map(|(name, value)| Some((name, value?))));
    command.stdin(Stdio::null());
    command
}

/// Says whether something failed because a package index cannot be reached from this machine.
fn is_cut_off(done: &Done) -> bool {
    done.code != 0 && ["is not reachable", "has no known hosts yet"].iter().any(|why| done.err.contains(why))
}

#[test]
fn a_python_project_works_from_init_to_its_server() {
    let silo = Silo::shared(As::Me);
    take(&silo, "examples/python");
    assert!(silo.ok(["init"]).contains("tools     python\n"));
    let synced = silo.run(["sync"]);
    assert!(synced.code == 0 && fs::read_to_string(silo.project().join("silo.lock")).is_ok(), "{synced:?}");
    let made = done(&mut shell(&silo, "python -m venv .venv && pip install --quiet -e '.[test]'"));
    if is_cut_off(&made) {
        return skip(&format!("the package index cannot be reached: {}", made.err.trim()));
    }
    assert_eq!(made.code, 0, "{made:?}");
    // The python in use, the project's source, and its entries in the path.
    let tested =
        done(&mut shell(&silo, "python -m pytest --quiet && silo=1 python -c 'import app, flask; print(app.__file__, flask.__file__)'"));
    let project = fs::canonicalize(silo.project()).expect("our own project");
    let (app, flask) = (format!("{0}/app.py {0}/.venv/", project.display()), "/flask/__init__.py\n");
    assert!(tested.out.contains("1 passed") && tested.out.contains(&app) && tested.out.ends_with(flask), "{tested:?}");
    // An edit takes effect immediately.
    fs::write(silo.project().join("app.py"), fs::read_to_string("examples/python/app.py").expect("ours").replace("hello", "good day"))
        .expect("ours");
    let failed = done(&mut shell(&silo, "python -m pytest --quiet"));
    assert!(failed.code == 1 && failed.out.contains("1 failed"), "{failed:?}");
    let port = free_port();
    let mut server = silo.command(["run", "--port", &format!("{port}:8000"), "python", "app.py"]);
    let mut server = server.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("silo starts");
    until("the server answers", || asked(port).ends_with("good day from flask"));
    // Parallel requests, as long as the server runs.
    std::thread::scope(|scope| (0..20).for_each(|_| drop(scope.spawn(|| assert!(asked(port).ends_with("good day from flask"))))));
    let _ = Command::new("kill").arg(server.id().to_string()).status();
    server.wait().expect("it ends");
    assert_eq!(asked(port), "", "nobody listens any more");
}

/// Requests the front page of an HTTP server on this machine; empty if there is none.
fn asked(port: u16) -> String {
    let mut text = String::new();
    if let Ok(mut to) = TcpStream::connect(("127.0.0.1", port)) {
        drop(to.write_all(b"GET / HTTP/1.0\r\n\r\n").and_then(|()| to.read_to_string(&mut text)));
    }
    text
}

/// Types the commands of a page, with replacements for this machine's values, and compares the printed output.
fn typed(silo: &Silo, page: &str, others: &[(&str, String)]) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs").join(page);
    let mut text = fs::read_to_string(&path).expect("a page");
    for (said, ours) in others {
        text = text.replace(said, ours);
    }
    let commands = commands(&text);
    assert!(!commands.is_empty(), "{page} has nothing to type");
    let place = silo.home().join(".local/bin");
    fs::create_dir_all(&place).expect("our own home");
    // Several pages may share a home.
    let _ = std::os::unix::fs::symlink(silo.command(["x"]).get_program(), place.join("silo"));
    assert!(place.join("silo").exists(), "silo is on the PATH");
    let path = std::env::var("PATH").unwrap_or_default();
    let mut bash = Command::new("bash");
    // Without the line editor the terminal itself edits, as it does for the simplest shell.
    bash.args(["--norc", "--noediting", "-i"]).current_dir(silo.project()).env_clear();
    bash.envs(silo.command(["x"]).get_envs().filter_map(|(name, value)| Some((name, value?))));
    bash.env("PATH", format!("{}:{path}", place.display())).env("TERM", "xterm").env("PS1", "@@[$?] ").env("PS2", "");
    let mut terminal = Session::controlled(&bash);
    let _ = terminal.expect("@@[0] ");
    // The echo of keys must not count as output.
    let _ = terminal.expect_all("stty -echo\n", "@@[0] ");
    for (command, expected) in &commands {
        let (status, came) = at_a_prompt(&mut terminal, command);
        if came.contains("is not reachable") {
            return skip(&format!("a package index cannot be reached: {came}"));
        }
        assert_eq!(status, "0", "{page}: `{command}` fails\n{came}");
        let home = fs::canonicalize(silo.home()).expect("our own home");
        let mut lines = came.lines().map(|line| plain(&silo_base::sanitize::said(line), &home));
        for line in expected.iter().map(|line| plain(line, Path::new("/home/me"))) {
            assert!(lines.any(|came| came == line), "{page}: `{command}` does not print {line:?} where the page says so, but\n{came}");
        }
    }
    terminal.type_in("exit\n");
}

/// Types a command at a terminal, answers questions with Enter, and returns the exit code and the output.
fn at_a_prompt(terminal: &mut Session, command: &str) -> (String, String) {
    terminal.type_in(&format!("{command}\n"));
    let mut came = String::new();
    loop {
        let (which, before) = terminal.expect_any(&["@@[", "[Y/n] "]);
        came += &before;
        if which == 1 {
            came += "[Y/n]\n";
            terminal.type_in("\n");
            continue;
        }
        return (terminal.expect("] "), came);
    }
}

/// Reads the commands of a page with their output: lines after `$ `, continued by `> `, in blocks of `console`.
pub fn commands(text: &str) -> Vec<(String, Vec<String>)> {
    let mut commands: Vec<(String, Vec<String>)> = Vec::new();
    let mut inside = false;
    for line in text.lines() {
        match (inside, line) {
            (_, "```console" | "```") => inside = line == "```console",
            (false, _) => {}
            (true, _) => match (line.strip_prefix("$ "), line.strip_prefix("> "), commands.last_mut()) {
                (Some(command), _, _) => commands.push((command.to_owned(), Vec::new())),
                (None, Some(more), Some((command, _))) => *command = format!("{command}\n{more}"),
                (None, None, Some((_, printed))) if !line.is_empty() => printed.push(line.to_owned()),
                _ => {}
            },
        }
    }
    commands
}

/// Removes the parts of a line that differ between machines: the home, numbers and ids.
fn plain(line: &str, home: &Path) -> String {
    let line = line.replace(&home.display().to_string(), "~");
    let mut plain = String::new();
    for word in line.split_inclusive(|letter: char| !letter.is_ascii_alphanumeric()) {
        let bare = word.trim_end_matches(|letter: char| !letter.is_ascii_alphanumeric());
        let is_id = bare.len() >= 12 && bare.chars().all(|letter| letter.is_ascii_hexdigit());
        let is_number = !bare.is_empty() && bare.starts_with(|letter: char| letter.is_ascii_digit());
        match is_id || is_number {
            true => plain.push_str(&format!("0{}", &word[bare.len()..])),
            false => plain.push_str(word),
        }
    }
    plain.trim_end().to_owned()
}

#[test]
fn the_quickstart_pages_work_as_printed() {
    let silo = Silo::seeded();
    typed(&silo, "quickstart.md", &[]);
    silo.offer_downloads();
}

/// Every page with a block of `console` but the quickstarts, which have tests of their own; in one home, so that each tool is made once.
#[test]
fn console_blocks_of_the_docs_work_as_printed() {
    let silo = Silo::seeded();
    let _ = silo.ok(["install", "--quiet", "sh"]);
    let docs = fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs")).expect("our own directory").flatten();
    let mut pages: Vec<String> = docs
        .filter(|entry| fs::read_to_string(entry.path()).is_ok_and(|text| text.contains("\n```console\n")))
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| !name.starts_with("quickstart"))
        .collect();
    // The first installs python, and the last compresses all images.
    pages.sort_by_key(|name| (name != "shims.md", name == "disk.md", name.clone()));
    assert!(pages.len() > 10, "{pages:?}");
    for page in &pages {
        typed(&silo, page, &[]);
    }
    silo.offer_downloads();
}

/// The first page that anybody reads builds Silo; here it is built already.
#[test]
fn the_readme_works_as_printed() {
    let silo = Silo::seeded();
    take(&silo, "examples");
    let readme = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).expect("a page");
    let command = readme.lines().find(|line| line.starts_with("cargo run --release")).expect("the page has it");
    let ours = format!("'{}'", silo.command(["x"]).get_program().display());
    let command = command.replace("cargo run --release --", &ours).replace("examples/", "");
    let mut bash = Command::new("bash");
    bash.args(["--norc", "--noediting", "-i"]).current_dir(silo.project()).env_clear();
    bash.envs(silo.command(["x"]).get_envs().filter_map(|(name, value)| Some((name, value?))));
    bash.env("PATH", std::env::var("PATH").unwrap_or_default()).env("TERM", "xterm").env("PS1", "@@[$?] ");
    let mut terminal = Session::controlled(&bash);
    let _ = terminal.expect("@@[0] ");
    let (status, came) = at_a_prompt(&mut terminal, &command);
    assert_eq!(status, "0", "{came}");
    let said: Vec<String> = came.lines().map(silo_base::sanitize::said).collect();
    for expect in [
        "python 3.",
        "silo: ",
        "  try: eval \"$(silo shellenv)\"",
        "python      3.",
        "kernel      Linux",
        "directory   ",
        "user        ",
        "~/.ssh      does not exist",
        "interfaces  lo",
    ] {
        assert!(readme.lines().any(|line| line.starts_with(expect)), "the page has no {expect:?}");
        assert!(said.iter().any(|line| line.starts_with(expect)), "{expect:?} is not printed: {came}");
    }
    terminal.type_in("exit\n");
    silo.offer_downloads();
}

#[test]
fn the_node_quickstart_works_as_printed() {
    let silo = Silo::seeded();
    typed(&silo, "quickstart-node.md", &[("3000", free_port().to_string())]);
    silo.offer_downloads();
}

#[test]
fn the_web_quickstart_works_as_printed() {
    let Some(server) = clients::account().and_then(|account| clients::postgres(&account)) else {
        return skip("there is no PostgreSQL here");
    };
    let silo = Silo::seeded();
    let others = [("5432", server.port.to_string()), ("8000", free_port().to_string()), ("PGUSER=postgres", "PGUSER=silo".to_owned())];
    typed(&silo, "quickstart-web.md", &others);
    silo.offer_downloads();
}

#[test]
fn lists_show_pins_and_their_origin() {
    let silo = Silo::shared(As::Me);
    let rows = |silo: &Silo| -> Vec<serde_json::Value> {
        let list: serde_json::Value = serde_json::from_str(&silo.ok(["list", "--json"])).expect("list --json prints JSON");
        list.as_array().cloned().expect("a list")
    };
    fs::write(silo.project().join("silo.toml"), "tools = [\"sh\"]\n").expect("our own project");
    let _ = silo.ok(["sync", "--quiet"]);
    let python = rows(&silo).into_iter().find(|row| row["tool"] == "python").expect("it is installed");
    assert_eq!(
        (&python["pinned"], python["shims"].to_string().as_str()),
        (&true.into(), r#"["pip","pip3","python","python3"]"#),
        "{python}"
    );
    let here = fs::canonicalize(silo.project()).expect("our own project").display().to_string();
    let ours = rows(&silo).into_iter().find(|row| row["project"] == here.as_str()).expect("the project's tool");
    assert!(ours["tool"] == "sh" && ours["image"].as_str().is_some_and(|image| image.len() == 64), "{ours}");
    let said = silo.ok(["list"]);
    let line = |end: &str| said.lines().any(|line| line.ends_with(end));
    assert!(line("  pinned   pip, pip3, python, python3") && line(&format!("  project  {here}")), "{said}");
}

/// A recipe's run settings are read at each run, so a newer Silo's recipes apply to tools that an older one installed.
#[test]
fn a_newer_recipe_counts_for_what_is_installed() {
    let silo = Silo::seeded();
    let recipe = "command = [\"sh\"]\n[debian]\npackages = [\"dash\"]\nversionOf = \"dash\"\n";
    silo.write(".silo/recipes/mine.toml", recipe);
    let _ = silo.ok(["install", "--quiet", "mine"]);
    let before = silo.ok(["list"]);
    let seen = |silo: &Silo| {
        let mut command = silo.command(["mine", "-c", "echo ${GREETING-none}; ls -d ~/.cache/mine 2>/dev/null || echo none"]);
        done(command.env("GREETING", "hello")).out
    };
    assert_eq!(seen(&silo), "none\nnone\n");
    silo.write(
        ".silo/recipes/mine.toml",
        &format!("passEnv = [\"GREETING\"]\ncache = [\"~/.cache/mine\"]\n{recipe}[network]\nallow = [\"example.com\"]\n"),
    );
    assert_eq!(seen(&silo), format!("hello\n{}/.cache/mine\n", silo.home().display()));
    let reach = silo.ok(["config", "network", "show", "mine"]);
    assert!(reach.contains("mine may reach example.com"), "{reach}");
    assert_eq!(silo.ok(["list"]), before, "nothing was installed anew");
}

#[test]
fn two_projects_run_two_versions_at_once() {
    let silo = Silo::seeded();
    let recipe = "command = [\"sh\"]\nversion = \"1\"\n[debian]\npackages = [\"dash\"]\n[versions.\"2\"]\nsteps = [\"echo $SILO_VERSION > /etc/mine\"]\n[versions.\"3\"]\nsteps = [\"echo $SILO_VERSION > /etc/mine\"]\n";
    silo.write(".silo/recipes/mine.toml", recipe);
    let started: Vec<(Silo, &str)> = ["2", "3"]
        .map(|version| {
            let project = Silo::at(silo.home());
            fs::write(project.project().join("silo.toml"), format!("tools = [\"mine@{version}\"]\n")).expect("our own project");
            let _ = project.ok(["trust", "--yes"]);
            let _ = project.ok(["sync", "--quiet"]);
            (project, version)
        })
        .into();
    // Each is begun before any ends.
    let mut children: Vec<_> = started
        .iter()
        .map(|(project, version)| {
            let mut command = project.command(["mine", "-c", "cat; cat /etc/mine"]);
            (command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("silo starts"), version)
        })
        .collect();
    for (child, _) in &mut children {
        child.stdin.as_mut().expect("it is piped").write_all(b"version ").expect("it reads");
    }
    for (child, version) in children {
        let said = child.wait_with_output().expect("it ends");
        assert_eq!(String::from_utf8_lossy(&said.stdout), format!("version {version}\n"));
    }
}
