//! The cached log-probabilities of the reference that an interrupted training left. Whether the file is found, gone,
//! damaged or of another training, the adapter has the same bytes.

use serde_json::{Value, json};
use stic_contract::Digest;

use crate::config::{generate, images, train};
use crate::sandbox::{CommandOutput, IMAGES, Sandbox, picture};

/// A training of two epochs that was interrupted in the first.
struct Interrupted {
    sandbox: Sandbox,
    config: Value,
    /// The path of the file of log-probabilities, relative to the sandbox.
    references: String,
}

impl Interrupted {
    /// An image that becomes unreadable ends the training at the step that needs it. That must not be the first step,
    /// so that there is a state to resume from.
    fn new(undisturbed: &Sandbox, config: &Value) -> Self {
        for image in IMAGES {
            let sandbox = Sandbox::new();
            for (path, bytes) in undisturbed.files("stic") {
                sandbox.put(&format!("stic/{path}"), bytes);
            }
            sandbox.put(&format!("images/{image}"), picture(10, 10, "x.png"));
            sandbox.step(config).expect_exit(image, 65, &[image, "changed after it was prepared"]);
            let found = sandbox.files("stic").into_keys().find(|path| path.ends_with("/references.json"));
            if let Some(references) = found {
                sandbox.restore();
                return Self { sandbox, config: config.clone(), references: format!("stic/{references}") };
            }
        }
        panic!("every image is that of the first step");
    }

    fn resume(self) -> (CommandOutput, Vec<u8>) {
        let ran = self.sandbox.step(&self.config).expect_exit("resumed", 0, &["resuming from a saved state"]);
        let files = self.sandbox.files("stic");
        assert!(!files.keys().any(|path| path.ends_with("/references.json")), "it is left behind");
        (ran, adapter(&self.sandbox))
    }
}

fn adapter(sandbox: &Sandbox) -> Vec<u8> {
    let mut files = sandbox.files("stic").into_iter();
    files.find(|(path, _)| path.ends_with("/adapter_model.safetensors")).unwrap().1
}

#[test]
fn cached_log_probabilities_never_change_the_adapter() {
    let sandbox = Sandbox::new();
    let prepared = sandbox.step(&images(None, "Skip")).expect_exit("prepare", 0, &[]).result();
    let generated = sandbox.step(&generate(&prepared)).expect_exit("generate", 0, &[]).result();
    let mut config = train(&prepared, &generated);
    config["task"]["train"]["recipe"]["epochs"] = json!(2);
    let interrupted = || Interrupted::new(&sandbox, &config);
    // Before the undisturbed training, whose finished adapter would be reused.
    let [found, gone, damaged, foreign, forged] = std::array::from_fn(|_| interrupted());
    sandbox.step(&config).expect_exit("train", 0, &[]);
    let expected = adapter(&sandbox);
    let again = "computing the reference log-probabilities again";

    let (ran, bytes) = found.resume();
    assert!(bytes == expected && !ran.err.contains(again), "found: {}", ran.err);

    gone.sandbox.remove(&gone.references);
    let (ran, bytes) = gone.resume();
    assert!(bytes == expected && !ran.err.contains(again), "gone: {}", ran.err);

    let mut text = damaged.sandbox.read(&damaged.references);
    let last = text.len() - 5;
    text[last] ^= 1;
    damaged.sandbox.put(&damaged.references, text);
    let (ran, bytes) = damaged.resume();
    assert!(bytes == expected && ran.err.contains("is damaged") && ran.err.contains(again), "{}", ran.err);

    edit(&foreign, |saved| saved["key"] = json!(Digest::of(b"another").to_string()));
    let (ran, bytes) = foreign.resume();
    assert!(
        bytes == expected && ran.err.contains("belongs to another model") && ran.err.contains(again),
        "{}",
        ran.err
    );

    // Other values under the right key give another adapter, which shows that the file is read.
    edit(&forged, |saved| {
        for pair in saved["pairs"].as_object_mut().unwrap().values_mut() {
            let sum = f64::from_bits(pair[0].as_u64().unwrap());
            pair[0] = json!((sum + 1.0).to_bits());
        }
    });
    let (ran, bytes) = forged.resume();
    assert!(bytes != expected && !ran.err.contains(again), "forged: {}", ran.err);
}

/// Changes the content of the file and its digest.
fn edit(of: &Interrupted, edit: impl FnOnce(&mut Value)) {
    let text = String::from_utf8(of.sandbox.read(&of.references)).unwrap();
    let (_, body) = text.split_once('\n').unwrap();
    let mut saved: Value = serde_json::from_str(body).unwrap();
    edit(&mut saved);
    let body = saved.to_string();
    of.sandbox.put(&of.references, format!("{}\n{body}", Digest::of(body.as_bytes())));
}
