//! A run that is changed while the plugin changes it.
#![expect(clippy::expect_used, reason = "a test fails by panicking")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The method of a request, which is read to its end.
fn method(stream: &mut BufReader<TcpStream>) -> Option<String> {
    let mut line = String::new();
    stream.read_line(&mut line).ok()?;
    let method = line.split_whitespace().next()?.to_owned();
    let mut length = 0;
    loop {
        let mut header = String::new();
        stream.read_line(&mut header).ok()?;
        let header = header.trim().to_lowercase();
        if header.is_empty() {
            break;
        }
        if let Some(value) = header.strip_prefix("content-length:") {
            length = value.trim().parse().expect("a length");
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).ok()?;
    Some(method)
}

/// An API server with one run, which refuses the first `conflicts` patches because the run has changed. Returns its address, and
/// how many patches it has received.
fn serve(conflicts: usize) -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = format!("http://{}", listener.local_addr().expect("an address"));
    let patches = Arc::<AtomicUsize>::default();
    let count = patches.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = BufReader::new(stream.expect("a connection"));
            let Some(method) = method(&mut stream) else { continue };
            let refused = method == "PATCH" && count.fetch_add(1, Ordering::Relaxed) < conflicts;
            let (status, body) = if refused {
                let conflict = r#"{"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "code": 409,
                    "reason": "Conflict", "message": "the object has been modified"}"#;
                ("409 Conflict", conflict)
            } else {
                let run = r#"{"apiVersion": "stic.dev/v1alpha1", "kind": "StageOneRun",
                    "metadata": {"name": "one", "namespace": "default", "uid": "u", "resourceVersion": "7", "generation": 1},
                    "spec": {}, "status": {"observedGeneration": 1, "conditions": [{"type": "Succeeded", "status": "True",
                    "reason": "Succeeded", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"}]}}"#;
                ("200 OK", run)
            };
            let length = body.len();
            let head =
                format!("HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {length}");
            let _ =
                stream.get_mut().write_all(format!("{head}\r\nconnection: close\r\n\r\n{body}").as_bytes());
        }
    });
    (address, patches)
}

fn rerun(address: &str) -> (Option<i32>, String) {
    let folder = tempfile::tempdir().expect("a folder");
    let kubeconfig = folder.path().join("kubeconfig");
    let text = format!(
        "apiVersion: v1\nkind: Config\nclusters: [{{name: a, cluster: {{server: \"{address}\"}}}}]\nusers: [{{name: a, user: {{}}}}]\ncontexts: [{{name: a, context: {{cluster: a, user: a}}}}]\ncurrent-context: a\n"
    );
    std::fs::write(&kubeconfig, text).expect("a file");
    let ended = Command::new(env!("CARGO_BIN_EXE_kubectl-stic"))
        .args(["rerun", "s1/one", "--kubeconfig"])
        .arg(&kubeconfig)
        .output()
        .expect("it starts");
    let text = [ended.stdout, ended.stderr].concat();
    (ended.status.code(), String::from_utf8(text).expect("UTF-8"))
}

#[test]
fn a_change_is_decided_again_when_the_run_has_changed() {
    let (address, patches) = serve(2);
    assert_eq!(rerun(&address), (Some(0), "stageonerun/one runs again (rerun 1)\n".to_owned()));
    assert_eq!(patches.load(Ordering::Relaxed), 3);
}

#[test]
fn a_run_that_never_stops_changing_is_given_up() {
    let (address, patches) = serve(usize::MAX);
    let (code, message) = rerun(&address);
    assert_eq!(code, Some(69), "{message}");
    assert!(message.contains("was changed by something else at each of 20 attempts"), "{message}");
    assert_eq!(patches.load(Ordering::Relaxed), 20);
}
