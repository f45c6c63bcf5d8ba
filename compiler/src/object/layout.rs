//! The order of an artifact's parts in the file, such that little is lost to the pages that code and images begin with.
//!
//! ```text
//! front area | some | CODE | some | IMAGES | the rest
//! ```
//!
//! Each part that need not lie in one place may be in one of several. All ways to do so are tried that loaders read as quickly as others, and
//! the shortest file wins; of equally short ones, the first.
//!
//! The rest of the last page of the code is executable, as the code is. Only parts that no loader reads, and whose bytes are the
//! compiler's own, may lie there: headers and tables of the object format, and unwind information.
//!
//! A loader that leaves parts for later reads chunks. What it needs at first is close behind the code, where trampolines are, so that it has
//! to read few of them.

/// What decides where a part may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// The code.
    Code,
    /// What memories begin with, which is to lie as far into a page of the file as into one of the memory.
    Images {
        /// That far.
        phase: usize,
    },
    /// Read by each loader, at first.
    Now,
    /// Read by loaders when it is needed.
    Late,
    /// Not read by loaders, and not made of names.
    Tools,
}

/// A part of the file behind its front area.
#[derive(Clone, Copy, Debug)]
pub(super) struct Part {
    pub(super) role: Role,
    pub(super) length: usize,
    /// A power of two. Code has that of a page, whatever is said here.
    pub(super) alignment: usize,
}

/// Where parts are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Layout {
    /// In the order of the parts.
    pub(super) offsets: Vec<usize>,
    /// Of the file.
    pub(super) length: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Front,
    BehindCode,
    BeforeImages,
    End,
}

/// Parts that lie together.
struct Unit {
    parts: Vec<usize>,
    role: Role,
    places: &'static [Place],
    /// Which of the places it has.
    choice: usize,
}

impl Unit {
    fn new(parts: Vec<usize>, role: Role, apart: bool) -> Self {
        let places: &[Place] = match role {
            Role::Now if apart => &[Place::BeforeImages, Place::Front],
            Role::Late if apart => &[Place::End, Place::BeforeImages, Place::Front],
            Role::Late => &[Place::End, Place::BeforeImages],
            Role::Tools => &[Place::End, Place::Front, Place::BehindCode],
            Role::Now | Role::Code | Role::Images { .. } => &[Place::BeforeImages],
        };
        Self { parts, role, places, choice: 0 }
    }

    fn place(&self) -> Place {
        self.places[self.choice]
    }
}

/// Where parts of a file belong whose front area ends at `front`, with pages and chunks of so many bytes.
pub(super) fn arrange(parts: &[Part], front: usize, page: usize, chunk: usize) -> Layout {
    let having = |wanted: fn(Role) -> bool| {
        (0..parts.len()).filter(move |part| wanted(parts[*part].role)).collect::<Vec<_>>()
    };
    let code = having(|role| role == Role::Code);
    let images = having(|role| matches!(role, Role::Images { .. }));
    // In small pages, the chunk of the front area has code, which can be left for later as long as there is nothing else.
    let apart = page >= chunk;
    let mut units = vec![Unit::new(having(|role| role == Role::Now), Role::Now, apart)];
    for role in [Role::Late, Role::Tools] {
        // Where an empty part is makes no difference, but twice or three times as many ways to try.
        let alone = (0..parts.len()).filter(|part| parts[*part].role == role);
        units.extend(alone.map(|part| {
            let unit = Unit::new(vec![part], role, apart);
            match parts[part].length {
                0 => Unit { places: &unit.places[..1], ..unit },
                _ => unit,
            }
        }));
    }
    let total = parts.iter().map(|part| part.length).sum();
    let mut arrangement = Arrangement { parts, total, page, front, code, images, units };
    let mut best = (usize::MAX, arrangement.choices());
    loop {
        if arrangement.is_read_quickly()
            && let Some(length) = arrangement.place(best.0, |_, _| ())
        {
            best = (length, arrangement.choices());
        }
        if !arrangement.next() {
            break;
        }
    }
    for (unit, choice) in arrangement.units.iter_mut().zip(best.1) {
        unit.choice = choice;
    }
    let mut offsets = vec![0; parts.len()];
    let length = arrangement.place(usize::MAX, |part, offset| offsets[part] = offset);
    Layout { offsets, length: length.unwrap_or_default() }
}

struct Arrangement<'a> {
    parts: &'a [Part],
    /// How long they are together.
    total: usize,
    page: usize,
    front: usize,
    code: Vec<usize>,
    images: Vec<usize>,
    units: Vec<Unit>,
}

impl Arrangement<'_> {
    fn choices(&self) -> Vec<usize> {
        self.units.iter().map(|unit| unit.choice).collect()
    }

    /// The next way to place the units, if there is one.
    fn next(&mut self) -> bool {
        for unit in &mut self.units {
            unit.choice += 1;
            if unit.choice < unit.places.len() {
                return true;
            }
            unit.choice = 0;
        }
        false
    }

    /// Whether no more chunks are needed at first than have to be: little lies between trampolines and what is needed with them, and
    /// nothing that is not needed lies in a chunk that would not be.
    fn is_read_quickly(&self) -> bool {
        let lies_in_front =
            |role| self.units.iter().any(|unit| unit.role == role && unit.place() == Place::Front);
        let behind = self.units.iter().filter(|unit| unit.place() == Place::BehindCode);
        let behind: usize =
            behind.flat_map(|unit| &unit.parts).map(|part| self.parts[*part].length).sum();
        behind <= self.page && (!lies_in_front(Role::Late) || lies_in_front(Role::Now))
    }

    /// Says where each part is, if the units are where they are now; and how long the file is, if it is shorter than `limit`.
    fn place(&self, limit: usize, mut at: impl FnMut(usize, usize)) -> Option<usize> {
        let mut end = self.front;
        let mut left = self.total;
        let mut put = |end: &mut usize, part: usize| {
            let Part { role, length, alignment } = self.parts[part];
            let start = match role {
                Role::Code => up(*end, self.page),
                // The first place that is as far into a page.
                Role::Images { phase } => {
                    let phase = phase & (self.page - 1);
                    up(*end + self.page - phase, self.page) + phase - self.page
                }
                _ => up(*end, alignment),
            };
            at(part, start);
            *end = start + length;
        };
        // Pages of the code end here, and what loaders read must not be in them.
        let mut apart = 0;
        let units = |place| self.units.iter().filter(move |unit| unit.place() == place);
        for unit in units(Place::Front) {
            for part in &unit.parts {
                put(&mut end, *part);
                left -= self.parts[*part].length;
            }
        }
        for part in &self.code {
            put(&mut end, *part);
            left -= self.parts[*part].length;
            apart = up(end, self.page);
            // Most ways are out of the question here: the rest of the parts takes no less than its length.
            if end + left >= limit {
                return None;
            }
        }
        for place in [Place::BehindCode, Place::BeforeImages, Place::End] {
            for unit in units(place) {
                if unit.role != Role::Tools && !unit.parts.is_empty() {
                    end = end.max(apart);
                }
                unit.parts.iter().for_each(|part| put(&mut end, *part));
            }
            if place == Place::BeforeImages {
                for part in &self.images {
                    end = end.max(apart);
                    put(&mut end, *part);
                }
            }
        }
        // The last page of the code is whole.
        Some(end.max(apart)).filter(|length| *length < limit)
    }
}

/// The first multiple of a power of two that is not below a number.
fn up(number: usize, power: usize) -> usize {
    (number + power - 1) & !(power - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(role: Role, length: usize) -> Part {
        let alignment = if role == Role::Tools { 8 } else { 1 };
        Part { role, length, alignment }
    }

    /// What every layout must be like.
    fn check(parts: &[Part], front: usize, page: usize) -> Layout {
        let layout = arrange(parts, front, page, page.max(8192));
        let mut ranges: Vec<_> = parts
            .iter()
            .zip(&layout.offsets)
            .map(|(part, start)| (*start, start + part.length, part))
            .collect();
        for (start, end, part) in &ranges {
            assert!(front <= *start && *end <= layout.length);
            assert!(start.is_multiple_of(part.alignment));
            match part.role {
                Role::Code => assert!(start.is_multiple_of(page)),
                Role::Images { phase } => assert_eq!(start % page, phase),
                _ => {}
            }
        }
        let code = ranges.iter().find(|(.., part)| part.role == Role::Code).copied();
        if let Some((start, end, _)) = code {
            let pages = start..end.next_multiple_of(page);
            assert!(pages.end <= layout.length);
            for (start, end, part) in ranges.iter().filter(|(start, end, _)| start < end) {
                let is_inside = *start < pages.end && pages.start < *end;
                assert!(!is_inside || matches!(part.role, Role::Code | Role::Tools), "{part:?}");
            }
        }
        ranges.sort_by_key(|(start, end, _)| (*start, *end));
        assert!(ranges.windows(2).all(|pair| pair[0].1 <= pair[1].0));
        layout
    }

    #[test]
    fn nothing_overlaps_and_everything_is_where_it_may_be() {
        for page in [4096, 65536] {
            for front in [1376, 4095, 4096, 70_000] {
                for length in [1, 4095, 4096, 9000, 65536, 200_001] {
                    for phase in [0, 1024] {
                        let parts = [
                            part(Role::Now, 300),
                            part(Role::Late, length),
                            part(Role::Code, length),
                            part(Role::Tools, 1700),
                            part(Role::Images { phase }, length / 2),
                            part(Role::Late, 77),
                            part(Role::Tools, length / 9),
                            part(Role::Now, length / 7),
                        ];
                        check(&parts, front, page);
                        // Without code, and without images.
                        check(&[parts[0], parts[4], parts[1], parts[3]], front, page);
                        check(&[parts[0], parts[1], parts[2], parts[6]], front, page);
                    }
                }
            }
        }
        assert_eq!(check(&[], 1376, 4096).length, 1376);
    }

    #[test]
    fn what_fits_into_a_gap_is_put_there() {
        // The front area leaves 2720 bytes, the last page of the code 3096, and images begin behind 1100 bytes.
        let parts = [
            part(Role::Code, 5096),
            part(Role::Images { phase: 1000 }, 50),
            part(Role::Now, 900),
            part(Role::Late, 100),
            part(Role::Late, 7),
            part(Role::Tools, 2720),
            part(Role::Tools, 3096),
        ];
        let layout = check(&parts, 1376, 4096);
        assert_eq!(layout.offsets, [4096, 13288, 12288, 13188, 13338, 1376, 9192]);
        assert_eq!(layout.length, 13345);
    }

    #[test]
    fn little_lies_between_the_code_and_what_is_needed_with_it() {
        // The table would fit, but be in the way.
        let parts = [
            part(Role::Code, 4096 + 1),
            part(Role::Tools, 3 * 4096 - 8),
            part(Role::Now, 100),
            part(Role::Images { phase: 100 }, 5),
        ];
        let layout = check(&parts, 1376, 4096);
        assert_eq!(layout.offsets[2], 3 * 4096);
    }

    #[test]
    fn the_chunk_of_the_front_area_has_nothing_but_code_that_loaders_read() {
        let parts = [part(Role::Code, 100_000), part(Role::Now, 2000), part(Role::Late, 720)];
        let layout = check(&parts, 1376, 4096);
        assert!(layout.offsets[1] > 100_000 && layout.offsets[2] > 100_000);
        // But where code begins with a chunk of its own, there is room for all of that, as long as the chunk is needed anyway.
        assert_eq!(check(&parts, 1376, 65536).offsets, [65536, 1376, 3376]);
        let parts = [part(Role::Code, 60_000), part(Role::Now, 90_000), part(Role::Late, 64_000)];
        let layout = check(&parts, 1376, 65536);
        assert!(layout.offsets[2] > layout.offsets[0]);
    }
}
