//! A client that sends what it is told to, byte by byte if need be.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};

use serde_json::Value;

pub(crate) struct Reply {
    pub(crate) status: u16,
    /// Lower case.
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Reply {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|e| panic!("{e}: {}", self.body))
    }

    /// The message of an error.
    pub(crate) fn message(&self) -> String {
        let json = self.json();
        assert!(json["error"]["type"].is_string(), "{json}");
        json["error"]["message"].as_str().unwrap().to_owned()
    }

    /// The text of an answer.
    pub(crate) fn content(&self) -> String {
        let json = self.json();
        assert_eq!(self.status, 200, "{json}");
        json["choices"][0]["message"]["content"].as_str().unwrap().to_owned()
    }

    /// The documents of server-sent events, without the end.
    pub(crate) fn events(&self) -> Vec<Value> {
        let events: Vec<&str> = self.body.split("\n\n").filter(|event| !event.is_empty()).collect();
        let (end, documents) = events.split_last().unwrap();
        assert_eq!(*end, "data: [DONE]");
        documents
            .iter()
            .map(|event| serde_json::from_str(event.strip_prefix("data: ").unwrap()).unwrap())
            .collect()
    }
}

/// A request of which the answer has not been read.
pub(crate) struct Exchange(BufReader<TcpStream>);

impl Exchange {
    /// Sends the head of a request with a body of so many bytes, and `body`, which may be shorter.
    pub(crate) fn begin(address: SocketAddr, line: &str, length: usize, body: &[u8]) -> Self {
        let mut stream = TcpStream::connect(address).unwrap();
        let head = format!(
            "{line} HTTP/1.1\r\nHost: test\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).unwrap();
        stream.write_all(body).unwrap();
        Self(BufReader::new(stream))
    }

    pub(crate) fn chat(address: SocketAddr, request: &Value) -> Self {
        let body = request.to_string();
        Self::begin(address, "POST /v1/chat/completions", body.len(), body.as_bytes())
    }

    /// Waits for the first text of a streamed answer: before it, the request may still wait.
    pub(crate) fn wait_for_text(&mut self) {
        loop {
            let mut line = String::new();
            assert!(self.0.read_line(&mut line).unwrap() > 0, "the answer has no text");
            if line.contains(r#""delta":{"content":"#) {
                return;
            }
        }
    }

    pub(crate) fn finish(mut self) -> Reply {
        let mut text = String::new();
        self.0.read_to_string(&mut text).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no head: {text:?}"));
        let head = head.to_ascii_lowercase();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        let chunked = head.contains("transfer-encoding: chunked");
        Reply { status, body: if chunked { join_chunks(body) } else { body.to_owned() }, head }
    }
}

fn join_chunks(mut body: &str) -> String {
    let mut joined = String::new();
    while let Some((length, rest)) = body.split_once("\r\n") {
        let length = usize::from_str_radix(length, 16).unwrap();
        joined.push_str(&rest[..length]);
        body = rest[length..].strip_prefix("\r\n").unwrap();
    }
    joined
}

pub(crate) fn get(address: SocketAddr, path: &str) -> Reply {
    Exchange::begin(address, &format!("GET {path}"), 0, b"").finish()
}

pub(crate) fn chat(address: SocketAddr, request: &Value) -> Reply {
    Exchange::chat(address, request).finish()
}
