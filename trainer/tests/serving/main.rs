//! `serve` on the quickstart's model, over real connections.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod client;
mod requests;
mod server;

use std::process::Command;
use std::time::Instant;

use serde_json::{Value, json};

use crate::client::{Exchange, chat, get};
use crate::requests::{Asked, Heldout, text, with_image};
use crate::server::{DEADLINE, Server, TRAINER, model, write_adapter};

/// Asks again until the answer has this status.
fn until_status(server: &Server, request: &Value, status: u16) -> client::Reply {
    let until = Instant::now() + DEADLINE;
    loop {
        let reply = chat(server.address, request);
        if reply.status == status {
            return reply;
        }
        assert!(Instant::now() < until, "{}: {}", reply.status, reply.body);
        std::thread::yield_now();
    }
}

#[test]
fn answers_are_those_of_evaluate_whoever_else_asks() {
    let dir = tempfile::tempdir().unwrap();
    let (tuned, other) = (dir.path().join("tuned"), dir.path().join("other"));
    write_adapter(&tuned, 1.0);
    write_adapter(&other, -2.0);
    let adapters = [format!("tuned={}", tuned.display()), format!("other={}", other.display())];
    let heldout = Heldout::new(dir.path(), 12);
    let asked = heldout.evaluate(&adapters);
    let answers_of = |model: &str| -> Vec<&str> {
        asked.iter().filter(|asked| asked.model == model).map(|asked| asked.answer.as_str()).collect()
    };
    assert_eq!(asked.len(), 3 * (12 * 2 + heldout.images()));
    assert_ne!(answers_of("base"), answers_of("tuned"), "the adapter changes something");
    assert_ne!(answers_of("tuned"), answers_of("other"));

    let arguments = ["--adapter", &adapters[0], "--adapter", &adapters[1], "--responses-at-once", "5"];
    let server = Server::start(&arguments);
    let sampled = |seed: u64| {
        let mut request = asked[0].request.clone();
        request["temperature"] = json!(1.5);
        request["seed"] = json!(seed);
        chat(server.address, &request).content()
    };
    let alone: Vec<String> = (0..4).map(&sampled).collect();
    assert!(alone.iter().any(|answer| *answer != alone[0]), "seeds decide: {alone:?}");

    const CLIENTS: usize = 8;
    std::thread::scope(|scope| {
        for client in 0..CLIENTS {
            let (asked, alone, sampled) = (&asked, &alone, &sampled);
            scope.spawn(move || {
                for Asked { request, answer, .. } in asked.iter().skip(client).step_by(CLIENTS) {
                    assert_eq!(chat(server.address, request).content(), *answer, "{request}");
                }
                let seed = client % alone.len();
                assert_eq!(sampled(seed as u64), alone[seed]);
            });
        }
    });
    // One after the other, streamed.
    for Asked { request, answer, .. } in asked.iter().step_by(7) {
        let mut streamed = request.clone();
        streamed["stream"] = json!(true);
        streamed["stream_options"] = json!({"include_usage": true});
        let reply = chat(server.address, &streamed);
        assert!(reply.head.contains("content-type: text/event-stream"), "{}", reply.head);
        let events = reply.events();
        let (usage, parts) = events.split_last().unwrap();
        let whole = chat(server.address, request).json();
        assert_eq!(usage["usage"], whole["usage"]);
        assert_eq!(usage["choices"], json!([]));
        let content: Vec<&str> =
            parts.iter().filter_map(|part| part["choices"][0]["delta"]["content"].as_str()).collect();
        assert_eq!(content.concat(), *answer);
        assert_eq!(parts[0]["choices"][0]["delta"]["role"], "assistant");
        let reasons: Vec<&Value> = parts.iter().map(|part| &part["choices"][0]["finish_reason"]).collect();
        assert_eq!(*reasons[reasons.len() - 1], whole["choices"][0]["finish_reason"]);
        assert!(reasons[..reasons.len() - 1].iter().all(|reason| reason.is_null()), "{reasons:?}");
    }
}

#[test]
fn an_answer_ends_where_it_was_told_to() {
    let server = Server::start(&[]);
    let describe = with_image("scenes-llava", "Describe the image.", 64);
    let whole = chat(server.address, &describe);
    let (text, json) = (whole.content(), whole.json());
    assert_eq!(json["choices"][0]["finish_reason"], "stop");
    assert_eq!(json["model"], "scenes-llava");

    let mut short = describe.clone();
    short["max_tokens"] = json!(3);
    let reply = chat(server.address, &short);
    assert!(text.starts_with(&reply.content()), "{} of {text}", reply.content());
    let json = reply.json();
    assert_eq!(
        (&json["choices"][0]["finish_reason"], &json["usage"]["completion_tokens"]),
        (&json!("length"), &json!(3))
    );
    short["max_tokens"] = json!(1_000_000);
    assert_eq!(chat(server.address, &short).content(), text, "clamped to the context");

    let stop = &text[text.len() / 2..text.len() / 2 + 4];
    let expected = text.split(stop).next().unwrap().trim_end();
    for stream in [false, true] {
        let mut stopped = describe.clone();
        stopped["stop"] = json!([stop, "never"]);
        stopped["stream"] = json!(stream);
        let reply = chat(server.address, &stopped);
        if stream {
            let content: String = reply
                .events()
                .iter()
                .filter_map(|event| event["choices"][0]["delta"]["content"].as_str().map(str::to_owned))
                .collect();
            assert_eq!(content, expected);
        } else {
            assert_eq!(reply.content(), expected);
            assert_eq!(reply.json()["choices"][0]["finish_reason"], "stop");
        }
    }
}

#[test]
fn what_cannot_be_answered_is_refused_by_name() {
    let server = Server::start(&[]);
    let refused = |request: &Value, status: u16, expected: &str| {
        let reply = chat(server.address, request);
        assert_eq!(reply.status, status, "{}", reply.body);
        assert!(reply.message().contains(expected), "{}", reply.message());
    };
    refused(&text("gpt-4o", "?"), 404, "\"gpt-4o\" is not served; use one of scenes-llava");
    refused(&text("base", &"word ".repeat(2000)), 400, "leaves no room for an answer");
    refused(&text("base", "See <image>."), 400, "contains <image>");
    let mut request = text("base", "?");
    request["n"] = json!(2);
    refused(&request, 400, "n is not supported");
    request = text("base", "?");
    request["messages"] = json!([{"role": "assistant", "content": "?"}]);
    refused(&request, 400, "must alternate between user and assistant");
    let mut broken = with_image("base", "?", 4);
    for (url, expected) in [
        ("https://example.org/a.jpg", "opens no connections"),
        ("data:image/png;base64,AAAA", "messages[0].content[0].image_url: the content is not JPEG, PNG"),
        (
            "data:image/png;base64,iVBORw0KGgo=",
            "messages[0].content[0].image_url: the image file is truncated",
        ),
    ] {
        broken["messages"][0]["content"][0]["image_url"]["url"] = json!(url);
        refused(&broken, 400, expected);
    }
    for (line, status) in [("GET /v1/chat/completions", 404), ("POST /v1/completions", 404), ("GET /", 404)] {
        let reply = Exchange::begin(server.address, line, 0, b"").finish();
        assert_eq!(reply.status, status);
        assert!(reply.message().contains("not served"), "{}", reply.message());
    }
    let large = vec![b' '; (64 << 20) + 1];
    let reply = Exchange::begin(server.address, "POST /v1/chat/completions", large.len(), &large).finish();
    assert_eq!((reply.status, reply.message().contains("more than 64 MiB")), (413, true));

    assert_eq!(get(server.address, "/healthz").body, "ok\n");
    let models = get(server.address, "/v1/models").json();
    assert_eq!(
        (&models["data"][0]["id"], models["data"].as_array().unwrap().len()),
        (&json!("scenes-llava"), 1)
    );
    assert!(!chat(server.address, &with_image("base", "Describe the image.", 8)).content().is_empty());
}

#[test]
fn a_full_queue_refuses_until_a_client_hangs_up() {
    let server = Server::start(&["--responses-at-once", "1", "--max-queue", "1"]);
    let question = text("base", "How many shapes are there?");
    // A request takes its place when it begins to arrive.
    let begin = || Exchange::begin(server.address, "POST /v1/chat/completions", 1000, b"{");
    let (first, second) = (begin(), begin());
    let reply = until_status(&server, &question, 429);
    assert!(reply.head.contains("\r\nretry-after: 1"), "{}", reply.head);
    assert_eq!(reply.json()["error"]["code"], "rate_limit_exceeded");
    drop(first);
    until_status(&server, &question, 200);
    drop(second);
}

/// A request whose answer takes long: this adapter never ends a sequence.
fn endless(dir: &std::path::Path) -> (String, Value) {
    let adapter = dir.join("endless");
    write_adapter(&adapter, 50.0);
    let mut request = with_image("endless", "Describe the image.", 100_000);
    request["stream"] = json!(true);
    (format!("endless={}", adapter.display()), request)
}

#[test]
fn a_client_that_hangs_up_frees_its_slot() {
    let dir = tempfile::tempdir().unwrap();
    let (adapter, request) = endless(dir.path());
    let server = Server::start(&["--adapter", &adapter, "--responses-at-once", "1", "--max-queue", "0"]);
    let mut stream = Exchange::chat(server.address, &request);
    stream.wait_for_text();
    assert_eq!(chat(server.address, &text("base", "?")).status, 429);
    drop(stream);
    server.wait_for_log("stopped an answer that no client waits for");
    until_status(&server, &text("base", "How many shapes are there?"), 200);
}

#[test]
fn a_signal_ends_the_server_within_seconds() {
    let dir = tempfile::tempdir().unwrap();
    let (adapter, request) = endless(dir.path());
    let mut server = Server::start(&["--adapter", &adapter, "--responses-at-once", "1"]);
    let mut stream = Exchange::chat(server.address, &request);
    stream.wait_for_text();
    let waiting = Exchange::chat(server.address, &with_image("base", "Describe the image.", 8));
    server.terminate();
    let reply = waiting.finish();
    assert!(reply.status == 503 || reply.status == 200, "{}", reply.body);
    assert_eq!(server.wait().code(), Some(75), "as every command that was interrupted");
}

#[test]
fn memory_does_not_grow_with_the_requests_served() {
    let server = Server::start(&["--responses-at-once", "2"]);
    let request = with_image("base", "What is in the image?", 8);
    let ask = |times: usize| (0..times).for_each(|_| assert_eq!(chat(server.address, &request).status, 200));
    ask(40);
    let before = server.peak_kib();
    ask(200);
    let after = server.peak_kib();
    assert!(after < before + 8 * 1024, "{before} KiB after 40 requests, {after} KiB after 240");
}

#[test]
fn a_command_line_that_cannot_be_served_is_refused_at_once() {
    let serve = |arguments: &[&str]| {
        let ended =
            Command::new(TRAINER).args(["serve", "--model"]).arg(model()).args(arguments).output().unwrap();
        assert_eq!(ended.status.code(), Some(64));
        String::from_utf8(ended.stderr).unwrap()
    };
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    assert!(serve(&["--listen", &address]).contains(&format!("--listen {address}: ")));
    assert!(serve(&["--adapter", "scenes-llava=x"]).contains("choose another NAME"));
    assert!(serve(&["--adapter", "base=x"]).contains("each NAME must be unique and other than base"));
}
