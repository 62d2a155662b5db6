#![no_main]
//! No path of a list file leads out of the image folder.

use std::fs::create_dir;
use std::os::unix::fs::symlink;

use libfuzzer_sys::fuzz_target;
use stic_fuzz::folder;
use stic_trainer::data::image_list::ListFormat;
use stic_trainer::data::images_dir;

fuzz_target!(|bytes: &[u8]| {
    let outer = folder(&[("list.txt", bytes), ("secret.png", b"")]);
    let root = outer.path().join("images");
    create_dir(&root).expect("a folder");
    create_dir(root.join("sub")).expect("a folder");
    std::fs::write(root.join("sub/a.png"), b"").expect("written");
    symlink("../secret.png", root.join("out.png")).expect("linked");
    symlink("loop.png", root.join("loop.png")).expect("linked");
    symlink("sub", root.join("in")).expect("linked");
    let root = root.canonicalize().expect("it is there");
    let lines = 1 + bytes.iter().filter(|byte| **byte == b'\n').count();
    let list = outer.path().join("list.txt");
    // A Git LFS pointer is refused.
    let Ok(format) = ListFormat::of(&list) else { return };
    let _ = format.for_each(&list, |row| {
        assert!((1..=lines).contains(&row.line));
        if let Ok(path) = format.parse(&row)
            && let Ok(found) = images_dir::resolve(&root, &path)
        {
            assert_eq!(found, root.join("sub/a.png"), "{path:?}");
        }
        Ok(())
    });
});
