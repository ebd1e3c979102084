#!/bin/sh
# Installs a release of Silo, after verifying it.
#
#   install.sh [--base ADDRESS] [--sums SHA256] [--to DIR]
#
# ADDRESS (or SILO_BASE) has the files of one release: the tarballs and SHA256SUMS. SHA256 (or SILO_SUMS_SHA256) is the
# digest of SHA256SUMS, from a place that you trust; without it, the digest is only printed. DIR is ~/.local by default.
set -eu
base=${SILO_BASE:-} sums=${SILO_SUMS_SHA256:-} to=
fail() {
  printf 'install.sh: %s\n' "$1" >&2
  exit 1
}
while [ $# -gt 0 ]; do
  [ $# -gt 1 ] || fail "$1 needs a value"
  case $1 in
    --base) base=$2 ;;
    --sums) sums=$2 ;;
    --to) to=$2 ;;
    *) fail "unknown argument $1" ;;
  esac
  shift 2
done
[ -n "$to" ] || to=${HOME:?install.sh: HOME is not set, so name a directory: --to DIR}/.local
[ -n "$base" ] || fail "name the address of a release: --base ADDRESS, or the variable SILO_BASE"
case $base in
  *@*) fail "$base has a login, or another host than it seems" ;;
  https://*) schemes='=https' ;;
  file:///*) schemes='=file' ;;
  http://127.0.0.1[:/]* | http://localhost[:/]* | http://127.0.0.1 | http://localhost) schemes='=http' ;;
  *) fail "$base is neither https nor this machine" ;;
esac
case $(uname -s)-$(uname -m) in
  Linux-x86_64) target=x86_64-unknown-linux ;;
  Linux-aarch64) target=aarch64-unknown-linux ;;
  Darwin-arm64) target=aarch64-apple-darwin ;;
  *) fail "there is no release for $(uname -s) on $(uname -m)" ;;
esac
digest() {
  if command -v sha256sum >/dev/null; then sha256sum "$1"; else shasum -a 256 "$1"; fi | cut -d ' ' -f 1
}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM
get() {
  curl --fail --silent --show-error --location --proto "$schemes" --max-time 600 --max-filesize 500000000 \
    --output "$work/$1" "$base/$1" || fail "cannot fetch $base/$1"
}
get SHA256SUMS
found=$(digest "$work/SHA256SUMS")
if [ -n "$sums" ]; then
  [ "$found" = "$sums" ] || fail "SHA256SUMS has the digest $found, not $sums: nothing was installed"
else
  printf 'install.sh: the digest of SHA256SUMS is %s; compare it with the published one\n' "$found" >&2
fi
file=$(awk -v end="-$target.tar.gz" 'length($2) > length(end) && substr($2, length($2) - length(end) + 1) == end { print $2 }' "$work/SHA256SUMS")
case $file in
  '') fail "the release has no file for $target" ;;
  *[!A-Za-z0-9._-]*) fail "SHA256SUMS names more than one file for $target, or a strange one" ;;
esac
get "$file"
expected=$(awk -v file="$file" '$2 == file { print $1 }' "$work/SHA256SUMS")
found=$(digest "$work/$file")
[ "$found" = "$expected" ] || fail "$file has the digest $found, not $expected: nothing was installed"
mkdir "$work/files"
tar -xzf "$work/$file" -C "$work/files" --strip-components 1
"$work/files/bin/silo" --version >/dev/null || fail "the program does not start on this machine"
mkdir -p "$to"
# What an interrupted run left is of another version.
rm -rf "$to/.silo-new"
mkdir "$to/.silo-new"
cp -R "$work/files/." "$to/.silo-new"
for part in bin libexec share; do
  [ -d "$to/.silo-new/$part" ] || continue
  (cd "$to/.silo-new" && find "$part" -type d) | while read -r dir; do mkdir -p "$to/$dir"; done
  # A rename: a running silo keeps its old file.
  (cd "$to/.silo-new" && find "$part" -type f) | while read -r path; do mv -f "$to/.silo-new/$path" "$to/$path"; done
done
rm -rf "$to/.silo-new"
printf '%s is in %s\n' "$("$to/bin/silo" --version)" "$to/bin"
case :$PATH: in
  *:"$to/bin":*) ;;
  *) printf 'add it to PATH: export PATH="%s/bin:$PATH"\n' "$to" ;;
esac
