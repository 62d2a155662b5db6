//! Dependencies between the modules of a crate, and the cycles among them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use crate::modules::{Crate, ModuleId};
use crate::references::references;

/// A module that depends on another one, and the names it uses of it.
type Edges = BTreeMap<String, BTreeMap<String, BTreeSet<String>>>;

/// The dependencies among some modules of a crate.
pub(crate) struct Graph {
    edges: Edges,
}

impl Graph {
    /// Among all files.
    pub(crate) fn of_files(read: &Crate) -> Self {
        let mut edges = Edges::new();
        for (from, to, name) in dependencies(read) {
            let [from, to] = [from, to].map(|id| short(&read.modules[id].file));
            edges.entry(to.clone()).or_default();
            let from = edges.entry(from).or_default();
            from.entry(to).or_default().insert(name);
        }
        Self { edges }
    }

    /// Among the child modules of each module, every one taken together with all that is below it.
    pub(crate) fn of_siblings(read: &Crate) -> Vec<Self> {
        let mut graphs: BTreeMap<ModuleId, Edges> = BTreeMap::new();
        for (from, to, name) in dependencies(read) {
            let (from, to) = (ancestors(read, from), ancestors(read, to));
            let common = from.iter().zip(&to).take_while(|(from, to)| from == to).count();
            let (Some(from), Some(to)) = (from.get(common), to.get(common)) else { continue };
            let Some(parent) = read.modules[*from].parent else { continue };
            let [from, to] = [from, to].map(|id| short(&read.modules[*id].file));
            let edges = graphs.entry(parent).or_default();
            edges.entry(to.clone()).or_default();
            edges.entry(from).or_default().entry(to).or_default().insert(name);
        }
        graphs.into_values().map(|edges| Self { edges }).collect()
    }

    /// The groups of modules that all depend on each other, each as a readable list of the dependencies among them.
    pub(crate) fn cycles(&self) -> Vec<String> {
        let mut reported = BTreeSet::new();
        let mut cycles = Vec::new();
        for module in self.edges.keys() {
            let group =
                self.reachable(module).into_iter().filter(|other| self.reachable(other).contains(module));
            let group: BTreeSet<&String> = group.collect();
            if !group.is_empty() && reported.insert(group.clone()) {
                cycles.push(self.describe(&group));
            }
        }
        cycles
    }

    /// The modules that `module` depends on, directly or not; itself only if it is part of a cycle.
    fn reachable<'a>(&'a self, module: &String) -> BTreeSet<&'a String> {
        let mut reachable = BTreeSet::new();
        let mut open: Vec<&String> = self.edges[module].keys().collect();
        while let Some(next) = open.pop() {
            if reachable.insert(next) {
                open.extend(self.edges[next].keys());
            }
        }
        reachable
    }

    fn describe(&self, group: &BTreeSet<&String>) -> String {
        let mut text = format!("cycle of {} modules:\n", group.len());
        for from in group {
            for (to, names) in self.edges[*from].iter().filter(|(to, _)| group.contains(to)) {
                let names: Vec<&str> = names.iter().map(String::as_str).collect();
                text.push_str(&format!("  {from} -> {to} ({})\n", names.join(", ")));
            }
        }
        text
    }
}

/// Every use of an item of another file: the module that uses it, the module that defines it, and its name.
fn dependencies(read: &Crate) -> impl Iterator<Item = (ModuleId, ModuleId, String)> {
    let all = (0..read.modules.len())
        .flat_map(move |from| references(read, from).into_iter().map(move |(to, name)| (from, to, name)));
    all.filter(|(from, to, _)| read.modules[*from].file != read.modules[*to].file)
}

/// A module and those around it, the crate's root first.
fn ancestors(read: &Crate, id: ModuleId) -> Vec<ModuleId> {
    let mut path: Vec<ModuleId> = std::iter::successors(Some(id), |id| read.modules[*id].parent).collect();
    path.reverse();
    path
}

/// A path from the workspace's folder.
fn short(path: &Path) -> String {
    let parts: Vec<String> = path.iter().map(|part| part.to_string_lossy().into_owned()).collect();
    let from = parts.iter().rposition(|part| part == "..").map_or(0, |at| at + 1);
    parts[from..].join("/")
}
