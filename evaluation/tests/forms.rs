//! Every published form of a benchmark gives the same questions with the same images. The fixtures are made by
//! `fixtures/make.py`.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use stic_contract::Digest;
use stic_evaluation::benchmarks::amber::Amber;
use stic_evaluation::benchmarks::chart_qa::ChartQa;
use stic_evaluation::benchmarks::hallusion_bench::HallusionBench;
use stic_evaluation::benchmarks::llava_bench::LlavaBench;
use stic_evaluation::benchmarks::math_vista::MathVista;
use stic_evaluation::benchmarks::mm_bench::MmBench;
use stic_evaluation::benchmarks::mm_star::MmStar;
use stic_evaluation::benchmarks::mm_vet::MmVet;
use stic_evaluation::benchmarks::pope::Pope;
use stic_evaluation::benchmarks::science_qa::ScienceQa;
use stic_evaluation::benchmarks::text_vqa::TextVqa;
use stic_evaluation::benchmarks::{Benchmark, Options};
use stic_evaluation::published::find;
use stic_evaluation::questions::read;
use stic_evaluation::registry::catalog;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

/// What is compared of a question.
#[derive(Debug, Clone, PartialEq)]
struct Compared {
    id: String,
    prompt: String,
    item: serde_json::Value,
    image: Option<Digest>,
}

/// The questions of the form in `folder`, of whose title `title` is a part, in the order of their ids.
fn questions<B: Benchmark>(folder: &str, title: &str, ocr_tokens: bool) -> Vec<Compared> {
    let found = find(&fixture(folder), B::FORMS, &catalog()).unwrap();
    assert!(found.form.title.contains(title), "{} instead of {title}", found.form.title);
    let mut questions = read::<B>(&found, Options { ocr_tokens }, None).unwrap();
    let mut read = Vec::new();
    while let Some(question) = questions.next() {
        let question = question.unwrap();
        let image = question.image.map(|image| {
            assert_eq!(Digest::of(&image.bytes), image.digest);
            image.digest
        });
        let prompt = questions.benchmark().prompt(&question.sample.item);
        let item = serde_json::to_value(&question.sample.item).unwrap();
        read.push((question.position, Compared { id: question.sample.id, prompt, item, image }));
    }
    read.sort_by_key(|(position, _)| *position);
    assert!(read.iter().enumerate().all(|(index, (position, _))| index == *position));
    read.into_iter().map(|(_, question)| question).collect()
}

/// The forms in `folders`, each with a part of its title, give the same questions.
fn assert_same<B: Benchmark>(folders: &[(&str, &str)]) -> Vec<Compared> {
    let mut forms = folders.iter().map(|(folder, title)| (folder, questions::<B>(folder, title, false)));
    let (_, expected) = forms.next().unwrap();
    for (folder, read) in forms {
        assert_eq!(read, expected, "{folder}");
    }
    expected
}

fn ids(questions: &[Compared]) -> Vec<&str> {
    questions.iter().map(|question| question.id.as_str()).collect()
}

fn images(questions: &[Compared]) -> BTreeSet<Option<Digest>> {
    questions.iter().map(|question| question.image.clone()).collect()
}

#[test]
fn science_qa() {
    let all = assert_same::<ScienceQa>(&[
        ("science_qa/original", "problems.json"),
        ("science_qa/llava", "problems.json"),
        ("science_qa/parquet", "ScienceQA-FULL"),
    ]);
    assert_eq!(ids(&all), ["1", "2", "3", "4", "5", "6"]);
    let with_image: Vec<Compared> = all.into_iter().filter(|question| question.image.is_some()).collect();
    assert_eq!(ids(&with_image), ["2", "3", "6"]);
    let published =
        [("science_qa/parquet-images", "ScienceQA-IMG"), ("science_qa/tsv", "ScienceQA_TEST.tsv")];
    assert_eq!(assert_same::<ScienceQa>(&published), with_image);
}

#[test]
fn text_vqa() {
    let read = assert_same::<TextVqa>(&[
        ("text_vqa/parquet", "parquet"),
        ("text_vqa/tsv", "TextVQA_VAL.tsv"),
        ("text_vqa/original", "TextVQA_0.5.1_val.json"),
        ("text_vqa/original-tokens", "Rosetta"),
        ("text_vqa/llava", "LLaVA's"),
    ]);
    assert_eq!(ids(&read), ["34602", "34603", "34604", "34605", "34606", "34700"]);
    assert_eq!(images(&read).len(), 5);
    let with_tokens = |folder, title| questions::<TextVqa>(folder, title, true);
    let read = with_tokens("text_vqa/parquet", "parquet");
    assert_eq!(with_tokens("text_vqa/original-tokens", "Rosetta"), read);
    assert_eq!(with_tokens("text_vqa/llava", "LLaVA's"), read);
}

#[test]
fn chart_qa() {
    let read = assert_same::<ChartQa>(&[
        ("chart_qa/parquet", "lmms-lab"),
        ("chart_qa/parquet-m4", "HuggingFaceM4"),
        ("chart_qa/tsv", "ChartQA_TEST.tsv"),
        ("chart_qa/original", "test folder"),
    ]);
    assert_eq!((read.len(), images(&read).len()), (1252, 3));
}

#[test]
fn mm_bench() {
    let read = assert_same::<MmBench>(&[
        ("mm_bench/tsv", "MMBench_DEV_EN.tsv"),
        ("mm_bench/tsv-v11", "MMBench_DEV_EN_V11.tsv"),
        ("mm_bench/original", "mmbench_dev_20230712.tsv"),
        ("mm_bench/parquet", "en, dev"),
    ]);
    assert_eq!(ids(&read), ["1", "9", "10", "1000001", "1000009"]);
    // Its `index` are numbers, those of the English file are texts.
    assert_eq!(ids(&questions::<MmBench>("mm_bench/parquet-cn", "cn, dev", false)), ids(&read));
}

#[test]
fn math_vista() {
    let expected = assert_same::<MathVista>(&[
        ("math_vista/parquet", "parquet"),
        ("math_vista/original", "testmini.json"),
    ]);
    assert_eq!(ids(&expected), ["1", "2", "10", "11"]);
    // VLMEvalKit's table has the unit in the question.
    let without_unit = |mut questions: Vec<Compared>| {
        for question in &mut questions {
            let item = question.item.as_object_mut().unwrap();
            item.remove("question").and(item.remove("unit")).unwrap();
        }
        questions
    };
    let table = questions::<MathVista>("math_vista/tsv", "MathVista_MINI.tsv", false);
    assert_eq!(without_unit(table), without_unit(expected));
}

#[test]
fn llava_bench() {
    let read = assert_same::<LlavaBench>(&[
        ("llava_bench/parquet", "parquet"),
        ("llava_bench/tsv", "LLaVABench.tsv"),
        ("llava_bench/original", "liuhaotian"),
    ]);
    assert_eq!((ids(&read), images(&read).len()), (vec!["0", "1", "2"], 2));
}

#[test]
fn mm_vet() {
    let read = assert_same::<MmVet>(&[
        ("mm_vet/parquet", "parquet"),
        ("mm_vet/tsv", "MMVet.tsv"),
        ("mm_vet/original", "mm-vet.json"),
    ]);
    assert_eq!((ids(&read), images(&read).len()), (vec!["v1_0", "v1_1", "v1_2"], 2));
}

#[test]
fn pope() {
    let read = assert_same::<Pope>(&[("pope/parquet", "parquet"), ("pope/original", "output/coco")]);
    assert_eq!((read.len(), images(&read).len()), (12, 2));
    // VLMEvalKit's table has one row for a question of several categories, and ids of its own.
    let merged = questions::<Pope>("pope/tsv", "POPE.tsv", false);
    assert_eq!((merged.len(), images(&merged)), (8, images(&read)));
}

#[test]
fn mm_star() {
    let read = assert_same::<MmStar>(&[
        ("mm_star/parquet", "parquet"),
        ("mm_star/parquet-struct", "parquet"),
        ("mm_star/tsv", "MMStar.tsv"),
    ]);
    assert_eq!((ids(&read), images(&read).len()), (vec!["0", "1", "2"], 2));
}

#[test]
fn hallusion_bench() {
    let read = assert_same::<HallusionBench>(&[
        ("hallusion_bench/parquet", "parquet"),
        ("hallusion_bench/tsv", "HallusionBench.tsv"),
        ("hallusion_bench/original", "HallusionBench.json"),
    ]);
    assert_eq!(
        ids(&read),
        ["VD_figure_1_0_0_0", "VD_figure_1_0_0_1", "VS_chart_0_0_0_0", "VS_chart_1_0_1_0"]
    );
    let with_image: Vec<bool> = read.iter().map(|question| question.image.is_some()).collect();
    assert_eq!(with_image, [true, true, false, true], "questions without image are kept");
}

#[test]
fn amber() {
    let read = assert_same::<Amber>(&[("amber/original", "data folder"), ("amber/tsv", "AMBER.tsv")]);
    assert_eq!((ids(&read), images(&read).len()), (vec!["1005", "1006", "1007", "15220"], 2));
}
