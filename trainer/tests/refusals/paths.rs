//! Paths of a spec that lead nowhere: the message has the field, the user's own path, and what there is instead.

use serde_json::{Value, json};

use crate::config::{images, instructions, pairs};
use crate::sandbox::{Sandbox, instruction};

const LFS_POINTER: &str = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n";
const LFS_MESSAGE: &str = "is a Git LFS pointer instead of the file: run git lfs pull";

struct PathCase {
    name: &'static str,
    config: fn() -> Value,
    spoil: fn(&Sandbox, &mut Value),
    code: i32,
    messages: &'static [&'static str],
}

fn adapter(config: &mut Value, digest: Value) {
    config["task"]["prepare"]["adapter"] =
        json!({"location": {"volume": "stic", "path": "adapter-1"}, "digest": digest});
}

const CASES: [PathCase; 15] = [
    PathCase {
        name: "no model",
        config: || images(None, "Fail"),
        spoil: |b, _| std::fs::rename(b.path("models/m"), b.path("models/other")).unwrap(),
        code: 64,
        messages: &["spec.model: ./models/m does not exist; ./models contains other/; correct the path"],
    },
    PathCase {
        name: "a file for a model",
        config: || images(None, "Fail"),
        spoil: |b, _| b.put("models/m", ""),
        code: 64,
        messages: &["spec.model: ./models/m is a file, not a folder; correct the path"],
    },
    PathCase {
        name: "no model of stage 2",
        config: || instructions("Fail"),
        spoil: |b, _| b.remove("models/m"),
        code: 64,
        messages: &["spec.initFrom.baseModel: ./models/m does not exist; ./models contains nothing"],
    },
    PathCase {
        name: "a download that was not finished",
        config: || images(None, "Fail"),
        spoil: |b, _| {
            std::fs::rename(b.path("models/m/model.safetensors"), b.path("models/m/a.incomplete")).unwrap();
        },
        code: 64,
        messages: &[
            "neither model.safetensors nor ",
            "models/m contains a.incomplete, ",
            "finish its download",
        ],
    },
    PathCase {
        name: "no adapter",
        config: || instructions("Fail"),
        spoil: |_, config| adapter(config, Value::Null),
        code: 64,
        messages: &["spec.initFrom.adapter: ./stic/adapter-1 does not exist; ./stic contains out/; correct"],
    },
    PathCase {
        name: "no adapter of stage 1 any more",
        config: || instructions("Fail"),
        spoil: |_, config| adapter(config, json!(format!("sha256:{}", "0".repeat(64)))),
        code: 65,
        messages: &[
            "spec.initFrom.stageOneRunRef: the adapter of stage 1: ./stic/adapter-1 does not exist; ",
            "restore it, or run stage 1 again",
        ],
    },
    PathCase {
        name: "no instructions",
        config: || instructions("Fail"),
        spoil: |b, _| b.remove("instructions/rows.json"),
        code: 65,
        messages: &[
            "spec.instructions.file: ./instructions/rows.json does not exist; ./instructions contains",
        ],
    },
    PathCase {
        name: "no pairs",
        config: pairs,
        spoil: |_, _| {},
        code: 65,
        messages: &["spec.preferences.pairs.file: ", "instructions contains rows.json; correct the path"],
    },
    PathCase {
        name: "a file for the images",
        config: || images(None, "Skip"),
        spoil: |b, _| b.put("images", ""),
        code: 64,
        messages: &["images is not a folder; mount the volume there"],
    },
    PathCase {
        name: "a path that repeats the folder",
        config: || instructions("Fail"),
        spoil: |b, config| {
            b.put("instructions/rows.json", json!([instruction("i", "d/e.png")]).to_string());
            config["task"]["prepare"]["source"]["instructions"]["images"]["path"] = json!("d");
        },
        code: 65,
        messages: &[
            "none of the 1 items can be used; correct the paths in the spec",
            "it does in the folder above; name that one in spec.images.volume.path",
        ],
    },
    PathCase {
        name: "a file for the output",
        config: || images(None, "Fail"),
        spoil: |b, config| {
            b.put("images/file", "");
            config["output"] = json!({"volume": "images", "path": "file"});
        },
        code: 64,
        messages: &[
            "spec.output.volume.path: ./images/file is a file where a folder is needed; remove it or",
        ],
    },
    PathCase {
        name: "a pointer for weights",
        config: || images(None, "Fail"),
        spoil: |b, _| b.put("models/m/model.safetensors", LFS_POINTER),
        code: 64,
        messages: &["model.safetensors: ", LFS_MESSAGE],
    },
    PathCase {
        name: "a pointer for instructions",
        config: || instructions("Skip"),
        spoil: |b, _| b.put("instructions/rows.json", LFS_POINTER),
        code: 65,
        messages: &["rows.json: it ", LFS_MESSAGE],
    },
    PathCase {
        name: "a pointer for a list",
        config: || images(Some("list.txt"), "Skip"),
        spoil: |b, _| b.put("images/list.txt", LFS_POINTER),
        code: 65,
        messages: &["list.txt: it ", LFS_MESSAGE],
    },
    PathCase {
        name: "a pointer for an image",
        config: || images(None, "Fail"),
        spoil: |b, _| b.put("images/a.jpg", LFS_POINTER),
        code: 65,
        messages: &["a.jpg: it ", LFS_MESSAGE, "or set onUnreadable: Skip"],
    },
];

#[test]
fn a_path_that_leads_nowhere_is_named_with_its_field_and_what_is_there() {
    for PathCase { name, config, spoil, code, messages } in CASES {
        let sandbox = Sandbox::new();
        let mut config = config();
        spoil(&sandbox, &mut config);
        let failed = sandbox.step(&config).expect_exit(name, code, messages);
        assert!(!failed.err.contains("bug"), "{name}: {}", failed.err);
    }
}

/// `kubectl-stic run` links the user's folders.
#[test]
fn a_missing_folder_is_named_by_the_users_path_and_not_by_the_link() {
    let sandbox = Sandbox::new();
    sandbox.put("mine/photos/a.jpg", "");
    sandbox.remove("images");
    sandbox.link(sandbox.path("mine"), "images");
    let mut config = images(None, "Fail");
    config["task"]["prepare"]["source"]["images"]["location"]["path"] = json!("nolabels");
    sandbox.step(&config).expect_exit(
        "",
        65,
        &[
            "spec.images.volume.path: ",
            "/mine/nolabels does not exist; ",
            "/mine contains photos/; correct the path",
        ],
    );
}

/// A folder of this user, which another user may not read.
#[test]
fn what_may_not_be_read_is_not_said_to_be_unwritable() {
    use std::os::unix::fs::PermissionsExt as _;
    use std::process::Command;
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED: only root can run the trainer as another user");
        return;
    }
    let readable = |mode| std::fs::Permissions::from_mode(mode);
    for (denied, mode, message) in [
        ("models/m/model.safetensors", 0o600, "no read permission on ./models/m/model.safetensors: change"),
        ("models/m", 0o700, "no read permission on ./models/m: change its owner"),
        ("images", 0o711, "no read permission on ./images: change its owner"),
        ("stic", 0o755, "no write permission on ./stic: change its owner"),
    ] {
        let sandbox = Sandbox::new();
        sandbox.put("config.json", images(None, "Fail").to_string());
        std::fs::set_permissions(sandbox.path("."), readable(0o755)).unwrap();
        std::fs::set_permissions(sandbox.path("stic"), readable(0o777)).unwrap();
        std::fs::set_permissions(sandbox.path(denied), readable(mode)).unwrap();
        let step = [crate::sandbox::TRAINER, "step", "--config", "config.json", "--volumes", "."];
        let mut command = Command::new("setpriv");
        command.args(["--reuid", "65534", "--clear-groups"]).args(step).current_dir(sandbox.path("."));
        let failed = crate::sandbox::CommandOutput::from(command.output().unwrap());
        failed.expect_exit(denied, 74, &[message]);
    }
}
