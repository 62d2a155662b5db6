use stic_evaluation::benchmarks::{amber, pope, yes_no};

use crate::common::{cases, text};

fn word(answer: Option<bool>) -> Option<&'static str> {
    answer.map(|yes| if yes { "yes" } else { "no" })
}

#[test]
fn reads_yes_and_no_as_each_program() {
    for case in cases("yes_no", "texts") {
        let answer = text(&case, "text");
        assert_eq!(word(Some(pope::yes_or_no_llava(answer))), case["llava"].as_str(), "{case}");
        assert_eq!(word(pope::yes_or_no_lmms_eval(answer)), case["lmms"].as_str(), "{case}");
        assert_eq!(word(amber::yes_or_no_lmms_eval(answer)), case["lmms_amber"].as_str(), "{case}");
        let found = word(yes_no::yes_or_no_vlmevalkit(answer)).unwrap_or("unknown");
        assert_eq!(found, text(&case, "vlmevalkit").to_lowercase(), "{case}");
    }
}
