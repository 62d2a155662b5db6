//! When training state is saved. Pure.

/// Whether to save after `done` of `total` steps. The last step is not saved: what follows it is the artifact.
#[must_use]
pub const fn save_after(done: u64, total: u64, every: u32, interrupted: bool) -> bool {
    if done >= total {
        return false;
    }
    interrupted || (every > 0 && done.is_multiple_of(every as u64))
}

#[cfg(test)]
mod tests {
    use super::save_after;

    #[test]
    fn saves_at_the_interval_and_when_asked_to_stop() {
        let saved: Vec<u64> = (1..=10).filter(|done| save_after(*done, 10, 4, false)).collect();
        assert_eq!(saved, [4, 8]);
        assert!(save_after(3, 10, 4, true));
        assert!(!save_after(10, 10, 5, true));
        assert!(!save_after(3, 10, 0, false));
    }
}
