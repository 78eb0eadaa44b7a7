//! `rsalloc symbolize`: symbols for a profile, or for a text, that was written where there were none.

use crate::output::{self, Stream};
use crate::profile::{Outputs, Symbols};
use anyhow::{Context, Result, bail, ensure};
use rsalloc_pprof::Profile;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Adds symbols to the profile or the text in `file`, or on standard input.
pub fn symbolize(file: Option<&Path>, outputs: &Outputs) -> Result<ExitCode> {
    let file = file.filter(|file| *file != Path::new("-"));
    let name = file.map_or("standard input".into(), |file| file.display().to_string());
    let mut bytes = Vec::new();
    match file {
        Some(file) => std::fs::read(file).map(|read| bytes = read),
        None => std::io::stdin().read_to_end(&mut bytes).map(drop),
    }
    .with_context(|| format!("cannot read {name}"))?;
    for dir in &outputs.debug_dir {
        ensure!(dir.is_dir(), "there is no folder {}", dir.display());
    }
    let why = match Profile::read(&bytes) {
        Ok(profile) if !profile.sample_types.is_empty() => {
            return of_profile(profile, file, &name, outputs);
        }
        Ok(_) => "it holds no samples".to_owned(),
        Err(why) => why.to_string(),
    };
    let Ok(text) = String::from_utf8(bytes) else {
        bail!("{name} is neither a profile ({why}) nor a text");
    };
    ensure!(outputs.is_empty(), "{name} is a text, not a profile: its lines go to standard output");
    let symbols = Symbols::new(&outputs.debug_dir);
    let lines: String = text.lines().map(|line| with_symbols(&symbols, line) + "\n").collect();
    output::put(&lines, None, Stream::Out)?;
    Ok(ExitCode::SUCCESS)
}

fn of_profile(
    mut profile: Profile,
    file: Option<&Path>,
    name: &str,
    outputs: &Outputs,
) -> Result<ExitCode> {
    let mut outputs = outputs.clone();
    if outputs.is_empty() {
        outputs.output = file.map(Path::to_owned);
    }
    ensure!(!outputs.is_empty(), "say where the profile goes: -o FILE, --svg FILE or --top");
    outputs.symbolize(&mut profile, &|_| Vec::new());
    for mapping in profile.mappings.iter().enumerate().filter_map(|(index, mapping)| {
        let mut own = profile.locations.iter().filter(|l| l.mapping == Some(index));
        own.all(|location| location.lines.is_empty()).then_some(mapping)
    }) {
        let id = if mapping.build_id.is_empty() { "none" } else { &mapping.build_id };
        eprintln!("rsalloc: no symbols for {} (build id {id})", mapping.file);
    }
    outputs.put(&profile, name)?;
    Ok(ExitCode::SUCCESS)
}

/// `line`, and the function at the place in a module that it names, if it names one.
fn with_symbols(symbols: &Symbols, line: &str) -> String {
    let Some(Place { module, offset, build_id }) = place(line) else { return line.to_owned() };
    let chain = symbols.at_offset(&module, &build_id, offset);
    let names = chain.iter().map(|(name, place)| match place.as_str() {
        "" => name.clone(),
        place => format!("{name} ({place})"),
    });
    let names: Vec<_> = names.collect();
    if names.is_empty() { line.to_owned() } else { format!("{line}  {}", names.join(" < ")) }
}

/// A place in a file that was mapped.
#[derive(Debug, PartialEq, Eq)]
struct Place {
    module: PathBuf,
    offset: u64,
    build_id: String,
}

/// The place that a line names as `/path/to/module+0x1f00`, with a build id behind it or not. The path may hold spaces.
fn place(line: &str) -> Option<Place> {
    let plus = line.find("+0x")?;
    let digits = &line[plus + 3..];
    let end = digits.find(|c: char| !c.is_ascii_hexdigit()).unwrap_or(digits.len());
    let offset = u64::from_str_radix(&digits[..end], 16).ok()?;
    let start = line[..plus].find('/')?;
    let build_id =
        digits[end..].split(|c: char| !c.is_ascii_hexdigit()).find(|word| word.len() >= 16);
    Some(Place {
        module: line[start..plus].into(),
        offset,
        build_id: build_id.unwrap_or_default().to_ascii_lowercase(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_found_in_lines() {
        let of = |line: &str| {
            place(line).map(|p| (p.module.display().to_string(), p.offset, p.build_id))
        };
        let found =
            |module: &str, offset, id: &str| Some((module.to_owned(), offset, id.to_owned()));
        assert_eq!(
            of("rsalloc:   #0 /opt/a b/server+0x1f00"),
            found("/opt/a b/server", 0x1f00, "")
        );
        assert_eq!(
            of("#1 (/lib/libc.so.6+0x10) (BuildId: 00112233445566778899)"),
            found("/lib/libc.so.6", 16, "00112233445566778899")
        );
        assert_eq!(of("rsalloc: use after free (read): 0x7f00, object of 10 bytes at 0x7f"), None);
        assert_eq!(of("a+0xzz"), None);
    }
}
