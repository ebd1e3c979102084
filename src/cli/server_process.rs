//! Runs a language server in a process of its own, and changes the messages between it and the editor.
//!
//! A process that launches a sandbox has no other thread, and a relay has one for each direction.

use std::cell::LazyCell;
use std::ffi::OsString;
use std::io::{BufReader, Read};
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitCode, Stdio};
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use crate::run::server_messages::{self, ImageFiles};

use super::env;
use super::error::Failure;

/// The hidden option of the process that runs the server.
const DIRECT: &str = "--direct";

/// Time that a server has to end after the end of its input, and after a SIGTERM. Servers watch the editor's process to notice that it was
/// killed; inside a sandbox they cannot see it.
const END_WITHIN: Duration = Duration::from_secs(10);

/// Runs the same command line in a process of its own with `--direct`. `None` if the command line has another form than `silo lsp`.
/// `find` finds the files of the server's image; it is called once, while the server runs.
pub fn relayed(find: impl FnOnce() -> Option<ImageFiles>) -> Option<Result<ExitCode, Failure>> {
    let mut args: Vec<OsString> = std::env::args_os().skip(1).collect();
    let at = args.iter().position(|arg| arg == "lsp")?;
    args.insert(at + 1, DIRECT.into());
    Some(run(&args, find))
}

fn run(args: &[OsString], find: impl FnOnce() -> Option<ImageFiles>) -> Result<ExitCode, Failure> {
    let sources = env::silo_home()?.sources();
    let mut server =
        Command::new(env::program()?).args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().map_err(Failure::other)?;
    forward_signals(&server)?;
    let (Some(mut input), Some(output)) = (server.stdin.take(), server.stdout.take()) else {
        return Err(Failure::usage("the language server has no standard input or output", "report this"));
    };
    let pid = pid(&server);
    // It ends with this process: the editor may keep the input open after the server's end.
    in_thread("silo-editor", move || {
        let change = |body: &[u8]| server_messages::from_editor(&sources, body);
        // A closed pipe: the server has ended, which the other direction notices.
        let _ = server_messages::relay(&mut std::io::stdin().lock(), &mut input, change);
        drop(input);
        for signal in [Signal::TERM, Signal::KILL] {
            thread::sleep(END_WITHIN);
            // This process ends when the server does.
            let _ = pid.map(|pid| kill_process(pid, signal));
        }
    })?;
    let files = LazyCell::new(find);
    let change = |body: &[u8]| server_messages::from_server(|| files.as_ref(), body);
    // A closed pipe: the editor has ended, so its input has, too.
    let _ = server_messages::relay(&mut BufReader::new(output), &mut std::io::stdout().lock(), change);
    let status = server.wait().map_err(Failure::other)?;
    let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or_default());
    Ok(ExitCode::from(u8::try_from(code).unwrap_or(1)))
}

/// Forwards signals that end this process to the server's process, which then ends this one.
fn forward_signals(server: &Child) -> Result<(), Failure> {
    let (mut read, write) = UnixStream::pair().map_err(Failure::other)?;
    for signal in [SIGTERM, SIGINT, SIGHUP] {
        let write = write.try_clone().map_err(Failure::other)?;
        signal_hook::low_level::pipe::register(signal, write).map_err(Failure::other)?;
    }
    let pid = pid(server);
    in_thread("silo-signals", move || {
        let mut byte = [0];
        while let (Some(pid), Ok(())) = (pid, read.read_exact(&mut byte)) {
            // It may have ended.
            let _ = kill_process(pid, Signal::TERM);
        }
    })
}

fn pid(server: &Child) -> Option<Pid> {
    i32::try_from(server.id()).ok().and_then(Pid::from_raw)
}

fn in_thread(name: &str, work: impl FnOnce() + Send + 'static) -> Result<(), Failure> {
    thread::Builder::new().name(name.to_owned()).spawn(work).map(drop).map_err(Failure::other)
}
