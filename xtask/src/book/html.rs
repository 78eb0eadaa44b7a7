//! Links of a folder of pages: each leads to a file and an anchor that are there.

use anyhow::Context;
use regex_lite::Regex;
use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Links of the pages below `book` that lead nowhere.
pub fn faults(book: &Path) -> anyhow::Result<Vec<String>> {
    let mut pages = BTreeMap::new();
    collect(book, &mut pages)?;
    let link = Regex::new(r#"\b(?:href|src)="([^"]*)""#).expect("a pattern");
    let id = Regex::new(r#"\b(?:id|name)="([^"]*)""#).expect("a pattern");
    let anchors: BTreeMap<&PathBuf, HashSet<&str>> = pages
        .iter()
        .map(|(page, text)| {
            let ids = id.captures_iter(text).filter_map(|found| Some(found.get(1)?.as_str()));
            (page, ids.collect())
        })
        .collect();
    let mut faults = Vec::new();
    // Its links are from the root of the site, wherever that is.
    let own = pages.iter().filter(|(page, _)| !page.ends_with("404.html"));
    for (page, text) in own {
        for found in link.captures_iter(text) {
            let target = found[1].replace("&amp;", "&");
            let is_elsewhere = target.contains("://")
                || ["mailto:", "data:", "javascript:"]
                    .iter()
                    .any(|scheme| target.starts_with(scheme));
            if is_elsewhere || target.is_empty() {
                continue;
            }
            let (path, anchor) = target.split_once('#').unwrap_or((&target, ""));
            let file = match path {
                "" => page.clone(),
                path => plain(&page.parent().unwrap_or(book).join(path)),
            };
            let is_there = file.exists()
                && (anchor.is_empty()
                    || anchors.get(&file).is_none_or(|names| names.contains(anchor)));
            if !is_there {
                let page = page.strip_prefix(book).unwrap_or(page);
                faults.push(format!("{}: {target}", page.display()));
            }
        }
    }
    faults.sort();
    faults.dedup();
    Ok(faults)
}

fn collect(folder: &Path, pages: &mut BTreeMap<PathBuf, String>) -> anyhow::Result<()> {
    let context = || format!("read {}", folder.display());
    for entry in fs::read_dir(folder).with_context(context)? {
        let path = entry.with_context(context)?.path();
        if path.is_dir() {
            collect(&path, pages)?;
        } else if path.extension().is_some_and(|end| end == "html") {
            let text = fs::read_to_string(&path).with_context(context)?;
            pages.insert(path, text);
        }
    }
    Ok(())
}

/// The path without its `..`.
fn plain(path: &Path) -> PathBuf {
    let mut parts = PathBuf::new();
    for part in path.components() {
        match part.as_os_str().to_str() {
            Some("..") => _ = parts.pop(),
            _ => parts.push(part),
        }
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_into_nothing_are_named() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("b")).unwrap();
        let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
        write(
            "a.html",
            r##"<h1 id="x"></h1><a href="b/c.html#y"></a><a href="#x"></a><a href="https://z">"##,
        );
        write("b/c.html", r#"<h1 id="y"></h1><a href="../a.html"></a>"#);
        assert_eq!(faults(folder.path()).unwrap(), Vec::<String>::new());
        write("b/c.html", r##"<a href="../d.html"></a><img src="e.svg"><a href="#q"></a>"##);
        let found = faults(folder.path()).unwrap();
        assert_eq!(
            found,
            ["a.html: b/c.html#y", "b/c.html: #q", "b/c.html: ../d.html", "b/c.html: e.svg"]
        );
    }
}
