//! Settings of the preferences that have no effect with the others, which the status reports.

use stic_contract::recipe::{Negatives, PreferenceSource};
use stic_crds::lifecycle::Profile;
use stic_crds::preferences::{CorruptionTime, Preferences};

/// Every field that differs from its default and that nothing reads, with the setting that makes it so.
pub(super) fn ineffective(profile: Profile, spec: &Preferences) -> Vec<String> {
    let default = Preferences::default();
    let from_file = spec.source == PreferenceSource::File;
    let source = (spec.source != PreferenceSource::Generate)
        .then(|| format!("spec.preferences.source: {:?}", spec.source));
    let negatives = |used: &[Negatives]| {
        let unused = !used.contains(&spec.negatives);
        source.clone().or_else(|| unused.then(|| format!("spec.preferences.negatives: {:?}", spec.negatives)))
    };
    let compatible = || {
        let released = profile == Profile::OfficialCompat;
        released.then(|| "spec.profile: OfficialCompat".to_owned())
    };
    let corrupts = spec.corruptions.iter().any(|corruption| {
        corruption.at != Some(CorruptionTime::Training) && !default.corruptions.contains(corruption)
    });
    let fields = [
        ("captionPrompts", spec.caption_prompts != default.caption_prompts, source.clone()),
        ("wellCuratedPrompt", spec.well_curated_prompt != default.well_curated_prompt, source.clone()),
        ("sampling", spec.sampling != default.sampling, source.clone().filter(|_| from_file)),
        ("corruptedShare", spec.corrupted_share.is_some(), source.clone()),
        (
            "hallucinationPrompts",
            spec.hallucination_prompts != default.hallucination_prompts,
            negatives(&[Negatives::Both, Negatives::PromptsOnly]),
        ),
        ("corruptions", corrupts, negatives(&[Negatives::Both, Negatives::ImagesOnly]).or_else(compatible)),
    ];
    fields
        .into_iter()
        .filter(|(_, is_set, _)| *is_set)
        .filter_map(|(field, _, cause)| {
            Some(format!("spec.preferences.{field} has no effect with {}", cause?))
        })
        .collect()
}
