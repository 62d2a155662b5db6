//! Which items of other modules a module's code names.

use proc_macro2::{TokenStream, TokenTree};
use quote::ToTokens as _;

use crate::modules::{Crate, Module, ModuleId};

/// The longest chain of re-exports that is followed.
const MOST_REEXPORTS: usize = 32;

/// What a name in a module stands for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Target {
    Module(ModuleId),
    /// An item, by the module that defines it.
    ItemOf(ModuleId),
}

/// Where a name stands in a path: a module and a function may have the same name.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Last,
    Before,
}

/// The items that the code of `id` names: the module that defines each, and its name there.
pub(crate) fn references(of: &Crate, id: ModuleId) -> Vec<(ModuleId, String)> {
    let module = &of.modules[id];
    let mut paths = Vec::new();
    for item in &module.items {
        collect_paths(item.to_token_stream(), &mut paths);
    }
    let imported = module.imports.iter().filter(|import| !import.is_reexport);
    let mut found = Vec::new();
    for import in imported {
        match (resolve(of, id, &import.path, 0), &import.alias) {
            (Some((Target::ItemOf(module), name)), _) => found.push((module, name)),
            (Some((Target::Module(module), _)), None) => found.push((module, "*".to_owned())),
            _ => {}
        }
    }
    for path in paths {
        // A single name that is no import is a local variable or an item of this module.
        if path.len() == 1 && !module.imports.iter().any(|import| import.alias.as_ref() == Some(&path[0])) {
            continue;
        }
        if let Some((Target::ItemOf(module), name)) = resolve(of, id, &path, 0) {
            found.push((module, name));
        }
    }
    found
}

/// What `path` means in the module `id`, and the name of the module or item; nothing if it leads out of the crate.
fn resolve(of: &Crate, id: ModuleId, path: &[String], depth: usize) -> Option<(Target, String)> {
    let place = |at: usize| if at + 1 == path.len() { Place::Last } else { Place::Before };
    let first = path.first()?;
    let mut target = match first.as_str() {
        "crate" => Target::Module(0),
        "self" => Target::Module(id),
        "super" => Target::Module(of.modules[id].parent?),
        name if name == of.name => Target::Module(0),
        name => lookup(of, id, name, place(0), depth)?,
    };
    let mut named = first;
    for (at, segment) in path.iter().enumerate().skip(1) {
        // Behind an item come its variants and functions.
        let Target::Module(module) = target else { break };
        target = match segment.as_str() {
            "super" => Target::Module(of.modules[module].parent?),
            name => lookup(of, module, name, place(at), depth)?,
        };
        named = segment;
    }
    Some((target, named.clone()))
}

/// What `name` stands for in the module `id`.
fn lookup(of: &Crate, id: ModuleId, name: &str, place: Place, depth: usize) -> Option<Target> {
    if depth > MOST_REEXPORTS {
        return None;
    }
    let Module { children, defined, imports, .. } = &of.modules[id];
    let child = children.get(name).map(|child| Target::Module(*child));
    let item = defined.contains(name).then_some(Target::ItemOf(id));
    if let Some(found) = if place == Place::Last { item.or(child) } else { child.or(item) } {
        return Some(found);
    }
    let named = imports.iter().filter(|import| import.alias.as_deref() == Some(name));
    // `use name::name` does not refer to itself.
    let elsewhere = named.filter(|import| import.path.first().is_none_or(|first| first != name));
    for import in elsewhere {
        if let Some((found, _)) = resolve(of, id, &import.path, depth + 1) {
            return Some(found);
        }
    }
    imports.iter().filter(|import| import.alias.is_none()).find_map(|import| {
        match resolve(of, id, &import.path, depth + 1)?.0 {
            Target::Module(module) if module != id => lookup(of, module, name, place, depth + 1),
            _ => None,
        }
    })
}

/// The paths in `tokens`, also those inside macros: names with `::` between them.
fn collect_paths(tokens: TokenStream, paths: &mut Vec<Vec<String>>) {
    let tokens: Vec<TokenTree> = tokens.into_iter().collect();
    let is_punct = |at: usize, wanted: char| matches!(tokens.get(at), Some(TokenTree::Punct(punct)) if punct.as_char() == wanted);
    let mut at = 0;
    while at < tokens.len() {
        match &tokens[at] {
            TokenTree::Group(group) => {
                collect_paths(group.stream(), paths);
                at += 1;
            }
            // An import inside a function, which the module's imports have already.
            TokenTree::Ident(ident) if ident == "use" && !is_punct(at + 1, '<') => {
                while at < tokens.len() && !is_punct(at, ';') {
                    at += 1;
                }
            }
            TokenTree::Ident(ident) => {
                // A field or method, the rest of a path that began otherwise, or a lifetime.
                let continues = at > 0 && ['.', ':', '\''].iter().any(|mark| is_punct(at - 1, *mark));
                let is_type_of = at > 1 && is_punct(at - 1, ':') && !is_punct(at - 2, ':');
                let mut path = vec![ident.to_string()];
                at += 1;
                while is_punct(at, ':') && is_punct(at + 1, ':') {
                    let Some(TokenTree::Ident(next)) = tokens.get(at + 2) else { break };
                    path.push(next.to_string());
                    at += 3;
                }
                let is_field = path.len() == 1 && is_punct(at, ':') && !is_punct(at + 1, ':');
                if (!continues || is_type_of) && !is_field {
                    paths.push(path);
                }
            }
            _ => at += 1,
        }
    }
}
