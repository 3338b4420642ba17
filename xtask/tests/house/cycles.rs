//! No two modules of a crate import each other, directly or round a circle.
//!
//! A module is a file. An arrow runs from a file to every other file of its crate whose items it
//! names: by `use`, by a path in the code, or by calling a method of `self` that another file's
//! `impl` defines. Re-exports are followed to where the item is defined. Tests are left out.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use syn::visit::{self, Visit};
use syn::{Attribute, ImplItem, Item, UseTree};

use crate::source::{SHIPPED, none, root};

/// How far a chain of re-exports is followed.
const MAX_REEXPORTS: usize = 16;
/// How many of the imports that tie a circle are told.
const MAX_TIES_TOLD: usize = 24;

/// One module: its file, and what it declares.
#[derive(Default)]
struct Module {
    file: String,
    /// Child modules, by name.
    children: BTreeMap<String, Vec<String>>,
    /// Names that `use` brings in, with the path they stand for.
    imports: BTreeMap<String, Vec<String>>,
    /// Paths that `use …::*` brings in.
    globs: Vec<Vec<String>>,
    /// Types that it defines.
    types: BTreeSet<String>,
    /// Paths that the code names.
    paths: BTreeSet<Vec<String>>,
    /// Methods of inherent `impl` blocks, with the type's path as it is written.
    methods: Vec<(Vec<String>, String)>,
    /// Methods that are called on `self`, with the type's path as it is written.
    calls: BTreeSet<(Vec<String>, String)>,
}

/// All modules of one crate by their path in it.
struct Krate {
    modules: BTreeMap<Vec<String>, Module>,
}

fn is_test(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        attribute.path().is_ident("cfg")
            && attribute
                .meta
                .require_list()
                .is_ok_and(|list| list.tokens.to_string().contains("test"))
    })
}

/// Reads what a module's items declare and name.
struct Reader<'m> {
    module: &'m mut Module,
    /// The module's own path, deeper inside an inline module.
    here: Vec<String>,
    /// Files of child modules that are still to be read: name, and the attribute `path`.
    files: Vec<(String, Option<String>)>,
    /// The type whose `impl` is being read.
    of: Vec<String>,
}

impl Reader<'_> {
    fn items(&mut self, items: &[Item]) {
        for item in items {
            self.item(item);
        }
    }

    fn item(&mut self, item: &Item) {
        match item {
            Item::Mod(inner) if is_test(&inner.attrs) => {}
            Item::Mod(inner) => {
                let name = inner.ident.to_string();
                let mut path = self.here.clone();
                path.push(name.clone());
                self.module.children.insert(name.clone(), path);
                match &inner.content {
                    // An inline module lives in its file; its items count as the file's.
                    Some((_, items)) => self.items(items),
                    None => self.files.push((name, path_of(&inner.attrs))),
                }
            }
            Item::Use(item) if !is_test(&item.attrs) => self.tree(&item.tree, Vec::new()),
            Item::Struct(item) => self.define(&item.ident.to_string(), item),
            Item::Enum(item) => self.define(&item.ident.to_string(), item),
            Item::Trait(item) => self.define(&item.ident.to_string(), item),
            Item::Type(item) => self.define(&item.ident.to_string(), item),
            Item::Impl(item) if !is_test(&item.attrs) => {
                if let syn::Type::Path(of) = &*item.self_ty {
                    self.of = segments(&of.path);
                    for part in &item.items {
                        if let (None, ImplItem::Fn(method)) = (&item.trait_, part) {
                            let name = method.sig.ident.to_string();
                            self.module.methods.push((self.of.clone(), name));
                        }
                    }
                }
                self.visit_item_impl(item);
                self.of.clear();
            }
            Item::Fn(item) if is_test(&item.attrs) => {}
            other => self.visit_item(other),
        }
    }

    fn define<'ast, T>(&mut self, name: &str, item: &'ast T)
    where
        Self: Visitor<'ast, T>,
    {
        self.module.types.insert(name.to_owned());
        self.look(item);
    }

    fn tree(&mut self, tree: &UseTree, mut before: Vec<String>) {
        match tree {
            UseTree::Path(path) => {
                before.push(path.ident.to_string());
                self.tree(&path.tree, before);
            }
            UseTree::Name(name) => {
                let name = name.ident.to_string();
                if name == "self" {
                    let last = before.last().cloned().unwrap_or_default();
                    self.import(last, before);
                } else {
                    before.push(name.clone());
                    self.import(name, before);
                }
            }
            UseTree::Rename(rename) => {
                before.push(rename.ident.to_string());
                self.import(rename.rename.to_string(), before);
            }
            UseTree::Glob(_) => self.module.globs.push(before),
            UseTree::Group(group) => {
                for tree in &group.items {
                    self.tree(tree, before.clone());
                }
            }
        }
    }

    fn import(&mut self, name: String, path: Vec<String>) {
        self.module.paths.insert(path.clone());
        self.module.imports.insert(name, path);
    }
}

/// Looks through an item for the paths that it names.
trait Visitor<'ast, T> {
    fn look(&mut self, item: &'ast T);
}

macro_rules! visitor {
    ($($item:ty => $visit:ident),+ $(,)?) => {$(
        impl<'ast> Visitor<'ast, $item> for Reader<'_> {
            fn look(&mut self, item: &'ast $item) {
                self.$visit(item);
            }
        }
    )+};
}

visitor!(
    syn::ItemStruct => visit_item_struct,
    syn::ItemEnum => visit_item_enum,
    syn::ItemTrait => visit_item_trait,
    syn::ItemType => visit_item_type,
);

impl<'ast> Visit<'ast> for Reader<'_> {
    fn visit_path(&mut self, path: &'ast syn::Path) {
        self.module.paths.insert(segments(path));
        visit::visit_path(self, path);
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        self.tree(&item.tree, Vec::new());
    }

    fn visit_visibility(&mut self, _: &'ast syn::Visibility) {
        // `pub(crate)` names nothing.
    }

    fn visit_expr_method_call(&mut self, call: &'ast syn::ExprMethodCall) {
        if matches!(&*call.receiver, syn::Expr::Path(path) if path.path.is_ident("self")) {
            let name = call.method.to_string();
            self.module.calls.insert((self.of.clone(), name));
        }
        visit::visit_expr_method_call(self, call);
    }

    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        if !is_test(&item.attrs) {
            visit::visit_impl_item_fn(self, item);
        }
    }

    fn visit_macro(&mut self, item: &'ast syn::Macro) {
        // What a macro is given is mostly expressions: `select!`, `format!`, `vec!` and the like.
        words(item.tokens.clone(), &mut self.module.paths);
        visit::visit_macro(self, item);
    }
}

/// Every path `a::b::c` in the tokens of a macro.
fn words(tokens: proc_macro2::TokenStream, paths: &mut BTreeSet<Vec<String>>) {
    use proc_macro2::TokenTree;
    let mut path: Vec<String> = Vec::new();
    let mut colons = 0;
    for token in tokens {
        match token {
            TokenTree::Ident(ident) => {
                if colons != 2 && !path.is_empty() {
                    paths.insert(std::mem::take(&mut path));
                }
                path.push(ident.to_string());
                colons = 0;
            }
            TokenTree::Punct(punct) if punct.as_char() == ':' => colons += 1,
            TokenTree::Group(group) => {
                words(group.stream(), paths);
                colons = 0;
            }
            _ => colons = 0,
        }
    }
    paths.insert(path);
}

fn segments(path: &syn::Path) -> Vec<String> {
    path.segments
        .iter()
        .map(|segment| segment.ident.to_string())
        .collect()
}

fn path_of(attributes: &[Attribute]) -> Option<String> {
    attributes.iter().find_map(|attribute| {
        let value = &attribute.meta.require_name_value().ok()?.value;
        match value {
            syn::Expr::Lit(literal) if attribute.path().is_ident("path") => match &literal.lit {
                syn::Lit::Str(text) => Some(text.value()),
                _ => None,
            },
            _ => None,
        }
    })
}

impl Krate {
    fn read(name: &str) -> Krate {
        let mut krate = Krate {
            modules: BTreeMap::new(),
        };
        let src = root().join("crates").join(name).join("src");
        for top in ["lib.rs", "main.rs"] {
            if src.join(top).exists() {
                krate.module(Vec::new(), &src.join(top), &src);
                break;
            }
        }
        krate
    }

    /// Reads the module at `path`, whose children lie in `folder`.
    fn module(&mut self, path: Vec<String>, file: &Path, folder: &Path) {
        let text = std::fs::read_to_string(file).unwrap_or_else(|e| panic!("{file:?}: {e}"));
        let parsed = syn::parse_file(&text).unwrap_or_else(|e| panic!("{file:?}: {e}"));
        let mut module = Module {
            file: file
                .strip_prefix(root())
                .unwrap_or(file)
                .display()
                .to_string(),
            ..Module::default()
        };
        let mut reader = Reader {
            module: &mut module,
            here: path.clone(),
            files: Vec::new(),
            of: Vec::new(),
        };
        reader.items(&parsed.items);
        let files = reader.files;
        self.modules.insert(path.clone(), module);
        for (name, at) in files {
            let mut below = path.clone();
            below.push(name.clone());
            let candidates: Vec<PathBuf> = match at {
                Some(at) => vec![file.parent().expect("a folder").join(at)],
                None => vec![
                    folder.join(format!("{name}.rs")),
                    folder.join(&name).join("mod.rs"),
                ],
            };
            let found = candidates.into_iter().find(|path| path.exists());
            let found = found.unwrap_or_else(|| panic!("{}: mod {name}: no file", file.display()));
            self.module(below, &found, &folder.join(&name));
        }
    }

    /// The module whose file defines what `path` means in the module at `from`.
    fn resolve(&self, from: &[String], path: &[String], depth: usize) -> Option<Vec<String>> {
        if depth > MAX_REEXPORTS {
            return None;
        }
        let mut at: Vec<String> = from.to_vec();
        let mut rest = path;
        let mut rooted = false;
        while let Some(first) = rest.first() {
            match first.as_str() {
                "crate" => at.clear(),
                "self" => {}
                "super" => {
                    at.pop()?;
                }
                _ => break,
            }
            rooted = true;
            rest = &rest[1..];
        }
        let mut first = !rooted;
        while let Some(name) = rest.first() {
            let module = self.modules.get(&at)?;
            if let Some(child) = module.children.get(name) {
                // An inline module has no file of its own.
                if !self.modules.contains_key(child) {
                    return Some(at);
                }
                at = child.clone();
            } else if let Some(import) = module.imports.get(name) {
                if import.as_slice() == path && at == from {
                    return None; // the import of another crate's item
                }
                let mut longer = import.clone();
                longer.extend_from_slice(&rest[1..]);
                return self.resolve(&at, &longer, depth + 1);
            } else if first {
                // A name of another crate, of the language, or of this file.
                return None;
            } else {
                for glob in &module.globs {
                    let mut longer = glob.clone();
                    longer.extend_from_slice(rest);
                    if let Some(found) = self.resolve(&at, &longer, depth + 1)
                        && self.modules[&found].types.contains(name)
                    {
                        return Some(found);
                    }
                }
                return Some(at);
            }
            first = false;
            rest = &rest[1..];
        }
        Some(at)
    }

    /// The arrows, each with one name that makes it.
    fn arrows(&self) -> BTreeMap<(Vec<String>, Vec<String>), String> {
        let mut arrows = BTreeMap::new();
        for (from, module) in &self.modules {
            for path in &module.paths {
                if let Some(to) = self.resolve(from, path, 0)
                    && to != *from
                {
                    arrows.entry((from.clone(), to)).or_insert(path.join("::"));
                }
            }
            for glob in &module.globs {
                if let Some(to) = self.resolve(from, glob, 0)
                    && to != *from
                {
                    arrows
                        .entry((from.clone(), to))
                        .or_insert(format!("{}::*", glob.join("::")));
                }
            }
        }
        self.far_methods(&mut arrows);
        arrows
    }

    /// A method of `self` that another file defines is called without being named by a path.
    fn far_methods(&self, arrows: &mut BTreeMap<(Vec<String>, Vec<String>), String>) {
        let mut homes = BTreeMap::new();
        for (at, module) in &self.modules {
            for (of, name) in &module.methods {
                homes.insert((self.type_at(at, of), name), at);
            }
        }
        for (from, module) in &self.modules {
            for (of, name) in &module.calls {
                if let Some(to) = homes.get(&(self.type_at(from, of), name))
                    && *to != from
                {
                    arrows
                        .entry((from.clone(), (*to).clone()))
                        .or_insert(format!("self.{name}()"));
                }
            }
        }
    }

    /// A type by the module that defines it and its name there.
    fn type_at(&self, from: &[String], path: &[String]) -> (Vec<String>, String) {
        let home = self.resolve(from, path, 0).unwrap_or(from.to_vec());
        (home, path.last().cloned().unwrap_or_default())
    }

    /// The groups of modules that reach each other, of two and more.
    fn circles(&self) -> Vec<String> {
        let arrows = self.arrows();
        let all: Vec<&Vec<String>> = self.modules.keys().collect();
        let reached: BTreeMap<&Vec<String>, BTreeSet<&Vec<String>>> = all
            .iter()
            .map(|from| (*from, reach(from, &arrows)))
            .collect();
        let mut seen: BTreeSet<&Vec<String>> = BTreeSet::new();
        let mut circles = Vec::new();
        for from in all {
            if seen.contains(from) || !reached[from].contains(from) {
                continue;
            }
            let group: BTreeSet<&Vec<String>> = reached[from]
                .iter()
                .copied()
                .filter(|to| reached[*to].contains(from))
                .collect();
            seen.extend(&group);
            let mut text = format!("{} modules:", group.len());
            for module in &group {
                text += &format!(" {}", self.modules[*module].file);
            }
            let ties = arrows
                .iter()
                .filter(|((a, b), _)| group.contains(a) && group.contains(b));
            for ((a, b), name) in ties.take(MAX_TIES_TOLD) {
                let (a, b) = (&self.modules[a].file, &self.modules[b].file);
                text += &format!("\n      {a} -> {b}: {name}");
            }
            circles.push(text);
        }
        circles
    }
}

fn reach<'a>(
    from: &Vec<String>,
    arrows: &'a BTreeMap<(Vec<String>, Vec<String>), String>,
) -> BTreeSet<&'a Vec<String>> {
    let mut found = BTreeSet::new();
    let mut next: Vec<&Vec<String>> = vec![from];
    while let Some(at) = next.pop() {
        for (a, b) in arrows.keys() {
            if a == at && found.insert(b) {
                next.push(b);
            }
        }
    }
    found
}

fn circles_of(name: &str) -> Vec<String> {
    Krate::read(name).circles()
}

#[test]
fn no_modules_import_each_other_in_a_circle() {
    let circles = SHIPPED
        .iter()
        .flat_map(|name| {
            circles_of(name)
                .into_iter()
                .map(move |c| format!("{name}: {c}"))
        })
        .collect();
    none("modules that import each other in a circle:", circles);
}

/// The reader of arrows is worth its word: every crate has some.
#[test]
fn arrows_between_modules_are_seen() {
    for name in ["policy", "proxy", "dns"] {
        let arrows = Krate::read(name).arrows().len();
        assert!(arrows > 20, "{name}: only {arrows} arrows were seen");
    }
}
