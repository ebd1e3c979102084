//! The scripted agent of `examples/agent`: its work arrives, and each of its eleven attempts is stopped or listed.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use crate::everyday::commands;
use crate::support::{As, Done, NOBODY, Silo, done, has, is_root, machine, skip};

/// The content of the private files of the home. No output has it.
const KEY: &str = "silo-test-private-key";
/// The command that planted files would run here: it leaves a file.
const TRAP: &str = "touch trapped-by-";

/// Attempts that change files, with those files and a part of the reason in the review.
const LISTED: [(&str, &[(&str, &str)]); 8] = [
    ("git_settings", &[("tools/pre-commit", "new executable")]),
    ("npm_script", &[("package.json", "npm postinstall")]),
    ("editor_task", &[(".vscode/tasks.json", "task")]),
    ("shell_file", &[(".envrc", "direnv")]),
    ("build_script", &[("Makefile", "build script")]),
    ("ci_workflow", &[(".github/workflows/test.yml", "CI workflow")]),
    ("link_out", &[("docs", "link that leads out"), ("total.orig", "link that leads out")]),
    (
        "nested_repository",
        &[
            ("vendored/.git/config", "repository of its own"),
            ("lib/.git", "repository of its own"),
            ("lib/store/config", "bare repository"),
            ("lib/store/HEAD", "bare repository"),
        ],
    ),
];
/// Attempts that write into the private copy of `.git`, which is no change of a file.
const IN_GIT: [&str; 2] = ["git_hook", "git_settings"];
/// Attempts that fail inside.
const STOPPED: [&str; 2] = ["read_keys", "send_data"];
/// Longest that an answer of a server is waited for, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(300);
/// Files of the honest work.
const HONEST: [&str; 3] = ["total.py", "test_total.py", "NOTES.md"];

/// A project with the agent's task in a repository, and the agent beside it.
struct Ground {
    silo: Silo,
    project: PathBuf,
    has_git: bool,
}

fn copy(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).expect("our own directory").flatten() {
        let to = to.join(entry.file_name());
        if entry.path().is_dir() {
            fs::create_dir_all(&to).expect("our own project");
            copy(&entry.path(), &to);
        } else {
            fs::copy(entry.path(), &to).expect("our own project");
        }
    }
}

impl Ground {
    fn new(silo: Silo) -> Ground {
        let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/agent");
        let project = silo.project();
        copy(&examples.join("project"), &project);
        fs::copy(examples.join("agent.py"), project.join("agent.py")).expect("our own project");
        let ground = Ground { silo, project, has_git: has("git") };
        if ground.has_git {
            ground.git(&["init", "-q", "-b", "main"]);
            ground.git(&["add", "."]);
            ground.git(&["commit", "-qm", "one"]);
        } else {
            fs::create_dir_all(ground.project.join(".git/hooks")).expect("our own project");
        }
        ground
    }

    /// Runs git here, as a person does.
    fn git(&self, words: &[&str]) -> String {
        let done = self.git_in(&self.project, words);
        assert_eq!(done.code, 0, "{words:?}: {done:?}");
        done.out
    }

    fn git_in(&self, dir: &Path, words: &[&str]) -> Done {
        let mut git = Command::new("git");
        git.args(["-c", "user.name=a", "-c", "user.email=a@example.com", "-c", "safe.directory=*"]).args(words).current_dir(dir);
        done(git.envs([("GIT_CONFIG_GLOBAL", "/dev/null"), ("GIT_CONFIG_NOSYSTEM", "1")]))
    }

    /// Every file and link of the project with its content.
    fn files(&self) -> BTreeMap<PathBuf, String> {
        let mut found = BTreeMap::new();
        let mut dirs = vec![self.project.clone()];
        while let Some(dir) = dirs.pop() {
            for entry in fs::read_dir(&dir).expect("our own project").flatten() {
                let (path, kind) = (entry.path(), entry.file_type().expect("our own project"));
                if kind.is_dir() {
                    dirs.push(path);
                    continue;
                }
                let text = if kind.is_file() { fs::read(&path).expect("our own project") } else { Vec::new() };
                found.insert(path, format!("{kind:?} {}", String::from_utf8_lossy(&text)));
            }
        }
        found
    }

    fn review(&self) -> (Value, BTreeMap<String, Value>) {
        let json: Value = serde_json::from_str(&self.silo.ok(["review", "--json"])).expect("JSON");
        let changes = json["changes"].as_array().expect("a list").iter();
        let by_path = changes.map(|change| (change["path"].as_str().expect("a path").to_owned(), change.clone())).collect();
        (json, by_path)
    }

    /// Uses the project as programs of this machine do, and returns the traps that ran.
    fn traps(&self) -> Vec<String> {
        if self.has_git {
            let _ = self.git(&["status", "--short"]);
            for inner in ["vendored", "lib", "lib/store"].map(|inner| self.project.join(inner)) {
                if inner.is_dir() {
                    // An incomplete repository is an error of git.
                    let _ = self.git_in(&inner, &["status", "--short"]);
                }
            }
            let _ = self.git(&["commit", "-q", "--allow-empty", "-m", "two"]);
        }
        let sprung = |path: &PathBuf| path.to_string_lossy().contains("trapped-by-");
        self.files()
            .into_keys()
            .filter(sprung)
            .map(|path| path.strip_prefix(&self.project).unwrap_or(&path).display().to_string())
            .collect()
    }
}

/// Runs the agent in review mode, and checks each attempt before and after `silo apply --safe`.
fn try_all(ground: &Ground, words: &[&str]) {
    let collector = TcpListener::bind(("127.0.0.1", 0)).expect("a port");
    collector.set_nonblocking(true).expect("our own socket");
    let port = collector.local_addr().expect("bound").port().to_string();
    let before = ground.files();
    let mut agent = ground.silo.command(["run", "--review", "--env", &format!("COLLECTOR_PORT={port}")].iter().chain(words));
    // A variable of the caller, too, stays outside.
    let done: Done = done(agent.args(["python", "agent.py", TRAP]).env("EXAMPLE_TOKEN", KEY));
    assert_eq!(done.code, 0, "{done:?}");
    let result = |name: &str| {
        let line = done.out.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
        line.unwrap_or_else(|| panic!("{name}: {done:?}")).to_owned()
    };

    // Nothing reached the host, and nothing of the host reached the agent.
    assert_eq!(ground.files(), before);
    assert!(!format!("{done:?}").contains(KEY), "{done:?}");
    assert!(collector.accept().is_err(), "the agent sent data");
    for name in STOPPED {
        assert!(result(name).starts_with("failed: "), "{name}: {done:?}");
    }
    assert_eq!(result("honest_work"), "done", "{done:?}");

    let (json, changes) = ground.review();
    for (name, files) in LISTED {
        assert_eq!(result(name), "done", "{done:?}");
        for (path, reason) in files {
            let change = changes.get(*path).unwrap_or_else(|| panic!("{name}: {path} is not listed: {json}"));
            assert!(change["weight"] == "obeyed" && change["safe"] == false, "{name}: {change}");
            assert!(change["reason"].as_str().is_some_and(|found| found.contains(reason)), "{name}: {change}");
        }
    }
    for name in IN_GIT {
        assert_eq!(result(name), "done", "{done:?}");
    }
    for path in HONEST {
        assert!(changes[path]["weight"] == "source" && changes[path]["safe"] == true, "{}", changes[path]);
    }
    // Empty directories of planted files are harmless.
    let is_planted = |path: &str, change: &Value| !HONEST.contains(&path) && change["after"]["kind"] != "directory";
    assert!(changes.iter().filter(|(path, change)| is_planted(path, change)).all(|(_, change)| change["safe"] == false), "{json}");
    assert_eq!(ground.traps(), Vec::<String>::new());

    // Only the honest work arrives.
    let before = ground.files();
    let _ = ground.silo.ok(["apply", "--safe"]);
    let changed: Vec<PathBuf> =
        ground.files().into_iter().filter(|(path, text)| before.get(path) != Some(text)).map(|(path, _)| path).collect();
    let mut honest = HONEST.map(|path| ground.project.join(path));
    honest.sort();
    assert_eq!(changed, honest);
    assert_eq!(ground.traps(), Vec::<String>::new());
    let (_, left) = ground.review();
    let planted = |of: &BTreeMap<String, Value>| of.iter().filter(|(path, change)| is_planted(path, change)).count();
    assert!(planted(&left) == planted(&changes) && left.values().all(|change| change["safe"] == false), "{left:?}");
    let _ = ground.silo.ok(["discard", "--yes"]);
    assert!(ground.review().1.is_empty());
    assert_eq!(ground.traps(), Vec::<String>::new());
}

/// Puts private files into the home.
fn plant_keys(silo: &Silo) {
    for path in [".ssh/id_ed25519", ".aws/credentials", ".netrc"] {
        silo.write(path, KEY);
    }
}

#[test]
fn the_work_of_a_hostile_agent_arrives_and_its_eleven_attempts_do_not() {
    let ground = Ground::new(Silo::shared(As::Me));
    plant_keys(&ground.silo);
    if !ground.has_git {
        skip("there is no git here: the traps of git were not sprung");
    }
    try_all(&ground, &[]);
}

#[test]
fn the_eleven_attempts_fail_for_an_ordinary_user_too() {
    if !is_root() {
        return skip("only root may run silo as somebody else");
    }
    let ground = Ground::new(Silo::shared(As::Nobody));
    plant_keys(&ground.silo);
    let given = done(Command::new("chown").args(["-R", &format!("{NOBODY}:{NOBODY}")]).arg(&ground.project));
    assert_eq!(given.code, 0, "{given:?}");
    try_all(&ground, &[]);
}

#[test]
fn the_eleven_attempts_fail_in_a_machine_too() {
    let ground = Ground::new(machine::silo(As::Me));
    plant_keys(&ground.silo);
    try_all(&ground, &["--tier", "vm", "--cold"]);
}

/// Without a sandbox the attempts work, so the checks above cannot pass by accident.
#[test]
fn the_attempts_of_the_agent_work_without_a_sandbox() {
    if !has("git") || !has("python3") {
        return skip("there is no git or no python3 here");
    }
    let ground = Ground::new(Silo::new());
    plant_keys(&ground.silo);
    let collector = TcpListener::bind(("127.0.0.1", 0)).expect("a port");
    let port = collector.local_addr().expect("bound").port().to_string();
    let mut agent = Command::new("python3");
    agent.args(["agent.py", TRAP]).current_dir(&ground.project).env("HOME", ground.silo.home()).env("COLLECTOR_PORT", port);
    let done = done(&mut agent);
    assert!(done.code == 0 && done.out.lines().filter(|line| line.ends_with(": done")).count() == 12, "{done:?}");
    assert!(done.out.contains(KEY) && collector.accept().is_ok(), "{done:?}");
    let traps = ground.traps();
    for trap in ["trapped-by-git-settings", "vendored/trapped-by-nested-repository", "lib/trapped-by-nested-repository"] {
        assert!(traps.iter().any(|sprung| sprung == trap), "{trap}: {traps:?}");
    }
}

/// A page of the top directory.
fn skill() -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("SKILL.md")).expect("a page")
}

#[test]
fn the_commands_of_the_skill_file_work_inside() {
    let text = skill();
    let head = text.strip_prefix("---\n").and_then(|text| text.split_once("\n---\n")).expect("a head").0;
    let field = |name: &str| head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
    // Limits of the format.
    assert_eq!(field("name"), Some("silo"));
    assert!(field("description").is_some_and(|text| text.len() > 100 && text.len() < 1024), "{head}");
    let commands = commands(&text);
    assert!(commands.len() >= 4, "{commands:?}");
    // The flags that it asks the user for exist.
    let reference = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/commands.md")).expect("a page");
    let words = text.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '-');
    let flags: Vec<&str> = words.filter(|word| word.starts_with("--") && word.len() > 3).collect();
    assert!(flags.len() > 3 && flags.iter().all(|flag| reference.contains(flag)), "{flags:?}");
    let silo = Silo::shared(As::Me);
    plant_keys(&silo);
    for (command, printed) in commands {
        let done = silo.run(["run", "--review", "sh", "-c", &command]);
        assert!(done.code == 0 && done.out.lines().eq(printed.iter()), "{command}: {done:?}");
    }
}

/// A server of the MCP examples, as a client starts it: over its standard streams.
struct McpServer {
    server: Child,
    input: Option<ChildStdin>,
    messages: Receiver<Value>,
}

impl McpServer {
    /// Starts the server of this settings entry in the sandbox of `tool`.
    fn start(silo: &Silo, tool: &str, entry: &Value) -> McpServer {
        let text = |value: &Value| value.as_str().expect("a text").to_owned();
        let mut words: Vec<String> = vec!["run".to_owned(), "--quiet".to_owned()];
        for (name, value) in entry["env"].as_object().into_iter().flatten() {
            words.extend(["--env".to_owned(), format!("{name}={}", text(value))]);
        }
        words.extend(["--shim".to_owned(), text(&entry["command"]), tool.to_owned(), "--".to_owned()]);
        words.extend(entry["args"].as_array().expect("a list").iter().map(text));
        let mut server = silo.command(words).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("silo starts");
        let (input, output) = (server.stdin.take(), server.stdout.take().expect("it is piped"));
        let (sender, messages) = channel();
        thread::spawn(move || {
            let lines = BufReader::new(output).lines().map_while(Result::ok);
            // Nobody listens any more once the test has ended.
            lines.filter_map(|line| serde_json::from_str(&line).ok()).try_for_each(|message| sender.send(message))
        });
        McpServer { server, input, messages }
    }

    fn say(&mut self, message: &Value) {
        writeln!(self.input.as_mut().expect("it is open"), "{message}").expect("the server reads");
    }

    /// Sends a request, and waits for its answer.
    fn ask(&mut self, id: u64, method: &str, params: &Value) -> Value {
        self.say(&json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": params }));
        loop {
            let message = self.messages.recv_timeout(PATIENCE).unwrap_or_else(|error| panic!("{method}: {error}"));
            if message["id"] == id {
                return message["result"].clone();
            }
        }
    }
}

/// The MCP settings of the page, by the name of the server.
fn mcp_servers(page: &str) -> BTreeMap<String, Value> {
    let blocks = page.split("```json\n").skip(1).filter_map(|rest| rest.split("```").next());
    let settings = blocks.map(|block| serde_json::from_str::<Value>(block).expect("the page has JSON"));
    settings.flat_map(|settings| settings["mcpServers"].as_object().cloned().into_iter().flatten().collect::<Vec<_>>()).collect()
}

#[test]
fn an_mcp_server_of_the_page_answers_in_a_sandbox() {
    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/agents.md")).expect("a page");
    let servers = mcp_servers(&page);
    assert!(["files", "time", "browser"].iter().all(|name| servers.contains_key(*name)), "{servers:?}");
    let install = page
        .lines()
        .find_map(|line| line.strip_prefix("silo run --review=never --shim python3 claude-code -- "))
        .expect("the line that installs it");
    let silo = Silo::shared(As::Me);
    let words = ["run", "--quiet", "--shim", "python3", "python", "--"].into_iter().chain(install.split(' '));
    let installed = silo.run(words);
    if installed.code != 0 {
        return skip(&format!("the server cannot be had here: {}", installed.err.lines().last().unwrap_or_default()));
    }
    let mut server = McpServer::start(&silo, "python", &servers["time"]);
    let client = json!({ "protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": { "name": "silo", "version": "1" } });
    let hello = server.ask(1, "initialize", &client);
    assert!(hello["serverInfo"]["name"].as_str().is_some_and(|name| name.contains("time")), "{hello}");
    server.say(&json!({ "jsonrpc": "2.0", "method": "notifications/initialized" }));
    let list = server.ask(2, "tools/list", &json!({}));
    let tools: Vec<&str> = list["tools"].as_array().into_iter().flatten().filter_map(|tool| tool["name"].as_str()).collect();
    assert!(tools.contains(&"get_current_time"), "{list}");
    let zone = json!({ "name": "get_current_time", "arguments": { "timezone": "UTC" } });
    let called = server.ask(3, "tools/call", &zone);
    assert!(called.to_string().contains("UTC") && called["isError"] != true, "{called}");
    // The end of the input ends the server, and the sandbox with it.
    drop(server.input.take());
    assert!(server.server.wait().expect("silo ends").success());
}

#[test]
fn the_recipes_of_the_agents_are_right() {
    let silo = Silo::new();
    let recipes = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/agent/recipes");
    for entry in fs::read_dir(recipes).expect("our own directory").flatten() {
        let name = entry.file_name().into_string().expect("a name");
        silo.write(&format!(".silo/recipes/{name}"), &fs::read_to_string(entry.path()).expect("our own file"));
        let shown: Value = serde_json::from_str(&silo.ok(["show", name.trim_end_matches(".toml"), "--json"])).expect("JSON");
        assert_eq!(shown["review"], "risky", "{shown}");
    }
}
