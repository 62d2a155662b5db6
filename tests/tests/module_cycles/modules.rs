//! The modules of a crate: what each defines, declares and imports.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use syn::visit::Visit;
use syn::{Attribute, Item, ItemMod, ItemUse, UseTree, Visibility};

pub(crate) type ModuleId = usize;

/// A crate, its root module first.
pub(crate) struct Crate {
    pub modules: Vec<Module>,
    /// The name by which the crate's own code may name it.
    pub name: String,
}

pub(crate) struct Module {
    /// The file it is written in. Inline modules share that of the module around them.
    pub file: PathBuf,
    pub parent: Option<ModuleId>,
    pub children: BTreeMap<String, ModuleId>,
    /// The names of the items it defines.
    pub defined: BTreeSet<String>,
    pub imports: Vec<Import>,
    /// Its items, without imports, modules and tests.
    pub items: Vec<Item>,
}

/// One name of a `use`.
pub(crate) struct Import {
    pub path: Vec<String>,
    /// The name in this module; none for `*`.
    pub alias: Option<String>,
    pub is_reexport: bool,
}

impl Crate {
    pub(crate) fn read(root: &Path) -> Self {
        let package = root.ancestors().nth(2).and_then(Path::file_name).unwrap_or_default().to_string_lossy();
        let mut read = Self { modules: Vec::new(), name: format!("stic_{package}") };
        let folder = root.parent().expect("a file is in a folder");
        read.add_file(root, folder, None);
        read
    }

    /// Adds the module in `file`, whose child modules are in `folder`.
    fn add_file(&mut self, file: &Path, folder: &Path, parent: Option<ModuleId>) -> ModuleId {
        let text = fs::read_to_string(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        let parsed = syn::parse_file(&text).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        self.add(parsed.items, file, folder, parent)
    }

    fn add(&mut self, items: Vec<Item>, file: &Path, folder: &Path, parent: Option<ModuleId>) -> ModuleId {
        let id = self.modules.len();
        self.modules.push(Module {
            file: file.to_owned(),
            parent,
            children: BTreeMap::new(),
            defined: BTreeSet::new(),
            imports: Vec::new(),
            items: Vec::new(),
        });
        for item in items {
            match item {
                item if is_test(attributes(&item)) => {}
                Item::Mod(module) => self.add_child(module, file, folder, id),
                item => {
                    Imports(&mut self.modules[id].imports).visit_item(&item);
                    self.modules[id].defined.extend(name(&item));
                    if !matches!(item, Item::Use(_)) {
                        self.modules[id].items.push(item);
                    }
                }
            }
        }
        id
    }

    fn add_child(&mut self, module: ItemMod, file: &Path, folder: &Path, parent: ModuleId) {
        let name = module.ident.to_string();
        let inside = folder.join(&name);
        let id = match module.content {
            Some((_, items)) => self.add(items, file, &inside, Some(parent)),
            None => {
                let candidates = [folder.join(format!("{name}.rs")), inside.join("mod.rs")];
                let found = candidates.iter().find(|file| file.is_file());
                let found = found.unwrap_or_else(|| panic!("{}: mod {name} has no file", file.display()));
                self.add_file(found, &inside, Some(parent))
            }
        };
        self.modules[parent].children.insert(name, id);
    }
}

/// Collects the imports of an item, also those inside functions.
struct Imports<'a>(&'a mut Vec<Import>);

impl<'ast> Visit<'ast> for Imports<'_> {
    fn visit_item_use(&mut self, item: &'ast ItemUse) {
        let is_reexport = !matches!(item.vis, Visibility::Inherited);
        flatten(&item.tree, &mut Vec::new(), is_reexport, self.0);
    }

    fn visit_item_mod(&mut self, _: &'ast ItemMod) {}
}

fn flatten(tree: &UseTree, prefix: &mut Vec<String>, is_reexport: bool, imports: &mut Vec<Import>) {
    let mut add = |last: Option<String>, alias: Option<String>| {
        // `a::{self}` is `a`.
        let path: Vec<String> = prefix.iter().cloned().chain(last.filter(|last| last != "self")).collect();
        let alias =
            alias.map(|alias| if alias == "self" { path.last().cloned().unwrap_or(alias) } else { alias });
        imports.push(Import { path, alias, is_reexport });
    };
    match tree {
        UseTree::Name(name) => add(Some(name.ident.to_string()), Some(name.ident.to_string())),
        UseTree::Rename(rename) => add(Some(rename.ident.to_string()), Some(rename.rename.to_string())),
        UseTree::Glob(_) => add(None, None),
        UseTree::Path(path) => {
            prefix.push(path.ident.to_string());
            flatten(&path.tree, prefix, is_reexport, imports);
            prefix.pop();
        }
        UseTree::Group(group) => {
            for tree in &group.items {
                flatten(tree, prefix, is_reexport, imports);
            }
        }
    }
}

fn name(item: &Item) -> Option<String> {
    let ident = match item {
        Item::Const(item) => &item.ident,
        Item::Enum(item) => &item.ident,
        Item::Fn(item) => &item.sig.ident,
        Item::Macro(item) => item.ident.as_ref()?,
        Item::Static(item) => &item.ident,
        Item::Struct(item) => &item.ident,
        Item::Trait(item) => &item.ident,
        Item::Type(item) => &item.ident,
        Item::Union(item) => &item.ident,
        _ => return None,
    };
    Some(ident.to_string())
}

fn attributes(item: &Item) -> &[Attribute] {
    match item {
        Item::Const(item) => &item.attrs,
        Item::Enum(item) => &item.attrs,
        Item::Fn(item) => &item.attrs,
        Item::Impl(item) => &item.attrs,
        Item::Macro(item) => &item.attrs,
        Item::Mod(item) => &item.attrs,
        Item::Static(item) => &item.attrs,
        Item::Struct(item) => &item.attrs,
        Item::Trait(item) => &item.attrs,
        Item::Type(item) => &item.attrs,
        Item::Use(item) => &item.attrs,
        _ => &[],
    }
}

fn is_test(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        attribute.path().is_ident("cfg")
            && attribute.parse_args::<syn::Path>().is_ok_and(|condition| condition.is_ident("test"))
    })
}
