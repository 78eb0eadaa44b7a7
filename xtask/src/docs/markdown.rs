//! What the rules need of Markdown: what stands in backticks, links, lines outside of code blocks.

use super::tree::File;

/// A piece of a document and its line, counted from 1.
pub struct Span {
    /// Where it begins.
    pub line: usize,
    /// Without its marks; line breaks are spaces.
    pub text: String,
}

/// The text with the lines of code blocks emptied.
pub fn prose(text: &str) -> String {
    let mut is_code = false;
    let keep = |line: &str| {
        let is_fence = line.trim_start().starts_with("```");
        is_code ^= is_fence;
        if is_code || is_fence { String::new() } else { line.to_owned() }
    };
    text.lines().map(keep).collect::<Vec<_>>().join("\n")
}

/// Commands in shell blocks, without their comments.
pub fn commands(text: &str) -> Vec<Span> {
    let mut spans = Vec::new();
    let mut is_shell = false;
    for (index, line) in text.lines().enumerate() {
        if line.trim_start().starts_with("```") {
            is_shell = matches!(line.trim(), "```sh" | "```sh,run");
        } else if is_shell && line.starts_with("cargo ") {
            let text = line.split(" #").next().unwrap_or_default().trim().to_owned();
            spans.push(Span { line: index + 1, text });
        }
    }
    spans
}

/// What stands in backticks.
pub fn code_spans(file: &File) -> Vec<Span> {
    let prose = prose(&file.text);
    let mut spans = Vec::new();
    for (index, part) in prose.split('`').enumerate() {
        if index % 2 == 1 {
            let at = part.as_ptr() as usize - prose.as_ptr() as usize;
            let line = prose[..at].lines().count().max(1);
            spans.push(Span { line, text: part.split_whitespace().collect::<Vec<_>>().join(" ") });
        }
    }
    spans
}

/// The targets of links and pictures.
pub fn links(text: &str) -> Vec<Span> {
    let mut spans = Vec::new();
    for (index, line) in prose(text).lines().enumerate() {
        for part in line.split("](").skip(1) {
            let target = part.split(')').next().unwrap_or_default().to_owned();
            spans.push(Span { line: index + 1, text: target });
        }
    }
    spans
}

/// The anchors of the headings.
pub fn anchors(text: &str) -> Vec<String> {
    let heading = |line: &str| {
        line.starts_with('#').then(|| line.trim_start_matches('#').trim().to_lowercase())
    };
    let letter = |letter: char| match letter {
        ' ' => Some('-'),
        letter if letter.is_alphanumeric() || letter == '-' || letter == '_' => Some(letter),
        _ => None,
    };
    prose(text)
        .lines()
        .filter_map(heading)
        .map(|text| text.chars().filter_map(letter).collect())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backticks_are_read_across_lines_and_not_in_code_blocks() {
        let text = "a `one\ntwo` b\n```text\n`not`\n```\n`three`\n".to_owned();
        let spans = code_spans(&File { path: String::new(), text });
        let found: Vec<_> = spans.iter().map(|span| (span.line, span.text.as_str())).collect();
        assert_eq!(found, [(1, "one two"), (6, "three")]);
    }

    #[test]
    fn shell_blocks_are_commands() {
        let spans = commands("```sh\ncargo xtask golden   # a word\n```\n```text\ncargo x\n```\n");
        assert_eq!(spans.len(), 1);
        assert_eq!((spans[0].line, spans[0].text.as_str()), (2, "cargo xtask golden"));
    }
}
