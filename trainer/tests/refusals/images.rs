//! Unreadable images are skipped or end the step, depending on `onUnreadable`. A path that leaves its folder always ends
//! the step.

use std::os::unix::process::ExitStatusExt as _;
use std::process::Command;

use serde_json::Value;

use crate::config::images;
use crate::sandbox::{Case, IMAGES, Sandbox, Spoil, TRAINER, check, picture};

/// A PNG whose header claims `width` times `height` pixels, without any pixel data.
fn hollow_png(width: u32, height: u32) -> Vec<u8> {
    let mut bytes = picture(1, 1, "x.png");
    bytes[16..20].copy_from_slice(&width.to_be_bytes());
    bytes[20..24].copy_from_slice(&height.to_be_bytes());
    let crc = crc::Crc::<u32>::new(&crc::CRC_32_ISO_HDLC).checksum(&bytes[12..29]);
    bytes[29..33].copy_from_slice(&crc.to_be_bytes());
    bytes
}

/// One bad image among good ones, and why it cannot be read.
const UNREADABLE: &[Spoil<'static>] = &[
    ("empty", &|b| b.put("images/bad.jpg", ""), &["images/bad.jpg: the file is empty", "copy it again"]),
    (
        "text",
        &|b| b.put("images/bad.jpg", "hello"),
        &["images/bad.jpg: the content is not JPEG", "convert the file"],
    ),
    (
        "a cut JPEG",
        &|b| b.put("images/bad.jpg", &picture(99, 99, "x.jpg")[..900]),
        &["images/bad.jpg: the image file is truncated", "copy it again"],
    ),
    (
        "a corrupt JPEG",
        &|b| {
            let mut bytes = picture(99, 99, "x.jpg");
            bytes[160..300].fill(0);
            b.put("images/bad.jpg", bytes);
        },
        &["images/bad.jpg: the image file is corrupt", "copy it again"],
    ),
    (
        "a cut PNG",
        &|b| b.put("images/bad.png", &picture(64, 64, "x.png")[..90]),
        &["images/bad.png: the image file is truncated"],
    ),
    (
        "30,000 x 30,000",
        &|b| b.put("images/bad.png", hollow_png(30_000, 30_000)),
        &[
            "images/bad.png: the image has 30000x30000 pixels, more than the limit of 178956970",
            "scale it down",
        ],
    ),
    (
        "the largest PNG that a header can claim",
        &|b| b.put("images/bad.png", hollow_png(i32::MAX as u32, i32::MAX as u32)),
        &["images/bad.png: ", "scale it down"],
    ),
    ("no pixels", &|b| b.put("images/bad.png", hollow_png(0, 9)), &["images/bad.png: "]),
    (
        "a file of 20 GB",
        &|b| {
            b.put("images/bad.jpg", picture(9, 9, "x.jpg"));
            let file = std::fs::OpenOptions::new().write(true).open(b.path("images/bad.jpg"));
            file.unwrap().set_len(20_000_000_000).unwrap();
        },
        &["images/bad.jpg: the file has 20000000000 bytes, more than the limit"],
    ),
    ("a pipe", &|b| b.pipe("images/bad.jpg"), &["\"bad.jpg\" in ", "is not a regular file"]),
    ("a link to itself", &|b| b.link("bad.jpg", "images/bad.jpg"), &["\"bad.jpg\" in ", "leads to itself"]),
    ("a link to nothing", &|b| b.link("gone.jpg", "images/bad.jpg"), &["\"bad.jpg\" in ", "does not exist"]),
];

#[test]
fn under_fail_one_unreadable_image_ends_the_step() {
    for (name, spoil, messages) in UNREADABLE {
        let messages = [*messages, &["set onUnreadable: Skip"]].concat();
        check(&images(None, "Fail"), &[Case { name, spoil: *spoil, code: 65, messages: &messages }]);
    }
}

#[test]
fn under_skip_one_unreadable_image_is_skipped_and_recorded() {
    for (name, spoil, messages) in UNREADABLE {
        let sandbox = Sandbox::new();
        spoil(&sandbox);
        let ran = sandbox.step(&images(None, "Skip")).expect_exit(name, 0, messages);
        let result = ran.result();
        assert_eq!(result["items"]["done"], 4, "{name}");
        assert_eq!(result["items"]["skipped"], 1, "{name}");
        let files = sandbox.files("stic");
        let of = |end: &str| -> Vec<Value> {
            let (_, text) = files.iter().find(|(path, _)| path.ends_with(end)).unwrap();
            text.split(|b| *b == b'\n')
                .filter(|l| !l.is_empty())
                .map(|l| serde_json::from_slice(l).unwrap())
                .collect()
        };
        let ids: Vec<Value> = of("items.jsonl").iter().map(|item| item["id"].clone()).collect();
        assert_eq!(ids, IMAGES, "{name}");
        let skipped = of("skipped.jsonl");
        assert_eq!(skipped.len(), 1, "{name}");
        assert!(
            messages.iter().all(|text| skipped[0]["reason"].as_str().unwrap().contains(text)),
            "{name}: {skipped:?}"
        );
    }
}

/// A decoder that trusts the header allocates 2.7 GB.
#[test]
fn a_large_image_is_refused_by_its_header() {
    let sandbox = Sandbox::new();
    sandbox.put("images/bad.png", hollow_png(30_000, 30_000));
    sandbox.put("config.json", images(None, "Fail").to_string());
    let ended = Command::new("bash")
        .current_dir(sandbox.path(""))
        .env("MALLOC_ARENA_MAX", "1")
        .args(["-c", "ulimit -v 1500000; exec \"$@\"", "-", TRAINER])
        .args(["step", "--config", "config.json", "--volumes", "."])
        .output()
        .unwrap();
    let err = String::from_utf8_lossy(&ended.stderr);
    assert_eq!((ended.status.code(), ended.status.signal()), (Some(65), None), "{err}");
    assert!(err.contains("bad.png: the image has 30000x30000 pixels"), "{err}");
}

#[test]
fn a_path_that_leaves_its_folder_ends_the_step_under_either_policy() {
    for policy in ["Skip", "Fail"] {
        let listed = |line: &'static str| {
            move |b: &Sandbox| b.put("images/list.txt", format!("{}\n{line}\n", IMAGES[0]))
        };
        for (line, messages) in [
            ("../models/x.jpg", "must be relative and without \"..\""),
            ("d/../../images/a.jpg", "must be relative and without \"..\""),
            ("/etc/hostname", "must be relative and without \"..\""),
            ("out.jpg", "a symbolic link leads out of the folder; copy the file into it"),
            ("away/x.jpg", "a symbolic link leads out of the folder; copy the file into it"),
        ] {
            let spoil = |b: &Sandbox| {
                listed(line)(b);
                b.put("elsewhere/x.jpg", picture(9, 9, "x.jpg"));
                b.link(b.path("elsewhere/x.jpg"), "images/out.jpg");
                b.link(b.path("elsewhere"), "images/away");
            };
            let sandbox = Sandbox::new();
            spoil(&sandbox);
            let ran = sandbox.step(&images(Some("list.txt"), policy));
            ran.expect_exit(line, 65, &["images/list.txt:2: ", line, messages]);
            assert!(sandbox.files("stic").is_empty(), "{line}");
        }
        // Without a list, the link is found while walking the folder.
        let spoil = |b: &Sandbox| {
            b.put("elsewhere/x.jpg", picture(9, 9, "x.jpg"));
            b.link(b.path("elsewhere/x.jpg"), "images/out.jpg");
        };
        check(
            &images(None, policy),
            &[Case {
                name: "walked",
                spoil: &spoil,
                code: 65,
                messages: &["\"out.jpg\" in ", "leads out of the folder"],
            }],
        );
    }
}

#[test]
fn a_linked_folder_is_not_entered_and_an_image_by_another_name_is_read() {
    let sandbox = Sandbox::new();
    sandbox.put("elsewhere/x.jpg", picture(9, 9, "x.jpg"));
    sandbox.link(sandbox.path("elsewhere"), "images/away");
    sandbox.put("images/png-by-content.jpg", picture(9, 9, "x.png"));
    let ran = sandbox.step(&images(None, "Fail")).expect_exit(
        "",
        0,
        &["a symbolic link to a folder is not followed", "images/away"],
    );
    assert_eq!(ran.result()["items"]["done"], 5);
}

#[test]
fn a_folder_or_a_list_without_readable_images_is_refused() {
    let empty: &dyn Fn(&Sandbox) = &|b| {
        b.folder("images");
    };
    check(
        &images(None, "Skip"),
        &[
            Case {
                name: "empty",
                spoil: empty,
                code: 65,
                messages: &["images: holds no image (jpg", "put images there"],
            },
            Case {
                name: "all bad",
                spoil: &|b| {
                    for image in IMAGES {
                        b.put(&format!("images/{image}"), "no image");
                    }
                },
                code: 65,
                messages: &[
                    "images: none of the 4 items can be used (the first: ",
                    "a.jpg: the content is not",
                    "check the path",
                ],
            },
            Case {
                name: "a name that is not UTF-8",
                spoil: &|b| {
                    use std::os::unix::ffi::OsStrExt as _;
                    let name = std::ffi::OsStr::from_bytes(b"\xff.jpg");
                    std::fs::write(b.path("images").join(name), picture(9, 9, "x.jpg")).unwrap();
                },
                code: 65,
                messages: &["the name is not UTF-8; rename it"],
            },
        ],
    );
    let listed = |name: &'static str, text: &'static [u8], messages: &'static [&'static str]| {
        let sandbox = Sandbox::new();
        sandbox.put("images/list.txt", text);
        sandbox.step(&images(Some("list.txt"), "Fail")).expect_exit(name, 65, messages);
        assert!(sandbox.files("stic").is_empty(), "{name}");
    };
    listed(
        "a list of nothing",
        b"\n# none\n\n",
        &["list.txt: lists no image", "give one relative path a line"],
    );
    listed("not UTF-8", b"a.jpg\n\xff.jpg\n", &["list.txt:2: is not UTF-8"]);
    let sandbox = Sandbox::new();
    sandbox.step(&images(Some("list.txt"), "Skip")).expect_exit(
        "no list",
        65,
        &["spec.images.listFile: ./images/list.txt does not exist; ./images contains a.jpg, b.jpg, c.png, d/; correct the path"],
    );
}

#[test]
fn a_list_may_have_a_byte_order_mark_crlf_blank_lines_and_comments() {
    let sandbox = Sandbox::new();
    sandbox.put("images/list.txt", "\u{feff}a.jpg\r\n\r\n   \r\n# a comment\r\nd/e.png\r\n");
    let ran = sandbox.step(&images(Some("list.txt"), "Fail")).expect_exit("", 0, &[]);
    assert_eq!(ran.result()["items"]["done"], 2);
}

#[test]
fn an_unreadable_image_of_a_list_is_named_by_its_line() {
    for (line, messages) in [
        ("gone.jpg", "the file does not exist"),
        ("d", "is not a regular file"),
        ("a.jpg/b.jpg", "Not a directory"),
        ("pipe.jpg", "is not a regular file"),
    ] {
        let sandbox = Sandbox::new();
        sandbox.pipe("images/pipe.jpg");
        sandbox.put("images/list.txt", format!("a.jpg\n{line}\n"));
        sandbox.step(&images(Some("list.txt"), "Fail")).expect_exit(
            line,
            65,
            &["images/list.txt:2: ", line, messages],
        );
        let ran = sandbox.step(&images(Some("list.txt"), "Skip")).expect_exit(
            line,
            0,
            &["images/list.txt:2: ", messages],
        );
        assert_eq!(ran.result()["items"]["skipped"], 1);
    }
}
