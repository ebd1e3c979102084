//! Credential helpers, as docker and podman have them: a program that is told a registry and prints its login.
//!
//! `docker-credential-NAME get` reads the registry's name and prints a JSON object with `Username` and `Secret`
//! (docker's `cli/cli/config/credentials`, docker-credential-helpers). It is a program of the user's own, named in the
//! user's own file; it may ask for a password or a key, so it gets time.

use std::io::{self, Read, Write};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

/// Longest that a helper may take.
const PATIENCE: Duration = Duration::from_secs(120);
/// Between two looks whether it has ended.
const LOOK: Duration = Duration::from_millis(10);
/// Most bytes of its answer.
const MAX_ANSWER_BYTES: u64 = 64 << 10;
/// The name by which a helper hands out a token for a service of its own, which is no name and password.
const TOKEN: &str = "<token>";

/// Returns the helper that a configuration names for a registry.
pub fn helper<'a>(config: &'a Value, host: &str) -> Option<&'a str> {
    let name = config["credHelpers"][host].as_str().or_else(|| config["credsStore"].as_str())?;
    // It becomes part of a program's name.
    let plain = !name.is_empty() && name.chars().all(|letter| letter.is_ascii_alphanumeric() || "-_.".contains(letter));
    plain.then_some(name)
}

/// Asks a helper for the login of a registry, encoded as it is shown; one that has none says so by its exit code.
pub fn ask(name: &str, host: &str, cancel: &AtomicBool) -> Option<String> {
    let answer = run(Command::new(format!("docker-credential-{name}")).arg("get"), host, cancel).ok().flatten()?;
    let answer: Value = serde_json::from_slice(&answer).ok()?;
    let (user, secret) = (answer["Username"].as_str()?, answer["Secret"].as_str()?);
    (!user.is_empty() && user != TOKEN).then(|| STANDARD.encode(format!("{user}:{secret}")))
}

fn run(command: &mut Command, input: &str, cancel: &AtomicBool) -> io::Result<Option<Vec<u8>>> {
    // What it says to the user is the user's to see.
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    if let Some(mut to) = child.stdin.take() {
        // One that does not read what it is asked for fails by itself.
        drop(to.write_all(input.as_bytes()));
    }
    let (told, heard) = mpsc::channel();
    let from = child.stdout.take();
    // Not waited for: a helper that is ended may have started others, which have its output still.
    let reading = silo_base::thread::apart(move || {
        let mut answer = Vec::new();
        let read = from.map(|from| from.take(MAX_ANSWER_BYTES).read_to_end(&mut answer));
        // Nobody may be listening any more.
        let _ = told.send(read.and_then(Result::ok).map(|_| answer));
    });
    if let Err(refused) = reading {
        child.kill()?;
        child.wait()?;
        return Err(io::Error::other(refused));
    }
    let until = Instant::now() + PATIENCE;
    loop {
        if let Some(status) = child.try_wait()? {
            let left = until.saturating_duration_since(Instant::now());
            return Ok(heard.recv_timeout(left).ok().flatten().filter(|_| status.success()));
        }
        if cancel.load(Ordering::Relaxed) || Instant::now() > until {
            child.kill()?;
            child.wait()?;
            return Ok(None);
        }
        thread::sleep(LOOK);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn helpers_are_named_for_a_registry_or_for_all() {
        let config = json!({ "credHelpers": { "a.example.com": "one" }, "credsStore": "all" });
        assert_eq!((helper(&config, "a.example.com"), helper(&config, "b.example.com")), (Some("one"), Some("all")));
        assert_eq!(helper(&json!({}), "a.example.com"), None);
        for name in ["", "../x", "a b", "a/b"] {
            assert_eq!(helper(&json!({ "credsStore": name }), "a.example.com"), None, "{name}");
        }
    }

    #[test]
    fn answers_are_bounded_and_failures_are_no_answer() {
        let cancel = AtomicBool::new(false);
        let shell = |script: &str| run(Command::new("sh").args(["-c", script]), "a.example.com", &cancel).expect("sh starts");
        assert_eq!(shell("cat").as_deref(), Some(&b"a.example.com"[..]));
        assert_eq!(shell("cat; exit 1"), None);
        assert_eq!(shell("head -c 1000000 /dev/zero || true").map(|answer| answer.len()), Some(64 << 10));
        assert_eq!(run(Command::new("sh").args(["-c", "sleep 100"]), "", &AtomicBool::new(true)).expect("sh starts"), None);
    }
}
