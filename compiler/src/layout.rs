//! Where functions begin, so that their loops lie in few cache lines.
//!
//! A processor takes instructions from its caches in aligned lines of 64 bytes, and decodes them in halves of these. It takes longer for
//! a loop that lies in two where one would do: up to half as long again has been measured. The code generator places no loop, but where a
//! function begins decides for all of them. So for each function there is a set of places in a line where it may begin.
//!
//! A loop around a table of branches, as interpreters have it, is foreseen badly if a line ends between where it jumps back to
//! and the branch by the table: more than twice as long has been measured, for each of 19 million branches 5 ns more.
//!
//! A function that calls itself is a loop as well, from its beginning to behind those calls: where a line ends on the way from one call to
//! the next, up to a quarter as long again has been measured.

/// The size of a line in bytes.
pub(crate) const LINE: u32 = 64;

/// The size of what is decoded at once.
const HALF: u32 = LINE / 2;

/// Functions begin at multiples of this. Instructions of some targets must.
const STEP: u32 = 4;

/// What a loop around a loop turns it by, as a guess.
const TURNS: u64 = 8;

/// What a call of the function by itself counts, as against a turn of the loop that it is in: it jumps twice.
const RECURSION: u64 = 2;

/// What a branch by a table counts that is in two lines.
const DISPATCH: u64 = 16 * 1024;

/// A block with so many ways out ends in a branch by a table.
const TABLE: usize = 4;

/// The size of an entry of a table of branches, which lies behind the branch.
const ENTRY: u32 = 4;

/// Deeper loops count like those of this depth.
const MAX_DEPTH: u32 = 4;

/// Where in a line a function may begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) struct Phases(u16);

impl Phases {
    /// At the beginning, or in the middle: for functions of which nothing else is known.
    pub(crate) const HALVES: Self = Self(1 | 1 << (HALF / STEP));

    /// The first place from `end` on that is also a multiple of `alignment`, a power of two; if there is none in
    /// a line, the first multiple of both.
    pub(crate) fn place(self, end: usize, alignment: usize) -> usize {
        let first = end.next_multiple_of(alignment.max(STEP as usize));
        let places = (first..first + LINE as usize).step_by(alignment.max(STEP as usize));
        places
            .into_iter()
            .find(|place| self.0 >> (place % LINE as usize / STEP as usize) & 1 == 1)
            .unwrap_or_else(|| end.next_multiple_of(alignment.max(LINE as usize)))
    }
}

/// The blocks of a function's machine code, and the edges between them, by the offsets of their beginnings.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Blocks<'a> {
    /// Ascending.
    pub(crate) starts: &'a [u32],
    pub(crate) edges: &'a [(u32, u32)],
    /// Where calls of the function by itself end.
    pub(crate) recursion: &'a [u32],
    /// How long the code is.
    pub(crate) length: u32,
}

/// Where a function should begin.
pub(crate) fn phases(blocks: Blocks<'_>) -> Phases {
    let ranges = loops(blocks);
    if ranges.is_empty() && blocks.recursion.is_empty() {
        return Phases::HALVES;
    }
    let depths = Depths::of(&ranges);
    let recursion = recursion(&depths, blocks.recursion);
    let dispatches = dispatches(blocks, &depths);
    let loops = innermost_loops(ranges);
    let entry = Loop { start: 0, end: blocks.length.clamp(1, HALF), depth: 0 };
    let cost = |phase| {
        // Loops turn, and a function is entered once for all that it does.
        let turns = loops.iter().map(|it| it.cost(phase)).sum::<u64>();
        let calls = recursion.map_or(0, |it| RECURSION * it.cost(phase));
        let tables = dispatches.iter().map(|it| it.dispatch_cost(phase)).sum::<u64>();
        entry.cost(phase) + TURNS * (turns + calls + tables)
    };
    let costs: Vec<u64> = (0..LINE / STEP).map(|step| cost(step * STEP)).collect();
    let least = costs.iter().min();
    let best = (0..).zip(&costs).filter(|(_, cost)| Some(*cost) == least);
    Phases(best.fold(0, |set, (step, _)| set | 1 << step))
}

/// A loop that contains no other, or the way from the beginning of a function to where it has called itself, or to a branch by a
/// table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Loop {
    start: u32,
    end: u32,
    /// How many loops are around it.
    depth: u32,
}

impl Loop {
    /// What it costs where the function begins at `phase`: in how many more lines, and halves of them, it lies
    /// than it must, in relation to how many those are.
    fn cost(&self, phase: u32) -> u64 {
        let more = |size: u32| {
            let lies_in = (phase + self.end - 1) / size - (phase + self.start) / size + 1;
            let least = (self.end - self.start).div_ceil(size);
            1024 * u64::from(lies_in - least) / u64::from(least)
        };
        TURNS.pow(self.depth.min(MAX_DEPTH)) * (more(LINE) + more(HALF))
    }

    /// What it costs if it ends with a branch by a table.
    fn dispatch_cost(&self, phase: u32) -> u64 {
        let is_in_two = (phase + self.end - 1) / LINE != (phase + self.start) / LINE;
        TURNS.pow(self.depth.min(MAX_DEPTH)) * DISPATCH * u64::from(is_in_two)
    }
}

/// Where the loops of a function begin and end, each in order.
struct Depths {
    starts: Vec<u32>,
    ends: Vec<u32>,
}

impl Depths {
    /// Those of loops that are ordered by where they begin.
    fn of(loops: &[(u32, u32)]) -> Self {
        let (starts, mut ends): (Vec<u32>, Vec<u32>) = loops.iter().copied().unzip();
        ends.sort_unstable();
        Self { starts, ends }
    }

    /// How many loops are around the instruction that ends at a place.
    fn around(&self, end: u32) -> u32 {
        let before = |places: &[u32]| places.partition_point(|place| *place < end);
        // Those that began before, but for those that ended before.
        let around = before(&self.starts).saturating_sub(before(&self.ends));
        u32::try_from(around).unwrap_or(u32::MAX)
    }
}

/// The way from the beginning of a function to behind the last of the calls of itself that are in the most loops.
fn recursion(depths: &Depths, calls: &[u32]) -> Option<Loop> {
    let (depth, end) = calls.iter().map(|call| (depths.around(*call), *call)).max()?;
    // A loop within is a level deeper than what is around it.
    Some(Loop { start: 0, end, depth: depth.saturating_sub(1) })
}

/// The ways in loops from where something jumps to, to a branch by a table. Those that are longer than a line are left out: they
/// are in two wherever the function begins.
fn dispatches(blocks: Blocks<'_>, depths: &Depths) -> Vec<Loop> {
    let Blocks { starts, edges, length, .. } = blocks;
    let ways = || edges.chunk_by(|one, other| one.0 == other.0);
    let has_table = |ways: &&[(u32, u32)]| ways.len() >= TABLE;
    if !ways().any(|ways| has_table(&ways)) {
        return Vec::new();
    }
    let number = |block: u32| starts.binary_search(&block).ok();
    let mut is_jumped_to = vec![false; starts.len()];
    for ways in ways() {
        for (from, to) in ways {
            if let (Some(from), Some(to)) = (number(*from), number(*to)) {
                is_jumped_to[to] |= to != from + 1 || has_table(&ways);
            }
        }
    }
    let dispatch = |ways: &[(u32, u32)]| {
        let block = number(ways.first()?.0)?;
        let table = u32::try_from(ways.len()).ok()?.checked_mul(ENTRY)?;
        let end = starts.get(block + 1).copied().unwrap_or(length).checked_sub(table)?;
        // What is before falls through.
        let mut before = (0..=block).rev().take_while(|it| end.saturating_sub(starts[*it]) <= LINE);
        let start = starts[before.find(|it| is_jumped_to[*it])?];
        let depth = depths.around(end).checked_sub(1)?;
        (start < end).then_some(Loop { start, end, depth })
    };
    ways().filter(has_table).filter_map(dispatch).collect()
}

/// The loops of a function that contain no others.
fn innermost_loops(ranges: Vec<(u32, u32)>) -> Vec<Loop> {
    let mut found: Vec<Loop> = Vec::new();
    let mut around: Vec<u32> = Vec::new();
    for (start, end) in ranges {
        while around.last().is_some_and(|outer| *outer <= start) {
            around.pop();
        }
        if found.last().is_some_and(|last| start < last.end) {
            found.pop();
        }
        let depth = u32::try_from(around.len()).unwrap_or(u32::MAX);
        found.push(Loop { start, end, depth });
        around.push(end);
    }
    found
}

/// The loops of a function, by where they begin, as far as the order of its blocks tells: from where an edge leads back
/// to, until behind the block that it comes from.
fn loops(blocks: Blocks<'_>) -> Vec<(u32, u32)> {
    let Blocks { starts, edges, length, .. } = blocks;
    let mut ranges: Vec<(u32, u32)> = edges
        .iter()
        .filter(|(from, to)| to <= from)
        .map(|(from, to)| {
            let behind = starts.partition_point(|start| start <= from);
            (*to, starts.get(behind).copied().unwrap_or(length))
        })
        .filter(|(start, end)| start < end)
        .collect();
    // Of loops that begin at one place, the longest comes first, and stands for them.
    ranges.sort_unstable_by_key(|(start, end)| (*start, std::cmp::Reverse(*end)));
    ranges.dedup_by_key(|(start, _)| *start);
    ranges
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blocks<'a>(starts: &'a [u32], edges: &'a [(u32, u32)]) -> Blocks<'a> {
        Blocks { starts, edges, recursion: &[], length: 200 }
    }

    fn places(phases: Phases) -> Vec<usize> {
        let mut places: Vec<_> = (0..64).map(|end| phases.place(end, 1) % 64).collect();
        places.sort_unstable();
        places.dedup();
        places
    }

    #[test]
    fn a_function_without_loops_begins_with_a_line_or_its_half() {
        let straight = blocks(&[0, 10, 20], &[(0, 10), (0, 20), (10, 20)]);
        assert_eq!(phases(straight), Phases::HALVES);
        assert_eq!(places(Phases::HALVES), [0, 32]);
        // So does one whose loop lies well there.
        assert_eq!(places(phases(blocks(&[0, 2, 20], &[(2, 2)]))), [0, 32]);
    }

    #[test]
    fn a_loop_is_moved_into_one_line_and_if_possible_into_one_half() {
        // From 62 to 89: it fits from 66 or 98 on. With the first, the entry is in one line, too.
        assert_eq!(places(phases(blocks(&[0, 62, 89], &[(62, 62), (62, 89)]))), [4]);
        // From 42 to 82: it fits into a line where the function begins at 24 to 44, and the entry into a half at 32.
        assert_eq!(places(phases(blocks(&[0, 42, 82], &[(42, 42)]))), [32]);
        // From 20 to 84, as long as a line.
        assert_eq!(places(phases(blocks(&[0, 20, 84], &[(20, 20)]))), [44]);
    }

    #[test]
    fn places_are_aligned_and_the_first_there_are() {
        let phases = Phases(1 << 1 | 1 << 4);
        for (end, alignment, expected) in [
            (0, 1, 4),
            (4, 4, 4),
            (5, 1, 16),
            (17, 1, 68),
            (5, 8, 16),
            (17, 16, 80),
            (1, 32, 64),
            (65, 64, 128),
        ] {
            assert_eq!(phases.place(end, alignment), expected, "{end} {alignment}");
        }
        assert_eq!(Phases::HALVES.place(33, 1), 64);
    }

    #[test]
    fn inner_loops_count_and_deeper_ones_count_more() {
        let nested = blocks(&[0, 4, 40, 90, 150], &[(40, 40), (90, 4)]);
        assert_eq!(innermost_loops(loops(nested)), [Loop { start: 40, end: 90, depth: 1 }]);
        let several =
            blocks(&[0, 10, 42, 78, 100, 142], &[(10, 10), (42, 42), (78, 42), (100, 100)]);
        assert_eq!(
            innermost_loops(loops(several)),
            [
                Loop { start: 10, end: 42, depth: 0 },
                Loop { start: 42, end: 100, depth: 0 },
                Loop { start: 100, end: 142, depth: 0 },
            ]
        );
    }

    #[test]
    fn a_function_that_calls_itself_begins_where_the_way_to_the_call_is_in_one_line() {
        let called =
            |blocks: Blocks<'static>, recursion| places(phases(Blocks { recursion, ..blocks }));
        // A call that ends at 61 takes all of a line, and one at 20 any half.
        let straight = blocks(&[0, 10, 80], &[(0, 10), (10, 80)]);
        assert_eq!(called(straight, &[61]), [0]);
        assert_eq!(called(straight, &[20, 40]), [0]);
        assert_eq!(called(straight, &[20]), [0, 32]);
        // Rather that than a loop from 36 to 71 in one line, if the call is in the loop.
        let looping = blocks(&[0, 36, 71], &[(36, 36)]);
        assert_eq!(places(phases(looping)), [32]);
        assert_eq!(called(looping, &[61]), [0]);
        // But a loop that is in another counts more than a call that is in none.
        let nested = blocks(&[0, 10, 36, 71, 150], &[(36, 36), (71, 10)]);
        assert_eq!(called(nested, &[5]), places(phases(nested)));
    }

    /// A table with so many entries at the end of a block, the first case behind it, and another one.
    fn interpreter(
        dispatch: u32,
        end: u32,
        entries: u32,
        back: &[u32],
    ) -> (Vec<u32>, Vec<(u32, u32)>) {
        let first = end + 4 * entries;
        let mut edges = vec![(0, dispatch)];
        edges.extend((0..entries).map(|entry| (dispatch, first + 30 * (entry % 2))));
        edges.extend(back.iter().flat_map(|to| [(first, *to), (first + 30, *to)]));
        let mut starts = vec![0, dispatch, first, first + 30];
        starts.extend(back.iter().filter(|to| !starts.contains(to)).collect::<Vec<_>>());
        starts.sort_unstable();
        (starts, edges)
    }

    #[test]
    fn a_branch_by_a_table_is_in_one_line_with_where_its_loop_begins() {
        let dispatches = |starts: &[u32], edges: &[(u32, u32)]| {
            let blocks = blocks(starts, edges);
            dispatches(blocks, &Depths::of(&loops(blocks)))
        };
        let all_fit = |starts: &[u32], edges: &[(u32, u32)], start: u32, end: u32| {
            let places = places(phases(blocks(starts, edges)));
            assert!(!places.is_empty());
            let (start, end) = (start as usize, end as usize);
            for place in places {
                assert_eq!((place + start) / 64, (place + end - 1) / 64, "{place}");
            }
        };
        let (starts, edges) = interpreter(8, 49, 16, &[8]);
        assert_eq!(dispatches(&starts, &edges), [Loop { start: 8, end: 49, depth: 0 }]);
        all_fit(&starts, &edges, 8, 49);
        // It fits in one way only.
        let (starts, edges) = interpreter(20, 84, 4, &[20]);
        all_fit(&starts, &edges, 20, 84);
        // The loop begins with another block, which falls through.
        let (starts, mut edges) = interpreter(30, 60, 5, &[10]);
        edges.splice(..1, [(0, 10), (10, 30), (10, 80)]);
        assert_eq!(dispatches(&starts, &edges), [Loop { start: 10, end: 60, depth: 0 }]);
        all_fit(&starts, &edges, 10, 60);
        // It is jumped to by two loops.
        let (starts, edges) = interpreter(30, 60, 5, &[10, 30]);
        let edges: Vec<_> = edges.into_iter().chain([(10, 30)]).collect();
        assert_eq!(dispatches(&starts, &edges), [Loop { start: 30, end: 60, depth: 1 }]);
        // Longer than a line; in no loop; and a block with fewer ways.
        let (starts, edges) = interpreter(8, 73, 16, &[8]);
        assert_eq!(dispatches(&starts, &edges), []);
        let (starts, edges) = interpreter(8, 49, 16, &[]);
        assert_eq!(dispatches(&starts, &edges), []);
        let (starts, edges) = interpreter(8, 49, 3, &[8]);
        assert_eq!(dispatches(&starts, &edges), []);
        // Behind a table, which does not fall through.
        let inner =
            [(0, 8), (8, 60), (8, 90), (8, 90), (8, 60), (60, 90), (60, 95), (60, 95), (60, 8)];
        assert_eq!(
            dispatches(&[0, 8, 60, 90, 95], &inner),
            [Loop { start: 8, end: 44, depth: 0 }, Loop { start: 60, end: 74, depth: 0 }]
        );
    }

    #[test]
    fn offsets_that_make_no_sense_do_no_harm() {
        let blocks = blocks(&[], &[(0, 0), (500, 3), (300, 300)]);
        let phases = phases(Blocks { recursion: &[0, 1000], ..blocks });
        assert!(!places(phases).is_empty());
    }
}
