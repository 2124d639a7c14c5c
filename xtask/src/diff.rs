//! `cargo xtask diff`: is the diff from one step to the next the lesson, and nothing else?
//!
//! A learner reads `diff -ru step0-basic/src step1-flexible/src`. Copies drift: a fix reaches one step and
//! not the other, a rename creeps in, and the diff stops being a lesson. So what may differ is written down,
//! in the later step's README, and this compares it with what does differ, in both directions:
//!
//! ```text
//! ## What changed
//!
//! - `cgroup.rs`: `Limits` and `create`, since the limits are now the user's.
//! - `main.rs`: only the list of modules.
//! ```
//!
//! A file that is not named must be the same byte for byte, an item that is not named must be the same too,
//! and a name that is there must differ. New files and new items need no mention.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs;
use std::ops::AddAssign;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use regex::Regex;
use similar::{DiffOp, TextDiff};
use syn::spanned::Spanned;
use syn::{ImplItem, Item, TraitItem};

use crate::workspace;

/// How many lines a lesson may take away or change. Beyond that, a reader no longer sees what was added.
const MAX_NOT_ADDED: usize = 60;

/// Measure what a lesson changes, and fail where it changes more than its README says.
#[derive(clap::Args)]
pub struct Args {
    /// The earlier step: `0`, `step0` or `step0-basic` [default: every step and its next]
    #[arg(requires = "to")]
    from: Option<String>,
    /// The later step
    to: Option<String>,
}

/// Prints the table and the verdict; fails when a lesson drifted.
///
/// # Errors
/// When a step is not there, or one of its files cannot be read or is no Rust.
pub fn run(args: &Args) -> Result<ExitCode> {
    let pairs = match (&args.from, &args.to) {
        (Some(from), Some(to)) => vec![(workspace::step(from)?, workspace::step(to)?)],
        _ => {
            let steps = workspace::steps()?;
            steps.windows(2).map(|pair| (pair[0].clone(), pair[1].clone())).collect()
        }
    };
    let mut drifted = false;
    for (from, to) in pairs {
        let transition = measure(&workspace::root().join(from.name), &workspace::root().join(to.name))?;
        println!("{transition}");
        drifted |= !transition.problems.is_empty();
    }
    Ok(if drifted { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// What a lesson does to the step before it.
#[derive(Debug)]
pub struct Transition {
    title: String,
    files: Vec<File>,
    /// What drifted, one sentence each. Empty when the diff is the lesson.
    pub problems: Vec<String>,
}

#[derive(Debug)]
struct File {
    /// Within `src`, or from the step's folder for what lies elsewhere: `tests/acceptance.rs`.
    name: String,
    fate: &'static str,
    lines: Lines,
    /// The items that are in both steps and differ.
    changed: Vec<String>,
}

/// Counts of lines. A line that is replaced by another one counts as changed; one without a counterpart as
/// added or removed.
#[derive(Debug, Default, Clone, Copy)]
struct Lines {
    added: usize,
    removed: usize,
    changed: usize,
}

impl AddAssign for Lines {
    fn add_assign(&mut self, other: Self) {
        self.added += other.added;
        self.removed += other.removed;
        self.changed += other.changed;
    }
}

/// Compares two steps' folders.
///
/// # Errors
/// When a file cannot be read or is no Rust.
pub fn measure(from: &Path, to: &Path) -> Result<Transition> {
    let (old, new) = (sources(from)?, sources(to)?);
    let readme = to.join("README.md");
    let text = fs::read_to_string(&readme).with_context(|| format!("reading {}", readme.display()))?;
    let mut claims = claims(&text);

    let title = format!("{} → {}", folder_name(from), folder_name(to));
    let mut transition = Transition { title, files: Vec::new(), problems: Vec::new() };
    for name in old.keys().chain(new.keys()).collect::<BTreeSet<_>>() {
        let claim = claims.remove(name);
        let (file, problems) = compare(name, old.get(name), new.get(name), claim)?;
        transition.files.push(file);
        transition.problems.extend(problems);
    }
    for name in claims.keys() {
        transition
            .problems
            .push(format!("`{name}`: named in \"What changed\", but neither step has that file"));
    }

    let not_added = transition.total().removed + transition.total().changed;
    if not_added > MAX_NOT_ADDED {
        transition.problems.push(format!(
            "{not_added} lines of src are removed or changed in place, more than {MAX_NOT_ADDED}: \
             give the earlier step the shape that the later one needs"
        ));
    }
    for step in [from, to] {
        for other in dependencies_on_steps(step)? {
            let step = folder_name(step);
            transition
                .problems
                .push(format!("{step} depends on {other}: a step may depend on `common` only"));
        }
    }
    Ok(transition)
}

/// One file of two steps: what became of it, and where that contradicts what the README claims.
fn compare(
    name: &str,
    old: Option<&String>,
    new: Option<&String>,
    claim: Option<BTreeSet<String>>,
) -> Result<(File, Vec<String>)> {
    let mut file = File { name: name.to_owned(), fate: "", lines: Lines::default(), changed: Vec::new() };
    let mut problems = Vec::new();
    let mut may_be_named = BTreeSet::new();
    (file.fate, file.lines) = match (old, new) {
        (Some(old), Some(new)) if old == new => ("identical", Lines::default()),
        (Some(old), Some(new)) => {
            let (old_items, new_items) = (items(name, old)?, items(name, new)?);
            for item in old_items.keys().chain(new_items.keys()) {
                let (before, after) = (old_items.get(item), new_items.get(item));
                if before != after {
                    may_be_named.insert(item.clone());
                }
                if before.is_some() && after.is_some() && before != after && !file.changed.contains(item) {
                    file.changed.push(item.clone());
                }
            }
            ("changed", count_lines(old, new))
        }
        (Some(old), None) => ("removed", Lines { removed: old.lines().count(), ..Lines::default() }),
        (None, new) => ("new", Lines { added: new.map_or(0, |new| new.lines().count()), ..Lines::default() }),
    };

    let Some(named) = claim else {
        if matches!(file.fate, "changed" | "removed") {
            let items = file.changed.iter().map(|item| format!("`{item}`")).collect::<Vec<_>>().join(", ");
            let colon = if items.is_empty() { "" } else { ": " };
            problems.push(format!(
                "`{name}` is {}, but \"What changed\" does not name it. Either make it the same in both \
                 steps, \
                 or add the line\n    - `{name}`{colon}{items}",
                file.fate
            ));
        }
        return Ok((file, problems));
    };
    if file.fate == "identical" {
        problems.push(format!("`{name}`: named in \"What changed\", but it is the same in both steps"));
        return Ok((file, problems));
    }
    for item in &file.changed {
        if !named.iter().any(|name| names(name, item)) {
            problems.push(format!("`{name}`: `{item}` differs, but \"What changed\" does not name it"));
        }
    }
    // A whole file that came or went needs no list of what was in it, so whatever is said of it is not
    // checked.
    let whole = matches!(file.fate, "new" | "removed");
    for claimed in
        named.iter().filter(|claimed| !whole && !may_be_named.iter().any(|item| names(claimed, item)))
    {
        problems.push(format!(
            "`{name}`: \"What changed\" names `{claimed}`, but that is the same in both steps"
        ));
    }
    Ok((file, problems))
}

/// Whether a README's `create` or `Limits::create()` means the item `Limits::create`.
fn names(claim: &str, item: &str) -> bool {
    let claim = claim.trim_end_matches("()");
    item == claim || item.strip_suffix(claim).is_some_and(|rest| rest.ends_with("::"))
}

/// The list of "What changed": each file, and the items that stand right behind its colon. What follows these
/// is prose, in which backquotes are free.
fn claims(readme: &str) -> BTreeMap<String, BTreeSet<String>> {
    let section = readme.split("\n## ").find(|section| section.lines().next() == Some("What changed"));
    let bullet =
        Regex::new(r"(?m)^[-*] `([^`]+)`(?::((?:(?:,|\s|\band\b)*`[^`]+`)*))?").expect("a valid pattern");
    let quoted = Regex::new("`([^`]+)`").expect("a valid pattern");
    let mut claims: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for line in bullet.captures_iter(section.unwrap_or_default()) {
        let items = line.get(2).map_or("", |items| items.as_str());
        let items = quoted.captures_iter(items).map(|item| item[1].to_owned());
        claims.entry(line[1].to_owned()).or_default().extend(items);
    }
    claims
}

/// A step's Rust files, by their name within `src`; those of `tests` with that folder before it.
fn sources(step: &Path) -> Result<BTreeMap<String, String>> {
    let mut files = BTreeMap::new();
    let mut folders = vec![(step.join("src"), String::new()), (step.join("tests"), "tests/".to_owned())];
    while let Some((folder, prefix)) = folders.pop() {
        if prefix == "tests/" && !folder.exists() {
            continue;
        }
        for entry in folder.read_dir().with_context(|| format!("reading {}", folder.display()))? {
            let entry = entry?;
            let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
            if entry.file_type()?.is_dir() {
                folders.push((entry.path(), format!("{name}/")));
            } else {
                let text = fs::read_to_string(entry.path());
                files.insert(name, text.with_context(|| format!("reading {}", entry.path().display()))?);
            }
        }
    }
    Ok(files)
}

fn count_lines(old: &str, new: &str) -> Lines {
    let mut lines = Lines::default();
    for op in TextDiff::from_lines(old, new).ops() {
        lines += match *op {
            DiffOp::Equal { .. } => Lines::default(),
            DiffOp::Delete { old_len, .. } => Lines { removed: old_len, ..Lines::default() },
            DiffOp::Insert { new_len, .. } => Lines { added: new_len, ..Lines::default() },
            DiffOp::Replace { old_len, new_len, .. } => Lines {
                added: new_len.saturating_sub(old_len),
                removed: old_len.saturating_sub(new_len),
                changed: old_len.min(new_len),
            },
        };
    }
    lines
}

/// The named items of a file, methods as `Type::method`, each with its source. Attributes, documentation and
/// the comments above an item belong to it, since a learner reads them as one.
fn items(file: &str, source: &str) -> Result<BTreeMap<String, String>> {
    if !file.ends_with(".rs") {
        return Ok(BTreeMap::new());
    }
    let parsed = syn::parse_file(source).with_context(|| format!("{file} is no Rust"))?;
    let start = parsed.attrs.last().map_or(0, |header| header.span().byte_range().end);
    let mut found = Found { source, items: BTreeMap::new() };
    found.add_all("", &parsed.items, start);
    Ok(found.items)
}

struct Found<'a> {
    source: &'a str,
    items: BTreeMap<String, String>,
}

impl Found<'_> {
    /// Notes an item, from the end of what stands before it.
    fn add(&mut self, name: &str, previous_end: usize, item: &impl Spanned) {
        let text = self.source[previous_end..item.span().byte_range().end].trim();
        // Two items of one name: `fmt` of Display and of Debug, or one for each `cfg`.
        self.items.entry(name.to_owned()).or_default().push_str(text);
    }

    fn add_all(&mut self, path: &str, items: &[Item], mut previous_end: usize) {
        for item in items {
            let name = match item {
                Item::Fn(item) => Some(&item.sig.ident),
                Item::Struct(item) => Some(&item.ident),
                Item::Enum(item) => Some(&item.ident),
                Item::Union(item) => Some(&item.ident),
                Item::Const(item) => Some(&item.ident),
                Item::Static(item) => Some(&item.ident),
                Item::Type(item) => Some(&item.ident),
                Item::Macro(item) => item.ident.as_ref(),
                _ => None,
            };
            if let Some(name) = name {
                self.add(&format!("{path}{name}"), previous_end, item);
            }
            match item {
                Item::Impl(item) => {
                    let this = &item.self_ty;
                    let this = self.source[this.span().byte_range()].split('<').next().unwrap_or_default();
                    let mut end = item.brace_token.span.open().byte_range().end;
                    for member in &item.items {
                        let name = match member {
                            ImplItem::Fn(member) => Some(&member.sig.ident),
                            ImplItem::Const(member) => Some(&member.ident),
                            ImplItem::Type(member) => Some(&member.ident),
                            _ => None,
                        };
                        if let Some(name) = name {
                            self.add(&format!("{path}{this}::{name}"), end, member);
                        }
                        end = member.span().byte_range().end;
                    }
                }
                Item::Trait(item) => {
                    let mut end = item.brace_token.span.open().byte_range().end;
                    for member in &item.items {
                        if let TraitItem::Fn(method) = member {
                            self.add(&format!("{path}{}::{}", item.ident, method.sig.ident), end, member);
                        }
                        end = member.span().byte_range().end;
                    }
                }
                Item::Mod(item) => {
                    if let Some((brace, items)) = &item.content {
                        let start = brace.span.open().byte_range().end;
                        self.add_all(&format!("{path}{}::", item.ident), items, start);
                    }
                }
                _ => {}
            }
            previous_end = item.span().byte_range().end;
        }
    }
}

/// The steps on which a step's package depends, as cargo sees it: renamed or by the workspace makes no
/// difference.
fn dependencies_on_steps(step: &Path) -> Result<Vec<String>> {
    let output = workspace::cargo()
        .args(["metadata", "--no-deps", "--offline", "--format-version=1", "--manifest-path"])
        .arg(step.join("Cargo.toml"))
        .output()
        .context("starting cargo")?;
    ensure!(output.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&output.stderr).trim());
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    let packages = metadata["packages"].as_array().into_iter().flatten();
    let package = packages.into_iter().find(|package| package["name"] == *folder_name(step));
    let package =
        package.with_context(|| format!("no package {} in {}", folder_name(step), step.display()))?;
    let dependencies = package["dependencies"].as_array().into_iter().flatten();
    let names = dependencies.filter_map(|dependency| dependency["name"].as_str());
    Ok(names.filter(|name| name.starts_with("step")).map(str::to_owned).collect())
}

fn folder_name(step: &Path) -> String {
    step.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

impl Transition {
    /// Over the files of `src`.
    fn total(&self) -> Lines {
        let mut total = Lines::default();
        for file in self.files.iter().filter(|file| !file.name.starts_with("tests/")) {
            total += file.lines;
        }
        total
    }
}

impl fmt::Display for Transition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width =
            self.files.iter().map(|file| file.name.len()).max().unwrap_or(0).max("total of src".len());
        writeln!(f, "{}\n", self.title)?;
        writeln!(f, "{:width$}  {:9}  added  removed  changed  items that differ", "file", "")?;
        let mut row = |name: &str, fate: &str, lines: Lines, items: &str| {
            let Lines { added, removed, changed } = lines;
            let row = format!("{name:width$}  {fate:9}  {added:5}  {removed:7}  {changed:7}  {items}");
            writeln!(f, "{}", row.trim_end())
        };
        for file in &self.files {
            row(&file.name, file.fate, file.lines, &file.changed.join(", "))?;
        }
        let total = self.total();
        row("total of src", "", total, "")?;
        let Lines { added, removed, changed } = total;
        let not_added = removed + changed;
        writeln!(f)?;
        if self.problems.is_empty() {
            return writeln!(
                f,
                "The diff is the lesson: {added} lines added, {not_added} removed or changed in place \
                 ({MAX_NOT_ADDED} are allowed)."
            );
        }
        writeln!(f, "The diff is more than the lesson:")?;
        self.problems.iter().try_for_each(|problem| writeln!(f, "  {problem}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CGROUP: &str = "//! Limits.\n\nuse std::fs;\n\n/// The limits.\npub struct Limits;\n\nimpl Limits \
                          {\n    \
                          /// Writes them.\n    \
                          fn write(&self) {\n        fs::write(\"a\", \"b\").ok();\n    }\n\n    \
                          fn read(&self) {}\n}\n\nfn create() {}\n";

    /// Two steps that differ in `change`, and the README of the later one; gives what drifted.
    fn drift(what_changed: &str, change: impl Fn(&Path)) -> Vec<String> {
        let folder = tempfile::tempdir().unwrap();
        for name in ["step0-a", "step1-b"] {
            let step = folder.path().join(name);
            fs::create_dir_all(step.join("src")).unwrap();
            fs::create_dir_all(step.join("tests")).unwrap();
            let manifest = format!("[package]\nname = \"{name}\"\nedition = \"2024\"\n\n[workspace]\n");
            fs::write(step.join("Cargo.toml"), manifest).unwrap();
            fs::write(step.join("README.md"), format!("# A step\n\n{what_changed}\n\n## Next\n")).unwrap();
            fs::write(step.join("src/main.rs"), "//! A step.\n\nmod cgroup;\n\nfn main() {}\n").unwrap();
            fs::write(step.join("src/cgroup.rs"), CGROUP).unwrap();
            fs::write(step.join("tests/acceptance.rs"), "fn main() {}\n").unwrap();
        }
        let later = folder.path().join("step1-b");
        change(&later);
        measure(&folder.path().join("step0-a"), &later).unwrap().problems
    }

    fn edit(step: &Path, file: &str, old: &str, new: &str) {
        let text = fs::read_to_string(step.join(file)).unwrap();
        assert!(text.contains(old), "the test edits something that is not there: {old}");
        fs::write(step.join(file), text.replace(old, new)).unwrap();
    }

    #[track_caller]
    fn only(problems: &[String], expected: &str) {
        assert!(problems.len() == 1 && problems[0].contains(expected), "{problems:#?}");
    }

    #[test]
    fn additions_need_no_mention() {
        let nothing: Vec<String> = Vec::new();
        assert_eq!(drift("", |_| ()), nothing);
        assert_eq!(
            drift("", |step| fs::write(step.join("src/network.rs"), "fn up() {}\n").unwrap()),
            nothing
        );
        let new_item = |step: &Path| edit(step, "src/cgroup.rs", "fn create", "fn swap() {}\n\nfn create");
        assert_eq!(drift("## What changed\n\n- `cgroup.rs`", new_item), nothing);
        assert_eq!(drift("## What changed\n\n- `cgroup.rs`: `swap`, for `swap` space", new_item), nothing);
    }

    #[test]
    fn what_is_named_may_differ() {
        let change = |step: &Path| {
            edit(step, "src/cgroup.rs", "fs::write(\"a\"", "fs::write(\"c\"");
            edit(step, "src/cgroup.rs", "fn create() {}", "fn create(_: u8) {}");
            edit(step, "tests/acceptance.rs", "{}", "{ run() }");
        };
        for list in ["`Limits::write` and `create()`, as `a` is free", "`write`,\n  `create`"] {
            let readme = format!("## What changed\n\n- `cgroup.rs`: {list}\n- `tests/acceptance.rs`: `main`");
            assert_eq!(drift(&readme, change), Vec::<String>::new());
        }
    }

    #[test]
    fn a_file_that_nobody_named() {
        only(
            &drift("", |step| edit(step, "src/cgroup.rs", "//! Limits.", "//! Limit.")),
            "`cgroup.rs` is changed",
        );
        only(
            &drift("", |step| edit(step, "tests/acceptance.rs", "{}", "{ }")),
            "`tests/acceptance.rs` is changed",
        );
        only(
            &drift("", |step| fs::remove_file(step.join("src/cgroup.rs")).unwrap()),
            "`cgroup.rs` is removed",
        );
    }

    #[test]
    fn an_item_that_nobody_named() {
        let readme = "## What changed\n\n- `cgroup.rs`: `create`";
        let create = |step: &Path| edit(step, "src/cgroup.rs", "fn create() {}", "fn create() { }");
        let with = |old: &'static str, new: &'static str| {
            drift(readme, move |step| {
                create(step);
                edit(step, "src/cgroup.rs", old, new);
            })
        };
        only(&with("\"b\"", "\"c\""), "`Limits::write` differs");
        only(&with("/// Writes them.", "/// Writes."), "`Limits::write` differs");
        only(&with("/// The limits.", "/// Limits."), "`Limits` differs");
        only(&with("    fn read", "    // Why.\n    fn read"), "`Limits::read` differs");
    }

    #[test]
    fn a_claim_that_is_not_true() {
        let same = |_: &Path| ();
        only(&drift("## What changed\n\n- `cgroup.rs`: `create`", same), "it is the same in both steps");
        only(&drift("## What changed\n\n- `mount.rs`", same), "neither step has that file");
        let create = |step: &Path| edit(step, "src/cgroup.rs", "fn create() {}", "fn create() { }");
        only(&drift("## What changed\n\n- `cgroup.rs`: `create`, `read`", create), "names `read`");
    }

    #[test]
    fn too_much_taken_away() {
        let readme = "## What changed\n\n- `main.rs`: `main`";
        let drift_of = |old: usize, new: usize| {
            let body = |count: usize, with: &str| {
                format!("fn main() {{\n{}}}\n", format!("    {with}();\n").repeat(count))
            };
            drift(readme, |step| {
                fs::write(step.join("../step0-a/src/main.rs"), body(old, "a")).unwrap();
                fs::write(step.join("src/main.rs"), body(new, "b")).unwrap();
            })
        };
        assert_eq!(drift_of(60, 500), Vec::<String>::new());
        only(&drift_of(61, 1), "61 lines");
        only(&drift_of(61, 61), "61 lines");
    }

    #[test]
    fn a_step_on_a_step() {
        let renamed =
            "\n[dependencies]\nold = { path = \"../step0-a\", package = \"step0-a\" }\n\n[workspace]";
        only(
            &drift("", |step| edit(step, "Cargo.toml", "\n[workspace]", renamed)),
            "step1-b depends on step0-a",
        );
    }
}
