//! A server whose replies a test chooses, for the tests of this module.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};

/// What the server does with a request.
#[derive(Debug, Clone)]
pub(super) enum Action {
    /// Replies with a status, more headers and a body.
    Reply(u16, &'static str, &'static str),
    /// Keeps the connection open without a reply.
    Hang,
    /// Closes the connection.
    Close,
}

/// Answers the first requests with the given actions, and every other one with the last of them.
#[derive(Debug)]
pub(super) struct Server {
    pub(super) url: String,
    requests: Arc<Mutex<Vec<String>>>,
}

impl Server {
    pub(super) fn start(actions: Vec<Action>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let url = format!("http://{}/v1", listener.local_addr().expect("an address"));
        let requests = Arc::<Mutex<Vec<String>>>::default();
        let seen = Arc::clone(&requests);
        // It ends with the process of the test.
        std::thread::spawn(move || {
            let mut hanging = Vec::new();
            for (number, stream) in listener.incoming().enumerate() {
                let mut stream = stream.expect("a connection");
                let request = read(&mut stream);
                seen.lock().unwrap_or_else(PoisonError::into_inner).push(request);
                match actions[number.min(actions.len() - 1)] {
                    Action::Reply(status, headers, body) => {
                        let length = body.len();
                        let reply = format!(
                            "HTTP/1.1 {status} Test\r\nConnection: close\r\nContent-Length: {length}\r\n{headers}\r\n{body}"
                        );
                        stream.write_all(reply.as_bytes()).expect("sent");
                    }
                    Action::Hang => hanging.push(stream),
                    Action::Close => {}
                }
            }
        });
        Self { url, requests }
    }

    /// The requests so far, each with its head and body.
    pub(super) fn requests(&self) -> Vec<String> {
        self.requests.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn read(stream: &mut TcpStream) -> String {
    let mut reader = BufReader::new(stream);
    let (mut head, mut length) = (String::new(), 0);
    loop {
        let start = head.len();
        reader.read_line(&mut head).expect("a line");
        let line = head[start..].to_ascii_lowercase();
        if let Some(value) = line.strip_prefix("content-length:") {
            length = value.trim().parse().expect("a number");
        }
        if line.trim().is_empty() {
            break;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).expect("a body");
    head + &String::from_utf8(body).expect("UTF-8")
}
