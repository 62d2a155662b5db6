//! Neither the number of shards nor the moment of a kill changes a byte of the answers or the results.

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::sandbox::{Run, Sandbox, whole_lines};

/// Cuts a file in the middle of its last line, as a crash may.
fn cut_last_line(path: &Path) {
    let bytes = fs::read(path).unwrap();
    let end = bytes.len() - 1;
    let start = bytes[..end].iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    fs::write(path, &bytes[..start + (end - start) / 2]).unwrap();
}

fn payloads(sandbox: &Sandbox, scored: &Value) -> [Vec<u8>; 2] {
    [("Answers", "answers.jsonl"), ("Results", "results.json")]
        .map(|(kind, file)| sandbox.payload(scored, kind, file))
}

#[test]
fn shards_and_kills_change_nothing() {
    let run = Run::new("u");
    let undisturbed = Sandbox::new(12);
    let (_, scored) = run.all(&undisturbed);
    let expected = payloads(&undisturbed, &scored);

    let sandbox = Sandbox::new(12);
    let prepared = sandbox.result(&run.prepare());
    let answer = run.answer(&prepared, 3);
    for (shard, batch_size) in ["0", "1", "2"].into_iter().zip(["1", "3", "8"]) {
        let more = ["--shard-index", shard, "--responses-at-once", batch_size];
        let name = format!("u-0-0000{shard}.jsonl");
        // Of the first subject that answers and of the second one.
        for answering in [1, 2] {
            let mut running = sandbox.start(&answer, &more);
            let journals = || {
                let own = sandbox.journals().into_iter();
                own.filter(|(journal, rows)| journal.ends_with(&name) && !rows.is_empty()).collect::<Vec<_>>()
            };
            if !running.until(|| journals().len() >= answering) {
                break;
            }
            running.kill();
            let kept = journals();
            let (torn, _) = kept.last().unwrap();
            cut_last_line(&sandbox.path("stic/out/answers").join(torn));
        }
        let kept = sandbox.journals();
        sandbox.start(&answer, &more).wait().expect_exit(0, &[]);
        for (journal, rows) in kept {
            let now = whole_lines(&sandbox.path("stic/out/answers").join(&journal));
            assert_eq!(now[..rows.len()], rows, "{journal}: rows were lost or asked again");
        }
    }
    assert_eq!(sandbox.rows_of(&run), 12 * 2 * 2);
    let scored = sandbox.result(&run.score(&prepared, Value::Null));
    assert!(payloads(&sandbox, &scored) == expected, "the answers or the results differ");
}

#[test]
fn a_torn_row_of_another_run_is_asked_again() {
    let sandbox = Sandbox::new(3);
    let first = Run { adapters: vec![], ..Run::new("first") };
    let (_, scored) = first.all(&sandbox);
    let expected = payloads(&sandbox, &scored);
    let (journal, _) = sandbox.journals().remove(0);
    cut_last_line(&sandbox.path("stic/out/answers").join(&journal));
    let torn = fs::read(sandbox.path("stic/out/answers").join(&journal)).unwrap();
    // Otherwise the sealed answers would be used.
    for entry in fs::read_dir(sandbox.path("stic/out")).unwrap() {
        let path = entry.unwrap().path();
        if path.file_name().unwrap().to_string_lossy().starts_with("answers-") {
            fs::remove_dir_all(path).unwrap();
        }
    }
    let second = Run { adapters: vec![], ..Run::new("second") };
    let (_, scored) = second.all(&sandbox);
    assert_eq!(sandbox.rows_of(&second), 1);
    assert!(payloads(&sandbox, &scored) == expected, "the answers or the results differ");
    assert_eq!(fs::read(sandbox.path("stic/out/answers").join(&journal)).unwrap(), torn, "it is left alone");
}
