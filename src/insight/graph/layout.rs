//! Layered graph layout: assigns boxes to rows, from inputs down to results, without overlaps.
//!
//! Four steps, as in every layered drawing. First, boxes are assigned to rows, as low as their dependents allow, so that arrows are short.
//! Second, waypoints route long arrows through the rows between. Third, each row is ordered so that few arrows cross. Last, boxes move near
//! their neighbours. All arithmetic is in whole pixels and in a fixed order, so equal graphs give equal pictures.

use std::collections::BTreeMap;

/// Horizontal gap between two boxes of a row.
const GAP_X: i64 = 40;
/// Vertical gap between two rows.
const GAP_Y: i64 = 64;
/// Width reserved for an arrow that passes other boxes.
const LANE: i64 = 16;
/// Number of passes that improve orders and positions. A few suffice for some dozens of boxes.
const ROUNDS: usize = 8;

/// The size of a box.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    /// The width.
    pub width: i64,
    /// The height.
    pub height: i64,
}

/// The computed layout.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    /// The upper left corner of each box.
    pub boxes: Vec<(i64, i64)>,
    /// The points of each arrow: the lower edge of the source box, waypoints between other boxes, the upper edge of the target box.
    pub arrows: Vec<Vec<(i64, i64)>>,
    /// The total size.
    pub size: Size,
}

/// A box or a waypoint; `middle` is the centre of its width.
struct LayoutBox {
    width: i64,
    row: usize,
    middle: i64,
    above: Vec<usize>,
    below: Vec<usize>,
}

/// Computes the layout of boxes of these sizes, connected by acyclic arrows.
pub fn layout(sizes: &[Size], arrows: &[(usize, usize)]) -> Layout {
    let rows = rows(sizes.len(), arrows);
    let mut spots: Vec<LayoutBox> = sizes
        .iter()
        .zip(&rows)
        .map(|(size, row)| LayoutBox { width: size.width, row: *row, middle: 0, above: Vec::new(), below: Vec::new() })
        .collect();
    let lanes: Vec<Vec<usize>> = arrows.iter().map(|arrow| lane(&mut spots, *arrow)).collect();
    let mut order: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for (number, spot) in spots.iter().enumerate() {
        order.entry(spot.row).or_default().push(number);
    }
    let mut order: Vec<Vec<usize>> = order.into_values().collect();
    for round in 0..ROUNDS {
        arrange(&mut spots, &mut order, Direction::of_round(round));
    }
    for round in 0..ROUNDS {
        align_to_neighbours(&mut spots, &order, Direction::of_round(round));
    }
    drawn(sizes, arrows, &spots, &order, &lanes)
}

/// The order in which rows are visited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Direction {
    Down,
    Up,
}

impl Direction {
    /// Alternates, beginning with down.
    fn of_round(round: usize) -> Direction {
        if round.is_multiple_of(2) { Direction::Down } else { Direction::Up }
    }

    fn rows(self, count: usize) -> Vec<usize> {
        match self {
            Direction::Down => (0..count).collect(),
            Direction::Up => (0..count).rev().collect(),
        }
    }

    /// Returns the neighbours in the row that was visited before.
    fn previous(self, spot: &LayoutBox) -> &[usize] {
        match self {
            Direction::Down => &spot.above,
            Direction::Up => &spot.below,
        }
    }
}

/// Returns the row of each box, from 0: one row above the uppermost of its dependents.
fn rows(count: usize, arrows: &[(usize, usize)]) -> Vec<usize> {
    let mut height = vec![0; count];
    // In an acyclic graph the longest path has fewer arrows than there are boxes.
    for _ in 0..count {
        for (from, to) in arrows {
            height[*from] = height[*from].max((height[*to] + 1).min(count));
        }
    }
    let top = height.iter().copied().max().unwrap_or(0);
    height.into_iter().map(|height| top - height).collect()
}

/// Adds the waypoints of an arrow in the rows between its ends; returns all points of the arrow.
fn lane(spots: &mut Vec<LayoutBox>, (from, to): (usize, usize)) -> Vec<usize> {
    let mut passed = vec![from];
    for row in spots[from].row + 1..spots[to].row {
        passed.push(spots.len());
        spots.push(LayoutBox { width: LANE, row, middle: 0, above: Vec::new(), below: Vec::new() });
    }
    passed.push(to);
    for pair in passed.windows(2) {
        spots[pair[0]].below.push(pair[1]);
        spots[pair[1]].above.push(pair[0]);
    }
    passed
}

/// Sorts each row by the mean position of the neighbours in the previous row, going down or up.
fn arrange(spots: &mut [LayoutBox], order: &mut [Vec<usize>], direction: Direction) {
    let numbers = direction.rows(order.len());
    for row in &mut *order {
        pack(spots, row);
    }
    for number in numbers {
        let row = &mut order[number];
        let key = |spot: &LayoutBox, spots: &[LayoutBox]| mean(spots, direction.previous(spot)).unwrap_or(spot.middle);
        row.sort_by_key(|spot| key(&spots[*spot], spots));
        pack(spots, row);
    }
}

/// Places a row side by side around the centre.
fn pack(spots: &mut [LayoutBox], row: &[usize]) {
    let width: i64 = row.iter().map(|spot| spots[*spot].width + GAP_X).sum::<i64>() - GAP_X;
    let mut left = -width / 2;
    for spot in row {
        spots[*spot].middle = left + spots[*spot].width / 2;
        left += spots[*spot].width + GAP_X;
    }
}

fn mean(spots: &[LayoutBox], of: &[usize]) -> Option<i64> {
    let sum: i64 = of.iter().map(|spot| spots[*spot].middle).sum();
    (!of.is_empty()).then(|| sum / of.len() as i64)
}

/// Moves the boxes of each row towards their neighbours, keeping order and gaps. Boxes with more connections are placed first, so that the
/// long chains of a picture are straight.
fn align_to_neighbours(spots: &mut [LayoutBox], order: &[Vec<usize>], direction: Direction) {
    let numbers = direction.rows(order.len());
    for number in numbers {
        let row = &order[number];
        let positions: Vec<i64> = row.iter().map(|spot| preferred_position(spots, &spots[*spot])).collect();
        let mut first: Vec<usize> = (0..row.len()).collect();
        first.sort_by_key(|at| (std::cmp::Reverse(degree(&spots[row[*at]])), *at));
        let mut placed: BTreeMap<usize, i64> = BTreeMap::new();
        for at in first {
            // Leave space for the boxes between this one and the nearest placed ones on both sides.
            let apart = |a: usize, b: usize| -> i64 {
                let inner: i64 = row[a + 1..b].iter().map(|spot| spots[*spot].width).sum();
                let halves = (spots[row[a]].width + spots[row[b]].width + 1) / 2;
                inner + halves + GAP_X * (b - a) as i64
            };
            let least = placed.range(..at).next_back().map(|(left, middle)| middle + apart(*left, at));
            let most = placed.range(at..).next().map(|(right, middle)| middle - apart(at, *right));
            let middle = positions[at].max(least.unwrap_or(i64::MIN)).min(most.unwrap_or(i64::MAX));
            placed.insert(at, middle);
        }
        placed.into_iter().for_each(|(at, middle)| spots[row[at]].middle = middle);
    }
}

fn degree(spot: &LayoutBox) -> usize {
    spot.above.len() + spot.below.len()
}

/// Returns the preferred position of a box: the mean of its neighbours with the most connections.
fn preferred_position(spots: &[LayoutBox], spot: &LayoutBox) -> i64 {
    let joined = || spot.above.iter().chain(&spot.below).copied();
    let most = joined().map(|other| degree(&spots[other])).max();
    let chosen: Vec<usize> = joined().filter(|other| Some(degree(&spots[*other])) == most).collect();
    mean(spots, &chosen).unwrap_or(spot.middle)
}

/// Converts centres to corners, and spreads the ends of arrows along the edges of boxes.
fn drawn(sizes: &[Size], arrows: &[(usize, usize)], spots: &[LayoutBox], order: &[Vec<usize>], lanes: &[Vec<usize>]) -> Layout {
    let left = spots.iter().map(|spot| spot.middle - spot.width / 2).min().unwrap_or(0);
    let right = spots.iter().map(|spot| spot.middle - spot.width / 2 + spot.width).max().unwrap_or(0);
    let height_of = |row: &[usize]| row.iter().filter_map(|spot| sizes.get(*spot)).map(|size| size.height).max().unwrap_or(0);
    let mut tops = Vec::new();
    let mut y = 0;
    for row in order {
        tops.push((y, height_of(row)));
        y += height_of(row) + GAP_Y;
    }
    // A box that is lower than its row is centred vertically.
    let corner = |(spot, size): (&LayoutBox, &Size)| {
        let (top, height) = tops[spot.row];
        (spot.middle - spot.width / 2 - left, top + (height - size.height) / 2)
    };
    let boxes: Vec<(i64, i64)> = spots.iter().zip(sizes).map(corner).collect();
    let end = |number: usize, of: usize, ends: &[usize]| -> i64 {
        // The arrows at an edge are sorted by their other ends, and at most a third of the box width apart.
        let mut others: Vec<(i64, usize)> = ends.iter().map(|arrow| (spots[neighbour(lanes, *arrow, of)].middle, *arrow)).collect();
        others.sort_unstable();
        let place = others.iter().position(|(_, arrow)| *arrow == number).unwrap_or(0) as i64;
        let step = (spots[of].width / (others.len() as i64 + 1)).min(spots[of].width / 3);
        spots[of].middle - left + step * (2 * place - (others.len() as i64 - 1)) / 2
    };
    let paths = lanes.iter().enumerate().map(|(number, lane)| {
        let (from, to) = arrows[number];
        let out: Vec<usize> = (0..arrows.len()).filter(|arrow| arrows[*arrow].0 == from).collect();
        let into: Vec<usize> = (0..arrows.len()).filter(|arrow| arrows[*arrow].1 == to).collect();
        let mut points = vec![(end(number, from, &out), boxes[from].1 + sizes[from].height)];
        for spot in &lane[1..lane.len() - 1] {
            let (top, height) = tops[spots[*spot].row];
            points.extend([(spots[*spot].middle - left, top), (spots[*spot].middle - left, top + height)]);
        }
        points.push((end(number, to, &into), boxes[to].1));
        points
    });
    Layout { arrows: paths.collect(), boxes, size: Size { width: right - left, height: (y - GAP_Y).max(0) } }
}

/// Returns the point of an arrow next to its end at the box `of`.
fn neighbour(lanes: &[Vec<usize>], arrow: usize, of: usize) -> usize {
    let lane = &lanes[arrow];
    if lane[0] == of { lane[1] } else { lane[lane.len() - 2] }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn boxes_do_not_overlap_and_arrows_lead_down() {
        // A long arrow (0, 5) past two rows; wide and narrow boxes.
        let arrows = [(0, 3), (1, 3), (2, 4), (3, 4), (4, 5), (0, 5), (6, 5)];
        let sizes: Vec<Size> = [700, 60, 300, 200, 200, 220, 500].map(|width| Size { width, height: width / 4 + 20 }).to_vec();
        let layout = layout(&sizes, &arrows);
        for (a, (x, y)) in layout.boxes.iter().enumerate() {
            assert!(
                *x >= 0 && *y >= 0 && x + sizes[a].width <= layout.size.width && y + sizes[a].height <= layout.size.height,
                "{layout:?}"
            );
            for (b, (u, v)) in layout.boxes.iter().enumerate().skip(a + 1) {
                let apart = x + sizes[a].width <= *u || u + sizes[b].width <= *x || y + sizes[a].height <= *v || v + sizes[b].height <= *y;
                assert!(apart, "{a} and {b}: {layout:?}");
            }
        }
        for (path, (from, to)) in layout.arrows.iter().zip(arrows) {
            assert!(path.windows(2).all(|pair| pair[0].1 <= pair[1].1), "{from} to {to}: {path:?}");
        }
        assert_eq!(layout.arrows[5].len(), 2 + 2 * 2);
    }
}
