//! Normalisation of VQA answers: EvalAI's, as LLaVA and lmms-eval copied it, and VLMEvalKit's variant.

use crate::python;

/// An answer as LLaVA (`EvalAIAnswerProcessor` in `llava/eval/m4c_evaluator.py`) and lmms-eval (the same class in
/// `lmms_eval/tasks/_task_utils/vqa_eval_metric.py`) compare it.
#[must_use]
pub fn normalize(answer: &str) -> String {
    let lower = answer.to_lowercase().replace([',', '?'], "").replace("'s", " 's");
    let text = without_line_breaks(python::strip(&lower));
    let text = without_marks(python::strip(&text), false);
    let text = without_full_stops(&text, |_, after| !after.is_some_and(is_digit));
    without_articles(&text)
}

/// An answer as VLMEvalKit compares it (`process_answer` in `vlmeval/dataset/utils/vqa_eval.py`).
#[must_use]
pub fn normalize_vlmevalkit(answer: &str) -> String {
    let text = without_line_breaks(answer);
    without_articles(&without_punctuation_vlmevalkit(python::strip(&text)))
}

/// `process_punctuation` in `vlmeval/smp/misc.py`: a mark is deleted if it touches a space somewhere, or if a comma stands
/// between digits anywhere; else it becomes a space. Then the first full stops between two characters that are no digits go.
pub(crate) fn without_punctuation_vlmevalkit(text: &str) -> String {
    let text = without_marks(text, has_thousands(text));
    without_full_stops(&text, |before, after| !before.is_some_and(is_digit) && !after.is_some_and(is_digit))
}

fn is_digit(character: char) -> bool {
    python::decimal(character).is_some()
}

fn without_line_breaks(text: &str) -> String {
    text.replace(['\n', '\t'], " ")
}

const MARKS: [char; 21] = [
    ';', '/', '[', ']', '"', '{', '}', '(', ')', '=', '+', '\\', '_', '-', '>', '<', '@', '`', ',', '?', '!',
];

/// Each mark is deleted everywhere if it touches a space somewhere in `text`, else it becomes a space. `delete_all` deletes
/// all of them.
fn without_marks(text: &str, delete_all: bool) -> String {
    let mut out = text.to_owned();
    for mark in MARKS {
        let delete = delete_all || text.contains(&format!("{mark} ")) || text.contains(&format!(" {mark}"));
        out = out.replace(mark, if delete { "" } else { " " });
    }
    out
}

/// Whether a comma stands between two digits.
fn has_thousands(text: &str) -> bool {
    let parts: Vec<_> = text.split(',').collect();
    parts.windows(2).any(|parts| match parts {
        [before, after] => before.ends_with(is_digit) && after.starts_with(is_digit),
        _ => false,
    })
}

/// How many full stops are deleted: the references pass `re.UNICODE`, which is 32, as the count.
const MOST_FULL_STOPS: usize = 32;

/// Deletes the first full stops for which `goes` holds, given the characters around them.
fn without_full_stops(text: &str, goes: impl Fn(Option<char>, Option<char>) -> bool) -> String {
    let mut kept = String::with_capacity(text.len());
    let mut deleted = 0;
    let mut before = None;
    let mut characters = text.chars().peekable();
    while let Some(character) = characters.next() {
        if character == '.' && deleted < MOST_FULL_STOPS && goes(before, characters.peek().copied()) {
            deleted += 1;
        } else {
            kept.push(character);
        }
        before = Some(character);
    }
    kept
}

/// The words in lower case, numbers up to ten as digits, without articles and with the apostrophes of contractions.
fn without_articles(text: &str) -> String {
    let lower = text.to_lowercase();
    let words = python::split(&lower).map(number).filter(|word| !matches!(*word, "a" | "an" | "the"));
    words.map(contraction).collect::<Vec<_>>().join(" ")
}

fn number(word: &str) -> &str {
    match word {
        "none" | "zero" => "0",
        "one" => "1",
        "two" => "2",
        "three" => "3",
        "four" => "4",
        "five" => "5",
        "six" => "6",
        "seven" => "7",
        "eight" => "8",
        "nine" => "9",
        "ten" => "10",
        other => other,
    }
}

fn contraction(word: &str) -> &str {
    let place = CONTRACTIONS.binary_search_by_key(&word, |(without, _)| without);
    place.ok().and_then(|place| CONTRACTIONS.get(place)).map_or(word, |(_, with)| with)
}

/// All three references have the same table, `somebody'd` included. Left out are entries that change nothing and entries with
/// a capital (`Im`), which no lower-case word equals. Sorted by the first.
const CONTRACTIONS: [(&str, &str); 114] = [
    ("'ow'sat", "'ow's'at"),
    ("'ows'at", "'ow's'at"),
    ("aint", "ain't"),
    ("arent", "aren't"),
    ("cant", "can't"),
    ("couldn'tve", "couldn't've"),
    ("couldnt", "couldn't"),
    ("couldnt've", "couldn't've"),
    ("couldve", "could've"),
    ("didnt", "didn't"),
    ("doesnt", "doesn't"),
    ("dont", "don't"),
    ("hadn'tve", "hadn't've"),
    ("hadnt", "hadn't"),
    ("hadnt've", "hadn't've"),
    ("hasnt", "hasn't"),
    ("havent", "haven't"),
    ("he'dve", "he'd've"),
    ("hed", "he'd"),
    ("hed've", "he'd've"),
    ("hes", "he's"),
    ("howd", "how'd"),
    ("howll", "how'll"),
    ("hows", "how's"),
    ("isnt", "isn't"),
    ("it'dve", "it'd've"),
    ("itd", "it'd"),
    ("itd've", "it'd've"),
    ("itll", "it'll"),
    ("maam", "ma'am"),
    ("mightn'tve", "mightn't've"),
    ("mightnt", "mightn't"),
    ("mightnt've", "mightn't've"),
    ("mightve", "might've"),
    ("mustnt", "mustn't"),
    ("mustve", "must've"),
    ("neednt", "needn't"),
    ("notve", "not've"),
    ("oclock", "o'clock"),
    ("oughtnt", "oughtn't"),
    ("ow's'at", "'ow's'at"),
    ("shant", "shan't"),
    ("she'dve", "she'd've"),
    ("shed've", "she'd've"),
    ("shouldn'tve", "shouldn't've"),
    ("shouldnt", "shouldn't"),
    ("shouldnt've", "shouldn't've"),
    ("shouldve", "should've"),
    ("somebody'd", "somebodyd"),
    ("somebody'dve", "somebody'd've"),
    ("somebodyd've", "somebody'd've"),
    ("somebodyll", "somebody'll"),
    ("somebodys", "somebody's"),
    ("someone'dve", "someone'd've"),
    ("someoned", "someone'd"),
    ("someoned've", "someone'd've"),
    ("someonell", "someone'll"),
    ("someones", "someone's"),
    ("something'dve", "something'd've"),
    ("somethingd", "something'd"),
    ("somethingd've", "something'd've"),
    ("somethingll", "something'll"),
    ("thats", "that's"),
    ("there'dve", "there'd've"),
    ("thered", "there'd"),
    ("thered've", "there'd've"),
    ("therere", "there're"),
    ("theres", "there's"),
    ("they'dve", "they'd've"),
    ("theyd", "they'd"),
    ("theyd've", "they'd've"),
    ("theyll", "they'll"),
    ("theyre", "they're"),
    ("theyve", "they've"),
    ("twas", "'twas"),
    ("wasnt", "wasn't"),
    ("we'dve", "we'd've"),
    ("wed've", "we'd've"),
    ("werent", "weren't"),
    ("weve", "we've"),
    ("whatll", "what'll"),
    ("whatre", "what're"),
    ("whats", "what's"),
    ("whatve", "what've"),
    ("whens", "when's"),
    ("whered", "where'd"),
    ("wheres", "where's"),
    ("whereve", "where've"),
    ("who'dve", "who'd've"),
    ("whod", "who'd"),
    ("whod've", "who'd've"),
    ("wholl", "who'll"),
    ("whos", "who's"),
    ("whove", "who've"),
    ("whyll", "why'll"),
    ("whyre", "why're"),
    ("whys", "why's"),
    ("wont", "won't"),
    ("wouldn'tve", "wouldn't've"),
    ("wouldnt", "wouldn't"),
    ("wouldnt've", "wouldn't've"),
    ("wouldve", "would've"),
    ("y'all'dve", "y'all'd've"),
    ("y'alld've", "y'all'd've"),
    ("y'allll", "y'all'll"),
    ("yall", "y'all"),
    ("yall'd've", "y'all'd've"),
    ("yall'll", "y'all'll"),
    ("you'dve", "you'd've"),
    ("youd", "you'd"),
    ("youd've", "you'd've"),
    ("youll", "you'll"),
    ("youre", "you're"),
    ("youve", "you've"),
];
