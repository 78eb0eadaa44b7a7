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
        crate::output::say(format_args!("no symbols for {} (build id {id})", mapping.file));
    }
    outputs.put(&profile, name)?;
    Ok(ExitCode::SUCCESS)
}

/// `line`, and the functions at the places in modules that it names, if it names some.
fn with_symbols(symbols: &Symbols, line: &str) -> String {
    let mut names = Vec::new();
    let mut is_known = false;
    for Place { module, offset, build_id } in places(line) {
        let chain = symbols.at_offset(&module, &build_id, offset);
        is_known |= !chain.is_empty();
        if chain.is_empty() {
            let base = module.file_name().unwrap_or_default().to_string_lossy();
            names.push(format!("{base}+{offset:#x}"));
        }
        names.extend(chain.into_iter().map(|(name, place)| match place.as_str() {
            "" => name,
            place => format!("{name} ({place})"),
        }));
    }
    if is_known { format!("{line}  {}", names.join(" < ")) } else { line.to_owned() }
}

/// A place in a file that was mapped.
#[derive(Debug, PartialEq, Eq)]
struct Place {
    module: PathBuf,
    offset: u64,
    build_id: String,
}

/// The places that a line names, one or several with ` < ` between them: those behind the first name no module if it is the one before.
fn places(line: &str) -> Vec<Place> {
    let mut places: Vec<Place> = Vec::new();
    for part in line.split(" < ") {
        let same = part.strip_prefix("+0x").zip(places.last());
        match same {
            Some((digits, last)) if digits.chars().all(|c| c.is_ascii_hexdigit()) => {
                let Ok(offset) = u64::from_str_radix(digits, 16) else { break };
                let module = last.module.clone();
                places.push(Place { module, offset, build_id: last.build_id.clone() });
            }
            _ => match place(part) {
                Some(place) => places.push(place),
                None => break,
            },
        }
    }
    places
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
        let all = |line: &str| {
            let places = places(line).into_iter();
            places.map(|p| (p.module.display().to_string(), p.offset)).collect::<Vec<_>>()
        };
        let line = "rsalloc:   51.2 MiB, by samples, from /a/server+0x1f00 < +0x1e < /lib/libc.so.6+0x10 < 0x77";
        let [server, libc] = ["/a/server", "/lib/libc.so.6"].map(str::to_owned);
        assert_eq!(all(line), [(server.clone(), 0x1f00), (server, 0x1e), (libc, 16)]);
        assert_eq!(all("+0x10 < /a+0x1"), []);
    }
}
