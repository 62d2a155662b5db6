//! The reference's log-probabilities that an interrupted training left: found, gone, damaged or of something else, the
//! adapter has the same bytes.

use serde_json::{Value, json};
use stic_contract::Digest;

use crate::bench::{Bench, IMAGES, Ran, picture};
use crate::config::{generate, images, train};

/// A training of two epochs that was interrupted in the first.
struct Interrupted {
    bench: Bench,
    config: Value,
    /// Relative to the bench.
    references: String,
}

impl Interrupted {
    /// An image that cannot be read any more ends the training at the step that needs it: not the first one, since
    /// something has to be done before.
    fn new(undisturbed: &Bench, config: &Value) -> Self {
        for image in IMAGES {
            let bench = Bench::new();
            for (path, bytes) in undisturbed.files("stic") {
                bench.put(&format!("stic/{path}"), bytes);
            }
            bench.put(&format!("images/{image}"), picture(10, 10, "x.png"));
            bench.step(config).ended(image, 65, &[image, "changed after it was prepared"]);
            let found = bench.files("stic").into_keys().find(|path| path.ends_with("/references.json"));
            if let Some(references) = found {
                bench.restore();
                return Self { bench, config: config.clone(), references: format!("stic/{references}") };
            }
        }
        panic!("every image is that of the first step");
    }

    fn go_on(self) -> (Ran, Vec<u8>) {
        let ran = self.bench.step(&self.config).ended("goes on", 0, &["goes on from saved state"]);
        let files = self.bench.files("stic");
        assert!(!files.keys().any(|path| path.ends_with("/references.json")), "it is left behind");
        (ran, adapter(&self.bench))
    }
}

fn adapter(bench: &Bench) -> Vec<u8> {
    let mut files = bench.files("stic").into_iter();
    files.find(|(path, _)| path.ends_with("/adapter_model.safetensors")).unwrap().1
}

#[test]
fn are_used_if_they_are_whole_and_of_this_training_and_change_nothing() {
    let bench = Bench::new();
    let prepared = bench.step(&images(None, "Skip")).ended("prepare", 0, &[]).result();
    let generated = bench.step(&generate(&prepared)).ended("generate", 0, &[]).result();
    let mut config = train(&prepared, &generated);
    config["task"]["train"]["recipe"]["epochs"] = json!(2);
    let interrupted = || Interrupted::new(&bench, &config);
    // Made before the training that is not disturbed, whose adapter would be found.
    let [found, gone, damaged, foreign, forged] = std::array::from_fn(|_| interrupted());
    bench.step(&config).ended("train", 0, &[]);
    let expected = adapter(&bench);
    let again = "log-probabilities are computed again";

    let (ran, bytes) = found.go_on();
    assert!(bytes == expected && !ran.err.contains(again), "found: {}", ran.err);

    gone.bench.remove(&gone.references);
    let (ran, bytes) = gone.go_on();
    assert!(bytes == expected && !ran.err.contains(again), "gone: {}", ran.err);

    let mut text = damaged.bench.read(&damaged.references);
    let last = text.len() - 5;
    text[last] ^= 1;
    damaged.bench.put(&damaged.references, text);
    let (ran, bytes) = damaged.go_on();
    assert!(bytes == expected && ran.err.contains("was damaged") && ran.err.contains(again), "{}", ran.err);

    edit(&foreign, |saved| saved["key"] = json!(Digest::of(b"another").to_string()));
    let (ran, bytes) = foreign.go_on();
    assert!(
        bytes == expected && ran.err.contains("of another model") && ran.err.contains(again),
        "{}",
        ran.err
    );

    // Other numbers under the right key: that they make another adapter shows that the file is read.
    edit(&forged, |saved| {
        for pair in saved["pairs"].as_object_mut().unwrap().values_mut() {
            let sum = f64::from_bits(pair[0][0].as_u64().unwrap());
            pair[0][0] = json!((sum + 1.0).to_bits());
        }
    });
    let (ran, bytes) = forged.go_on();
    assert!(bytes != expected && !ran.err.contains(again), "forged: {}", ran.err);
}

/// Changes what the file holds, and its digest with it.
fn edit(of: &Interrupted, edit: impl FnOnce(&mut Value)) {
    let text = String::from_utf8(of.bench.read(&of.references)).unwrap();
    let (_, body) = text.split_once('\n').unwrap();
    let mut saved: Value = serde_json::from_str(body).unwrap();
    edit(&mut saved);
    let body = saved.to_string();
    of.bench.put(&of.references, format!("{}\n{body}", Digest::of(body.as_bytes())));
}
