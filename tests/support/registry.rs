//! A real registry.

use std::fs::{self, File};
use std::process::{Child, Command, Stdio};

/// Debian's own registry, on the loopback interface.
pub struct Registry {
    child: Child,
    /// Its address and port, as references name it.
    pub host: String,
    _dir: tempfile::TempDir,
}

impl Registry {
    /// Starts one that is empty.
    pub fn start() -> Registry {
        let dir = tempfile::tempdir().expect("a directory");
        let host = format!("127.0.0.1:{}", super::free_port());
        let config = dir.path().join("config.yml");
        let text = format!(
            "version: 0.1\nlog:\n  level: error\nstorage:\n  delete:\n    enabled: true\n  filesystem:\n    rootdirectory: {}\nhttp:\n  addr: {host}\n",
            dir.path().join("data").display()
        );
        fs::write(&config, text).expect("our own file");
        let log = File::create(dir.path().join("log")).expect("our own file");
        let mut child =
            Command::new("docker-registry").arg("serve").arg(&config).stdout(Stdio::null()).stderr(log).spawn().expect("it starts");
        super::sandbox::until("the registry answers", || {
            let ended = child.try_wait().expect("our own child");
            assert!(ended.is_none(), "it ended: {}", fs::read_to_string(dir.path().join("log")).unwrap_or_default());
            std::net::TcpStream::connect(&host).is_ok()
        });
        Registry { child, host, _dir: dir }
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        // It ends with the test; its output then has no meaning.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
