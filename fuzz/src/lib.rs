//! What the fuzz targets share: input files, and a limit on memory.

use std::alloc::{GlobalAlloc, Layout, System};
use std::backtrace::Backtrace;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use stic_trainer::data::tokenizer::Tokenizer;
use tempfile::TempDir;

/// A folder that holds `files`, each a name and its bytes, and is deleted when it is dropped.
///
/// Set `TMPDIR` to a file system in memory: each input writes its files.
#[must_use]
pub fn folder(files: &[(&str, &[u8])]) -> TempDir {
    let dir = tempfile::tempdir().expect("a temporary folder");
    for (name, bytes) in files {
        write(&dir.path().join(name), bytes);
    }
    dir
}

fn write(path: &Path, bytes: &[u8]) {
    std::fs::write(path, bytes).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
}

/// The most bytes that may be allocated at once. The inputs are a few kilobytes, so an input that needs more
/// made the reader take one of its numbers for a size. The TIFF decoder allows itself 256 MiB for the values of a tag.
pub const MEMORY_LIMIT: usize = 320 << 20;

static ALLOCATED: AtomicUsize = AtomicUsize::new(0);
static REPORTING: AtomicBool = AtomicBool::new(false);

/// Aborts above [`MEMORY_LIMIT`], which libFuzzer reports as a crash of the input.
struct Limited;

#[global_allocator]
static ALLOCATOR: Limited = Limited;

fn count(size: usize) {
    let allocated = ALLOCATED.fetch_add(size, Ordering::Relaxed) + size;
    if allocated > MEMORY_LIMIT && !REPORTING.swap(true, Ordering::Relaxed) {
        let trace = Backtrace::force_capture();
        eprintln!(
            "{allocated} bytes are allocated, {size} of them here; the limit is {MEMORY_LIMIT}\n{trace}"
        );
        std::process::abort();
    }
}

// SAFETY: every call is passed on to the system's allocator as it came.
unsafe impl GlobalAlloc for Limited {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: as the caller promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: as the caller promises.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        ALLOCATED.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(pointer, layout) }
    }
}

/// The parts of `bytes` between NULs, a file each in the order of `names`; the last one includes everything that is left. JSON holds no NUL, so
/// one input can be several files.
#[must_use]
pub fn split<'a>(bytes: &'a [u8], names: &[&'a str]) -> Vec<(&'a str, &'a [u8])> {
    names.iter().copied().zip(bytes.splitn(names.len(), |byte| *byte == 0)).collect()
}

/// The tokenizer in `dir`, if there is one, encodes texts to ids that it knows.
pub fn check_tokenizer(dir: &Path) {
    let Ok(tokenizer) = Tokenizer::from_dir(dir) else { return };
    assert!(!tokenizer.eos_ids().is_empty());
    for text in
        ["", "a", " Hello  world\n", "<s>USER: <image>\nWhat? 你好 \u{1f600}</s>", "\u{feff}e\u{301}\0\u{85}"]
    {
        let Ok(ids) = tokenizer.encode(text, true) else { continue };
        for id in &ids {
            assert!(tokenizer.id_to_token(*id).is_some(), "{text:?} becomes {ids:?}");
        }
        let _ = tokenizer.decode(&ids, true);
        let _ = tokenizer.decode(&ids, false);
    }
}
