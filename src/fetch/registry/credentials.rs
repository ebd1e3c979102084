//! Credential helpers of docker and podman: programs that print the login for a registry.
//!
//! `docker-credential-NAME get` reads the registry's name and prints a JSON object with `Username` and `Secret` (docker's
//! `cli/cli/config/credentials`, docker-credential-helpers). The user's own configuration names the helper. It may ask for a password or a
//! hardware key, so its timeout is long.

use std::io::{self, Read, Write};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

/// The timeout of a helper.
const PATIENCE: Duration = Duration::from_secs(120);
/// The interval at which its exit is checked.
const LOOK: Duration = Duration::from_millis(10);
/// The most bytes of its answer.
const MAX_ANSWER_BYTES: u64 = 64 << 10;
/// The user name that marks an identity token instead of a password.
const TOKEN: &str = "<token>";

/// Returns the helper that a configuration names for a registry.
pub fn helper<'a>(config: &'a Value, host: &str) -> Option<&'a str> {
    let name = config["credHelpers"][host].as_str().or_else(|| config["credsStore"].as_str())?;
    // It becomes part of a program's name.
    let plain = !name.is_empty() && name.chars().all(|letter| letter.is_ascii_alphanumeric() || "-_.".contains(letter));
    plain.then_some(name)
}

/// Runs a helper for the login of a registry, encoded for `Authorization`; `None` if it has none, which its exit code reports.
pub fn ask(name: &str, host: &str, cancel: &AtomicBool) -> Option<String> {
    let answer = run(Command::new(format!("docker-credential-{name}")).arg("get"), host, cancel).ok().flatten()?;
    let answer: Value = serde_json::from_slice(&answer).ok()?;
    let (user, secret) = (answer["Username"].as_str()?, answer["Secret"].as_str()?);
    (!user.is_empty() && user != TOKEN).then(|| STANDARD.encode(format!("{user}:{secret}")))
}

fn run(command: &mut Command, input: &str, cancel: &AtomicBool) -> io::Result<Option<Vec<u8>>> {
    // Its messages on stderr are for the user.
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    if let Some(mut to) = child.stdin.take() {
        // A helper that does not read its input fails by itself.
        drop(to.write_all(input.as_bytes()));
    }
    let (told, heard) = mpsc::channel();
    let from = child.stdout.take();
    // Not joined: a killed helper may leave children that still hold its output pipe.
    let reading = silo_base::thread::apart(move || {
        let mut answer = Vec::new();
        let read = from.map(|from| from.take(MAX_ANSWER_BYTES).read_to_end(&mut answer));
        // The receiver may be gone.
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
