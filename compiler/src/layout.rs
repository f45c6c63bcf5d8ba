//! Where in a line of the instruction cache a function begins, so that its loops lie in few lines.
//!
//! A processor takes instructions from its caches in lines of 64 bytes, and longer for a loop that
//! lies in two lines than for the same loop in one. The code generator places no loop; but where a function begins decides
//! for all of them.

/// The size of a line in bytes.
const LINE: u32 = 64;

/// Where in a line functions may begin, best first where it makes no difference.
const PHASES: [u32; 4] = [0, 32, 16, 48];

/// How often an inner loop turns for each turn of the loop around it, as a guess.
const TURNS: u64 = 8;

/// Deeper loops count like those of this depth.
const MAX_DEPTH: u32 = 4;

/// The blocks of a function's machine code, and the edges between them, by the offsets of their beginnings.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Blocks<'a> {
    /// Ascending.
    pub(crate) starts: &'a [u32],
    pub(crate) edges: &'a [(u32, u32)],
    /// How long the code is.
    pub(crate) length: u32,
}

/// Where in a line a function should begin, in bytes from the line's beginning; `None` if that is of no consequence.
pub(crate) fn phase(blocks: Blocks<'_>) -> Option<u32> {
    let loops = innermost_loops(blocks);
    let cost = |phase| loops.iter().map(|it| it.cost(phase)).sum::<u64>();
    let costs = PHASES.map(cost);
    let best = (0..PHASES.len()).min_by_key(|number| costs[*number])?;
    // The alignment that all functions have gives one of the first two.
    (costs[best] < costs[0].max(costs[1])).then_some(PHASES[best])
}

/// A loop that contains no other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Loop {
    start: u32,
    end: u32,
    /// How many loops are around it.
    depth: u32,
}

impl Loop {
    /// What it costs where the function begins at `phase`: how many more lines it lies in than it must, in relation to its length.
    fn cost(&self, phase: u32) -> u64 {
        let length = self.end - self.start;
        let lines = (phase + self.end - 1) / LINE - (phase + self.start) / LINE + 1;
        let least = length.div_ceil(LINE);
        let often = TURNS.pow(self.depth.min(MAX_DEPTH));
        often * 1024 * u64::from(lines - least) / u64::from(least)
    }
}

/// The loops of a function that contain no others, as far as the order of its blocks tells: from where an edge leads back
/// to, until behind the block that it comes from.
fn innermost_loops(blocks: Blocks<'_>) -> Vec<Loop> {
    let Blocks { starts, edges, length } = blocks;
    let mut ranges: Vec<(u32, u32)> = edges
        .iter()
        .filter(|(from, to)| to <= from)
        .map(|(from, to)| {
            let behind = starts.partition_point(|start| start <= from);
            (*to, starts.get(behind).copied().unwrap_or(length))
        })
        .filter(|(start, end)| start < end)
        .collect();
    // Of loops that begin at one place, the longest comes first.
    ranges.sort_unstable_by_key(|(start, end)| (*start, std::cmp::Reverse(*end)));
    ranges.dedup_by_key(|(start, _)| *start);
    let mut found: Vec<Loop> = Vec::new();
    let mut around: Vec<u32> = Vec::new();
    for (start, end) in ranges {
        while around.last().is_some_and(|outer| *outer <= start) {
            around.pop();
        }
        if let Some(last) = found.last()
            && start < last.end
        {
            found.pop();
        }
        let depth = u32::try_from(around.len()).unwrap_or(u32::MAX);
        found.push(Loop { start, end, depth });
        around.push(end);
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blocks<'a>(starts: &'a [u32], edges: &'a [(u32, u32)]) -> Blocks<'a> {
        Blocks { starts, edges, length: 200 }
    }

    #[test]
    fn a_function_without_loops_may_begin_anywhere() {
        assert_eq!(phase(blocks(&[0, 10, 20], &[(0, 10), (0, 20), (10, 20)])), None);
        // So may one whose loop is in one line anyway, or in as many.
        assert_eq!(phase(blocks(&[0, 2, 20], &[(2, 2)])), None);
    }

    #[test]
    fn a_loop_is_moved_into_one_line() {
        // From 42 to 78.
        assert_eq!(phase(blocks(&[0, 42, 78], &[(0, 42), (42, 42), (42, 78)])), Some(32));
        // From 10 to 60: only the beginning of a line will do.
        assert_eq!(phase(blocks(&[0, 10, 60], &[(10, 10)])), Some(0));
        // From 20 to 84, as long as a line: 44 would be right, and 48 is not.
        assert_eq!(phase(blocks(&[0, 20, 84], &[(20, 20)])), None);
    }

    #[test]
    fn inner_loops_count_and_deeper_ones_count_more() {
        let nested = blocks(&[0, 4, 40, 90, 150], &[(40, 40), (90, 4)]);
        assert_eq!(innermost_loops(nested), [Loop { start: 40, end: 90, depth: 1 }]);
        let several =
            blocks(&[0, 10, 42, 78, 100, 142], &[(10, 10), (42, 42), (78, 42), (100, 100)]);
        assert_eq!(
            innermost_loops(several),
            [
                Loop { start: 10, end: 42, depth: 0 },
                Loop { start: 42, end: 100, depth: 0 },
                Loop { start: 100, end: 142, depth: 0 },
            ]
        );
    }

    #[test]
    fn offsets_that_make_no_sense_do_no_harm() {
        assert_eq!(phase(blocks(&[], &[(0, 0), (500, 3), (300, 300)])), None);
    }
}
