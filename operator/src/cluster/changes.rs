//! The runs that changed, from the watch that fills their store.

use std::collections::HashSet;
use std::fmt::Debug;
use std::hash::Hash;

use futures::{Stream, TryStreamExt};
use kube::Resource;
use kube::runtime::reflector::store::Writer;
use kube::runtime::reflector::{ObjectRef, reflector};
use kube::runtime::watcher::{self, Event};

/// Fills a store from `events` and yields what changed in it. A new list replaces the whole store at once: everything in
/// it may have changed, and everything missing from it was deleted; no other event reports either.
pub fn changes<K>(
    writer: Writer<K>,
    events: impl Stream<Item = watcher::Result<Event<K>>>,
) -> impl Stream<Item = watcher::Result<Vec<ObjectRef<K>>>>
where
    K: Resource<DynamicType: Eq + Hash + Clone + Default> + Clone + Debug,
{
    let store = writer.as_reader();
    let listed =
        move || store.state().iter().map(|object| ObjectRef::from_obj(&**object)).collect::<HashSet<_>>();
    let mut before = HashSet::new();
    reflector(writer, events).map_ok(move |event| match event {
        Event::Init => {
            before = listed();
            Vec::new()
        }
        Event::InitApply(_) => Vec::new(),
        Event::InitDone => std::mem::take(&mut before).union(&listed()).cloned().collect(),
        Event::Apply(object) | Event::Delete(object) => vec![ObjectRef::from_obj(&object)],
    })
}

#[cfg(test)]
mod tests {
    use futures::StreamExt;
    use k8s_openapi::api::core::v1::ConfigMap;
    use kube::runtime::reflector::store;
    use serde_json::json;

    use super::*;

    fn map(name: &str) -> ConfigMap {
        serde_json::from_value(json!({"metadata": {"name": name, "namespace": "n"}})).expect("a ConfigMap")
    }

    #[tokio::test]
    async fn a_complete_list_changes_everything_in_it_and_everything_missing_from_it() {
        let (reader, writer) = store();
        let events = [
            Event::Init,
            Event::InitApply(map("a")),
            Event::InitApply(map("b")),
            Event::InitDone,
            Event::Apply(map("c")),
            Event::Delete(map("c")),
            Event::Init,
            Event::InitApply(map("b")),
            Event::InitApply(map("d")),
            Event::InitDone,
        ];
        let mut reported = Vec::new();
        let mut changes = std::pin::pin!(changes(writer, futures::stream::iter(events.into_iter().map(Ok))));
        while let Some(changed) = changes.next().await {
            let mut names: Vec<_> = changed.expect("no error").into_iter().map(|it| it.name).collect();
            names.sort();
            // A change is reported only once the store has it.
            assert!(!names.contains(&"d".into()) || reader.state().iter().any(|it| **it == map("d")));
            reported.push(names.concat());
        }
        assert_eq!(reported, ["", "", "", "ab", "c", "c", "", "", "", "abd"]);
    }
}
