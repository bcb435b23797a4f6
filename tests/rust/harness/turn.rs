//! Tests run side by side, except those that want the machine for themselves.

use std::cell::RefCell;
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

static MACHINE: RwLock<()> = RwLock::new(());

/// Held until its test's thread ends.
enum Turn {
    Shared(#[allow(dead_code)] RwLockReadGuard<'static, ()>),
    Alone(#[allow(dead_code)] RwLockWriteGuard<'static, ()>),
}

thread_local! {
    static TURN: RefCell<Option<Turn>> = const { RefCell::new(None) };
}

/// Waits while another test is [`alone`]. Every server that starts does this.
pub(super) fn together() {
    TURN.with_borrow_mut(|turn| {
        if turn.is_none() {
            *turn = Some(Turn::Shared(MACHINE.read().unwrap_or_else(PoisonError::into_inner)));
        }
    });
}

/// Waits until no other test runs a server, and keeps it so until this test ends.
pub(crate) fn alone() {
    TURN.with_borrow_mut(|turn| {
        if !matches!(turn, Some(Turn::Alone(_))) {
            // The shared turn must go first, or this would wait for itself.
            *turn = None;
            *turn = Some(Turn::Alone(MACHINE.write().unwrap_or_else(PoisonError::into_inner)));
        }
    });
}
