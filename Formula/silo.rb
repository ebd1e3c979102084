# Installs the tarballs of a release. `.ci/formula` fills in the addresses and the digests, which are placeholders here.
class Silo < Formula
  desc "Run dev tools in throw-away sandboxes built from pinned, reproducible images"
  homepage "https://example.com/silo"
  version "0.1.0"
  license "Apache-2.0"

  on_macos do
    on_arm do
      url "https://example.com/silo/releases/v0.1.0/silo-0.1.0-aarch64-apple-darwin.tar.gz"
      sha256 "0000000000000000000000000000000000000000000000000000000000000000"
    end
    depends_on arch: :arm64
    depends_on macos: :ventura
  end

  on_linux do
    on_intel do
      url "https://example.com/silo/releases/v0.1.0/silo-0.1.0-x86_64-unknown-linux.tar.gz"
      sha256 "0000000000000000000000000000000000000000000000000000000000000000"
    end
    on_arm do
      url "https://example.com/silo/releases/v0.1.0/silo-0.1.0-aarch64-unknown-linux.tar.gz"
      sha256 "0000000000000000000000000000000000000000000000000000000000000000"
    end
  end

  def install
    # As it was signed: a changed byte would take the permission for machines away.
    bin.install "bin/silo"
    (libexec/"silo").install "libexec/silo/silo-linux-aarch64" if OS.mac?
    man1.install Dir["share/man/man1/*"]
    bash_completion.install "share/bash-completion/completions/silo"
    zsh_completion.install "share/zsh/site-functions/_silo"
    fish_completion.install "share/fish/vendor_completions.d/silo.fish"
  end

  test do
    assert_match version.to_s, shell_output("#{bin}/silo --version")
    assert_match "python", shell_output("#{bin}/silo list --available")
  end
end
