//! Language servers: driven like an editor does, in the sandbox of their tool.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::{As, Silo, golden};

/// Longest that a server is waited for: on a busy machine it takes its time to read a standard library.
const PATIENCE: Duration = Duration::from_secs(120);

/// An editor's side of a server.
struct Editor {
    server: Child,
    input: Option<ChildStdin>,
    messages: Receiver<Value>,
}

impl Editor {
    fn start(silo: &Silo, tool: &str) -> Editor {
        let mut command = silo.command(["lsp", "--quiet", tool]);
        let mut server = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("silo starts");
        let (input, output) = (server.stdin.take(), server.stdout.take().expect("it is piped"));
        let (sender, messages) = channel();
        thread::spawn(move || {
            let mut output = BufReader::new(output);
            while let Some(message) = received(&mut output) {
                if sender.send(message).is_err() {
                    return;
                }
            }
        });
        Editor { server, input, messages }
    }

    fn say(&mut self, message: Value) {
        let text = message.to_string();
        let input = self.input.as_mut().expect("it is open");
        write!(input, "Content-Length: {}\r\n\r\n{text}", text.len()).and_then(|()| input.flush()).expect("the server reads");
    }

    /// Waits for a matching message, and answers requests of the server in between.
    fn wait(&mut self, what: &str, fits: impl Fn(&Value) -> bool) -> Value {
        let end = Instant::now() + PATIENCE;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let message = self.messages.recv_timeout(left).unwrap_or_else(|error| panic!("{what}: {error}"));
            if fits(&message) {
                return message;
            }
            if message.get("id").is_some() && message.get("method").is_some() {
                self.say(json!({ "jsonrpc": "2.0", "id": message["id"], "result": null }));
            }
        }
    }

    /// Opens a project and one of its files, as an editor does; returns the server's diagnostics.
    fn opened(&mut self, project: &Path, file: &str, language: &str) -> Vec<Value> {
        let options = if language == "typescript" { json!({ "enable": true }) } else { Value::Null };
        let uri = |path: &Path| format!("file://{}", path.display());
        let capabilities = json!({ "textDocument": { "publishDiagnostics": {} }, "workspace": { "workspaceFolders": true } });
        let root = uri(project);
        self.say(json!({ "jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {
            "processId": null, "rootUri": root, "capabilities": capabilities, "initializationOptions": options,
            "workspaceFolders": [{ "uri": root, "name": "project" }],
        } }));
        let answer = self.wait("initialize", |message| message["id"] == 1 && message.get("result").is_some());
        assert!(answer["result"]["capabilities"].is_object(), "{answer}");
        self.say(json!({ "jsonrpc": "2.0", "method": "initialized", "params": {} }));
        let path = project.join(file);
        let text = fs::read_to_string(&path).expect("our own file");
        self.say(json!({ "jsonrpc": "2.0", "method": "textDocument/didOpen", "params": { "textDocument": {
            "uri": uri(&path), "languageId": language, "version": 1, "text": text,
        } } }));
        let of_file = |message: &Value| {
            message["method"] == "textDocument/publishDiagnostics"
                && message["params"]["uri"] == uri(&path)
                && message["params"]["diagnostics"].as_array().is_some_and(|all| !all.is_empty())
        };
        let told = self.wait("publishDiagnostics", of_file);
        told["params"]["diagnostics"].as_array().cloned().unwrap_or_default()
    }

    /// Ends the server as the protocol has it; returns its exit code.
    fn end(mut self) -> i32 {
        self.say(json!({ "jsonrpc": "2.0", "id": 2, "method": "shutdown", "params": null }));
        let _ = self.wait("shutdown", |message| message["id"] == 2);
        self.say(json!({ "jsonrpc": "2.0", "method": "exit" }));
        drop(self.input.take());
        self.server.wait().expect("it ends").code().unwrap_or(-1)
    }
}

/// Reads one message; anything else on standard output is an error.
fn received(output: &mut BufReader<ChildStdout>) -> Option<Value> {
    let mut length = None;
    loop {
        let mut line = String::new();
        if output.read_line(&mut line).ok()? == 0 {
            return None;
        }
        let line = line.trim_end();
        match line.split_once(':') {
            None if line.is_empty() => break,
            Some((name, value)) if name.eq_ignore_ascii_case("content-length") => length = value.trim().parse().ok(),
            Some((name, _)) if name.eq_ignore_ascii_case("content-type") => {}
            _ => panic!("{line:?} is no header of a message"),
        }
    }
    let mut bytes = vec![0; length.expect("a length")];
    output.read_exact(&mut bytes).ok()?;
    Some(serde_json::from_slice(&bytes).expect("a message is JSON"))
}

#[test]
fn a_language_server_runs_in_its_tools_sandbox_and_answers() {
    let _alone = Silo::hold_store();
    let silo = Silo::shared(As::Me);
    let text = "[overrides.sh.lsp]\ncommand = [\"sh\", \"-c\", 'cat; cat /opt/server; echo $TERM $ADDED $(pwd); touch ~/.cache/served/x; exit 7']\n\
        install = \"mkdir -p /opt && echo installed > /opt/server\"\ncache = [\"~/.cache/served\"]\nenv = { ADDED = \"added\" }\n";
    fs::write(silo.project().join("silo.toml"), text).expect("our own");
    // Commands of a project need approval here as everywhere.
    let done = silo.fed(["lsp", "sh"], b"");
    assert!(done.code == 125 && done.out.is_empty() && done.err.contains("the language server of sh runs `mkdir"), "{done:?}");
    let _ = silo.ok(["trust", "--yes"]);
    let expect = format!("said\ninstalled\ndumb added {}\n", silo.project().display());
    let done = silo.fed(["lsp", "sh"], b"said\n");
    assert_eq!((done.code, done.out.as_str()), (7, expect.as_str()), "{}", done.err);
    // It is there now, and nothing is built or said.
    let done = silo.fed(["lsp", "sh"], b"said\n");
    assert_eq!((done.code, done.out.as_str(), done.err.as_str()), (7, expect.as_str(), ""));
    let lock = fs::read_to_string(silo.project().join("silo.lock")).expect("a lock");
    assert!(lock.contains("[tool.\"sh.lsp\"]") && !lock.contains("[tool.sh]"), "{lock}");
    // The tool itself has nothing of it, and the project does not claim it.
    assert_ne!(silo.run(["sh", "-c", "test -e /opt/server || test -n \"$ADDED\""]).code, 0);
    assert!(!silo.ok(["list"]).contains("sh.lsp"));
    let _ = silo.ok(["lsp", "--build", "--frozen", "sh"]);
    let done = silo.fails(["lsp", "--frozen", "sh"]);
    assert!(done.err.contains("--build"), "{done:?}");
    fs::write(silo.project().join("silo.toml"), "").expect("our own");
    let done = silo.fails(["lsp", "sh"]);
    assert!(done.code == 125 && done.err.contains("sh has no language server"), "{done:?}");
    let done = silo.fails(["lsp", "rust"]);
    assert!(done.err.contains("rust is not installed"), "{done:?}");
    // A missing server is named before anything is built.
    let done = silo.fails(["install", "--lsp", "psql", "sh"]);
    assert!(done.err.contains("psql has no language server"), "{done:?}");
    assert!(!silo.ok(["list"]).contains("psql"));
}

/// An editor that is killed closes the server's input, and says nothing else.
#[test]
fn a_server_ends_when_its_editor_is_gone() {
    let _alone = Silo::hold_store();
    let silo = Silo::shared(As::Me);
    let text = "[overrides.sh.lsp]\ncommand = [\"sh\", \"-c\", 'trap \"\" TERM; while :; do sleep 1; done']\n";
    fs::write(silo.project().join("silo.toml"), text).expect("our own");
    let _ = silo.ok(["trust", "--yes"]);
    // It would never end by itself, and SIGTERM does not end it.
    let done = silo.fed(["lsp", "sh"], b"");
    assert!(done.code >= 128, "{done:?}");
}

#[test]
fn pyright_finds_an_error_where_the_file_is_on_the_host() {
    let _alone = Silo::hold_store();
    let silo = Silo::shared(As::Me);
    fs::write(silo.project().join("silo.toml"), "").expect("our own");
    fs::write(silo.project().join("x.py"), "import json\nnumber: int = json.dumps(1)\n").expect("our own");
    // The lock that ships has the server.
    let built = silo.ok(["install", "--frozen", "--lsp", "python"]);
    let lines: Vec<&str> = built.lines().collect();
    assert!(lines.len() == 2 && lines[0].starts_with("python 3.13."), "{built}");
    assert!(lines[1].starts_with("the language server of python is built (image "), "{built}");
    assert_eq!(silo.ok(["lsp", "--build", "--frozen", "python"]).trim_end(), lines[1]);
    let rows: Value = serde_json::from_str(&silo.ok(["install", "--json", "--lsp", "python"])).expect("JSON");
    let image = rows[0]["languageServer"].as_str().expect("an image");
    assert!(lines[1].contains(&image[..12]), "{rows}");
    silo.offer_downloads();
    let mut editor = Editor::start(&silo, "python");
    let found = editor.opened(&silo.project(), "x.py", "python");
    assert!(found.iter().any(|one| one["message"].as_str().is_some_and(|text| text.contains("\"str\""))), "{found:?}");
    assert_eq!(found[0]["range"]["start"]["line"], 1, "{found:?}");
    assert_eq!(editor.end(), 0);
    // The server's root is the tool's with more over it: the same Python, the same packages.
    let builtin = silo_model::recipe::catalog::built_in("python").expect("a built-in recipe");
    let locks = silo_model::lock::parse(builtin.lock, Path::new("python.lock")).expect("a lock");
    let image = silo.installed("python").image;
    let version = |lock: &silo_model::lock::Lock| lock.packages[&silo_base::system::Arch::host()]["python3"].version.clone();
    assert_eq!(locks["python.lsp"].epoch, image.epoch);
    assert!(
        version(&locks["python.lsp"])
            .starts_with(&silo.ok(["python", "-c", "import platform; print(platform.python_version())"]).trim()[..4])
    );
}

#[test]
fn silo_ide_shows_writes_and_removes_settings() {
    let silo = Silo::shared(As::Me);
    let project = silo.project();
    fs::write(project.join("silo.toml"), "").expect("our own");
    let read = |file: &str| fs::read_to_string(project.join(file)).unwrap_or_default();
    let files = [
        ("vscode", ".vscode/settings.json"),
        ("zed", ".zed/settings.json"),
        ("neovim", ".nvim.lua"),
        ("helix", ".helix/languages.toml"),
        ("emacs", ".dir-locals.el"),
        ("jetbrains", ".idea/silo/python/template.json"),
    ];
    for (editor, file) in files {
        let shown = silo.ok(["ide", editor, "--tool", "python", "--dry-run"]);
        assert!(shown.contains(&format!("+++ {file}")) && shown.contains("python"), "{shown}");
        assert!(!project.join(file).exists());
        let _ = silo.ok(["ide", editor, "--tool", "python"]);
        assert_eq!(silo.ok(["ide", editor, "--tool", "python"]), "nothing to change\n");
        golden(&format!("editors/{editor}"), &read(file));
        // The editor obeys it, so no program in a sandbox changes it.
        let before = read(file);
        assert_ne!(silo.run(["sh", "-c", &format!("echo x >> {file}")]).code, 0, "{file}");
        assert_eq!(read(file), before);
        let _ = silo.ok(["ide", editor, "--undo"]);
        assert!(!project.join(file).exists(), "{}", read(file));
        let top = project.join(file.split('/').next().expect("a name"));
        assert!(!top.exists(), "{}", top.display());
    }
    // A directory that is a symlink may be one that a sandbox writes.
    std::os::unix::fs::symlink(".", project.join(".helix")).expect("our own");
    let done = silo.fails(["ide", "helix", "--tool", "python"]);
    assert!(done.err.contains(".helix is a symlink"), "{done:?}");
    fs::remove_file(project.join(".helix")).expect("our own");
    let done = silo.fails(["ide", "helix", "--tool", "sh"]);
    assert!(done.err.contains("sh has no language server"), "{done:?}");
}

#[test]
fn gopls_finds_an_error_where_the_file_is_on_the_host() {
    let silo = Silo::seeded();
    let _ = silo.ok(["install", "--quiet", "go"]);
    fs::write(silo.project().join("silo.toml"), "").expect("our own");
    fs::write(silo.project().join("go.mod"), "module example.com/x\n\ngo 1.24\n").expect("our own");
    let text = "package main\n\nimport \"fmt\"\n\nfunc main() {\n\tvar number int = fmt.Sprint(1)\n\tfmt.Println(number)\n}\n";
    fs::write(silo.project().join("main.go"), text).expect("our own");
    let built = silo.ok(["lsp", "--build", "go"]);
    silo.offer_downloads();
    let mut editor = Editor::start(&silo, "go");
    let found = editor.opened(&silo.project(), "main.go", "go");
    assert!(found.iter().any(|one| one["message"].as_str().is_some_and(|text| text.contains("string"))), "{found:?}");
    assert_eq!(found[0]["range"]["start"]["line"], 5, "{found:?}");
    assert_eq!(editor.end(), 0);
    // It is kept as long as the tool is, and goes with it.
    let image = built.split_once("(image ").and_then(|(_, rest)| rest.split(')').next()).expect("an image");
    let kept = |silo: &Silo| silo.ok(["gc", "--why", image]).contains("the language server of go");
    assert!(kept(&silo));
    let _ = silo.ok(["uninstall", "go"]);
    assert!(!kept(&silo));
}

/// The shipped pins apply: the step's downloads must match them, or the install fails.
#[test]
fn deno_answers_from_its_own_image() {
    let silo = Silo::new();
    silo.seed_downloads();
    let _ = silo.ok(["install", "--quiet", "--frozen", "deno"]);
    silo.offer_downloads();
    fs::write(silo.project().join("silo.toml"), "").expect("our own");
    fs::write(silo.project().join("deno.json"), "{}").expect("our own");
    fs::write(silo.project().join("x.ts"), "const number: number = \"text\";\nconsole.log(number);\n").expect("our own");
    let mut editor = Editor::start(&silo, "deno");
    let found = editor.opened(&silo.project(), "x.ts", "typescript");
    assert!(found.iter().any(|one| one["message"].as_str().is_some_and(|text| text.contains("'string'"))), "{found:?}");
    assert_eq!(editor.end(), 0);
    let built = silo.ok(["lsp", "--build", "deno"]);
    let list = silo.ok(["list"]);
    let image = list.split_once("image ").and_then(|(_, rest)| rest.split(' ').next()).expect("an image");
    assert!(built.contains(image), "{built} {list}");
}

#[test]
fn the_grants_of_a_server_are_those_of_its_tool() {
    let silo = Silo::shared(As::Me);
    let listen = || TcpListener::bind("127.0.0.1:0").expect("a port");
    let (granted, other) = (listen(), listen());
    let port = |listener: &TcpListener| listener.local_addr().expect("an address").port();
    let script = format!(
        "import socket\ndef reach(port):\n  try: socket.create_connection(('localhost', port), 5)\n  except OSError: return 'refused'\n  \
         return 'reached'\nprint(reach({}), reach({}))\n",
        port(&granted),
        port(&other)
    );
    fs::write(silo.project().join("server.py"), script).expect("our own");
    let text = format!(
        "[overrides.python.network]\nallow = [\"localhost:{}\"]\n[overrides.python.lsp]\ncommand = [\"python3\", \"server.py\"]\nsteps = []\n",
        port(&granted)
    );
    fs::write(silo.project().join("silo.toml"), text).expect("our own");
    let _ = silo.ok(["trust", "--yes"]);
    let done = silo.fed(["lsp", "python"], b"");
    assert_eq!((done.code, done.out.as_str()), (0, "reached refused\n"), "{}", done.err);
}

#[test]
fn a_server_goes_with_the_tool_that_the_project_has() {
    let _alone = Silo::hold_store();
    let silo = Silo::shared(As::Me);
    let settings = |tool: &str| {
        let server = "[overrides.python.lsp]\ncommand = [\"sh\", \"-c\", \"cat /opt/over; command -v jq || echo none\"]\nsteps = [\"echo over > /opt/over\"]\n";
        fs::write(silo.project().join("silo.toml"), format!("tools = [\"python\"]\n{tool}{server}")).expect("our own");
        let _ = silo.ok(["trust", "--yes"]);
        let _ = silo.ok(["sync", "--quiet"]);
    };
    settings("");
    let done = silo.fed(["lsp", "python"], b"");
    assert_eq!((done.code, done.out.as_str()), (0, "over\nnone\n"), "{}", done.err);
    let path = silo.project().join("silo.lock");
    let locks = |path: &Path| silo_model::lock::parse(&fs::read_to_string(path).expect("a lock"), path).expect("a lock");
    let both = locks(&path);
    assert_eq!(both.keys().collect::<Vec<_>>(), ["python", "python.lsp"]);
    // It has the tool's packages and the additional packages of the recipe's server.
    let stands_on = |both: &BTreeMap<String, silo_model::lock::Lock>| {
        let (tool, server) = (&both["python"], &both["python.lsp"]);
        assert_eq!(tool.epoch, server.epoch);
        for (architecture, packages) in &tool.packages {
            for (name, package) in packages {
                let there = server.packages[architecture].get(name).map(|package| &package.sha256);
                assert_eq!(there, Some(&package.sha256), "{name}");
            }
        }
    };
    stands_on(&both);
    // A change of the tool also changes the server's image.
    settings("[overrides.python]\npackages = [\"jq\"]\n");
    let done = silo.fed(["lsp", "python"], b"");
    assert_eq!((done.code, done.out.as_str()), (0, "over\n/usr/bin/jq\n"), "{}", done.err);
    stands_on(&locks(&path));
    // The server does not appear as a tool of the project, and it is removed with the tool.
    assert!(!silo.ok(["current"]).contains("python.lsp"));
    let _ = silo.ok(["unuse", "python"]);
    assert!(!fs::read_to_string(&path).unwrap_or_default().contains("python"));
}
