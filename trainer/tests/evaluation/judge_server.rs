//! A judge whose replies a test chooses.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

use serde_json::{Value, json};

/// A status, and the text of the reply or the message of the error; `None` for no reply at all.
pub(crate) type Reply = Option<(u16, String)>;

/// An OpenAI-compatible API that keeps what it is asked.
pub(crate) struct JudgeServer {
    pub(crate) url: String,
    /// The texts of the user messages, as they came in.
    requests: Arc<Mutex<Vec<String>>>,
}

impl JudgeServer {
    /// `reply` gets the text of the user message, and how many requests came before it.
    pub(crate) fn start(reply: impl Fn(&str, usize) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/v1", listener.local_addr().unwrap());
        let requests = Arc::<Mutex<Vec<String>>>::default();
        let (seen, reply) = (Arc::clone(&requests), Arc::new(reply));
        // It ends with the process of the test.
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (seen, reply) = (Arc::clone(&seen), Arc::clone(&reply));
                thread::spawn(move || answer(stream.unwrap(), &seen, &*reply));
            }
        });
        Self { url, requests }
    }

    pub(crate) fn requests(&self) -> Vec<String> {
        self.requests.lock().unwrap().clone()
    }

    /// As a run config names it.
    pub(crate) fn endpoint(&self) -> Value {
        json!({"url": self.url, "model": "a-judge", "hasApiKey": false, "repeats": 1})
    }
}

fn answer(stream: TcpStream, seen: &Mutex<Vec<String>>, reply: &dyn Fn(&str, usize) -> Reply) {
    let mut reader = BufReader::new(stream);
    let mut length = 0;
    let mut line = String::new();
    // A process that was killed in between sends less.
    while reader.read_line(&mut line).is_ok_and(|read| read > 2) {
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        }
        line.clear();
    }
    let mut body = vec![0; length];
    if reader.read_exact(&mut body).is_err() || length == 0 {
        return;
    }
    let body: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(body["model"], "a-judge");
    let text = body["messages"].as_array().unwrap().last().unwrap()["content"].as_str().unwrap().to_owned();
    let before = {
        let mut seen = seen.lock().unwrap();
        seen.push(text.clone());
        seen.len() - 1
    };
    let Some((status, text)) = reply(&text, before) else {
        // Until the other side gives up.
        let _ = reader.read_to_end(&mut Vec::new());
        return;
    };
    let body = if status == 200 {
        json!({"choices": [{"message": {"role": "assistant", "content": text}}]})
    } else {
        json!({"error": {"message": text}})
    };
    let body = body.to_string();
    let head = format!(
        "HTTP/1.1 {status} Test\r\nConnection: close\r\nRetry-After: 0\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    // The other side may be gone.
    let _ = reader.get_mut().write_all((head + &body).as_bytes());
}
