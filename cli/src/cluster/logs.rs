//! `logs`: what the pods of a step say, and with -f those of the steps after it.

mod stream;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use stic_contract::StepName;
use stic_crds::status::{RunStatus, SUCCEEDED, StepState};
use tokio::task::JoinSet;

use self::stream::Stream;
use super::children::{self, Children};
use super::{Cluster, Run};
use crate::args::LogsArgs;
use crate::error::{Failure, Result};
use crate::say::tell;

/// Time between two looks at what runs.
const LOOK: Duration = Duration::from_secs(1);
/// How long an API server may be away while logs are followed, as it is for an upgrade.
const PATIENCE: Duration = Duration::from_secs(300);

pub(super) async fn logs(args: &LogsArgs) -> Result<()> {
    let cluster = Cluster::connect(&args.connection).await?;
    let run = cluster.run(args.run.0, &args.run.1).await?;
    let wanted = Wanted { step: args.step, shard: args.shard };
    if args.follow {
        return follow(&cluster, run, wanted).await;
    }
    let children = cluster.children(&run).await?;
    let speakers = speakers(&children, wanted, args.previous);
    if speakers.is_empty() {
        return Err(Failure::config(nothing(&run, &children, args)));
    }
    let several = speakers.len() > 1;
    for speaker in speakers {
        let label = several.then(|| speaker.label.clone()).flatten();
        Stream::new(&cluster, &speaker.pod, label).print_all().await?;
    }
    Ok(())
}

/// Of what the logs are wanted.
#[derive(Debug, Clone, Copy, Default)]
struct Wanted {
    step: Option<StepName>,
    shard: Option<u32>,
}

/// A pod that has a log.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Speaker {
    uid: String,
    pod: String,
    /// Its step, and its shard where there are several.
    label: Option<String>,
}

/// The last pod of each shard of the step that is wanted, else of the last step that has a pod; or the one before.
fn speakers(children: &Children, wanted: Wanted, previous: bool) -> Vec<Speaker> {
    let Some(step) = wanted.step.or_else(|| current(children)) else { return Vec::new() };
    let mut by_shard: BTreeMap<Option<u32>, Vec<Speaker>> = BTreeMap::new();
    // Jobs stand in the order of their age, and so do the pods of a shard.
    for (job, pods) in children.of_step(step) {
        for pod in pods.iter().filter(|pod| children::has_started(pod)) {
            let shard = children::shard(pod);
            if wanted.shard.is_none_or(|wanted| shard.unwrap_or_default() == wanted) {
                by_shard.entry(shard).or_default().push(speaker(pod, step, children::is_shared(job)));
            }
        }
    }
    let back = if previous { 2 } else { 1 };
    by_shard
        .into_values()
        .filter_map(|mut pods| pods.len().checked_sub(back).map(|i| pods.swap_remove(i)))
        .collect()
}

fn speaker(pod: &Pod, step: StepName, shared: bool) -> Speaker {
    let shard = children::shard(pod).filter(|_| shared);
    Speaker {
        uid: pod.uid().unwrap_or_default(),
        pod: pod.name_any(),
        label: Some(shard.map_or_else(|| step.to_string(), |shard| format!("{step} {shard}"))),
    }
}

/// The step of the youngest Job that has a pod with a log.
fn current(children: &Children) -> Option<StepName> {
    let with_log = children.jobs.iter().rev().find(|(_, pods)| pods.iter().any(children::has_started));
    with_log.and_then(|(job, _)| children::step_of(&job.metadata))
}

fn nothing(run: &Run, children: &Children, args: &LogsArgs) -> String {
    let of = args.step.map(|step| format!(" of step {step}")).unwrap_or_default();
    let of = args.shard.map(|shard| format!("{of}, shard {shard},")).unwrap_or(of);
    let title = run.title();
    if args.previous {
        return format!("{title}: no pod{of} came before the last one; leave out --previous");
    }
    let said = run.status.condition(SUCCEEDED).map(|condition| condition.message.as_str());
    if current(children).is_none() && !run.is_over() {
        let said = said.unwrap_or("nobody has looked at it yet");
        return format!("{title}: no pod has started yet: {said}; -f waits for one");
    }
    format!(
        "{title}: no pod{of} is there any more, or it never had one; kubectl stic get {title} shows those that are"
    )
}

async fn follow(cluster: &Cluster, mut run: Run, wanted: Wanted) -> Result<()> {
    let mut heard: BTreeSet<String> = BTreeSet::new();
    let mut speaking = JoinSet::new();
    let mut first = true;
    let mut told = None;
    loop {
        // The end is read before the pods are: one that made the end is among them.
        let ended = is_over(&run, wanted.step);
        let children = patiently(|| cluster.children(&run)).await?;
        if first {
            // What was before the current step has been said.
            heard = history(&children, &speakers(&children, wanted, false));
            first = false;
        }
        let mut started = 0;
        for (job, pods) in &children.jobs {
            let Some(step) = children::step_of(&job.metadata) else { continue };
            if wanted.step.is_some_and(|wanted| wanted != step) {
                continue;
            }
            let shared = children::is_shared(job);
            for pod in pods.iter().filter(|pod| children::has_started(pod)) {
                let uid = pod.uid().unwrap_or_default();
                let other =
                    wanted.shard.is_some_and(|wanted| children::shard(pod).unwrap_or_default() != wanted);
                if other || !heard.insert(uid) {
                    continue;
                }
                started += 1;
                let Speaker { pod, label, .. } = speaker(pod, step, shared);
                // One pod at a time of one step needs no name.
                let label = label.filter(|_| wanted.step.is_none() || (shared && wanted.shard.is_none()));
                speaking.spawn(Stream::new(cluster, &pod, label).follow());
            }
        }
        if ended && started == 0 && speaking.is_empty() {
            return Ok(());
        }
        let phase = run.phase().map(ToOwned::to_owned);
        if speaking.is_empty() && phase != told {
            wait_aloud(&run);
            told = phase;
        }
        let pause = tokio::time::sleep(LOOK);
        tokio::pin!(pause);
        loop {
            tokio::select! {
                Some(spoken) = speaking.join_next() => spoken.map_err(Failure::bug)??,
                () = &mut pause => break,
            }
        }
        run = patiently(|| cluster.run(run.kind, &run.name)).await?;
    }
}

/// Asks again for as long as it may go well with nothing mended.
async fn patiently<T, F: Future<Output = Result<T>>>(mut ask: impl FnMut() -> F) -> Result<T> {
    let mut since = None;
    loop {
        let failure = match ask().await {
            Err(failure) if failure.passes => failure,
            answer => return answer,
        };
        let began = *since.get_or_insert_with(|| {
            tell(format_args!("{}; waits for it", failure.message.as_deref().unwrap_or_default()));
            Instant::now()
        });
        if began.elapsed() > PATIENCE {
            return Err(failure);
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// While nothing is said, people want to know why.
fn wait_aloud(run: &Run) {
    let Some(said) = run.status.condition(SUCCEEDED).filter(|condition| condition.status == "Unknown") else {
        return;
    };
    tell(format_args!("{}: {} ({})", run.title(), said.message, said.reason));
}

/// The pods that are not followed, as seen when following begins: all but `speakers` and those that have not started.
fn history(children: &Children, speakers: &[Speaker]) -> BTreeSet<String> {
    let now: BTreeSet<&str> = speakers.iter().map(|speaker| speaker.uid.as_str()).collect();
    children
        .jobs
        .iter()
        .flat_map(|(_, pods)| pods)
        .filter(|pod| children::has_started(pod))
        .filter_map(ResourceExt::uid)
        .filter(|uid| !now.contains(uid.as_str()))
        .collect()
}

fn is_over(run: &Run, step: Option<StepName>) -> bool {
    let is_past = |status: &RunStatus, step| {
        let state = status.step(step).map(|step| step.state);
        matches!(state, Some(StepState::Succeeded | StepState::Reused | StepState::Failed))
    };
    run.is_over() || (run.status.rerun == run.rerun() && step.is_some_and(|step| is_past(&run.status, step)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn children() -> Children {
        let value: serde_json::Value =
            serde_json::from_str(include_str!("tree/generating.json")).expect("JSON");
        let uid = value["run"]["metadata"]["uid"].as_str().expect("a UID").to_owned();
        let jobs = serde_json::from_value(value["jobs"].clone()).expect("Jobs");
        let pods = serde_json::from_value(value["pods"].clone()).expect("pods");
        Children::of(&uid, jobs, pods)
    }

    fn names(speakers: &[Speaker]) -> Vec<(&str, &str)> {
        speakers.iter().map(|it| (it.pod.as_str(), it.label.as_deref().unwrap_or_default())).collect()
    }

    #[test]
    fn the_last_pod_of_each_shard_of_the_current_step_speaks() {
        let children = children();
        let all = speakers(&children, Wanted::default(), false);
        assert_eq!(names(&all), [("generate-0-b", "generate 0"), ("generate-1-a", "generate 1")]);
        let one = speakers(&children, Wanted { shard: Some(1), ..Wanted::default() }, false);
        assert_eq!(names(&one), [("generate-1-a", "generate 1")]);
        let before = speakers(&children, Wanted::default(), true);
        assert_eq!(names(&before), [("generate-0-a", "generate 0")], "shard 1 had none before");
        let earlier = Wanted { step: Some(StepName::Prepare), ..Wanted::default() };
        assert_eq!(names(&speakers(&children, earlier, false)), [("prepare-a", "prepare")]);
        let later = Wanted { step: Some(StepName::Train), ..Wanted::default() };
        assert!(speakers(&children, later, false).is_empty());
    }

    #[test]
    fn following_leaves_out_what_was_said_before() {
        let children = children();
        let past = history(&children, &speakers(&children, Wanted::default(), false));
        assert_eq!(
            past.iter().map(String::as_str).collect::<Vec<_>>(),
            ["uid-generate-0-a", "uid-prepare-a"]
        );
    }
}
