//! Links the program at a fixed address.
//!
//! A program that can be loaded anywhere has its 34,000 pointers filled in by the loader, at each start: 170 copied pages, and a fifth of the
//! instructions of `silo --version`. Here the linker does it once. The addresses of the stack, the heap and the libraries stay random.

#[expect(clippy::disallowed_methods, reason = "cargo describes the target of a build script in variables")]
fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let is = |name: &str, value: &str| std::env::var(name).is_ok_and(|is| is == value);
    if is("CARGO_CFG_TARGET_OS", "linux") && is("CARGO_CFG_TARGET_ENV", "gnu") {
        println!("cargo::rustc-link-arg-bins=-no-pie");
    }
}
