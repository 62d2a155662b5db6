//! When the training state is saved, and which states are kept. Pure.

/// The number of states that are kept: where the newest is damaged, training continues from the one before.
pub const KEPT: usize = 2;

/// What to do with saved states.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Save the current state.
    Save,
    /// Delete the state of this step.
    Delete(u64),
}

/// What to do after `done` of `total` steps, with intact states of the steps `saved`, in ascending order.
/// Neither the start nor the end is saved: the former can be recreated, and the latter is followed by the
/// artifact.
#[must_use]
pub fn after(done: u64, total: u64, every: u32, interrupted: bool, saved: &[u64]) -> Vec<Action> {
    let due = interrupted || (every > 0 && done.is_multiple_of(u64::from(every)));
    if !due || done == 0 || done >= total || saved.contains(&done) {
        return Vec::new();
    }
    let surplus = (saved.len() + 1).saturating_sub(KEPT);
    std::iter::once(Action::Save).chain(saved[..surplus].iter().map(|step| Action::Delete(*step))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn saves_at_the_interval_and_when_interrupted() {
        let saves =
            |done, total, every, interrupted| after(done, total, every, interrupted, &[]) == [Action::Save];
        let saved: Vec<u64> = (0..=10).filter(|done| saves(*done, 10, 4, false)).collect();
        assert_eq!(saved, [4, 8]);
        assert!(saves(3, 10, 4, true) && saves(3, 10, 0, true));
        assert!(!saves(0, 10, 4, true) && !saves(10, 10, 5, true) && !saves(3, 10, 0, false));
    }

    #[test]
    fn the_last_two_states_are_kept() {
        for stop in 0..20 {
            let mut saved = Vec::new();
            for done in 1..=20 {
                for action in after(done, 20, 3, done == stop, &saved) {
                    match action {
                        Action::Save => saved.push(done),
                        Action::Delete(step) => saved.retain(|other| *other != step),
                    }
                    assert!(saved.len() <= KEPT + 1 && saved.last() == Some(&done), "{saved:?} at {done}");
                }
                assert!(saved.len() <= KEPT, "{saved:?} at {done}");
            }
            let mut due: Vec<u64> = (1..20).filter(|done| done % 3 == 0 || *done == stop).collect();
            assert_eq!(saved, due.split_off(due.len() - KEPT), "stopped at {stop}");
        }
    }

    #[test]
    fn a_saved_state_is_not_saved_again() {
        assert!(after(8, 20, 4, true, &[4, 8]).is_empty());
    }
}
