//! The way to the API server: directly, or through a proxy.
#![expect(clippy::unwrap_used, reason = "a test ends where its inputs are not what they should be")]

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::process::Command;
use std::sync::mpsc;

use tempfile::TempDir;

/// Runs `kubectl-stic get` with a proxy that refuses every connection, and returns what it was asked for.
fn requests(cluster: &str, variables: &[(&str, &str)]) -> Vec<String> {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let proxy = format!("http://{}", listener.local_addr().unwrap());
    let (sender, received) = mpsc::channel();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut request = [0; 1024];
            let count = stream.read(&mut request).unwrap_or(0);
            let line =
                String::from_utf8_lossy(&request[..count]).lines().next().unwrap_or_default().to_owned();
            let _ = sender.send(line);
            let _ = stream.write_all(b"HTTP/1.1 502 Bad Gateway\r\ncontent-length: 0\r\n\r\n");
        }
    });
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("kubeconfig");
    let cluster = cluster.replace("PROXY", &proxy);
    let text = format!(
        "{{apiVersion: v1, kind: Config, clusters: [{{name: c, cluster: {cluster}}}], users: [{{name: u, user: {{token: x}}}}],
          contexts: [{{name: c, context: {{cluster: c, user: u}}}}], current-context: c}}"
    );
    fs::write(&path, text).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_kubectl-stic"));
    command.args(["get", "--kubeconfig"]).arg(&path);
    for name in ["HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "NO_PROXY", "no_proxy"] {
        command.env_remove(name);
    }
    for (name, value) in variables {
        command.env(name, value.replace("PROXY", &proxy));
    }
    let output = command.output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(69), "{variables:?}: {error}");
    assert!(error.contains("cannot be reached"), "{error}");
    received.try_iter().collect()
}

#[test]
fn a_proxy_is_used_as_kubectl_uses_it() {
    let remote = "{server: \"https://api.invalid:6443\", insecure-skip-tls-verify: true}";
    let local = "{server: \"https://127.0.0.1:1\", insecure-skip-tls-verify: true}";
    let through = requests(remote, &[("HTTPS_PROXY", "PROXY")]);
    assert!(through.iter().all(|line| line.starts_with("CONNECT api.invalid:6443 ")), "{through:?}");
    assert!(!through.is_empty());
    assert!(requests(remote, &[("HTTPS_PROXY", "PROXY"), ("NO_PROXY", ".invalid")]).is_empty());
    assert!(requests(local, &[("HTTPS_PROXY", "PROXY"), ("NO_PROXY", "127.0.0.1")]).is_empty());
    let named = local.replace('}', ", proxy-url: \"PROXY\"}");
    let through = requests(&named, &[("NO_PROXY", "127.0.0.1")]);
    assert!(!through.is_empty(), "the proxy of the kubeconfig is always used");
}
