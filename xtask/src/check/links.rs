//! Links of a Markdown document to files and headings of this repository.

use std::fs;
use std::path::Path;

use pulldown_cmark::{Event, LinkType, Options, Parser, Tag, TagEnd};

/// The links of `document` (its path in the repository, its text) that lead nowhere.
pub(crate) fn broken(root: &Path, document: &str, text: &str) -> Vec<String> {
    let folder = root.join(document).parent().map(Path::to_owned).unwrap_or_default();
    let mut broken = Vec::new();
    for link in links(text) {
        if link.contains("://") {
            continue;
        }
        let (path, anchor) = link.split_once('#').unwrap_or((&link, ""));
        let target =
            if path.is_empty() { root.join(document) } else { folder.join(path.replace("%20", " ")) };
        if !path.is_empty() && !target.exists() {
            broken.push(format!("{document}: link to {link}: there is no such file"));
        } else if !anchor.is_empty() && target.extension().is_some_and(|extension| extension == "md") {
            let there = if path.is_empty() {
                text.to_owned()
            } else {
                fs::read_to_string(&target).unwrap_or_default()
            };
            if !anchors(&there).iter().any(|known| known == anchor) {
                broken.push(format!("{document}: link to {link}: there is no such heading"));
            }
        }
    }
    broken
}

fn parse(text: &str) -> Parser<'_> {
    Parser::new_ext(text, Options::ENABLE_TABLES | Options::ENABLE_FOOTNOTES)
}

/// Targets of links and images; code and mail addresses are none.
fn links(text: &str) -> Vec<String> {
    let target = |event| match event {
        Event::Start(Tag::Link { link_type: LinkType::Email, .. }) => None,
        Event::Start(Tag::Link { dest_url, .. } | Tag::Image { dest_url, .. }) => {
            Some(dest_url.into_string())
        }
        _ => None,
    };
    parse(text).filter_map(target).collect()
}

/// Names of the headings as links spell them: lower case, spaces as hyphens, no other punctuation.
fn anchors(text: &str) -> Vec<String> {
    let mut anchors = Vec::new();
    let mut heading: Option<String> = None;
    for event in parse(text) {
        match (event, &mut heading) {
            (Event::Start(Tag::Heading { .. }), _) => heading = Some(String::new()),
            (Event::Text(part) | Event::Code(part), Some(heading)) => heading.push_str(&part),
            (Event::End(TagEnd::Heading(_)), _) => {
                anchors.extend(heading.take().map(|heading| anchor(&heading)));
            }
            _ => {}
        }
    }
    anchors
}

fn anchor(heading: &str) -> String {
    let kept = heading.chars().filter(|c| c.is_alphanumeric() || [' ', '-', '_'].contains(c));
    kept.collect::<String>().to_lowercase().replace(' ', "-")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::root;

    fn complaints(text: &str) -> Vec<String> {
        broken(&root(), "README.md", text)
    }

    #[test]
    fn links_to_files_and_headings_of_the_repository_resolve() {
        let text = "# The map, `core`!\n[a](Cargo.toml) [b](core/src/) [c](#the-map-core) [d](https://x.y/z#q) \
                    `[e](nowhere)` <f@g.h>\n\n```\n[f](nowhere)\n```\n";
        assert_eq!(complaints(text), [""; 0]);
    }

    #[test]
    fn links_that_lead_nowhere_are_named() {
        for link in ["[a](nowhere.md)", "[a](#no-heading)", "![a](no.png)", "[a][b]\n\n[b]: nowhere"] {
            let found = complaints(link);
            assert_eq!(found.len(), 1, "{link}");
            assert!(found[0].starts_with("README.md: link to "), "{}", found[0]);
        }
    }
}
