"""What a guest must not be able to do; run inside a sandbox by escape.rs.

Takes one argument, a JSON object that says what the host has laid out as bait. Prints one line a
probe, `name: closed` or `name: OPEN detail`; a probe that cannot be tried prints `name: skipped why`.
"""

import ctypes
import errno
import json
import os
import platform
import signal
import socket
import struct
import sys

BAIT = json.loads(sys.argv[1])
LIBC = ctypes.CDLL(None, use_errno=True)
X86 = platform.machine() == "x86_64"
AT_FDCWD = -100
PROBES = []

# Numbers: (x86_64, aarch64), or one for both.
CALLS = {
    "acct": (163, 89), "add_key": (248, 217), "bpf": (321, 280), "chroot": (161, 51), "clone": (56, 220),
    "clone3": 435, "delete_module": (176, 106), "finit_module": (313, 273), "fsconfig": 431,
    "fsmount": 432, "fsopen": 430, "fspick": 433, "init_module": (175, 105), "io_uring_enter": 426,
    "file_setattr": 469, "io_uring_register": 427, "io_uring_setup": 425, "ioctl": (16, 29), "kexec_file_load": (320, 294),
    "kexec_load": (246, 104), "keyctl": (250, 219), "mount": (165, 40), "mount_setattr": 442,
    "move_mount": 429, "open_by_handle_at": (304, 265), "open_tree": 428, "openat2": 437,
    "perf_event_open": (298, 241), "personality": (135, 92), "pidfd_getfd": 438, "pidfd_open": 434,
    "pivot_root": (155, 41), "process_vm_readv": (310, 270), "ptrace": (101, 117), "quotactl": (179, 60),
    "reboot": (169, 142), "request_key": (249, 218), "setns": (308, 268), "settimeofday": (164, 170),
    "swapon": (167, 224), "syslog": (103, 116), "umount2": (166, 39), "unshare": (272, 97),
    "userfaultfd": (323, 282), "not_reviewed": 600,
}


def call(name, *args):
    """Makes a system call; returns its result, or minus the error number."""
    number = CALLS[name]
    number = number if isinstance(number, int) else number[0 if X86 else 1]
    plain = [ctypes.c_long(a) if isinstance(a, int) else a for a in args]
    result = LIBC.syscall(ctypes.c_long(number), *plain)
    return -ctypes.get_errno() if result == -1 else result


def probe(function):
    PROBES.append(function)
    return function


class Open(Exception):
    """The door is open."""


def refused(what, action, *allowed):
    """Runs what must fail with an OSError (of these numbers, if any are given)."""
    try:
        result = action()
    except OSError as error:
        if allowed and error.errno not in allowed:
            raise Open(f"{what}: {error}") from error
        return
    raise Open(f"{what} gave {result!r}")


def denied(what, result, *numbers):
    """Checks that a raw call failed (with one of these numbers, if any are given)."""
    if result >= 0 or (numbers and -result not in numbers):
        raise Open(f"{what} gave {result}")


def inside(path):
    return os.path.join(BAIT["project"], path)


def in_child(action):
    """Runs an action in a process of its own; returns how that ended."""
    pid = os.fork()
    if pid == 0:
        try:
            action()
            os._exit(0)
        except BaseException:
            os._exit(99)
    return os.waitpid(pid, 0)[1]


# The first of all: later ones leave files open.


@probe
def inherit_descriptors():
    listing = os.open("/proc/self/fd", os.O_RDONLY)
    found = sorted(int(name) for name in os.listdir(listing))
    os.close(listing)
    if [number for number in found if number > 2 and is_open(number)]:
        raise Open(str(found))


def is_open(number):
    try:
        os.fstat(number)
    except OSError:
        return False
    return True


@probe
def read_host_secrets():
    for path in BAIT["secrets"]:
        refused(path, lambda: open(path).read(), errno.ENOENT)
    refused("listing", lambda: os.listdir(os.path.dirname(BAIT["secrets"][0])), errno.ENOENT)


@probe
def walk_out_of_the_project():
    secret = BAIT["secrets"][0]
    for link in BAIT["links"]:
        refused(link, lambda: open(inside(link)).read())
    os.symlink(secret, inside("mine"))
    refused("own symlink", lambda: open(inside("mine")).read())
    os.unlink(inside("mine"))
    refused("hard link", lambda: os.link(secret, inside("hard")))
    up = "../" * 40
    for start in (BAIT["project"], "/proc/self/cwd", "/proc/self/root", "/proc/1/cwd", "/proc/1/root"):
        refused(start, lambda: open(f"{start}/{up}{secret}").read())
    directory = os.open(BAIT["project"], os.O_RDONLY)
    refused("openat", lambda: os.open(f"{up}{secret}", os.O_RDONLY, dir_fd=directory))
    how = struct.pack("QQQ", os.O_RDONLY, 0, 0)
    denied("openat2", call("openat2", directory, f"{up}{secret}".encode(), how, len(how)))


@probe
def see_host_mounts():
    expected = {"/", "/dev", "/proc", "/tmp", *BAIT["mounts"]}
    for line in open("/proc/self/mountinfo"):
        place = line.split()[4]
        under = any(place.startswith(top + "/") for top in ("/dev", "/proc", *BAIT["mounts"]))
        if place not in expected and not under:
            raise Open(line)
    roots = [line for line in open("/proc/self/mountinfo") if line.split()[4] == "/"]
    if len(roots) != 1:
        raise Open(f"{len(roots)} mounts on /")


@probe
def use_the_doors_of_pid_1():
    for door in ("root", "cwd", "exe"):
        refused(door, lambda: os.readlink(f"/proc/1/{door}"))
    for door in ("environ", "mem", "maps", "auxv", "smaps", "stack", "syscall"):
        refused(door, lambda: open(f"/proc/1/{door}", "rb").read(1))
    refused("map_files", lambda: os.listdir("/proc/1/map_files"))
    # To the host's root the numbers may show; what they stand for must not.
    for number in range(64):
        refused(f"fd {number}", lambda: os.readlink(f"/proc/1/fd/{number}"))
        refused(f"fd {number}", lambda: os.open(f"/proc/1/fd/{number}", os.O_RDONLY))
        refused(f"fd {number}", lambda: open(f"/proc/1/fdinfo/{number}").read())
    for name in ("cgroup", "ipc", "mnt", "net", "pid", "user", "uts"):
        refused(name, lambda: os.open(f"/proc/1/ns/{name}", os.O_RDONLY))
    left = open("/proc/1/cmdline", "rb").read().strip(b"\0")
    if left:
        raise Open(f"cmdline {left!r}")


@probe
def change_what_the_host_runs():
    for path in BAIT["guarded"]:
        whole = inside(path)
        if os.path.isdir(whole):
            refused(path, lambda: open(f"{whole}/new", "w"), errno.EROFS)
            refused(path, lambda: os.rmdir(whole))
        else:
            refused(path, lambda: open(whole, "a"), errno.EROFS)
            refused(path, lambda: os.unlink(whole), errno.EBUSY)
            refused(path, lambda: os.truncate(whole, 0), errno.EROFS)
        refused(f"chmod {path}", lambda: os.chmod(whole, 0o777), errno.EROFS)
        refused(f"move {path}", lambda: os.rename(whole, whole + ".old"), errno.EBUSY)
        parent = os.path.dirname(path)
        if parent:
            refused(f"move {parent}", lambda: os.rename(inside(parent), inside(parent) + ".old"), errno.EBUSY)
    open(inside("decoy"), "w").close()
    for path in BAIT["guarded"]:
        refused(f"replace {path}", lambda: os.replace(inside("decoy"), inside(path)))
    os.unlink(inside("decoy"))


@probe
def write_read_only_mounts():
    for path in BAIT["read_only"]:
        refused(path, lambda: open(f"{path}/new", "w"), errno.EROFS)
        refused(path, lambda: os.utime(path), errno.EROFS)


@probe
def plant_files_for_the_host():
    path = inside("planted")
    open(path, "w").close()
    refused("suid", lambda: os.chmod(path, 0o4755))
    refused("sgid", lambda: os.chmod(path, 0o2755))
    descriptor = os.open(path, os.O_RDONLY)
    refused("fchmod", lambda: os.fchmod(descriptor, 0o4755))
    refused("create", lambda: os.open(inside("suid"), os.O_CREAT | os.O_WRONLY, 0o4755))
    refused("block device", lambda: os.mknod(inside("block"), 0o60600, os.makedev(254, 0)))
    refused("character device", lambda: os.mknod(inside("char"), 0o20600, os.makedev(1, 1)))
    refused("whiteout", lambda: os.mknod(inside("white"), 0o20600, 0))
    # Root is told that it worked; nobody gets another owner.
    before = os.stat(path)
    try:
        os.chown(path, 12345, 12345)
    except OSError:
        pass
    after = os.stat(path)
    if (after.st_uid, after.st_gid) != (before.st_uid, before.st_gid):
        raise Open(f"owner {after.st_uid}:{after.st_gid}")
    os.unlink(path)


@probe
def see_host_processes():
    for pid in BAIT["pids"]:
        refused(f"kill {pid}", lambda: os.kill(pid, 0), errno.ESRCH)
        denied(f"pidfd_open {pid}", call("pidfd_open", pid, 0), errno.ESRCH, errno.EINVAL)
        if os.path.exists(f"/proc/{pid}"):
            raise Open(f"/proc/{pid}")
    if os.getppid() != 1 and os.getppid() not in own_pids():
        raise Open(f"parent {os.getppid()}")


def own_pids():
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


@probe
def signal_the_host_group():
    if os.getpgrp() == 0 or os.getsid(0) == 0:
        raise Open("the session is the host's")


@probe
def trace_pid_1():
    denied("ptrace attach", call("ptrace", 16, 1, 0, 0))
    denied("ptrace seize", call("ptrace", 0x4206, 1, 0, 0))
    buffer = ctypes.create_string_buffer(8)
    iov = struct.pack("QQ", ctypes.addressof(buffer), 8)
    denied("process_vm_readv", call("process_vm_readv", 1, iov, 1, iov, 1, 0))
    pidfd = call("pidfd_open", 1, 0)
    for number in range(8):
        denied("pidfd_getfd", call("pidfd_getfd", pidfd, number, 0))


@probe
def take_over_the_agent():
    if BAIT["agents"]:
        # In a run the first request starts it.
        refused("a name", lambda: socket.getaddrinfo("first.silo-escape.invalid", 53))
    found = 0
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            name = open(f"/proc/{pid}/comm").read().strip()
        except OSError:
            continue
        if name != "silo-agent":
            continue
        found += 1
        pid = int(pid)
        denied("ptrace attach", call("ptrace", 16, pid, 0, 0))
        denied("ptrace seize", call("ptrace", 0x4206, pid, 0, 0))
        for entry in ("mem", "fd/4", "maps", "environ"):
            refused(entry, lambda: open(f"/proc/{pid}/{entry}", "rb").read(1))
        pidfd = call("pidfd_open", pid, 0)
        for number in range(16):
            denied("pidfd_getfd", call("pidfd_getfd", pidfd, number, 0))
    if found != BAIT["agents"]:
        raise Open(f"{found} agents were tried")


@probe
def ask_for_names_that_carry_words():
    # Answered inside, whatever is asked: nothing leaves (the host has no name server that would see it).
    for name in ("a.silo-escape.invalid", "x" * 63 + ".silo-escape.invalid", "169.254.169.254.nip.invalid"):
        refused(name, lambda: socket.getaddrinfo(name, 53))
    with socket.socket() as tcp:
        refused("a marked socket", lambda: tcp.setsockopt(socket.SOL_SOCKET, 36, 2))
        refused("IP_TRANSPARENT", lambda: tcp.setsockopt(socket.IPPROTO_IP, 19, 1))
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as routes:
        # A local route for 203.0.113.0/24 over the loopback.
        body = struct.pack("BBBBBBBBI", 2, 24, 0, 0, 255, 3, 254, 2, 0) + struct.pack("HH4s", 8, 1, bytes([203, 0, 113, 0])) + struct.pack("HHI", 8, 4, 1)
        routes.send(struct.pack("IHHII", 16 + len(body), 24, 0x405, 1, 0) + body)
        code = struct.unpack("i", routes.recv(512)[16:20])[0]
        denied("a route", code)


@probe
def connect_anywhere():
    # With an interface the door is open, and nothing must be sent through it to find that out.
    find_an_interface()
    addresses = [("127.0.0.1", BAIT["port"]), *((ip, BAIT["port"]) for ip in BAIT["ips"])]
    addresses += [("169.254.169.254", 80), ("203.0.113.1", 53), ("10.0.0.1", 22), ("192.168.0.1", 80)]
    for address in addresses:
        with socket.socket() as tcp:
            tcp.settimeout(2)
            refused(f"connect {address}", lambda: tcp.connect(address), errno.ECONNREFUSED, errno.ENETUNREACH)
        with socket.socket(type=socket.SOCK_DGRAM) as udp:
            udp.settimeout(0.2)
            refused(f"send {address}", lambda: (udp.sendto(b"x", address), udp.recv(1)))
    for ip in ("fd00:ec2::254", "64:ff9b::cb00:7101", "::ffff:203.0.113.1", "2001:db8::1"):
        with socket.socket(socket.AF_INET6) as tcp:
            tcp.settimeout(2)
            refused(f"connect {ip}", lambda: tcp.connect((ip, 80)), errno.ENETUNREACH, errno.EADDRNOTAVAIL)


@probe
def send_pings():
    # A socket that sends echoes needs no powers where the kernel is set so; then there must be no way.
    for family, protocol, ip in ((socket.AF_INET, 1, "203.0.113.1"), (socket.AF_INET6, 58, "2001:db8::1")):
        for kind in (socket.SOCK_DGRAM, socket.SOCK_RAW):
            try:
                ping = socket.socket(family, kind, protocol)
            except OSError:
                continue
            with ping:
                refused(f"ping {ip}", lambda: ping.sendto(bytes([8 if protocol == 1 else 128]) + bytes(7), (ip, 0)), errno.ENETUNREACH, errno.EADDRNOTAVAIL)


@probe
def find_an_interface():
    names = [name for _, name in socket.if_nameindex()]
    if names != ["lo"]:
        raise Open(str(names))


@probe
def open_raw_sockets():
    for protocol in (1, 6, 255):
        refused(f"raw {protocol}", lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, protocol))
        refused(f"packet {protocol}", lambda: socket.socket(17, socket.SOCK_RAW, protocol))
    with socket.socket() as tcp:
        request = b"eth0".ljust(16, b"\0") + b"\0" * 24
        refused("SIOCSIFFLAGS", lambda: ioctl(tcp.fileno(), 0x8914, b"lo".ljust(40, b"\0")))
        refused("SIOCGIFADDR", lambda: ioctl(tcp.fileno(), 0x8915, request))


def ioctl(descriptor, request, argument):
    result = call("ioctl", descriptor, request, argument)
    if result < 0:
        raise OSError(-result, os.strerror(-result))
    return result


@probe
def reach_abstract_sockets():
    with socket.socket(socket.AF_UNIX) as unix:
        refused("abstract", lambda: unix.connect("\0" + BAIT["abstract"]), errno.ECONNREFUSED)


@probe
def reach_path_sockets():
    usual = ["/run/docker.sock", "/var/run/docker.sock", "/tmp/.X11-unix/X0", "/run/dbus/system_bus_socket"]
    for path in [*BAIT["sockets"], *usual]:
        with socket.socket(socket.AF_UNIX) as unix:
            refused(path, lambda: unix.connect(path))


@probe
def open_odd_sockets():
    families = {"vsock": 40, "alg": 38, "xdp": 44, "bluetooth": 31, "key": 15, "can": 29, "rds": 21,
                "tipc": 30, "pppox": 24, "packet": 17, "llc": 26, "kcm": 41, "qipcrtr": 42, "smc": 43}
    for name, family in families.items():
        for kind in (1, 2, 3, 5):
            refused(name, lambda: socket.socket(family, kind, 0), errno.EAFNOSUPPORT)
    for protocol in (1, 2, 4, 5, 6, 9, 12, 15, 16, 20):
        refused(f"netlink {protocol}", lambda: socket.socket(16, 3, protocol), errno.EPROTONOSUPPORT)
    for protocol in (33, 132, 136, 115, 262):
        refused(f"inet {protocol}", lambda: socket.socket(2, 1, protocol))


@probe
def use_io_uring():
    denied("setup", call("io_uring_setup", 8, ctypes.create_string_buffer(120)), errno.ENOSYS)
    denied("enter", call("io_uring_enter", 0, 0, 0, 0, 0, 0), errno.ENOSYS)
    denied("register", call("io_uring_register", 0, 0, 0, 0), errno.ENOSYS)


@probe
def make_namespaces():
    for flag in (0x10000000, 0x20000, 0x20000000, 0x40000000, 0x8000000, 0x4000000, 0x2000000, 0x80):
        denied(f"unshare {flag:#x}", call("unshare", flag), errno.EPERM)
        if flag != 0x80:
            denied(f"clone {flag:#x}", call("clone", flag | 17, 0, 0, 0, 0), errno.EPERM)
    args = struct.pack("8Q", 0x10000000, 0, 0, 0, 17, 0, 0, 0)
    denied("clone3", call("clone3", args, len(args)), errno.ENOSYS)
    own = os.open("/proc/self/ns/user", os.O_RDONLY)
    denied("setns", call("setns", own, 0), errno.EPERM)


@probe
def change_mounts():
    tmp, none = b"/tmp", None
    denied("mount tmpfs", call("mount", b"none", tmp, b"tmpfs", 0, none), errno.EPERM)
    denied("bind", call("mount", b"/", tmp, none, 4096, none), errno.EPERM)
    denied("remount", call("mount", none, b"/proc/sys", none, 32 | 4096, none), errno.EPERM)
    for place in ("/proc/sys", "/proc/kallsyms", "/", "/dev", *BAIT["mounts"], *map(inside, BAIT["guarded"])):
        denied(f"umount {place}", call("umount2", place.encode(), 2), errno.EPERM)
    denied("open_tree", call("open_tree", AT_FDCWD, b"/", 1), errno.EPERM)
    denied("move_mount", call("move_mount", AT_FDCWD, b"/", AT_FDCWD, tmp, 0), errno.EPERM)
    denied("fsopen", call("fsopen", b"tmpfs", 0), errno.EPERM)
    denied("fsconfig", call("fsconfig", 0, 6, none, none, 0), errno.EPERM)
    denied("fsmount", call("fsmount", 0, 0, 0), errno.EPERM)
    denied("fspick", call("fspick", AT_FDCWD, b"/", 0), errno.EPERM)
    denied("mount_setattr", call("mount_setattr", AT_FDCWD, b"/", 0, b"\0" * 32, 32), errno.EPERM)
    denied("pivot_root", call("pivot_root", b"/", b"/tmp"), errno.EPERM)
    denied("chroot", call("chroot", b"/tmp"), errno.EPERM)
    handle = struct.pack("Ii", 8, 1) + b"\2" + b"\0" * 127
    root = os.open("/", os.O_RDONLY)
    denied("open_by_handle_at", call("open_by_handle_at", root, handle, 0), errno.EPERM)


@probe
def read_keyrings():
    denied("keyctl get", call("keyctl", 0, -3, 0), errno.EPERM)
    denied("keyctl user", call("keyctl", 0, -4, 1), errno.EPERM)
    denied("keyctl read", call("keyctl", 11, -5, 0, 0), errno.EPERM)
    denied("add_key", call("add_key", b"user", b"x", b"y", 1, -4), errno.EPERM)
    denied("request_key", call("request_key", b"user", b"x", None, -4), errno.EPERM)
    if open("/proc/keys").read():
        raise Open("/proc/keys")


@probe
def use_dangerous_calls():
    nothing = ctypes.create_string_buffer(256)
    for name, args in {
        "bpf": (0, nothing, 128), "perf_event_open": (nothing, 0, -1, -1, 0), "userfaultfd": (0,),
        "kexec_load": (0, 0, 0, 0), "kexec_file_load": (0, 0, 0, 0, 0), "init_module": (nothing, 0, b""),
        "finit_module": (0, b"", 0), "delete_module": (b"x", 0), "quotactl": (0, 0, 0, 0),
        "reboot": (0, 0, 0, 0), "settimeofday": (nothing, 0), "swapon": (b"/x", 0), "acct": (b"/tmp/acct",),
        "syslog": (3, nothing, 256), "personality": (0x400000,),
    }.items():
        denied(name, call(name, *args), errno.EPERM)
    denied("a call nobody has reviewed", call("not_reviewed"), errno.ENOSYS)


@probe
def type_into_terminals():
    host, guest = os.openpty()
    for descriptor in (0, 1, 2, host, guest):
        for request in (0x5412, 0x5412 + (1 << 32), 0x541C, 0x541C + (7 << 32), 0x5423):
            denied(f"ioctl {request:#x}", call("ioctl", descriptor, request, b"\3\0\0\0"), errno.EPERM)


@probe
def change_the_kernel():
    for name in ("core_pattern", "modprobe", "hostname", "randomize_va_space", "pid_max"):
        refused(name, lambda: open(f"/proc/sys/kernel/{name}", "w"))
    refused("forwarding", lambda: open("/proc/sys/net/ipv4/ip_forward", "w"))
    refused("drop_caches", lambda: open("/proc/sys/vm/drop_caches", "w"))
    for name in ("irq/default_smp_affinity", "mtrr", "fs", "bus", "sys"):
        path = f"/proc/{name}"
        if os.path.isdir(path):
            refused(path, lambda: os.chmod(path, 0o777), errno.EROFS)
        elif os.path.exists(path):
            refused(path, lambda: open(path, "w"))
    for name in ("kcore", "kmsg", "kallsyms", "timer_list", "sysrq-trigger", "keys", "sched_debug", "slabinfo", "cmdline", "bootconfig", "config.gz", "modules",
                 "partitions", "mdstat"):
        try:
            if open(f"/proc/{name}", "rb").read(64):
                raise Open(name)
        except OSError:
            pass
    if os.path.exists("/sys/kernel") or os.path.exists("/sys/fs"):
        raise Open("/sys")


@probe
def change_file_systems():
    file = os.open("/tmp/attributes", os.O_RDWR | os.O_CREAT)
    own = os.open(inside("attributes"), os.O_RDWR | os.O_CREAT)
    # Attributes for both sizes of word, project quotas, freezing, trimming, keys, verity, subvolumes, shutting down, moving.
    requests = (0x40086602, 0x40046602, 0x401C5820, 0xC0045877, 0xC0185879, 0x800C6613, 0xC0506617, 0x40806685,
                0x5000940E, 0x50009401, 0x40087602, 0x8004587D, 0xC028660F, 0x6611)
    for descriptor in (file, own, os.open("/", os.O_RDONLY), os.open(inside("."), os.O_RDONLY)):
        for request in requests:
            for high in (0, 1 << 32):
                denied(f"ioctl {request:#x}", call("ioctl", descriptor, request + high, bytes(128)), errno.EOPNOTSUPP)
        denied("file_setattr", call("file_setattr", descriptor, b"\0", bytes(32), 32, 0x1000), errno.EOPNOTSUPP)
    os.unlink(inside("attributes"))


@probe
def change_devices_of_the_host():
    for name in ("null", "zero", "full", "random", "urandom", "tty"):
        path = f"/dev/{name}"
        refused(f"chmod {path}", lambda: os.chmod(path, 0o644), errno.EROFS)
        refused(f"touch {path}", lambda: os.utime(path), errno.EROFS)
    open("/dev/null", "w").write("still takes what is written")
    null = os.stat("/dev/null").st_rdev
    for stream in range(3):
        if os.fstat(stream).st_rdev == null:
            refused(f"fchmod of stream {stream}", lambda: os.fchmod(stream, 0o644), errno.EROFS)


@probe
def gain_privileges():
    status = dict(line.split(":", 1) for line in open("/proc/self/status"))
    for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        if int(status[name], 16):
            raise Open(f"{name}{status[name]}")
    if status["NoNewPrivs"].strip() != "1" or status["Seccomp"].strip() != "2":
        raise Open("no_new_privs or seccomp is missing")
    refused("setuid", lambda: os.setuid(os.getuid() + 1))
    for line in open("/proc/self/mountinfo"):
        fields = line.split()
        if fields[4] in ("/", *BAIT["mounts"]) and not {"nosuid", "nodev"} <= set(fields[5].split(",")):
            raise Open(line)


@probe
def read_the_environment():
    if set(os.environ) - set(BAIT["variables"]) - {"LC_CTYPE", "PWD", "_", "SHLVL"}:
        raise Open(str(sorted(os.environ)))


@probe
def reopen_streams_with_more_rights():
    if not BAIT["stdin_is_a_file"]:
        return
    refused("stdin", lambda: os.open("/proc/self/fd/0", os.O_WRONLY))
    refused("stdin", lambda: os.open("/proc/self/fd/0", os.O_RDWR))
    refused("stdin", lambda: os.open("/dev/stdin", os.O_RDONLY | os.O_TRUNC))
    os.close(os.open("/dev/stdin", os.O_RDONLY))


@probe
def change_the_layers():
    path = BAIT["layer_file"]
    before = os.stat(path)
    refused("flags", lambda: ioctl(os.open(path, os.O_RDONLY), 0x40086602, struct.pack("q", 0x10)))
    with open(path, "ab") as file:
        file.write(b"x")
    os.link(path, "/tmp/hard") if same_device("/tmp", path) else None
    os.utime(path, (1, 1))
    os.chmod(path, 0o600)
    os.truncate(path, 1)
    os.unlink(path)
    if before.st_size == 1:
        raise Open("was changed before")


def same_device(one, other):
    return os.stat(one).st_dev == os.stat(other).st_dev


@probe
def tell_the_host():
    if os.uname().nodename != BAIT["hostname"]:
        raise Open(os.uname().nodename)
    if os.path.exists("/etc/machine-id") and open("/etc/machine-id").read() == BAIT["machine_id"] != "":
        raise Open("machine-id")


@probe
def use_another_calling_convention():
    if not X86:
        return
    denied("x32 getpid", LIBC_syscall_raw(0x40000000 | 39), errno.ENOSYS)
    denied("x32 mount", LIBC_syscall_raw(0x40000000 | 165), errno.ENOSYS)

    def int80():
        import mmap
        # mov eax, 20 (getpid of i386); int 0x80; ret
        code = b"\xb8\x14\0\0\0\xcd\x80\xc3"
        page = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
        page.write(code)
        address = ctypes.addressof(ctypes.c_char.from_buffer(page))
        ctypes.CFUNCTYPE(ctypes.c_int)(address)()

    status = in_child(int80)
    if not os.WIFSIGNALED(status) or os.WTERMSIG(status) not in (signal.SIGSYS, signal.SIGSEGV):
        raise Open(f"int 0x80 ended with {status:#x}")


def LIBC_syscall_raw(number):
    result = LIBC.syscall(ctypes.c_long(number))
    return -ctypes.get_errno() if result == -1 else result


# The bombs come last: they use up what the probes above need.


@probe
def fork_without_end():
    # A process of its own counts, so that no child outlives the probe.
    counted = os.pipe()

    def bomb():
        children = []
        try:
            while len(children) < 20000:
                pid = os.fork()
                if pid == 0:
                    signal.pause()
                children.append(pid)
        except OSError:
            pass
        os.write(counted[1], str(len(children)).encode())
        for pid in children:
            os.kill(pid, signal.SIGKILL)
        for pid in children:
            os.waitpid(pid, 0)

    in_child(bomb)
    number = int(os.read(counted[0], 32))
    if number > BAIT["tasks"]:
        raise Open(f"{number} processes")


@probe
def use_memory_without_end():
    def bomb():
        try:
            whole = bytearray(BAIT["memory"] * 2)
        except MemoryError:
            os._exit(7)
        os._exit(len(whole) > 0)

    status = in_child(bomb)
    if not (os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 7):
        raise Open(f"{BAIT['memory'] * 2} bytes")


@probe
def open_files_without_end():
    files = []
    try:
        while len(files) < 1 << 20:
            files.append(os.open("/dev/null", os.O_RDONLY))
    except OSError:
        pass
    for file in files:
        os.close(file)
    if len(files) > BAIT["files"]:
        raise Open(f"{len(files)} files")


@probe
def fill_the_disk():
    for place in ("/tmp", "/dev/shm", "/var"):
        written = 0
        path = f"{place}/filler"
        try:
            with open(path, "wb", buffering=0) as file:
                while written <= BAIT["size"] * 2:
                    written += file.write(b"x" * (1 << 20))
        except OSError:
            pass
        os.unlink(path)
        if written > BAIT["size"]:
            raise Open(f"{written} bytes in {place}")


@probe
def use_inodes_without_end():
    made = 0
    directory = "/tmp/inodes"
    os.mkdir(directory)
    try:
        while made <= BAIT["size"] // 2048:
            os.mknod(f"{directory}/{made}")
            made += 1
    except OSError:
        pass
    for number in range(made):
        os.unlink(f"{directory}/{number}")
    if made > BAIT["size"] // 4096:
        raise Open(f"{made} inodes")


def main():
    wanted = BAIT.get("only")
    for function in PROBES:
        name = function.__name__
        if wanted and name not in wanted:
            continue
        try:
            function()
        except Open as door:
            print(f"{name}: OPEN {door}".replace("\n", " "), flush=True)
        except Exception as error:  # a probe that breaks proves nothing
            print(f"{name}: BROKEN {error!r}".replace("\n", " "), flush=True)
        else:
            print(f"{name}: closed", flush=True)
    print(f"{len(wanted or PROBES)} probes", flush=True)


main()
