//! `pattern.en.singularize` (`pattern/text/en/inflect.py` in clips/pattern 3.6), which CHAIR's own program applies to each word.
//!
//! Its mistakes are part of the metric: `ties` becomes `ty`, and words on its list of singulars in -ie, such as `collies`,
//! stay as they are.

use std::sync::LazyLock;

use regex::{Regex, RegexSet};

/// The singular of a lower-case word.
#[must_use]
pub fn singularize(word: &str) -> String {
    if let Some((head, tail)) = word.split_once('-')
        && PREPOSITIONS.contains(&tail.split('-').next().unwrap_or(tail))
    {
        return format!("{}-{tail}", singularize(head));
    }
    if let Some(owner) = word.strip_suffix('\'') {
        return singularize(owner) + "'s";
    }
    let lower = word.to_lowercase();
    // The test is whether a listed word ends in this one, so that `s` and `ers` are singular too.
    if UNCHANGED.iter().any(|listed| listed.ends_with(&lower)) {
        return word.to_owned();
    }
    if IN_IE.iter().any(|listed| lower.strip_suffix('s').is_some_and(|singular| singular.ends_with(listed))) {
        return lower;
    }
    if let Some((plural, singular)) = IRREGULAR.iter().find(|(plural, _)| lower.ends_with(plural)) {
        let kept = word.chars().count().saturating_sub(plural.len());
        return word.chars().take(kept).collect::<String>() + singular;
    }
    let Some(rule) = RULES.0.matches(word).iter().next().and_then(|rule| RULES.1.get(rule)) else {
        return word.to_owned();
    };
    rule.0.replace_all(word, rule.1).into_owned()
}

type Rules = (RegexSet, Vec<(Regex, &'static str)>);

#[expect(clippy::expect_used, reason = "the patterns are constants")]
static RULES: LazyLock<Rules> = LazyLock::new(|| {
    let set = RegexSet::new(SUFFIXES.map(|(suffix, _)| suffix)).expect("valid patterns");
    let rules = SUFFIXES.map(|(suffix, singular)| (Regex::new(suffix).expect("a valid pattern"), singular));
    (set, rules.into())
});

/// The first that matches is applied.
const SUFFIXES: [(&str, &str); 40] = [
    (r"(?i)(.)ae$", "${1}a"),
    (r"(?i)(.)itis$", "${1}itis"),
    (r"(?i)(.)eaux$", "${1}eau"),
    (r"(?i)(quiz)zes$", "${1}"),
    (r"(?i)(matr)ices$", "${1}ix"),
    (r"(?i)(ap|vert|ind)ices$", "${1}ex"),
    (r"(?i)^(ox)en", "${1}"),
    (r"(?i)(alias|status)es$", "${1}"),
    (r"(?i)([octpvir|])i$", "${1}us"),
    (r"(?i)(cris|ax|test)es$", "${1}is"),
    (r"(?i)(shoe)s$", "${1}"),
    (r"(?i)(o)es$", "${1}"),
    (r"(?i)(bus)es$", "${1}"),
    (r"(?i)([m|l])ice$", "${1}ouse"),
    (r"(?i)(x|ch|ss|sh)es$", "${1}"),
    (r"(?i)(m)ovies$", "${1}ovie"),
    (r"(?i)(.)ombies$", "${1}ombie"),
    (r"(?i)(s)eries$", "${1}eries"),
    (r"(?i)([^aeiouy]|qu)ies$", "${1}y"),
    (r"([aeo]l)ves$", "${1}f"),
    (r"([^d]ea)ves$", "${1}f"),
    (r"arves$", "arf"),
    (r"erves$", "erve"),
    (r"([nlw]i)ves$", "${1}fe"),
    (r"(?i)([lr])ves$", "${1}f"),
    (r"([aeo])ves$", "${1}ve"),
    (r"(?i)(sive)s$", "${1}"),
    (r"(?i)(tive)s$", "${1}"),
    (r"(?i)(hive)s$", "${1}"),
    (r"(?i)([^f])ves$", "${1}fe"),
    (r"(?i)(^analy)ses$", "${1}sis"),
    (r"(?i)((a)naly|(b)a|(d)iagno|(p)arenthe|(p)rogno|(s)ynop|(t)he)ses$", "${1}${2}sis"),
    (r"(?i)(.)opses$", "${1}opsis"),
    (r"(?i)(.)yses$", "${1}ysis"),
    (r"(?i)(h|d|r|o|n|b|cl|p)oses$", "${1}ose"),
    (r"(?i)(fruct|gluc|galact|lact|ket|malt|rib|sacchar|cellul)ose$", "${1}ose"),
    (r"(?i)(.)oses$", "${1}osis"),
    (r"(?i)([ti])a$", "${1}um"),
    (r"(?i)(n)ews$", "${1}ews"),
    (r"(?i)s$", ""),
];

/// `plural_prepositions`.
const PREPOSITIONS: [&str; 40] = [
    "about", "above", "across", "after", "among", "around", "at", "athwart", "before", "behind", "below",
    "beneath", "beside", "besides", "between", "betwixt", "beyond", "but", "by", "during", "except", "for",
    "from", "in", "into", "near", "of", "off", "on", "onto", "out", "over", "since", "till", "to", "under",
    "until", "unto", "upon", "with",
];

/// `singular_uninflected` and `singular_uncountable`.
const UNCHANGED: [&str; 73] = [
    "advice",
    "bison",
    "bread",
    "bream",
    "breeches",
    "britches",
    "butter",
    "carp",
    "chassis",
    "cheese",
    "christmas",
    "clippers",
    "cod",
    "contretemps",
    "corps",
    "debris",
    "diabetes",
    "djinn",
    "eland",
    "electricity",
    "elk",
    "equipment",
    "flounder",
    "fruit",
    "furniture",
    "gallows",
    "garbage",
    "georgia",
    "graffiti",
    "gravel",
    "happiness",
    "headquarters",
    "herpes",
    "high-jinks",
    "homework",
    "information",
    "innings",
    "jackanapes",
    "ketchup",
    "knowledge",
    "love",
    "luggage",
    "mackerel",
    "mathematics",
    "mayonnaise",
    "measles",
    "meat",
    "mews",
    "mumps",
    "mustard",
    "news",
    "pincers",
    "pliers",
    "proceedings",
    "progress",
    "rabies",
    "research",
    "rice",
    "salmon",
    "sand",
    "scissors",
    "series",
    "shears",
    "software",
    "species",
    "swine",
    "swiss",
    "trout",
    "tuna",
    "understanding",
    "water",
    "whiting",
    "wildebeest",
];

/// `singular_ie`, without the two entries that begin with a circumflex and match nothing.
const IN_IE: [&str; 42] = [
    "alergie", "auntie", "beanie", "birdie", "bogie", "bombie", "collie", "cookie", "cutie", "doggie",
    "eyrie", "freebie", "goonie", "groupie", "hankie", "hippie", "hoagie", "hottie", "indie", "junkie",
    "laddie", "laramie", "lingerie", "meanie", "newbie", "nightie", "oldie", "pixie", "quickie", "reverie",
    "rookie", "softie", "sortie", "stoolie", "sweetie", "techie", "toughie", "valkyrie", "veggie", "weenie",
    "yuppie", "zombie",
];

/// `singular_irregular`.
const IRREGULAR: [(&str, &str); 41] = [
    ("atlantes", "atlas"),
    ("atlases", "atlas"),
    ("axes", "axe"),
    ("beeves", "beef"),
    ("brethren", "brother"),
    ("children", "child"),
    ("corpora", "corpus"),
    ("corpuses", "corpus"),
    ("ephemerides", "ephemeris"),
    ("feet", "foot"),
    ("ganglia", "ganglion"),
    ("geese", "goose"),
    ("genera", "genus"),
    ("genii", "genie"),
    ("graffiti", "graffito"),
    ("helves", "helve"),
    ("kine", "cow"),
    ("leaves", "leaf"),
    ("loaves", "loaf"),
    ("men", "man"),
    ("mongooses", "mongoose"),
    ("monies", "money"),
    ("moves", "move"),
    ("mythoi", "mythos"),
    ("numena", "numen"),
    ("occipita", "occiput"),
    ("octopodes", "octopus"),
    ("opera", "opus"),
    ("opuses", "opus"),
    ("our", "my"),
    ("oxen", "ox"),
    ("penes", "penis"),
    ("penises", "penis"),
    ("people", "person"),
    ("sexes", "sex"),
    ("soliloquies", "soliloquy"),
    ("teeth", "tooth"),
    ("testes", "testis"),
    ("trilbys", "trilby"),
    ("turves", "turf"),
    ("zoa", "zoon"),
];
