# Installs what `.ci/release` makes: on macOS the tarball with the program that is signed for virtual machines and the
# program for Linux that its machines begin with; on Linux it is built from source. The addresses and the sha256 are
# placeholders that a release fills in, so until there is one nothing can be installed from here.
class Silo < Formula
  desc "Run dev tools in throw-away sandboxes built from pinned, reproducible images"
  homepage "https://example.com/silo"
  version "0.1.0"
  license "Apache-2.0"

  on_macos do
    url "https://example.com/silo/releases/v0.1.0/silo-0.1.0-aarch64-apple-darwin.tar.gz"
    sha256 "0000000000000000000000000000000000000000000000000000000000000000"
    depends_on arch: :arm64
    depends_on macos: :ventura
  end

  on_linux do
    url "https://example.com/silo/archive/v0.1.0.tar.gz"
    sha256 "0000000000000000000000000000000000000000000000000000000000000000"
    head "https://example.com/silo.git", branch: "main"
    depends_on "rust" => :build
  end

  def install
    if OS.mac?
      # As it was signed: whatever changed a byte would take the permission for machines away.
      bin.install "bin/silo"
      (libexec/"silo").install "libexec/silo/silo-linux-aarch64"
      man1.install Dir["share/man/man1/*"]
      bash_completion.install "share/bash-completion/completions/silo"
      zsh_completion.install "share/zsh/site-functions/_silo"
      fish_completion.install "share/fish/vendor_completions.d/silo.fish"
    else
      system "cargo", "install", "--locked", "--path", ".", "--root", prefix
      generate_completions_from_executable(bin/"silo", "completions")
      man1.mkpath
      system bin/"silo", "man", "--dir", man1
    end
  end

  test do
    assert_match version.to_s, shell_output("#{bin}/silo --version")
    assert_match "python", shell_output("#{bin}/silo list --available")
  end
end
