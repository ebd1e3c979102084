//! Steps with a seed: random numbers, addresses and the number of processors do not depend on chance or on the machine.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};

use silo_launch::spec::{Access, Conditions, Identity, Limits, Mount, Seed, Spec, Upper};

use crate::support::sandbox::{Bench, bench, text};
use crate::support::skip;

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
    let script = format!("cat > /tmp/program <<'END'\n{PROGRAM}\nEND\nexec python3 /tmp/program");
    step(bench, name, &script, Some(seed), Conditions::default())
}

fn step(bench: &Bench, name: &str, script: &str, seed: Option<Seed>, conditions: Conditions) -> String {
    step_with(bench, name, script, |spec| (spec.seed, spec.conditions) = (seed, conditions))
}

/// Runs a build step with some of the spec's fields set by the caller.
fn step_with(bench: &Bench, name: &str, script: &str, set: impl FnOnce(&mut Spec)) -> String {
    let (upper, work) = (bench.path(&format!("{name}-upper")), bench.path(&format!("{name}-work")));
    for dir in [&upper, &work] {
        fs::create_dir(dir).expect("made");
        fs::set_permissions(dir, fs::Permissions::from_mode(0o755)).expect("our own");
    }
    let mut spec = bench.sh(script);
    spec.mounts.clear();
    spec.cwd = "/".into();
    spec.identity = Identity::Root;
    spec.root.upper = Upper::Kept { upper, work };
    spec.limits = Limits::default();
    set(&mut spec);
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

/// The C library has a generator of its own in the kernel's shared page, which takes a new key whenever the kernel's does.
#[test]
fn chance_follows_from_the_seed_while_the_kernel_takes_new_keys() {
    // RNDRESEEDCRNG, which only root of the machine may ask for.
    const RESEED: &str =
        "import fcntl, time\nwith open('/dev/urandom') as device:\n    while True: fcntl.ioctl(device, 0x5207); time.sleep(0.0005)";
    let mut reseeding = Command::new("python3").args(["-c", RESEED]).stderr(Stdio::null()).spawn().expect("python3 starts");
    std::thread::sleep(std::time::Duration::from_millis(300));
    if reseeding.try_wait().expect("our own child").is_some() {
        return skip("this user cannot make the kernel's generator take new keys");
    }
    let bench = bench();
    let script = "python3 -c 'import os; print([os.urandom(8).hex() for number in range(2000)])'";
    let runs = ["first", "again"].map(|name| step(&bench, name, script, Some(Seed([3; 32])), Conditions::default()));
    reseeding.kill().and_then(|()| reseeding.wait()).expect("our own child");
    assert!(runs[0] == runs[1] && runs[0].len() > 2000 * 16, "the numbers differ");
}

/// A file system lists a directory in an order of its own.
#[test]
fn directories_list_their_names_in_order() {
    let bench = bench();
    let script = r#"
mkdir -p /opt/many /usr/lib/python3/own; python3 - <<'END'
import os
for number in range(3000): open(f"/opt/many/{number * 7919 % 3000:04}", "w").close()
for path in ["/opt/many", "/usr/bin", "/usr/lib/python3", "/proc/self/fd"]:
    names = os.listdir(path)
    print(len(names) > 1, names == sorted(names))
END
find /opt/many -type f | tail -n 1"#;
    let said = step(&bench, "sorted", script, Some(Seed([1; 32])), Conditions::default());
    assert_eq!(said, "True True\n".repeat(4) + "/opt/many/2999\n");
}

/// The second run of a reproducibility check has other conditions, with and without a seed.
#[test]
fn conditions_that_a_check_varies() {
    let bench = bench();
    let script = r#"
umask; mkdir -p /opt/many; cd /opt/many; touch b a c; ls -U; ls -U /opt/many | wc -l; grep -c ^processor /proc/cpuinfo
sh -c 'echo pid $$'
python3 - <<'END'
import os, sys, threading, time
for number in range(3000): open(f"/opt/many/{number:04}", "w").close()
names = os.listdir("/opt/many")
print(len(names), len(set(names)), names == sorted(names, reverse=True))
# Positions in a directory, and files that are removed while it is read.
for entry in os.scandir("/opt/many"): os.unlink(entry.path)
print(os.listdir("/opt/many"), sorted(os.listdir("/proc/self/fd"))[:3])
lock = threading.Condition()
began = time.monotonic()
with lock: lock.wait(0.2)
print("waited", 0.1 < time.monotonic() - began < 60)
print(time.strftime("%Y", time.gmtime()), abs(time.time() - time.clock_gettime(time.CLOCK_REALTIME)) < 60)
END
date +%s
perl -e 'print time, "\n"'
rm -rf /opt/many; ls /opt
timeout 60 perl -e 'select undef, undef, undef, 0.1; print "slept\n"'
"#;
    let usual = step(&bench, "usual", script, None, Conditions::default());
    let seconds = |said: &str| -> Vec<i64> {
        let numbers = said.lines().filter(|line| line.len() == 10).filter_map(|line| line.parse().ok());
        numbers.collect()
    };
    assert_eq!(seconds(&usual).len(), 2, "{usual}");
    const AHEAD: u32 = 398 * 86_400;
    for (name, seed, processors) in [("seeded", Some(Seed([1; 32])), 2), ("real", None, 3)] {
        let conditions = Conditions {
            umask: Some(0o002),
            processors: Some(processors),
            last_pid: Some(20_000),
            clock_ahead: AHEAD,
            reversed_dirs: true,
        };
        let said = step(&bench, name, script, seed, conditions);
        assert!(said.starts_with(&format!("0002\nc\nb\na\n3\n{processors}\npid 20")), "{said}");
        assert!(said.contains("3003 3003 True\n[] ['0', '1', '2']\nwaited True\n"), "{said}");
        assert!(said.ends_with("slept\n"), "{said}");
        for (own, usual) in seconds(&said).iter().zip(seconds(&usual)) {
            assert!((own - usual - i64::from(AHEAD)).abs() < 3_600, "{said}\n{usual}");
        }
        assert_eq!(seconds(&said).len(), 2, "{said}");
    }
    assert!(usual.starts_with("0022\n") && usual.contains("pid ") && !usual.contains("pid 20"), "{usual}");
}

/// The time at which the clock of the following steps stands still: 2023-11-14 22:13:20.
const FIXED: i64 = 1_700_000_000;

/// Prints the time by all programs of the image, and waits.
const CLOCKS: &str = r#"
date +%s.%N
perl -e 'print time, "\n"'
bash -c 'echo $EPOCHSECONDS $EPOCHREALTIME $RANDOM; printf "%(%s)T\n"'
sleep 0.3
python3 - <<'END'
import threading, time
began = time.monotonic()
print(time.time(), time.time_ns(), time.clock_gettime(time.CLOCK_TAI))
lock = threading.Condition()
with lock: lock.wait(0.4)
time.sleep(0.2)
print("waited", 0.5 < time.monotonic() - began < 60, time.time())
END
date +%s
"#;

/// The step's user and the capabilities of PID 1 differ between a step with one id and one with a range; both are tried by builds.
#[test]
fn the_clock_of_a_configure_step_stands_still() {
    let bench = bench();
    let fixed = |name: &str, clock_ahead| {
        step_with(&bench, name, CLOCKS, |spec| {
            (spec.seed, spec.fixed_time) = (Some(Seed([1; 32])), Some(FIXED));
            spec.conditions.clock_ahead = clock_ahead;
        })
    };
    let first = fixed("first", 0);
    let expect = "1700000000.000000000\n1700000000\n1700000000 1700000000.000000 ";
    assert!(first.starts_with(expect), "{first}");
    let expect = "\n1700000000\n1700000000.0 1700000000000000000 1700000000.0\nwaited True 1700000000.0\n1700000000\n";
    assert!(first.ends_with(expect), "{first}");
    assert_eq!(first, fixed("again", 0));
    let ahead = fixed("ahead", 34_000_000);
    assert!(ahead.starts_with("1734000000.000000000\n1734000000\n") && ahead.ends_with("\n1734000000\n"), "{ahead}");
}

#[test]
fn a_static_program_has_the_fixed_clock_and_waits_for_its_times() {
    let bench = bench();
    let (source, program) = (bench.path("probe.c"), bench.path("probe"));
    fs::write(&source, include_str!("fixed_clock_probe.c")).expect("our own file");
    match Command::new("cc").args(["-static", "-O1", "-o"]).arg(&program).arg(&source).arg("-pthread").output() {
        Ok(done) if done.status.success() => {}
        _ => return skip("there is no C compiler with a static C library"),
    }
    let run = |name: &str, script: &str, start: i64| {
        step_with(&bench, name, script, |spec| {
            (spec.seed, spec.fixed_time) = (Some(Seed([1; 32])), Some(start));
            spec.mounts = vec![Mount { host: program.clone().into(), guest: "/opt/probe".into(), access: Access::ReadOnly }];
        })
    };
    // In the past and in the future of the true clock.
    for (name, start) in [("past", FIXED), ("future", 4_000_000_000)] {
        let time = format!("{start}.000000000 ").repeat(6) + &format!("{start}.000000 0 {start}\nmonotonic\n");
        let waits = "cond 1 in time\nagain 1 in time\nnanosleep 0 in time\ntimerfd 0 in time\npast 1\n";
        assert_eq!(run(name, "/opt/probe", start), time.clone() + waits);
        // The clock starts to run for a program that waits for a time without sleeping.
        assert_eq!(run(&format!("{name}-loop"), "/opt/probe loop", start), time + "3\n");
    }
}

/// A script that waits for a time ends, because the clock runs after many sleeps.
#[test]
fn a_step_does_not_wait_forever_for_a_time() {
    let bench = bench();
    let script = r#"
perl -e 'for (1..99) { select undef, undef, undef, 0.05 } print time, "\n"; my $end = time + 2; while (time < $end) { select undef, undef, undef, 0.05 } print time, "\n"'
end=$(($(date +%s) + 2)); while [ $(date +%s) -lt $end ]; do sleep 0.05; done; date +%s
# libuuid reads the clock in a loop until it shows another time.
python3 -c 'import uuid; print(len({uuid.uuid1() for number in range(100)}))'
"#;
    let said = step_with(&bench, "waits", script, |spec| (spec.seed, spec.fixed_time) = (Some(Seed([1; 32])), Some(FIXED)));
    assert_eq!(said, "1700000000\n1700000002\n1700000004\n100\n");
}
