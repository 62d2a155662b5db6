//! The watches of several namespaces as one.

use std::collections::HashMap;

use futures::stream::{self, BoxStream};
use futures::{Stream, StreamExt};
use kube::ResourceExt;
use kube::runtime::watcher::{self, Event};

/// Merges the watches of several namespaces into one that looks like the watch of all: it lists once every namespace is
/// listed, and again, everything, when one of them is listed again.
pub fn merge<K>(
    watches: Vec<BoxStream<'static, watcher::Result<Event<K>>>>,
) -> impl Stream<Item = watcher::Result<Event<K>>> + Send + 'static
where
    K: ResourceExt + Clone + Send + 'static,
{
    let mut known: Vec<Known<K>> = watches.iter().map(|_| Known::default()).collect();
    let numbered =
        watches.into_iter().enumerate().map(|(i, watch)| watch.map(move |event| (i, event)).boxed());
    stream::select_all(numbered).flat_map(move |(i, event)| stream::iter(next(&mut known, i, event)))
}

/// What is known of a namespace.
struct Known<K> {
    listed: bool,
    objects: HashMap<String, K>,
    /// The list that is being read.
    list: HashMap<String, K>,
}

impl<K> Default for Known<K> {
    fn default() -> Self {
        Self { listed: false, objects: HashMap::new(), list: HashMap::new() }
    }
}

fn next<K: ResourceExt + Clone>(
    known: &mut [Known<K>],
    i: usize,
    event: watcher::Result<Event<K>>,
) -> Vec<watcher::Result<Event<K>>> {
    let Some(of) = known.get_mut(i) else { return Vec::new() };
    let event = match event {
        Err(error) => return vec![Err(error)],
        Ok(event) => event,
    };
    let passed_on = match event {
        Event::Init => {
            of.list.clear();
            return Vec::new();
        }
        Event::InitApply(object) => {
            of.list.insert(object.name_any(), object);
            return Vec::new();
        }
        Event::InitDone => {
            of.objects = std::mem::take(&mut of.list);
            of.listed = true;
            None
        }
        Event::Apply(object) => {
            of.objects.insert(object.name_any(), object.clone());
            Some(Event::Apply(object))
        }
        Event::Delete(object) => {
            of.objects.remove(&object.name_any());
            Some(Event::Delete(object))
        }
    };
    // Until then a list would lack the objects of the other namespaces, which would look deleted.
    if !known.iter().all(|of| of.listed) {
        return Vec::new();
    }
    match passed_on {
        Some(event) => vec![Ok(event)],
        None => {
            let all = known.iter().flat_map(|of| of.objects.values().cloned());
            let listed = all.map(Event::InitApply);
            [Event::Init].into_iter().chain(listed).chain([Event::InitDone]).map(Ok).collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::ConfigMap;
    use serde_json::json;

    use super::*;

    fn map(name: &str) -> ConfigMap {
        serde_json::from_value(json!({"metadata": {"name": name}})).expect("a ConfigMap")
    }

    #[test]
    fn several_namespaces_are_listed_together_and_relisted_without_losing_each_other() {
        let mut known = vec![Known::default(), Known::default()];
        let mut event = |i: usize, event: Event<ConfigMap>| {
            let text = |event: watcher::Result<Event<ConfigMap>>| match event.expect("no error") {
                Event::Init => "(".to_owned(),
                Event::InitApply(object) => object.name_any(),
                Event::InitDone => ")".to_owned(),
                Event::Apply(object) => format!("+{}", object.name_any()),
                Event::Delete(object) => format!("-{}", object.name_any()),
            };
            let mut texts: Vec<String> = next(&mut known, i, Ok(event)).into_iter().map(text).collect();
            if texts.len() > 2 {
                let last = texts.len() - 1;
                texts[1..last].sort();
            }
            texts.concat()
        };
        for (i, given, expected) in [
            (0, Event::Init, ""),
            (0, Event::InitApply(map("a")), ""),
            (0, Event::InitDone, ""),
            (0, Event::Apply(map("b")), ""),
            (1, Event::Init, ""),
            (1, Event::InitApply(map("c")), ""),
            (1, Event::InitDone, "(abc)"),
            (1, Event::Apply(map("d")), "+d"),
            (0, Event::Delete(map("a")), "-a"),
            (1, Event::Init, ""),
            (1, Event::InitApply(map("d")), ""),
            (0, Event::Apply(map("e")), "+e"),
            (1, Event::InitDone, "(bde)"),
        ] {
            assert_eq!(event(i, given), expected);
        }
    }
}
