//! Two small containers of the engine: things under dense numbers, and lists of such numbers.

use rustc_hash::FxHashMap;

/// Things under small numbers. A number is used again once its thing was removed.
#[derive(Debug)]
pub(super) struct Slots<T> {
    entries: Vec<Option<T>>,
    free: Vec<u32>,
}

impl<T> Default for Slots<T> {
    fn default() -> Self {
        Self { entries: Vec::new(), free: Vec::new() }
    }
}

impl<T> Slots<T> {
    pub(super) fn insert(&mut self, value: T) -> u32 {
        match self.free.pop() {
            Some(id) => {
                self.entries[id as usize] = Some(value);
                id
            }
            None => {
                self.entries.push(Some(value));
                (self.entries.len() - 1) as u32
            }
        }
    }

    pub(super) fn remove(&mut self, id: u32) -> Option<T> {
        let value = self.entries.get_mut(id as usize)?.take()?;
        self.free.push(id);
        Some(value)
    }

    pub(super) fn get(&self, id: u32) -> Option<&T> {
        self.entries.get(id as usize)?.as_ref()
    }

    pub(super) fn get_mut(&mut self, id: u32) -> Option<&mut T> {
        self.entries.get_mut(id as usize)?.as_mut()
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len() - self.free.len()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, &T)> {
        self.entries.iter().enumerate().filter_map(|(id, entry)| Some((id as u32, entry.as_ref()?)))
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = (u32, &mut T)> {
        self.entries.iter_mut().enumerate().filter_map(|(id, entry)| Some((id as u32, entry.as_mut()?)))
    }

    /// One more than the largest number in use.
    pub(super) fn bound(&self) -> usize {
        self.entries.len()
    }
}

/// From this length on a list remembers where each of its numbers stands.
const MAP_FROM: usize = 32;

/// Distinct numbers in no particular order; adding, removing and walking are cheap at any length.
#[derive(Debug, Default)]
pub(super) struct IdList {
    ids: Vec<u32>,
    /// Where each number stands in `ids`; kept only for long lists, which most are not.
    places: Option<FxHashMap<u32, u32>>,
}

impl IdList {
    /// Adds a number that is not in the list.
    pub(super) fn insert(&mut self, id: u32) {
        let place = self.ids.len();
        self.ids.push(id);
        match &mut self.places {
            Some(places) => {
                places.insert(id, place as u32);
            }
            None if self.ids.len() > MAP_FROM => {
                self.places = Some(self.ids.iter().enumerate().map(|(place, id)| (*id, place as u32)).collect());
            }
            None => {}
        }
    }

    pub(super) fn remove(&mut self, id: u32) {
        let place = match &mut self.places {
            Some(places) => places.remove(&id).map(|place| place as usize),
            None => self.ids.iter().position(|known| *known == id),
        };
        let Some(place) = place else { return };
        self.ids.swap_remove(place);
        if let (Some(places), Some(moved)) = (&mut self.places, self.ids.get(place)) {
            places.insert(*moved, place as u32);
        }
        if self.ids.is_empty() {
            *self = Self::default();
        }
    }

    pub(super) fn as_slice(&self) -> &[u32] {
        &self.ids
    }

    pub(super) fn len(&self) -> usize {
        self.ids.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn numbers_are_used_again() {
        let mut slots = Slots::default();
        let (a, b) = (slots.insert("a"), slots.insert("b"));
        assert_eq!(slots.remove(a), Some("a"));
        assert_eq!(slots.remove(a), None);
        assert_eq!(slots.insert("c"), a);
        assert_eq!((slots.len(), slots.get(b), slots.get(9)), (2, Some(&"b"), None));
    }

    #[test]
    fn a_list_holds_what_was_added_and_not_removed() {
        let (mut list, mut model) = (IdList::default(), BTreeSet::new());
        for step in 0..2_000_u32 {
            let id = step.wrapping_mul(2_654_435_761) % 97;
            if model.remove(&id) {
                list.remove(id);
            } else {
                model.insert(id);
                list.insert(id);
            }
            let held: BTreeSet<u32> = list.as_slice().iter().copied().collect();
            assert_eq!((held, list.len()), (model.clone(), model.len()));
        }
        list.remove(1_000);
    }
}
