//! The exchanges with the judge about answers, journalled reply by reply.

use std::collections::HashSet;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::thread;

use serde::{Deserialize, Serialize};
use serde_json::json;
use stic_contract::Digest;
use stic_evaluation::judge::{Request, Step, Template, Verdict};
use stic_evaluation::registry::{Question, RegisteredBenchmark};

use super::judge::Judge;
use crate::cancellation::CancellationToken;
use crate::error::{Error, Result};
use crate::io::journal::{Journal, Row, RowLookup};

/// Exchanges at a time: a judge takes seconds for a reply, most of them waiting.
const AT_ONCE: usize = 4;

/// A row of a journal of judgements.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct JudgeReply {
    /// Of the case, and the number of the reply.
    id: String,
    pub request: Request,
    pub reply: String,
}

impl Row for JudgeReply {
    fn id(&self) -> &str {
        &self.id
    }
}

/// An answer to judge.
#[derive(Debug, Clone)]
pub struct Case {
    pub question: Question,
    pub answer: String,
    /// How often it was judged before, if it is judged several times.
    pub repeat: u32,
}

impl Case {
    /// It depends on all that is judged, and not on who answered: equal answers are judged once.
    #[must_use]
    pub fn id(&self) -> String {
        let Question { benchmark, id, item, .. } = &self.question;
        let judged = Digest::of_json(&json!([item, self.answer]));
        format!("{benchmark}/{id} {} {}", judged.short(16), self.repeat)
    }
}

/// Where the exchange about a case stands.
#[derive(Debug)]
pub enum Standing {
    /// No judge is needed.
    Unneeded,
    /// There is a verdict, or `failed`, there will be none.
    Settled { failed: bool, exchanges: Vec<JudgeReply> },
    /// The judge has to be asked.
    Open,
}

/// How asking ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// Every case is settled.
    Complete,
    /// The run may send no more requests.
    BudgetUsed,
}

/// The exchanges about the answers to one benchmark.
pub struct Exchanges<'a> {
    benchmark: &'static RegisteredBenchmark,
    template: &'a Template,
    replies: RowLookup<JudgeReply>,
}

impl<'a> Exchanges<'a> {
    /// Reads the replies in `journals`. If two have one to the same request, that in the first counts.
    ///
    /// # Errors
    /// As [`RowLookup::add`].
    pub fn read<P: AsRef<Path>>(
        benchmark: &'static RegisteredBenchmark,
        template: &'a Template,
        journals: &[P],
    ) -> Result<Self> {
        let mut replies = RowLookup::default();
        for journal in journals {
            replies.add(journal.as_ref(), |reply: &JudgeReply| reply.id.clone())?;
        }
        Ok(Self { benchmark, template, replies })
    }

    /// Where the exchange about `case` stands by the replies that were read.
    ///
    /// # Errors
    /// [`Error::Data`] for a question of another version; [`Error::Storage`].
    pub fn standing(&self, case: &Case) -> Result<Standing> {
        let exchanges = self.replies_to(&case.id())?;
        let texts: Vec<String> = exchanges.iter().map(|exchange| exchange.reply.clone()).collect();
        Ok(match self.step(case, &texts)? {
            None => Standing::Unneeded,
            Some(Step::Ask(_)) => Standing::Open,
            Some(Step::Decided(_)) => Standing::Settled { failed: false, exchanges },
            Some(Step::Failed) => Standing::Settled { failed: true, exchanges },
        })
    }

    fn replies_to(&self, case: &str) -> Result<Vec<JudgeReply>> {
        (0..).map_while(|number| self.replies.get(&reply_id(case, number)).transpose()).collect()
    }

    fn step(&self, case: &Case, replies: &[String]) -> Result<Option<Step<Verdict>>> {
        Ok(self.benchmark.judge(self.template, &case.question, &case.answer, replies)?)
    }

    /// Asks about each of `cases` until it is settled, and appends the replies to `journal`. Cases with equal ids are asked
    /// about once. `on_settled` is told of each that was not settled before.
    ///
    /// # Errors
    /// [`Error::JudgeUnavailable`], [`Error::JudgeStopped`], [`Error::Interrupted`], [`Error::Storage`], and those of `cases`; the
    /// replies until then are in the journal.
    pub fn ask(
        &self,
        judge: &Judge<'_>,
        cases: impl Iterator<Item = Result<Case>> + Send,
        journal: Journal,
        on_settled: impl FnMut() -> Result<()> + Send,
    ) -> Result<Ended> {
        let shared = Shared {
            cases: Mutex::new((cases, HashSet::new())),
            journal: Mutex::new(journal),
            on_settled: Mutex::new(on_settled),
        };
        // The first error ends the others.
        let stop = judge.cancellation().child();
        let ended: Vec<Result<Ended>> = thread::scope(|scope| {
            let worker = || self.work(judge, &shared, &stop).inspect_err(|_| stop.cancel());
            let workers: Vec<_> = (0..AT_ONCE).map(|_| scope.spawn(worker)).collect();
            workers
                .into_iter()
                .map(|worker| worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
                .collect()
        });
        outcome(ended)
    }

    fn work<C: Iterator<Item = Result<Case>>, F: FnMut() -> Result<()>>(
        &self,
        judge: &Judge<'_>,
        shared: &Shared<C, F>,
        stop: &CancellationToken,
    ) -> Result<Ended> {
        while let Some(case) = shared.next() {
            stop.check()?;
            let case = case?;
            let id = case.id();
            let mut replies: Vec<String> =
                self.replies_to(&id)?.into_iter().map(|exchange| exchange.reply).collect();
            let known = replies.len();
            while let Some(Step::Ask(request)) = self.step(&case, &replies)? {
                let Some(reply) = judge.ask(&request, stop)? else { return Ok(Ended::BudgetUsed) };
                let row = JudgeReply { id: reply_id(&id, replies.len()), request, reply };
                lock(&shared.journal).append(&row)?;
                replies.push(row.reply);
            }
            if replies.len() > known {
                (*lock(&shared.on_settled))()?;
            }
        }
        Ok(Ended::Complete)
    }
}

fn reply_id(case: &str, number: usize) -> String {
    format!("{case}.{number}")
}

/// What the threads share.
struct Shared<C, F> {
    /// And the ids of those that were taken.
    cases: Mutex<(C, HashSet<Digest>)>,
    journal: Mutex<Journal>,
    on_settled: Mutex<F>,
}

impl<C: Iterator<Item = Result<Case>>, F> Shared<C, F> {
    fn next(&self) -> Option<Result<Case>> {
        let mut cases = lock(&self.cases);
        let (cases, taken) = &mut *cases;
        cases.find(|case| case.as_ref().map_or(true, |case| taken.insert(Digest::of(case.id().as_bytes()))))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What the threads come to together. That some were interrupted by another one explains nothing.
fn outcome(ended: Vec<Result<Ended>>) -> Result<Ended> {
    let (mut interrupted, mut budget_used) = (false, false);
    for worker in ended {
        match worker {
            Ok(Ended::Complete) => {}
            Ok(Ended::BudgetUsed) => budget_used = true,
            Err(Error::Interrupted) => interrupted = true,
            Err(error) => return Err(error),
        }
    }
    match (budget_used, interrupted) {
        (true, _) => Ok(Ended::BudgetUsed),
        (false, true) => Err(Error::Interrupted),
        (false, false) => Ok(Ended::Complete),
    }
}
