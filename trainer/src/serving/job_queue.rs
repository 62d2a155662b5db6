//! Jobs that wait, by model. A batch has one adapter, so the models take turns.
//!
//! A turn admits every job that waited for its model when it began, and later ones while no other model has any. So each job
//! waits for at most one turn of each other model, and a model that nobody else competes with is never interrupted.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// How many jobs are in it is bounded by the places that requests take before they come here.
pub(super) struct JobQueue<J> {
    state: Mutex<State<J>>,
    changed: Condvar,
}

struct State<J> {
    /// Of each model, with the tokens that each job needs.
    waiting: Vec<VecDeque<(usize, J)>>,
    /// The model whose turn it is.
    turn: usize,
    /// The jobs that waited when the turn began and have not been taken.
    entitled: usize,
    closed: bool,
}

impl<J> JobQueue<J> {
    pub(super) fn new(models: usize) -> Self {
        let waiting = (0..models).map(|_| VecDeque::new()).collect();
        let state = State { waiting, turn: models.saturating_sub(1), entitled: 0, closed: false };
        Self { state: Mutex::new(state), changed: Condvar::new() }
    }

    fn lock(&self) -> MutexGuard<'_, State<J>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Appends a job of a model; whether it was accepted, which it is unless the queue is closed.
    #[must_use]
    pub(super) fn push(&self, model: usize, tokens: usize, job: J) -> bool {
        let mut state = self.lock();
        let State { waiting, closed: false, .. } = &mut *state else { return false };
        let Some(waiting) = waiting.get_mut(model) else { return false };
        waiting.push_back((tokens, job));
        self.changed.notify_one();
        true
    }

    /// Waits for a job and begins the turn of the next model that has one; `None` once the queue is closed.
    pub(super) fn next_turn(&self) -> Option<usize> {
        let mut state = self.lock();
        loop {
            if state.closed {
                return None;
            }
            let models = state.waiting.len();
            let next = (1..=models).map(|step| (state.turn + step) % models);
            if let Some(model) = next.into_iter().find(|model| !state.waiting[*model].is_empty()) {
                state.turn = model;
                state.entitled = state.waiting[model].len();
                return Some(model);
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// The next job of the turn, with the tokens it needs, if there are so many; `None` if none may be taken now.
    pub(super) fn take(&self, room: usize) -> Option<(usize, J)> {
        let mut state = self.lock();
        let State { waiting, turn, entitled, .. } = &mut *state;
        let others_wait = waiting.iter().enumerate().any(|(model, jobs)| model != *turn && !jobs.is_empty());
        if *entitled == 0 && others_wait {
            return None;
        }
        let waiting = waiting.get_mut(*turn)?;
        if waiting.front().is_none_or(|(tokens, _)| *tokens > room) {
            return None;
        }
        let job = waiting.pop_front()?;
        *entitled = entitled.saturating_sub(1);
        Some(job)
    }

    /// Gives up the jobs that wait, and accepts no others.
    pub(super) fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        let given_up: Vec<_> = state.waiting.iter_mut().map(std::mem::take).collect();
        drop(state);
        drop(given_up);
        self.changed.notify_all();
    }

    pub(super) fn is_closed(&self) -> bool {
        self.lock().closed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queue(jobs: &[(usize, &'static str)]) -> JobQueue<&'static str> {
        let queue = JobQueue::new(3);
        jobs.iter().for_each(|(model, job)| assert!(queue.push(*model, 10, *job)));
        queue
    }

    fn take_all(queue: &JobQueue<&'static str>) -> Vec<&'static str> {
        std::iter::from_fn(|| queue.take(10)).map(|(_, job)| job).collect()
    }

    #[test]
    fn models_take_turns_that_end_where_another_one_waits() {
        let queue = queue(&[(1, "b1"), (0, "a1"), (1, "b2")]);
        assert_eq!(queue.next_turn(), Some(0));
        assert!(queue.push(0, 10, "a2"));
        assert_eq!(take_all(&queue), ["a1"], "a2 came later, and b1 waits");
        assert_eq!(queue.next_turn(), Some(1));
        assert_eq!(take_all(&queue), ["b1", "b2"]);
        assert_eq!(queue.next_turn(), Some(0));
        assert!(queue.push(0, 10, "a3"));
        assert_eq!(take_all(&queue), ["a2", "a3"], "nobody else waits");
        assert!(queue.push(2, 10, "c1") && queue.push(0, 10, "a4"));
        assert_eq!(take_all(&queue), [""; 0]);
        assert_eq!(queue.next_turn(), Some(2));
    }

    #[test]
    fn a_job_waits_for_room_and_none_overtakes_it() {
        let queue = queue(&[]);
        assert!(queue.push(0, 30, "large") && queue.push(0, 5, "small"));
        assert_eq!(queue.next_turn(), Some(0));
        assert_eq!(queue.take(29), None);
        assert_eq!(queue.take(30), Some((30, "large")));
        assert_eq!(queue.take(5), Some((5, "small")));
    }

    #[test]
    fn a_closed_queue_is_empty_and_wakes_the_engine() {
        let queue = queue(&[(0, "a1")]);
        assert_eq!(queue.next_turn(), Some(0));
        assert_eq!(take_all(&queue), ["a1"]);
        std::thread::scope(|scope| {
            let engine = scope.spawn(|| queue.next_turn());
            queue.close();
            assert_eq!(engine.join().expect("no panic"), None);
        });
        assert!(queue.is_closed() && !queue.push(0, 10, "a2"));
        assert_eq!(queue.take(10), None);
    }
}
