//! Intervals of keys, found by the keys that they meet.

use super::predicate_index::GroupId;

/// Both ends belong to it, for whoever asks precisely asks again. The low end may lie above the high one: an array with
/// elements on both sides of a gap still meets it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Interval {
    pub(super) low: Box<[u8]>,
    pub(super) high: Box<[u8]>,
}

impl Interval {
    /// Whether it meets the stretch from `least` to `greatest`.
    fn meets(&self, least: &[u8], greatest: &[u8]) -> bool {
        *self.low <= *greatest && *self.high >= *least
    }
}

/// Intervals with their owners. Most stand in a sorted array with a tree of maxima over it, which is rebuilt as a whole;
/// what came since stands beside it, and is never many.
#[derive(Debug, Default)]
pub(super) struct Intervals {
    /// By low end. `None` is the owner of what was removed.
    sorted: Vec<(Interval, Option<GroupId>)>,
    /// For the middle of each stretch of `sorted`, halved again and again, where in it the greatest high end stands.
    greatest: Vec<u32>,
    recent: Vec<(Interval, GroupId)>,
    removed: usize,
}

/// Changes that are always put off.
const SLACK: usize = 32;

impl Intervals {
    pub(super) fn insert(&mut self, interval: Interval, owner: GroupId) {
        self.recent.push((interval, owner));
        if self.recent.len() > SLACK + self.sorted.len() / 8 {
            self.rebuild();
        }
    }

    pub(super) fn remove(&mut self, interval: &Interval, owner: GroupId) {
        if let Some(at) = self.recent.iter().position(|(known, id)| *id == owner && known == interval) {
            self.recent.swap_remove(at);
            return;
        }
        let start = self.sorted.partition_point(|(known, _)| known.low < interval.low);
        let same_low = self.sorted[start..].iter_mut().take_while(|(known, _)| known.low == interval.low);
        for (known, id) in same_low {
            if *id == Some(owner) && known == interval {
                *id = None;
                self.removed += 1;
                break;
            }
        }
        if self.removed > SLACK + self.sorted.len() / 2 {
            self.rebuild();
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(super) fn len(&self) -> usize {
        self.sorted.len() - self.removed + self.recent.len()
    }

    /// Visits the owners of all intervals that meet the stretch from `least` to `greatest`.
    pub(super) fn visit(&self, least: &[u8], greatest: &[u8], visit: &mut impl FnMut(GroupId)) {
        self.visit_stretch(0, self.sorted.len(), least, greatest, visit);
        self.recent.iter().filter(|(known, _)| known.meets(least, greatest)).for_each(|(_, owner)| visit(*owner));
    }

    fn visit_stretch(&self, from: usize, to: usize, least: &[u8], greatest: &[u8], visit: &mut impl FnMut(GroupId)) {
        if from >= to {
            return;
        }
        let middle = from.midpoint(to);
        if *self.sorted[self.greatest[middle] as usize].0.high < *least {
            return;
        }
        self.visit_stretch(from, middle, least, greatest, visit);
        let (interval, owner) = &self.sorted[middle];
        if *interval.low > *greatest {
            return;
        }
        if let Some(owner) = owner
            && interval.meets(least, greatest)
        {
            visit(*owner);
        }
        self.visit_stretch(middle + 1, to, least, greatest, visit);
    }

    fn rebuild(&mut self) {
        self.sorted.retain(|(_, owner)| owner.is_some());
        self.sorted.extend(self.recent.drain(..).map(|(interval, owner)| (interval, Some(owner))));
        self.sorted.sort_unstable();
        self.removed = 0;
        self.greatest = vec![0; self.sorted.len()];
        self.build(0, self.sorted.len());
    }

    /// Fills `greatest` for a stretch and says where its own greatest high end stands.
    fn build(&mut self, from: usize, to: usize) -> Option<u32> {
        if from >= to {
            return None;
        }
        let middle = from.midpoint(to);
        let parts = [self.build(from, middle), self.build(middle + 1, to), Some(middle as u32)];
        let greatest = parts.into_iter().flatten().max_by_key(|at| &self.sorted[*at as usize].0.high)?;
        self.greatest[middle] = greatest;
        Some(greatest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn exactly_those_that_meet_are_found(
            steps in prop::collection::vec((0..40_u8, 0..40_u8, any::<bool>()), 1..400),
            asked in prop::collection::vec((0..40_u8, 0..5_u8), 1..20),
        ) {
            let mut intervals = Intervals::default();
            let mut model: Vec<(Interval, GroupId)> = Vec::new();
            for (at, (low, high, add)) in steps.into_iter().enumerate() {
                if add || model.is_empty() {
                    let interval = Interval { low: [low].into(), high: [high].into() };
                    intervals.insert(interval.clone(), at as u32);
                    model.push((interval, at as u32));
                } else {
                    let (interval, owner) = model.swap_remove(usize::from(low) % model.len());
                    intervals.remove(&interval, owner);
                }
            }
            prop_assert_eq!(intervals.len(), model.len());
            for (least, width) in asked {
                let greatest = least + width;
                let mut found = Vec::new();
                intervals.visit(&[least], &[greatest], &mut |owner| found.push(owner));
                found.sort_unstable();
                let mut expected: Vec<_> = model
                    .iter()
                    .filter(|(interval, _)| interval.low[0] <= greatest && interval.high[0] >= least)
                    .map(|(_, owner)| *owner)
                    .collect();
                expected.sort_unstable();
                prop_assert_eq!(found, expected);
            }
        }
    }
}
