//! The frames of a profile's stacks, as text forms and pictures show them.

use rsalloc_pprof::{Measure, Profile, Sample};
use std::borrow::Cow;

/// A function on a stack; one that was inlined is a frame like all others.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Frame<'a> {
    /// Its name, or the file and the offset in it if no name is known.
    pub name: Cow<'a, str>,
    /// The source file, if it is known.
    pub file: &'a str,
    /// The line in it; 0: unknown.
    pub line: i64,
    /// Name of the library or program.
    pub module: &'a str,
}

impl Frame<'_> {
    /// `server.c:17`, or the module's name.
    pub fn place(&self) -> String {
        match (self.file, self.line) {
            ("", _) => self.module.to_owned(),
            (file, 0) => base(file).to_owned(),
            (file, line) => format!("{}:{line}", base(file)),
        }
    }
}

/// The frames of `sample`, innermost first.
pub fn of<'a>(profile: &'a Profile, sample: &Sample) -> Vec<Frame<'a>> {
    let mut frames = Vec::new();
    for &index in &sample.locations {
        let location = &profile.locations[index];
        let mapping = location.mapping.map(|index| &profile.mappings[index]);
        let module = mapping.map_or("", |mapping| base(&mapping.file));
        if location.lines.is_empty() {
            let name = match mapping {
                Some(mapping) => {
                    let offset = location.address.wrapping_sub(mapping.start);
                    format!("{module}+{:#x}", offset.wrapping_add(mapping.file_offset))
                }
                None => format!("{:#x}", location.address),
            };
            frames.push(Frame { name: name.into(), file: "", line: 0, module });
        }
        frames.extend(location.lines.iter().map(|line| {
            let function = &profile.functions[line.function];
            let name = Cow::Borrowed(&*function.name);
            Frame { name, file: &function.file, line: line.line, module }
        }));
    }
    frames
}

/// Where in a sample's values `measure` is.
pub fn index_of(profile: &Profile, measure: Measure) -> Option<usize> {
    profile.sample_types.iter().position(|kind| kind.kind == measure.name())
}

/// The file's name without its folder.
fn base(path: &str) -> &str {
    let path = path.strip_suffix(" (deleted)").unwrap_or(path);
    path.rsplit('/').next().unwrap_or(path)
}
