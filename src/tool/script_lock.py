# Resolves the dependencies of a script with pip, and writes them in uv's format of SCRIPT.lock. Runs in a build step.
#   python3 script_lock.py OUTPUT REQUIRES-PYTHON DEPENDENCY...
import json
import subprocess
import sys
import urllib.parse
import urllib.request

from pip._internal.models.index import PyPI
from pip._vendor.packaging.requirements import Requirement
from pip._vendor.packaging.utils import canonicalize_name, parse_sdist_filename, parse_wheel_filename

output, requires, wanted = sys.argv[1], sys.argv[2], sys.argv[3:]
pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
report = "/tmp/report.json"
subprocess.run([*pip, "install", "--dry-run", "--ignore-installed", "--quiet", "--report", report, "--", *wanted], check=True)


def index_url():
    for key in (":env:.index-url", "global.index-url", "install.index-url"):
        found = subprocess.run([*pip, "config", "get", key], capture_output=True, text=True)
        if found.returncode == 0:
            return found.stdout.strip().rstrip("/")
    return PyPI.simple_url.rstrip("/")


INDEX = index_url()
items = json.load(open(report))["install"]
names = {canonicalize_name(item["metadata"]["name"]) for item in items}


def text(value):
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def version_of(filename):
    try:
        return str(parse_wheel_filename(filename)[1] if filename.endswith(".whl") else parse_sdist_filename(filename)[1])
    except ValueError:
        return None


def files(name, version, info):
    own = (info["url"], info["archive_info"]["hashes"]["sha256"])
    address = f"{INDEX}/{name}/"
    request = urllib.request.Request(address, headers={"Accept": "application/vnd.pypi.simple.v1+json"})
    try:
        listed = json.load(urllib.request.urlopen(request, timeout=60))["files"]
    except (OSError, ValueError, KeyError):
        # An index without JSON: the file of this platform alone.
        return [own]
    same = [file for file in listed if version_of(file["filename"]) == version and "sha256" in file.get("hashes", {})]
    found = [(urllib.parse.urljoin(address, file["url"]), file["hashes"]["sha256"]) for file in same]
    return found if own[1] in [digest for _, digest in found] else [own, *found]


def needs(requirement):
    """Writes a requirement of the script as uv does."""
    parts = [f"name = {text(canonicalize_name(requirement.name))}"]
    if requirement.extras:
        parts.append(f"extras = [{', '.join(text(extra) for extra in sorted(requirement.extras))}]")
    if requirement.marker:
        parts.append(f"marker = {text(str(requirement.marker))}")
    if requirement.url:
        parts.append(f"url = {text(requirement.url)}")
    elif str(requirement.specifier):
        parts.append(f"specifier = {text(str(requirement.specifier))}")
    return f"{{ {', '.join(parts)} }}"


lines = ["version = 1", "revision = 3", f"requires-python = {text(requires or '>=%d.%d' % sys.version_info[:2])}", "", "[manifest]"]
lines.append(f"requirements = [{', '.join(needs(Requirement(one)) for one in wanted)}]")
for item in sorted(items, key=lambda item: canonicalize_name(item["metadata"]["name"])):
    metadata = item["metadata"]
    name, version = canonicalize_name(metadata["name"]), metadata["version"]
    if item.get("is_direct"):
        sys.exit(f"{name} is not from the package index; a lock has packages of the index only")
    lines += ["", "[[package]]", f"name = {text(name)}", f"version = {text(version)}", f"source = {{ registry = {text(INDEX)} }}"]
    extras = item.get("requested_extras") or [""]
    needed = {}
    for one in map(Requirement, metadata.get("requires_dist", [])):
        is_needed = one.marker is None or any(one.marker.evaluate({"extra": extra}) for extra in extras)
        if is_needed and canonicalize_name(one.name) in names:
            is_of_extra = one.marker is None or "extra" in str(one.marker)
            needed[canonicalize_name(one.name)] = "" if is_of_extra else f", marker = {text(str(one.marker))}"
    if needed:
        lines.append(f"dependencies = [{', '.join(f'{{ name = {text(other)}{marker} }}' for other, marker in sorted(needed.items()))}]")
    entries = [(url, f"{{ url = {text(url)}, hash = {text('sha256:' + digest)} }}") for url, digest in files(name, version, item["download_info"])]
    wheels = [entry for url, entry in entries if url.partition("#")[0].endswith(".whl")]
    # Of several archives of the sources, uv takes one.
    lines += [f"sdist = {entry}" for url, entry in entries if url.partition("#")[0].endswith((".tar.gz", ".zip"))][:1]
    if wheels:
        lines += ["wheels = [", *(f"    {entry}," for entry in wheels), "]"]
open(output, "w").write("\n".join(lines) + "\n")
