//! Steps with a seed: random numbers, addresses and the number of processors do not depend on chance or on the machine.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use silo_launch::spec::{Identity, Seed, Upper};

use crate::support::sandbox::{Bench, bench, text};

/// Prints everything by which a program may notice chance.
const PROGRAM: &str = r#"
import ctypes, os, subprocess, sys, threading, uuid
libc = ctypes.CDLL(None)
libc.getauxval.restype = ctypes.c_ulong
print(os.urandom(8).hex(), os.getrandom(300).hex()[:16], os.urandom(100000).hex()[-16:])
with open("/dev/urandom", "rb", buffering=0) as device: print(device.read(5).hex(), device.read(3000).hex()[-8:])
with open("/dev/random", "rb", buffering=0) as device: print(device.read(5).hex())
print(ctypes.string_at(libc.getauxval(25), 16).hex(), hash("text"), uuid.uuid4())
print(open("/proc/sys/kernel/random/boot_id").read(), open("/proc/sys/kernel/random/uuid").read())
print(os.cpu_count(), os.sched_getaffinity(0), open("/proc/cpuinfo").read().count("processor"))
print([line.split()[0] for line in open("/proc/self/maps")][:3], hex(id(object())))
def other(): found.append(os.urandom(4).hex())
found = []
thread = threading.Thread(target=other); thread.start(); thread.join(); print(found)
if len(sys.argv) == 1:
    subprocess.run([sys.executable, "-", "again"], input=open("/tmp/program").read(), text=True, check=True)
    print(subprocess.run(["sh", "-c", "mktemp -u; nproc; dd if=/dev/urandom bs=3000 count=1 2> /dev/null | wc -c"], capture_output=True, text=True).stdout)
"#;

fn run(bench: &Bench, name: &str, seed: Seed) -> String {
    let (upper, work) = (bench.path(&format!("{name}-upper")), bench.path(&format!("{name}-work")));
    for dir in [&upper, &work] {
        fs::create_dir(dir).expect("made");
        fs::set_permissions(dir, fs::Permissions::from_mode(0o755)).expect("our own");
    }
    let script = format!("cat > /tmp/program <<'END'\n{PROGRAM}\nEND\nexec python3 /tmp/program");
    let mut spec = bench.sh(&script);
    spec.mounts.clear();
    spec.cwd = "/".into();
    spec.identity = Identity::Root;
    spec.root.upper = Upper::Kept { upper, work };
    spec.seed = Some(seed);
    text(&bench.run(&spec, b""))
}

#[test]
fn chance_follows_from_the_seed() {
    let bench = bench();
    let first = run(&bench, "first", Seed([1; 32]));
    assert_eq!(first, run(&bench, "again", Seed([1; 32])));
    let other = run(&bench, "other", Seed([2; 32]));
    let differing = first.lines().zip(other.lines()).filter(|(one, other)| one != other).count();
    assert!(differing >= 14, "{first}\n{other}");
    assert!(first.contains("1 {0} 1"), "{first}");
    assert!(first.ends_with("\n1\n3000\n\n"), "{first}");
    // Each thread and each program has random numbers of its own.
    let numbers: Vec<&str> = first.split(|byte: char| !byte.is_ascii_hexdigit()).filter(|word| word.len() == 16).collect();
    let mut distinct = numbers.clone();
    distinct.sort_unstable();
    distinct.dedup();
    assert_eq!(distinct.len(), numbers.len(), "{first}");
}
