//! What is said about files that are missing, damaged or of another benchmark, and what a limit selects.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use stic_evaluation::benchmarks::hallusion_bench::HallusionBench;
use stic_evaluation::benchmarks::mm_bench::MmBench;
use stic_evaluation::benchmarks::mm_star::MmStar;
use stic_evaluation::benchmarks::mm_vet::MmVet;
use stic_evaluation::benchmarks::pope::Pope;
use stic_evaluation::benchmarks::science_qa::ScienceQa;
use stic_evaluation::benchmarks::{Benchmark, Options};
use stic_evaluation::error::Error;
use stic_evaluation::published::{Identity, digests, find};
use stic_evaluation::questions::{Summary, read};
use stic_evaluation::registry::catalog;

const HEADER: &str = "index\tquestion\timage\tanswer\tcategory\tl2_category\n";

/// A copy of a fixture that a test may change.
struct Folder(tempfile::TempDir);

impl Folder {
    fn empty() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn of(fixture: &str) -> Self {
        let folder = Self::empty();
        copy(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(fixture), folder.0.path());
        folder
    }

    /// MMStar's table with these rows.
    fn of_rows(rows: &str) -> Self {
        let folder = Self::empty();
        fs::write(folder.path("MMStar.tsv"), format!("{HEADER}{rows}")).unwrap();
        folder
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// A message without the path of the folder, which differs from run to run.
    fn relative(&self, error: &Error) -> String {
        error.to_string().replace(&format!("{}/", self.0.path().display()), "")
    }

    fn find_error<B: Benchmark>(&self) -> String {
        let error = find(self.0.path(), B::FORMS, &catalog()).unwrap_err();
        self.relative(&error).replace(&self.0.path().display().to_string(), "FOLDER")
    }

    /// The ids of the questions, and the messages about rows.
    fn read<B: Benchmark>(&self, limit: Option<usize>) -> (Vec<String>, Vec<String>, Summary) {
        let found = find(self.0.path(), B::FORMS, &catalog()).unwrap();
        let questions = read::<B>(&found, Options::default(), limit).unwrap();
        let summary = questions.summary();
        let (mut ids, mut messages) = (Vec::new(), Vec::new());
        for question in questions {
            match question {
                Ok(question) => ids.push(question.sample.id),
                Err(error) => messages.push(self.relative(&error)),
            }
        }
        assert_eq!((summary.selected, summary.problems), (ids.len(), messages.len()));
        (ids, messages, summary)
    }
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// A row of MMStar's table.
fn row(index: u32, image: &str) -> String {
    format!("{index}\tWho? Options: A: I, B: you, C: he, D: she\t{image}\tA\tmath\tgeometry\n")
}

/// The base64 of an image of 60 bytes.
fn image(byte: char) -> String {
    byte.to_string().repeat(80)
}

#[test]
fn a_folder_of_another_benchmark_is_recognised() {
    let message = Folder::of("pope/parquet").find_error::<MmVet>();
    assert!(message.starts_with("FOLDER: none of the published forms is complete; "), "{message}");
    assert!(
        message.contains(". This looks like POPE (Hugging Face parquet (lmms-lab-encoder/POPE))"),
        "{message}"
    );
    let message = Folder::empty().find_error::<MmVet>();
    assert!(message.contains("VLMEvalKit's MMVet.tsv: MMVet.tsv is missing"), "{message}");
    assert!(message.ends_with(". Mount a folder that has all files of one form"), "{message}");
    let missing = find(Path::new("/nowhere"), MmVet::FORMS, &catalog()).unwrap_err().to_string();
    assert!(missing.starts_with("/nowhere: cannot list the folder (No such file"), "{missing}");
}

#[test]
fn what_is_missing_of_a_form_is_named() {
    let folder = Folder::of("pope/original");
    fs::remove_file(folder.path("output/coco/coco_pope_popular.json")).unwrap();
    let message = folder.find_error::<Pope>();
    assert!(
        message.starts_with(
            "FOLDER: none of the published forms is complete; POPE's output/coco: \
             output/coco/coco_pope_random.json, output/coco/coco_pope_adversarial.json are there, \
             coco_pope_popular.json is missing; "
        ),
        "{message}"
    );

    let folder = Folder::of("pope/parquet");
    fs::remove_file(folder.path("data/test-00001-of-00003.parquet")).unwrap();
    let message = folder.find_error::<Pope>();
    assert!(message.contains("are there, test-00001-of-00003.parquet is missing"), "{message}");

    let folder = Folder::of("mm_vet/original");
    fs::rename(folder.path("images"), folder.path("pictures")).unwrap();
    let message = folder.find_error::<MmVet>();
    assert!(message.contains("mm-vet.json: mm-vet.json is there, the folder images is missing"), "{message}");
}

#[test]
fn a_missing_column_is_named_with_those_that_are_there() {
    let folder = Folder::empty();
    fs::write(folder.path("MMStar.tsv"), "index\tquestion\timage\tcategory\n").unwrap();
    let message = folder.find_error::<MmStar>();
    assert!(
        message.contains(
            "MMStar.tsv is there, column answer of MMStar.tsv (its columns are index, question, image, category) is missing"
        ),
        "{message}"
    );
    let folder = Folder::of("mm_star/parquet");
    fs::rename(folder.path("mmstar.parquet"), folder.path("test-00000-of-00001.parquet")).unwrap();
    let message = folder.find_error::<MmVet>();
    assert!(
        message.contains(
            "column question_id, capability of test-00000-of-00001.parquet \
             (its columns are index, question, image, answer, category, l2_category, meta_info) is missing"
        ),
        "{message}"
    );
}

#[test]
fn a_damaged_file_is_named_with_what_to_do() {
    for (fixture, file) in [
        ("mm_star/parquet", "mmstar.parquet"),
        ("mm_star/tsv", "MMStar.tsv"),
        ("hallusion_bench/original", "HallusionBench.json"),
    ] {
        let folder = Folder::of(fixture);
        let bytes = fs::read(folder.path(file)).unwrap();
        fs::write(folder.path(file), &bytes[..bytes.len() * 9 / 10]).unwrap();
        let message = match file {
            "mmstar.parquet" => folder.find_error::<MmStar>(),
            "MMStar.tsv" => folder.read::<MmStar>(None).1.join("\n"),
            _ => folder.read::<HallusionBench>(None).1.join("\n"),
        };
        assert!(message.contains(file) && message.contains("cut short"), "{message}");
        assert!(message.ends_with("download it again"), "{message}");
    }
    let folder = Folder::empty();
    fs::write(folder.path("MMStar.tsv"), "version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
        .unwrap();
    let message = folder.find_error::<MmStar>();
    assert!(message.starts_with("MMStar.tsv: this is a Git LFS pointer instead of the file"), "{message}");
}

#[test]
fn a_bad_row_is_named_and_does_not_hide_the_others() {
    let rows = [
        row(1, &image('A')),
        row(2, &image('!')),
        row(3, "9"),
        row(4, "77"),
        row(5, "3"),
        row(1, &image('A')),
        "6\tshort\n".to_owned(),
        row(7, &image('A')).replace("\tA\tmath", "\tE\tmath"),
        row(8, ""),
        row(9, &image('B')),
        row(10, "1"),
    ];
    let (ids, messages, summary) = Folder::of_rows(&rows.concat()).read::<MmStar>(None);
    assert_eq!(ids, ["1", "3", "8", "9", "10"]);
    let start = |message: &String| message.split_inclusive(['(', ';']).next().unwrap_or_default().to_owned();
    assert_eq!(
        messages.iter().map(start).collect::<Vec<_>>(),
        [
            "MMStar.tsv, row 2: the image is not base64 (",
            "MMStar.tsv, row 4: the image is said to be that of row \"77\", which does not exist or has no image itself;",
            "MMStar.tsv, row 5: the image is said to be that of row \"3\", which does not exist or has no image itself;",
            "MMStar.tsv, row 6: the question \"1\" is also in MMStar.tsv, row 1;",
            "MMStar.tsv, row 7: the row has 2 cells, the header has 6;",
            "MMStar.tsv, row 8: column `answer` is none of A, B, C and D. Use the file as it was published.",
        ]
    );
    let expected = Summary {
        rows: 11,
        other_splits: 0,
        questions: 5,
        selected: 5,
        images: 2,
        units: 5,
        clusters: 3,
        problems: messages.len(),
    };
    assert_eq!(summary, expected);
}

#[test]
fn a_missing_image_is_named_by_its_row() {
    let folder = Folder::of("mm_vet/original");
    fs::remove_file(folder.path("images/v1_0.png")).unwrap();
    fs::write(folder.path("images/v1_1.jpg"), "").unwrap();
    let (ids, messages, _) = folder.read::<MmVet>(None);
    assert!(ids.is_empty());
    assert!(
        messages[0].starts_with("mm-vet.json, \"v1_0\": the image v1_0.png is missing below images in "),
        "{messages:?}"
    );
    assert!(messages[1].contains("\"v1_1\"") && messages[1].contains("the image is empty"), "{messages:?}");

    let text = fs::read_to_string(folder.path("mm-vet.json")).unwrap();
    fs::write(folder.path("mm-vet.json"), text.replace("v1_0.png", "../mm-vet.json")).unwrap();
    let (_, messages, _) = folder.read::<MmVet>(None);
    assert!(messages[0].contains("is not a path below the folder of images"), "{messages:?}");
}

#[test]
fn the_folder_may_be_the_repository_or_a_part_of_it() {
    let folder = Folder::of("pope/parquet");
    let nested = Folder::empty();
    copy(folder.0.path(), &nested.path("a/b"));
    let paths = [folder.path(""), folder.path("data"), nested.path(""), nested.path("a")];
    for path in paths {
        let found = find(&path, Pope::FORMS, &catalog()).unwrap();
        assert_eq!(found.rows.len(), 3, "{path:?}");
    }
    copy(&folder.path("data"), &folder.path("snapshots/old/data"));
    copy(Folder::of("pope/tsv").0.path(), folder.0.path());
    let found = find(folder.0.path(), Pope::FORMS, &catalog()).unwrap();
    assert!(
        found.rows.iter().all(|path| path.parent() == Some(&folder.path("data"))),
        "copies are not read twice"
    );
    assert_eq!(found.ignored, ["test-*.parquet in snapshots/old/data", "VLMEvalKit's POPE.tsv"]);
}

#[test]
fn forms_that_only_the_name_of_their_folder_tells_apart_are_not_guessed() {
    let folder = Folder::empty();
    copy(Folder::of("science_qa/parquet-images/ScienceQA-IMG").0.path(), folder.0.path());
    let message = folder.find_error::<ScienceQa>();
    assert!(
        message.starts_with(
            "FOLDER: the files may be Hugging Face parquet (lmms-lab-encoder/ScienceQA, ScienceQA-FULL) or "
        ) && message
            .ends_with("(ScienceQA-FULL/test-*.parquet or ScienceQA-IMG/test-*.parquet) tells them apart"),
        "{message}"
    );
    let parent = Folder::of("science_qa/parquet-images");
    for path in [parent.path(""), parent.path("ScienceQA-IMG")] {
        assert!(find(&path, ScienceQa::FORMS, &catalog()).unwrap().form.title.contains("ScienceQA-IMG"));
    }
}

#[test]
fn a_limit_keeps_the_rotations_of_a_question_together() {
    let rotations = [vec!["1", "1000001"], vec!["9", "1000009"], vec!["10"]];
    let mut sizes = BTreeSet::new();
    for limit in 1..=5 {
        let picked: Vec<Vec<String>> = ["mm_bench/tsv", "mm_bench/original", "mm_bench/parquet"]
            .map(|form| Folder::of(form).read::<MmBench>(Some(limit)).0)
            .to_vec();
        assert!(picked.iter().all(|ids| ids == &picked[0]));
        for rotation in &rotations {
            let count = rotation.iter().filter(|id| picked[0].iter().any(|picked| picked == *id)).count();
            assert!(count == 0 || count == rotation.len(), "{limit}: {picked:?}");
        }
        sizes.insert(picked[0].len());
    }
    assert!(sizes.contains(&5) && sizes.len() > 1, "{sizes:?}");
}

#[test]
fn a_limit_picks_the_same_questions_of_every_form() {
    let mut smaller = BTreeSet::new();
    for limit in [0, 1, 5, 11, 12, 100] {
        let picked = |fixture| -> BTreeSet<String> {
            Folder::of(fixture).read::<Pope>(Some(limit)).0.into_iter().collect()
        };
        let ids = picked("pope/parquet");
        assert_eq!(ids.len(), limit.min(12));
        assert_eq!(picked("pope/original"), ids);
        assert!(ids.is_superset(&smaller), "a smaller subset is part of a larger one");
        smaller = ids;
    }
}

#[test]
fn questions_that_were_answered_are_not_read_again() {
    let folder = Folder::of("pope/parquet");
    let found = find(folder.0.path(), Pope::FORMS, &catalog()).unwrap();
    let mut questions = read::<Pope>(&found, Options::default(), None).unwrap();
    let first = questions.next().unwrap().unwrap();
    let entry = questions.entries().last().unwrap().clone();
    assert_eq!(entry.cluster(), entry.image.as_ref().unwrap().to_string());
    questions.retain(|question| question.id == entry.id);
    let rest: Vec<_> = questions.map(|question| question.unwrap()).collect();
    assert_ne!(first.sample.id, entry.id);
    assert_eq!(rest.len(), 1);
    assert_eq!((&rest[0].sample.id, rest[0].position), (&entry.id, entry.position));
}

#[test]
fn a_file_that_is_not_the_published_one_is_a_warning() {
    let folder = Folder::of("pope/tsv");
    let found = find(folder.0.path(), Pope::FORMS, &catalog()).unwrap();
    let [file] = &digests(&found).unwrap()[..] else { panic!("one file") };
    assert_eq!(file.identity, Identity::Differs { published: "c12f5acb142f2ef1f85a26ba2fbe41d5".into() });
    let text = file.to_string();
    assert!(text.contains("POPE.tsv: the MD5 digest is ") && text.contains(&file.md5), "{text}");
    assert_eq!(folder.read::<Pope>(None).1, [""; 0], "it is read nevertheless");

    let folder = Folder::of("pope/parquet");
    let found = find(folder.0.path(), Pope::FORMS, &catalog()).unwrap();
    assert!(digests(&found).unwrap().iter().all(|file| file.identity == Identity::Unlisted));
}
