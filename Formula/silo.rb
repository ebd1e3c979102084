# Builds Silo from source. The addresses and the sha256 are placeholders that a release fills in, so
# until there is one this formula shows how Silo is built and cannot be installed from.
class Silo < Formula
  desc "Run dev tools in throw-away sandboxes built from pinned, reproducible images"
  homepage "https://example.com/silo"
  url "https://example.com/silo/archive/v0.1.0.tar.gz"
  sha256 "0000000000000000000000000000000000000000000000000000000000000000"
  license "Apache-2.0"
  head "https://example.com/silo.git", branch: "main"

  depends_on "rust" => :build
  # The only tier there is today is made of Linux namespaces.
  depends_on :linux

  def install
    system "cargo", "install", "--locked", "--path", ".", "--root", prefix
    generate_completions_from_executable(bin/"silo", "completions")
    man1.mkpath
    system bin/"silo", "man", "--dir", man1
  end

  test do
    assert_match version.to_s, shell_output("#{bin}/silo --version")
    assert_match "python", shell_output("#{bin}/silo list --available")
  end
end
