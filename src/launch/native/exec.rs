//! Executes the program: finds it in the image's `PATH` and passes exactly its arguments.

use std::convert::Infallible;
use std::ffi::{CString, OsStr};
use std::os::unix::ffi::OsStrExt;

use crate::failure::{Cause, Failure};
use crate::kernel::sys::{self, Strings};
use crate::spec::Spec;
use silo_wire::frame::StageFailure;

/// Search path if the environment has no `PATH`; the same as glibc's.
const DEFAULT_PATH: &[u8] = b"/bin:/usr/bin";

/// The arguments of `execve`, prepared before the sandbox starts.
pub struct Program {
    candidates: Vec<CString>,
    argv: Strings,
    env: Strings,
    arguments: Vec<CString>,
}

/// Prepares a program; `None` if a string has a NUL byte.
pub fn prepare(spec: &Spec) -> Option<Program> {
    let c = |text: &OsStr| CString::new(text.as_bytes()).ok();
    let arguments: Vec<CString> = spec.argv.iter().map(|text| c(text)).collect::<Option<_>>()?;
    let env = spec.env.iter().map(|(name, value)| CString::new([name.as_bytes(), b"=", value.as_bytes()].concat()).ok());
    let path = spec.env.get(OsStr::new("PATH")).map_or(DEFAULT_PATH, |path| path.as_bytes());
    let candidates = candidates(spec.argv.first()?.as_bytes(), path);
    Some(Program {
        candidates: candidates.into_iter().map(CString::new).collect::<Result<_, _>>().ok()?,
        argv: Strings::new(arguments.clone()),
        env: Strings::new(env.collect::<Option<_>>()?),
        arguments,
    })
}

/// Returns the files to try, in order. An empty name matches nothing. An empty part of `PATH` is skipped: it means the working directory,
/// which is an untrusted project.
fn candidates(name: &[u8], path: &[u8]) -> Vec<Vec<u8>> {
    if name.is_empty() {
        return Vec::new();
    }
    if name.contains(&b'/') {
        return vec![name.to_vec()];
    }
    path.split(|byte| *byte == b':').filter(|dir| !dir.is_empty()).map(|dir| [dir, b"/", name].concat()).collect()
}

/// Executes the program; returns only on failure.
pub fn exec(program: &Program) -> Result<Infallible, Failure> {
    let name = || program.arguments[0].to_string_lossy().into_owned();
    let mut refused = None;
    for candidate in &program.candidates {
        let error = sys::exec(candidate, &program.argv, &program.env);
        match error.raw_os_error() {
            None => return Err(Failure { stage: StageFailure::Execute, step: name(), cause: Cause::Words(error.to_string()) }),
            Some(libc::ENOENT) if exists(candidate) => {
                // The file exists, so its interpreter is missing.
                refused = Some(libc::ENOENT);
                break;
            }
            Some(libc::ENOENT | libc::ENOTDIR) => {}
            // Like execvp, continues the search and keeps the error.
            Some(libc::EACCES) => refused = Some(libc::EACCES),
            Some(libc::ENOEXEC) => return script(program, candidate),
            Some(errno) => return Err(Failure { stage: StageFailure::Execute, step: name(), cause: Cause::Number(errno) }),
        }
    }
    Err(match refused {
        Some(errno) => Failure { stage: StageFailure::Execute, step: name(), cause: Cause::Number(errno) },
        None => Failure { stage: StageFailure::Find, step: name(), cause: Cause::Number(libc::ENOENT) },
    })
}

fn exists(path: &CString) -> bool {
    rustix::fs::access(path.as_c_str(), rustix::fs::Access::EXISTS).is_ok()
}

/// Runs a text file without `#!` by the shell, as `execvp` and every shell do.
fn script(program: &Program, file: &CString) -> Result<Infallible, Failure> {
    let argv = [c"/bin/sh".to_owned(), file.clone()].into_iter().chain(program.arguments.iter().skip(1).cloned()).collect();
    let error = sys::exec(c"/bin/sh", &Strings::new(argv), &program.env);
    Err(Failure {
        stage: StageFailure::Execute,
        step: program.arguments[0].to_string_lossy().into_owned(),
        cause: match error.raw_os_error() {
            Some(libc::ENOENT) => Cause::Number(libc::ENOEXEC),
            Some(errno) => Cause::Number(errno),
            None => Cause::Words(error.to_string()),
        },
    })
}

#[cfg(test)]
mod tests {
    #[test]
    fn looks_where_a_shell_would() {
        for (name, path, expect) in [
            ("sh", "/usr/bin:/bin", vec!["/usr/bin/sh", "/bin/sh"]),
            ("./sh", "/usr/bin", vec!["./sh"]),
            ("/x/sh", "/usr/bin", vec!["/x/sh"]),
            ("sh", ":/bin:", vec!["/bin/sh"]),
            ("", "/bin", vec![]),
            ("sh", "", vec![]),
        ] {
            let expect: Vec<Vec<u8>> = expect.into_iter().map(Vec::from).collect();
            assert_eq!(super::candidates(name.as_bytes(), path.as_bytes()), expect, "{name} {path}");
        }
    }
}
