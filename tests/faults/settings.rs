//! Mistakes in the user's files: the error names file, line, column and the probable correction.

use std::fs;
use std::os::unix::fs::symlink;
use std::process::Command;

use crate::support::Silo;

/// Asserts that `args` fails and says all of `expect`.
fn check(silo: &Silo, args: &[&str], expect: &[&str]) {
    let done = silo.fails(args);
    assert!((1..=2).contains(&done.code) || done.code == 125, "{done:?}");
    for text in expect {
        assert!(done.err.contains(text), "{text}: {done:?}");
    }
    assert!(!done.err.contains("panicked"), "{done:?}");
}

#[test]
fn errors_in_silo_toml_name_their_place() {
    for (text, expect) in [
        ("mirors = {}\n", ["silo.toml:1:1: unknown field `mirors`", "did you mean \"mirrors\"?"]),
        ("\n[mirrors]\ndebain = []\n", ["silo.toml:3:1: unknown field `debain`", "did you mean \"debian\"?"]),
        ("[mirrors]\ndebian = \"/a\"\n", ["silo.toml:2:10: invalid type", "   2 | debian = \"/a\""]),
        ("[mirrors]\ndebian = [\"ftp://example.com\"]\n", ["silo.toml: mirrors: \"ftp://example.com\"", "nor an absolute path"]),
        ("[overrides.python]\nmemoryMb = 1\n", ["silo.toml:2:1: unknown field `memoryMb`", "did you mean \"memoryMB\"?"]),
        ("[overrides.python]\nmemoryMB = 0\n", ["silo.toml: overrides.python", "must not be zero"]),
        ("passEnv = [\n", ["silo.toml:", "passEnv = ["]),
        ("\u{0}\u{fffd}\n", ["silo.toml:1:", ""]),
    ] {
        let silo = Silo::new();
        silo.write(".silo/silo.toml", text);
        check(&silo, &["install", "sh"], &expect);
        check(&silo, &["run", "sh"], &expect);
    }
}

#[test]
fn errors_in_recipes_and_locks_name_their_place() {
    let silo = Silo::new();
    for (text, expect) in [
        ("[debian]\npackages = [\"hello\", 7]\n", ["mine.toml:2:22: invalid type: integer `7`", "2 | packages"]),
        ("comand = [\"x\"]\n", ["mine.toml:1:1: unknown field `comand`", "did you mean \"command\"?"]),
        ("[debian]\npackages = [\"Hello World\"]\n", ["mine.toml: debian.packages: \"Hello World\" is not a package name", "name=version"]),
        ("[debian]\nsuite = \"../../etc\"\n", ["mine.toml: debian.suite: \"../../etc\" is not a plain word", ""]),
        ("[env]\n\"A=B\" = \"1\"\n", ["mine.toml: env: \"A=B\" is not a variable name", ""]),
    ] {
        silo.write(".silo/recipes/mine.toml", text);
        check(&silo, &["install", "mine"], &expect);
        check(&silo, &["lock", "mine"], &expect);
    }
    silo.write(".silo/recipes/mine.toml", "[debian]\npackages = [\"dash\"]\n");
    check(
        &silo,
        &["install", "--frozen", "mine"],
        &["mine: the lock of the recipe is missing or out of date", "hint: run `silo lock mine`"],
    );
    let good = silo_model::recipe::catalog::built_in("sh").expect("a built-in recipe").lock;
    let version = format!("version = {}", silo_model::lock::VERSION);
    for (text, expect) in [
        (good.replacen(&version, "version = 99", 1), "mine.lock"),
        (good.replacen("sha256 = \"", "sha256 = \"zz", 1), "mine.lock:"),
        (good.replacen("path = \"pool/", "path = \"../../pool/", 1), "mine.lock"),
        (good.replacen("size = ", "size = -", 1), "mine.lock:"),
        (good[..good.len() / 2].to_owned(), "mine.lock:"),
    ] {
        assert_ne!(text, good);
        silo.write(".silo/recipes/mine.lock", &text);
        check(&silo, &["install", "mine"], &[expect]);
    }
}

/// A repository may contain symlinks, and an unpacked archive may contain pipes.
#[test]
fn a_project_file_that_never_ends_or_never_begins_is_refused() {
    let silo = Silo::new();
    for name in ["silo.toml", "silo.lock", ".siloconf"] {
        let path = silo.project().join(name);
        symlink("/dev/zero", &path).expect("our own");
        check(&silo, &["run", "sh"], &["cannot read", name, "it is not a regular file, nor a link to one"]);
        fs::remove_file(&path).expect("our own");
        assert!(Command::new("mkfifo").arg(&path).status().is_ok_and(|status| status.success()));
        check(&silo, &["run", "sh"], &["cannot read", name, "it is not a regular file, nor a link to one"]);
        fs::remove_file(&path).expect("our own");
    }
}
