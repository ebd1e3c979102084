"""A machine of its own for one sandbox: no interface but a loopback, a name server, a few servers.

Run by world.rs as root in a new network and mount namespace, with a JSON object that says what there is, and the command
to run there. Prints what the command printed; writes to the object's `report` which names were asked for outside, and how
many packets were seen.
"""

import json
import socket
import struct
import subprocess
import sys
import threading

WORLD = json.loads(sys.argv[1])
QUERIES = []
PACKETS = []


def serve(connection):
    with connection:
        while piece := connection.recv(1 << 16):
            connection.sendall(piece)


def listen(address, port):
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    server = socket.create_server((address, port), family=family, backlog=64)

    def accept():
        while True:
            threading.Thread(target=serve, args=(server.accept()[0],), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()


def answer(query):
    """Answers with what stands next in the name's list; the last one counts from then on."""
    at, labels = 12, []
    while query[at]:
        labels.append(query[at + 1:at + 1 + query[at]].decode())
        at += 1 + query[at]
    name, kind = ".".join(labels), struct.unpack("!H", query[at + 1:at + 3])[0]
    answers = WORLD["names"].get(name)
    addresses = answers[0] if answers else []
    family = socket.AF_INET6 if kind == 28 else socket.AF_INET
    fit = [socket.inet_pton(family, one) for one in addresses if (":" in one) == (kind == 28)] if kind in (1, 28) else []
    if fit and len(answers) > 1:
        answers.pop(0)
    QUERIES.append(name)
    head = query[:2] + b"\x81" + (b"\x80" if answers else b"\x83") + struct.pack("!HHHH", 1, len(fit), 0, 0)
    records = (b"\xc0\x0c" + struct.pack("!HHIH", kind, 1, 0, len(one)) + one for one in fit)
    return head + query[12:at + 5] + b"".join(records)


def resolve():
    server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    server.bind(("127.0.0.1", 53))

    def loop():
        while True:
            query, whom = server.recvfrom(2000)
            server.sendto(answer(query), whom)

    threading.Thread(target=loop, daemon=True).start()


def sniff():
    tap = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))

    def loop():
        while True:
            PACKETS.append(len(tap.recv(70000)))

    threading.Thread(target=loop, daemon=True).start()


def main():
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    for address in WORLD["addresses"]:
        bits, more = ("128", ["nodad"]) if ":" in address else ("32", [])
        subprocess.run(["ip", "address", "add", f"{address}/{bits}", "dev", "lo", *more], check=True)
    with open(WORLD["resolver"], "w") as file:
        file.write("nameserver 127.0.0.1\noptions timeout:20 attempts:1\n")
    subprocess.run(["mount", "--bind", WORLD["resolver"], "/etc/resolv.conf"], check=True)
    for address, port in WORLD["servers"]:
        listen(address, port)
    resolve()
    sniff()
    code = subprocess.run(sys.argv[2:], stdin=subprocess.DEVNULL).returncode
    with open(WORLD["report"], "w") as file:
        json.dump({"queries": QUERIES, "packets": len(PACKETS)}, file)
    return code


sys.exit(main())
