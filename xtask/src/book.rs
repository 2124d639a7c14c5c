//! `cargo xtask book`: builds the book with mdBook, and follows its links.
//!
//! The lessons are the steps' READMEs, written once and included, so their links are those of the repository.
//! The book has the repository's layout for this reason: what they link to and is no page, such as a step's
//! code, is copied to the same place in the book.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Component, Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail, ensure};
use regex::Regex;

use crate::workspace;

/// Build the book into docs/book, and check its links.
#[derive(clap::Args)]
pub struct Args {
    /// Open it in a browser afterwards
    #[arg(long)]
    open: bool,
}

/// Builds the book; fails on warnings, on links that lead nowhere and on pages that are not in the book.
///
/// # Errors
/// When mdBook is missing or fails, or a file cannot be read.
pub fn run(args: &Args) -> Result<ExitCode> {
    let root = workspace::root();
    mdbook(&["build"])?;
    let book = root.join("docs/book");
    let mut problems = missing_pages(&root.join("docs/src"), &book)?;
    problems.extend(follow_links(&book, root)?);
    for problem in &problems {
        eprintln!("{problem}");
    }
    if !problems.is_empty() {
        return Ok(ExitCode::FAILURE);
    }
    println!("The book: {}", book.join("index.html").display());
    if args.open {
        Command::new("xdg-open").arg(book.join("index.html")).status().context("starting xdg-open")?;
    }
    Ok(ExitCode::SUCCESS)
}

fn mdbook(args: &[&str]) -> Result<()> {
    let output = match Command::new("mdbook").args(args).arg(workspace::root().join("docs")).output() {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            bail!("mdbook is not installed: cargo install mdbook --no-default-features --locked")
        }
        output => output.context("starting mdbook")?,
    };
    // A broken include is only a warning to mdBook, and a missing lesson to a reader.
    let log = String::from_utf8_lossy(&output.stderr) + String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.success() && !log.contains("WARN") && !log.contains("ERROR"), "mdbook:\n{log}");
    Ok(())
}

/// Pages and steps that SUMMARY.md forgot: mdBook leaves them out without a word.
fn missing_pages(source: &Path, book: &Path) -> Result<Vec<String>> {
    let mut pages: Vec<_> =
        workspace::steps()?.into_iter().map(|step| source.join(step.name).join("README.md")).collect();
    // The hints of a stage are for a learner who asks for them.
    let is_page = |page: &PathBuf| !page.ends_with("SUMMARY.md") && !page.ends_with("hints.md");
    pages.extend(files(source, "md")?.into_iter().filter(is_page));
    pages.sort();
    pages.dedup();
    let is_missing = |page: &&PathBuf| {
        page.strip_prefix(source).is_ok_and(|page| !book.join(page).with_extension("html").exists())
    };
    Ok(pages.iter().filter(is_missing).map(|page| format!("{}: not in SUMMARY.md", page.display())).collect())
}

/// The links of all pages that lead nowhere. What a page links to that lies in the workspace is copied.
fn follow_links(book: &Path, workspace: &Path) -> Result<Vec<String>> {
    let link = Regex::new(r#"<(?:a|img)\s[^>]*?(?:href|src)="([^"]*)""#).expect("a valid pattern");
    let id = Regex::new(r#"\sid="([^"]*)""#).expect("a valid pattern");
    let mut pages = BTreeMap::new();
    // print.html is all pages once more, and 404.html links as if it lay in every folder.
    for page in files(book, "html")?
        .into_iter()
        .filter(|page| !page.ends_with("print.html") && !page.ends_with("404.html"))
    {
        pages.insert(page.clone(), fs::read_to_string(&page)?);
    }
    let mut problems = Vec::new();
    for (page, html) in &pages {
        for link in link.captures_iter(html) {
            let link = &link[1];
            let (path, anchor) = link.split_once('#').unwrap_or((link, ""));
            if path.contains(':') {
                // Another site: its links are not ours to keep, and a test must not need the network.
                continue;
            }
            let target = if path.is_empty() { page.clone() } else { resolve(page, path) };
            let name = page.strip_prefix(book).unwrap_or(page).display();
            let source = target.strip_prefix(book).map(|path| workspace.join(path));
            match source {
                Ok(_) if target.is_file() => {}
                Ok(source) if source.is_file() => {
                    fs::create_dir_all(target.parent().unwrap_or(book))?;
                    fs::copy(source, &target)?;
                }
                _ => problems.push(format!("{name}: {link} leads nowhere")),
            }
            let has_anchor = |html: &String| id.captures_iter(html).any(|id| &id[1] == anchor);
            if !anchor.is_empty() && !pages.get(&target).is_some_and(has_anchor) {
                problems.push(format!("{name}: {link}: no such heading"));
            }
        }
    }
    Ok(problems)
}

/// The file to which a page's relative link leads.
fn resolve(page: &Path, link: &str) -> PathBuf {
    let mut target = page.parent().unwrap_or(page).to_owned();
    for part in Path::new(link).components() {
        match part {
            Component::ParentDir => drop(target.pop()),
            Component::Normal(name) => target.push(name),
            _ => {}
        }
    }
    target
}

fn files(folder: &Path, extension: &str) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in folder.read_dir().with_context(|| format!("reading {}", folder.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            found.extend(files(&path, extension)?);
        } else if path.extension().is_some_and(|found| found == extension) {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_followed() {
        let folder = tempfile::tempdir().unwrap();
        let (book, workspace) = (folder.path().join("book"), folder.path().join("workspace"));
        fs::create_dir_all(book.join("step0")).unwrap();
        fs::create_dir_all(workspace.join("step0/src")).unwrap();
        fs::write(workspace.join("step0/src/main.rs"), "fn main() {}").unwrap();
        fs::write(book.join("index.html"), "<h1 id=\"top\"><a href=\"#top\">x</a></h1>").unwrap();
        let links = [
            ("../index.html#top", true),
            ("../index.html", true),
            ("src/main.rs", true),
            ("https://example.org/#x", true),
            ("../index.html#bottom", false),
            ("#top", false),
            ("src/lib.rs", false),
            ("src", false),
            ("../../workspace/step0/src/main.rs", false),
            ("../../../x", false),
        ];
        for (link, good) in links {
            fs::write(book.join("step0/page.html"), format!("<a class=\"x\" href=\"{link}\">x</a>")).unwrap();
            let problems = follow_links(&book, &workspace).unwrap();
            assert_eq!(problems.is_empty(), good, "{link}: {problems:?}");
        }
        assert!(book.join("step0/src/main.rs").exists());
    }

    #[test]
    fn a_forgotten_page_is_found() {
        let folder = tempfile::tempdir().unwrap();
        let (source, book) = (folder.path().join("src"), folder.path().join("book"));
        for step in workspace::steps().unwrap() {
            fs::create_dir_all(book.join(&step.name)).unwrap();
            fs::write(book.join(step.name).join("README.html"), "").unwrap();
        }
        fs::create_dir_all(&source).unwrap();
        for page in ["SUMMARY", "a", "b"] {
            fs::write(source.join(page).with_extension("md"), "").unwrap();
        }
        fs::write(book.join("a.html"), "").unwrap();
        let problems = missing_pages(&source, &book).unwrap();
        assert!(problems.len() == 1 && problems[0].ends_with("b.md: not in SUMMARY.md"), "{problems:?}");
    }
}
