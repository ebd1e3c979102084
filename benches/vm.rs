//! A virtual machine's cold start, beside QEMU by itself with the same kernel and a first process that does nothing.
//!
//! The neighbour is the same QEMU with the same processors, memory and disk, started by its own loader: no sandbox around it, no
//! modules, no program. So the ratio is everything that Silo adds: both sandboxes, the modules, mounts, the port, `sh`.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use silo_build::image::boot;

use crate::support::{As, Silo};
use crate::table::{Promise, Table, timed};

/// The most time of a VM's cold start, as a multiple of plain QEMU's.
const TIMES_BARE: f64 = 1.25;
/// Most that a run from a snapshot may take until the machine is ready, and until its program has ended.
const READY: Duration = Duration::from_millis(150);
const RESTORED: Duration = Duration::from_secs(1);
/// The timeout for a snapshot.
const PATIENCE: Duration = Duration::from_secs(120);
/// VMs started in parallel.
const AT_ONCE: u32 = 10;

/// The arguments of the golden command line of Silo's VMs, without ports and shares.
const WORDS: &str = "-nodefaults -no-user-config -display none -no-reboot -accel tcg,thread=multi -cpu max,-cx16 \
    -machine q35,graphics=off,vmport=off,smbus=off,sata=off,hpet=off,usb=off -m 2048M -smp 2 \
    -drive id=disk,format=raw,if=none,readonly=on,file.locking=off,file=DISK -device virtio-blk-pci,drive=disk -device virtio-rng-pci \
    -device virtio-serial-pci -kernel KERNEL -initrd INITIAL -append COMMAND_LINE";
const COMMAND_LINE: &str = "quiet loglevel=1 panic=-1 no_timer_check tsc=reliable random.trust_cpu=on";

pub fn run(rounds: usize) -> bool {
    let silo = Silo::shared(As::Me);
    silo.ok(["install", "--quiet", "vm"]);
    let words = ["run", "--cold", "--no-project", "--tier", "vm", "sh", "-c", "true"];
    // The first one makes the disk.
    let _ = timed(&mut silo.command(words));
    let mut table = Table::new("cold start of `sh -c true` in a virtual machine");
    let bare = if cfg!(target_arch = "x86_64") {
        table.row("bare QEMU, same kernel, a process that powers off")
    } else {
        table.absent("bare QEMU", "its first process is written for x86-64");
        return true;
    };
    let ours = table.row("silo run --tier vm, whole process");
    let place = tempfile::tempdir().expect("a directory");
    let initial = place.path().join("initial");
    fs::write(&initial, archive(&first_process())).expect("written");
    let root = silo.installed("vm").root;
    let kernel = root.with_file_name(boot::KERNEL);
    let disk = silo.installed("sh").root.with_file_name(boot::DISK);
    for _ in 0..rounds {
        table.add(bare, timed(&mut qemu(&root, [&kernel, &initial, &disk])));
        table.add(ours, timed(&mut silo.command(words)));
    }
    let kept = table.print(bare, &[Promise::AtMost { row: ours, times: TIMES_BARE, of: bare }]);
    let kept = restored(&silo, rounds) && kept;
    together(&silo, words);
    bytes(&silo, rounds.min(3));
    kept
}

/// Runs that go on from a snapshot: until the machine is ready, and whole.
fn restored(silo: &Silo, rounds: usize) -> bool {
    let words = ["run", "--no-project", "--tier", "vm", "--timing", "python", "-c", "pass"];
    // It is taken in the background, after a run that had none.
    let _ = timed(&mut silo.command(words));
    let place = silo.installed("python").root.with_file_name("snapshots");
    let is_there = || fs::read_dir(&place).into_iter().flatten().flatten().any(|entry| entry.file_name().len() == 64);
    let began = Instant::now();
    while !is_there() && began.elapsed() < PATIENCE {
        thread::sleep(Duration::from_millis(100));
    }
    let mut table = Table::new("a run that goes on from a snapshot");
    let (whole, ready) = (table.row("`python -c pass`, whole process"), table.row("until the machine is ready"));
    for _ in 0..rounds.max(5) {
        let began = Instant::now();
        let done = silo.run(words);
        table.add(whole, began.elapsed());
        table.add(ready, ready_after(&done.err).expect("silo says when"));
    }
    table.print(whole, &[Promise::Within { row: ready, limit: READY }, Promise::Within { row: whole, limit: RESTORED }])
}

/// Sums the phases of the timing output until the VM was ready.
fn ready_after(said: &str) -> Option<Duration> {
    let mut millis = 0.0;
    for line in said.lines().filter_map(|line| line.strip_prefix("[silo] ")) {
        let (phase, rest) = line.split_once(": ")?;
        millis += rest.strip_suffix(" ms")?.parse::<f64>().ok()?;
        if phase == "machine ready" {
            return Some(Duration::from_secs_f64(millis / 1000.0));
        }
    }
    None
}

/// Runs inside; prints each time in nanoseconds on standard error.
const PROGRAM: &str = "
import os, sys, time
piece = b'x' * (1 << 20)
def timed(work):
    began = time.perf_counter_ns(); work(); print(time.perf_counter_ns() - began, file=sys.stderr)
def put(path):
    with open(path, 'wb', 0) as file:
        for _ in range(64): file.write(piece)
def get(path, left=64 << 20):
    with open(path, 'rb', 0) as file:
        while left > 0 and (got := file.read(1 << 20)): left -= len(got)
def disk():
    left = 64 << 20
    for at, _, names in os.walk('/usr/lib'):
        for name in names:
            path = os.path.join(at, name)
            if left > 0 and os.path.isfile(path) and not os.path.islink(path): get(path); left -= os.path.getsize(path)
def many():
    for number in range(200): open(f'many{number}', 'w').close(); os.unlink(f'many{number}')
def take():
    while os.read(0, 1 << 20): pass
def give():
    left = 64 << 20
    while left: left -= os.write(1, piece[:left])
timed(take); timed(give)
timed(lambda: put('large')); timed(lambda: get('large')); timed(disk); timed(many)
";

/// 64 MiB through the port, to and from the project, and from the disk; and small files of the project.
fn bytes(silo: &Silo, rounds: usize) {
    let mut table = Table::new("64 MiB inside a machine");
    let names = ["from standard input", "to standard output", "to a file of the project", "from it", "from the image's files"];
    let rows = names.into_iter().chain(["200 files of the project made and removed"]).map(|name| table.row(name)).collect::<Vec<_>>();
    let input = vec![b'x'; 64 << 20];
    for _ in 0..rounds {
        let done = silo.fed(["run", "--cold", "--tier", "vm", "python", "-c", PROGRAM], &input);
        assert!(done.code == 0 && done.out.len() == 64 << 20, "{}", done.err);
        let times: Vec<u64> = done.err.lines().filter_map(|line| line.parse().ok()).collect();
        assert_eq!(times.len(), rows.len(), "{}", done.err);
        rows.iter().zip(times).for_each(|(row, time)| table.add(*row, Duration::from_nanos(time)));
    }
    table.print(rows[0], &[]);
}

/// Ten in parallel: each must exit with its program's code.
fn together(silo: &Silo, words: [&str; 8]) {
    let mut table = Table::new("ten machines at once");
    let (one, ten) = (table.row("one"), table.row("ten, until the last has ended"));
    table.add(one, timed(&mut silo.command(words)));
    let began = Instant::now();
    let start = |number: u32| {
        let mut command = silo.command(["run", "--cold", "--no-project", "--tier", "vm", "sh", "-c", &format!("exit {number}")]);
        (number, command.stdin(Stdio::null()).spawn().expect("silo starts"))
    };
    let machines: Vec<_> = (0..AT_ONCE).map(start).collect();
    for (number, mut machine) in machines {
        let status = machine.wait().expect("it ends");
        assert_eq!(status.code().and_then(|code| u32::try_from(code).ok()), Some(number));
    }
    table.add(ten, began.elapsed());
    table.print(one, &[]);
}

fn qemu(root: &Path, [kernel, initial, disk]: [&Path; 3]) -> Command {
    let libraries = root.join("usr/lib/x86_64-linux-gnu");
    let mut command = Command::new(libraries.join("ld-linux-x86-64.so.2"));
    command.arg("--library-path").arg(&libraries).arg(root.join("usr/bin/qemu-system-x86_64"));
    for firmware in ["usr/share/qemu", "usr/share/seabios"] {
        command.arg("-L").arg(root.join(firmware));
    }
    for word in WORDS.split_whitespace() {
        let path = |path: &Path| path.display().to_string();
        let word = word.replace("DISK", &path(disk)).replace("KERNEL", &path(kernel)).replace("INITIAL", &path(initial));
        command.arg(word.replace("COMMAND_LINE", COMMAND_LINE));
    }
    command.env_clear().env("QEMU_MODULE_DIR", libraries.join("qemu"));
    command
}

/// A program that turns the machine off: `reboot(POWER_OFF)` and nothing else.
fn first_process() -> Vec<u8> {
    const CODE: &[u8] = b"\xb8\xa9\0\0\0\xbf\xad\xde\xe1\xfe\xbe\x69\x19\x12\x28\xba\xdc\xfe\x21\x43\x0f\x05\xeb\xfe";
    /// The load address: two headers, then the code.
    const AT: u64 = 0x40_0000;
    const HEADS: u64 = 64 + 56;
    let mut program = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\x3e\0\x01\0\0\0".to_vec();
    for number in [AT + HEADS, 64, 0] {
        program.extend(number.to_le_bytes());
    }
    program.extend(b"\0\0\0\0\x40\0\x38\0\x01\0\0\0\0\0\0\0\x01\0\0\0\x05\0\0\0");
    let size = HEADS + CODE.len() as u64;
    for number in [0, AT, AT, size, size, 0x1000] {
        program.extend(number.to_le_bytes());
    }
    [&program, CODE].concat()
}

/// An archive with this one program, in the kernel's form.
fn archive(program: &[u8]) -> Vec<u8> {
    let mut archive = Vec::new();
    for (name, mode, bytes) in [("init", 0o100_755, program), ("TRAILER!!!", 0, &[][..])] {
        let fields = [1, mode, 0, 0, 1, 0, bytes.len(), 0, 0, 0, 0, name.len() + 1, 0];
        archive.extend(b"070701");
        fields.iter().for_each(|field| archive.extend(format!("{field:08x}").bytes()));
        archive.extend(name.bytes());
        archive.push(0);
        archive.resize(archive.len().next_multiple_of(4), 0);
        archive.extend(bytes);
        archive.resize(archive.len().next_multiple_of(4), 0);
    }
    archive.resize(archive.len().next_multiple_of(4096), 0);
    archive
}
