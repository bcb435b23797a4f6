//! Ids of new objects: random from one millisecond to the next and increasing within one, so that objects of the same
//! `createdAt` come in the order in which they were made, whoever breaks the tie by the id.

use super::now;
use rand::Rng;
use std::sync::{Mutex, PoisonError};
use tidings_protocol::{Date, ObjectId};

/// In the order of their bytes.
const LETTERS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
/// As many letters and digits as Parse takes.
const LENGTH: usize = 10;
/// How many ids there are.
const ALL: u64 = 62_u64.pow(LENGTH as u32);
/// Milliseconds begin below this: what is above has room for twelve thousand of the longest steps.
const BEGINNINGS: u64 = ALL / 62 * 61;
/// Who knows one id cannot guess the next.
const LONGEST_STEP: u64 = 1 << 40;

/// The ids of the millisecond at hand.
struct Ids {
    at: Date,
    last: u64,
}

static IDS: Mutex<Ids> = Mutex::new(Ids { at: Date::MIN, last: 0 });

/// The id and the `createdAt` of a new object.
pub(super) fn next() -> (ObjectId, Date) {
    let mut ids = IDS.lock().unwrap_or_else(PoisonError::into_inner);
    // Read under the lock: else who reads the clock first might come second.
    let at = now();
    (written(ids.next(at)), at)
}

impl Ids {
    fn next(&mut self, at: Date) -> u64 {
        let mut random = rand::rng();
        let next = self.last + random.random_range(1..=LONGEST_STEP);
        // An hour that a clock goes through twice is not in order, nor is a millisecond that runs out of ids, which no
        // machine is fast enough for: as good as random ones they are all the same.
        self.last = if at == self.at && next < ALL { next } else { random.random_range(0..BEGINNINGS) };
        self.at = at;
        self.last
    }
}

fn written(mut number: u64) -> ObjectId {
    let mut text = [0; LENGTH];
    for letter in text.iter_mut().rev() {
        *letter = LETTERS[(number % 62) as usize];
        number /= 62;
    }
    ObjectId::new(text.into_iter().map(char::from).collect::<compact_str::CompactString>())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn ids_of_one_createdat_increase() {
        let made: Vec<_> = (0..100_000).map(|_| next()).collect();
        let mut same = 0;
        for pair in made.windows(2) {
            let ((a, before), (b, after)) = (&pair[0], &pair[1]);
            if before == after {
                same += 1;
                assert!(a.as_bytes() < b.as_bytes(), "{a} {b}");
            }
        }
        assert!(same > 0);
        for (id, _) in &made {
            assert!(id.len() == LENGTH && id.bytes().all(|letter| letter.is_ascii_alphanumeric()), "{id}");
        }
        assert_eq!(made.iter().map(|(id, _)| id).collect::<HashSet<_>>().len(), made.len());
    }

    #[test]
    fn many_fit_into_a_millisecond_and_then_they_start_over() {
        let at = Date::MAX;
        let mut ids = Ids { at, last: BEGINNINGS - 1 };
        let numbers: Vec<u64> = (0..12_000).map(|_| ids.next(at)).collect();
        assert!(numbers.is_sorted());
        let mut full = Ids { at, last: ALL - 1 };
        assert!(full.next(at) < BEGINNINGS);
    }

    #[test]
    fn numbers_are_written_in_their_order() {
        assert_eq!((&*written(0), &*written(61), &*written(62)), ("0000000000", "000000000z", "0000000010"));
        assert_eq!(&*written(ALL - 1), "zzzzzzzzzz");
        assert!(LETTERS.is_sorted());
    }
}
