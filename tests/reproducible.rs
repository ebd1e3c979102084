//! Reproducibility: the bytes of an image do not depend on the user, place, time and settings of its build.

use crate::support::{As, NOBODY, Silo, done, is_root, skip};

fn images(silo: &Silo) -> String {
    let list: serde_json::Value = serde_json::from_str(&silo.ok(["list", "--json"])).expect("list --json prints JSON");
    let both = list.as_array().into_iter().flatten().filter(|row| row["tool"] == "python" || row["tool"] == "sh");
    both.filter(|row| row["project"].is_null()).map(|row| format!("{} {} {}\n", row["tool"], row["version"], row["image"])).collect()
}

#[test]
fn users_homes_locales_and_time_zones_do_not_matter() {
    if !is_root() {
        return skip("only root can be two users");
    }
    let (mine, nobodys) = (Silo::shared(As::Me), Silo::shared(As::Nobody));
    assert!(images(&mine).contains("python"), "{}", images(&mine));
    assert_eq!(images(&mine), images(&nobodys), "root and user {NOBODY} built other images");
}

#[test]
fn umasks_and_cold_caches_do_not_matter() {
    let silo = Silo::new();
    silo.seed_locks();
    // No download is seeded: everything is fetched.
    let script = "umask 077; exec \"$0\" install --quiet --json sh";
    let program = silo.command([""; 0]).get_program().to_owned();
    let mut command = std::process::Command::new("sh");
    command.args(["-c", script]).arg(program).env("HOME", silo.home()).current_dir(silo.project());
    let cold = done(&mut command);
    assert_eq!(cold.code, 0, "{cold:?}");
    let id = |text: &str| {
        let json: serde_json::Value = serde_json::from_str(text).expect("install --json prints JSON");
        json[0]["image"].as_str().expect("an image").to_owned()
    };
    let warm = Silo::shared(As::Me).ok(["install", "--json", "sh"]);
    assert_eq!(id(&cold.out), id(&warm));
}

#[test]
fn everything_that_is_stored_verifies() {
    let done = Silo::shared(As::Me).run(["verify"]);
    assert_eq!(done.code, 0, "{done:?}");
    assert!(done.out.contains(" 0 faults"), "{done:?}");
}
