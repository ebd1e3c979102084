"""A debugger on this machine attaches to a program in a sandbox, over a forwarded port; fails if it does not stop at a breakpoint.

    debug.py TOOL SILO PROJECT PORT

TOOL is python, node or go; PROJECT is an empty directory; PORT is free here. The project has debugpy in `.venv`, or delve in the
image. The environment is silo's own.
"""

import json
import pathlib
import socket
import struct
import subprocess
import sys
import time

PATIENCE = 300
# Of each tool: its program, with the line of the breakpoint from 1, and the words that start it with a debugger.
PROGRAMS = {
    "python": ("x.py", "number = 42\nprint('the number is', number)\n", 2, 5678, ["run", "{port}", "python", "-m", "debugpy", "--listen", "127.0.0.1:5678", "--wait-for-client", "x.py"]),
    "node": ("x.js", "const number = 42;\nconsole.log('the number is', number);\n", 2, 9229, ["run", "{port}", "node", "--inspect-brk=127.0.0.1:9229", "x.js"]),
    "go": (
        "main.go", 'package main\n\nimport "fmt"\n\nfunc main() {\n\tnumber := 42\n\tfmt.Println("the number is", number)\n}\n', 7, 2345,
        ["exec", "{port}", "dlv", "debug", "--headless", "--listen=127.0.0.1:2345", "--api-version=2"],
    ),
}


def attached(port, ask):
    """Returns the result of `ask` over a connection. Until the program listens inside, silo closes each one."""
    end = time.monotonic() + PATIENCE
    while True:
        try:
            connection = socket.create_connection(("127.0.0.1", port))
            connection.settimeout(PATIENCE)
            return connection, ask(connection)
        except (OSError, EOFError) as error:
            assert time.monotonic() < end, f"nothing listens: {error}"
            time.sleep(0.3)


def exactly(file, length):
    found = file.read(length)
    if len(found) < length:
        raise EOFError("closed")
    return found


class Dap:
    """The Debug Adapter Protocol, as debugpy speaks it."""

    def __init__(self, connection):
        self.connection, self.file, self.count = connection, connection.makefile("rb"), 0

    def send(self, command, arguments):
        self.count += 1
        body = json.dumps({"seq": self.count, "type": "request", "command": command, "arguments": arguments}).encode()
        self.connection.sendall(b"Content-Length: %d\r\n\r\n%s" % (len(body), body))
        return self.count

    def wait(self, fits):
        while True:
            line = self.file.readline()
            if not line:
                raise EOFError("closed")
            length = int(line.split(b":")[1])
            self.file.readline()
            message = json.loads(exactly(self.file, length))
            if fits(message):
                return message

    def event(self, name):
        return self.wait(lambda message: message.get("event") == name).get("body")

    def ask(self, command, arguments):
        number = self.send(command, arguments)
        answer = self.wait(lambda message: message.get("request_seq") == number)
        assert answer["success"], answer
        return answer.get("body")


def python(port, path, line):
    def begun(connection):
        dap = Dap(connection)
        dap.ask("initialize", {"adapterID": "debugpy", "clientID": "test", "linesStartAt1": True, "pathFormat": "path"})
        return dap

    _, dap = attached(port, begun)
    dap.send("attach", {"name": "attach", "type": "debugpy", "request": "attach", "connect": {"host": "127.0.0.1", "port": port}})
    dap.event("initialized")
    # The file has the same path inside, so no path is mapped.
    dap.ask("setBreakpoints", {"source": {"path": str(path)}, "breakpoints": [{"line": line}]})
    dap.ask("configurationDone", {})
    thread = dap.event("stopped")["threadId"]
    frame = dap.ask("stackTrace", {"threadId": thread})["stackFrames"][0]
    assert (frame["source"]["path"], frame["line"]) == (str(path), line), frame
    value = dap.ask("evaluate", {"expression": "number", "frameId": frame["id"]})["result"]
    dap.ask("continue", {"threadId": thread})
    dap.event("terminated")
    return value


class Inspector:
    """Node's inspector: messages in frames of a WebSocket."""

    def __init__(self, connection, path):
        self.connection, self.file, self.count, self.told = connection, connection.makefile("rb"), 0, []
        key = "AAAAAAAAAAAAAAAAAAAAAA=="
        head = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n"
        connection.sendall(head.encode())
        assert b" 101 " in self.file.readline()
        while self.file.readline().strip():
            pass

    def receive(self):
        length = exactly(self.file, 2)[1] & 127
        if length == 126:
            length = struct.unpack(">H", exactly(self.file, 2))[0]
        elif length == 127:
            length = struct.unpack(">Q", exactly(self.file, 8))[0]
        return json.loads(exactly(self.file, length))

    def ask(self, method, **parameters):
        self.count += 1
        body = json.dumps({"id": self.count, "method": method, "params": parameters}).encode()
        # A mask of zeros leaves the text as it is.
        self.connection.sendall(b"\x81" + struct.pack(">BH", 0x80 | 126, len(body)) + bytes(4) + body)
        while True:
            message = self.receive()
            if message.get("id") == self.count:
                assert "result" in message, message
                return message["result"]
            self.told.append(message)

    def event(self, method):
        while True:
            for message in self.told:
                if message.get("method") == method:
                    self.told.remove(message)
                    return message["params"]
            self.told.append(self.receive())

    def paused(self):
        return self.event("Debugger.paused")["callFrames"][0]


def node(port, path, line):
    def begun(connection):
        connection.sendall(b"GET /json/list HTTP/1.0\r\nHost: 127.0.0.1\r\n\r\n")
        file, length = connection.makefile("rb"), None
        while line := file.readline().strip():
            length = int(line.split(b":")[1]) if line.lower().startswith(b"content-length:") else length
        if length is None:
            raise EOFError("closed")
        return json.loads(exactly(file, length))[0]

    first, target = attached(port, begun)
    first.close()
    assert target["url"] == f"file://{path}", target
    _, inspector = attached(port, lambda connection: Inspector(connection, "/" + target["id"]))
    inspector.ask("Debugger.enable")
    inspector.ask("Debugger.setBreakpointByUrl", lineNumber=line - 1, url=target["url"])
    inspector.ask("Runtime.enable")
    inspector.ask("Runtime.runIfWaitingForDebugger")
    inspector.paused()
    inspector.ask("Debugger.resume")
    frame = inspector.paused()
    assert frame["location"]["lineNumber"] == line - 1, frame
    value = inspector.ask("Debugger.evaluateOnCallFrame", callFrameId=frame["callFrameId"], expression="String(number)")["result"]["value"]
    inspector.ask("Debugger.resume")
    # At its end, node waits for the debugger's.
    inspector.event("Runtime.executionContextDestroyed")
    inspector.connection.shutdown(socket.SHUT_RDWR)
    return value


def go(port, path, line):
    count = 0

    def ask(connection, file, method, parameters):
        nonlocal count
        count += 1
        connection.sendall(json.dumps({"method": f"RPCServer.{method}", "params": [parameters], "id": count}).encode())
        text = file.readline()
        if not text:
            raise EOFError("closed")
        answer = json.loads(text)
        assert not answer["error"], answer
        return answer["result"]

    def begun(connection):
        file = connection.makefile("rb")
        ask(connection, file, "CreateBreakpoint", {"Breakpoint": {"file": str(path), "line": line}})
        return file

    connection, file = attached(port, begun)
    thread = ask(connection, file, "Command", {"name": "continue"})["State"]["currentThread"]
    assert (thread["file"], thread["line"]) == (str(path), line), thread
    value = ask(connection, file, "Eval", {"Scope": {"GoroutineID": -1}, "Expr": "number"})["Variable"]["value"]
    ask(connection, file, "ClearBreakpoint", {"Id": 1})
    ask(connection, file, "Command", {"name": "continue"})
    ask(connection, file, "Detach", {"Kill": True})
    return value


def main():
    tool, silo, project, port = sys.argv[1:]
    project = pathlib.Path(project).resolve()
    name, text, line, inside, words = PROGRAMS[tool]
    (project / name).write_text(text)
    if tool == "go":
        (project / "go.mod").write_text("module example.com/x\n\ngo 1.24\n")
    words = [word.format(port=f"--port={port}:{inside}") for word in words]
    program = subprocess.Popen([silo, *words], cwd=project, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
    try:
        value = {"python": python, "node": node, "go": go}[tool](int(port), project / name, line)
        said, _ = program.communicate(timeout=PATIENCE)
    finally:
        program.kill()
    assert value == "42" and "the number is 42" in said, (value, said, program.returncode)
    print(f"a debugger attached to {tool}, stopped in line {line} and read number = {value}")


main()
