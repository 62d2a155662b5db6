//! Items that cannot be used: skipped with a warning each, or collected until the step fails with all of them.

use std::fmt::Write as _;

use stic_contract::recipe::OnUnreadable;

use super::listing::{ListedItem, SkipPolicy};
use crate::error::{Error, Result};

/// The most that a message lists.
const MOST: usize = 100;

pub(super) struct Problems {
    /// Items in all.
    total: u64,
    policy: SkipPolicy,
    count: u64,
    /// The first ones, each with the line of its item.
    listed: Vec<(usize, String)>,
}

impl Problems {
    pub(super) const fn new(total: u64, policy: SkipPolicy) -> Self {
        Self { total, policy, count: 0, listed: Vec::new() }
    }

    /// Adds an item that cannot be used, and why.
    ///
    /// # Errors
    /// [`Error::Data`] once it makes no difference what the other items are.
    pub(super) fn add(&mut self, item: &ListedItem, reason: &str) -> Result<()> {
        self.count += 1;
        if self.listed.len() < MOST {
            self.listed.push((item.place.as_ref().map_or(0, |place| place.line), reason.to_owned()));
        }
        match self.policy.on_unreadable {
            OnUnreadable::Fail if self.count < MOST as u64 => Ok(()),
            OnUnreadable::Fail => Err(self.all()),
            OnUnreadable::Skip => {
                tracing::warn!("skipped item {:?}: {reason}", item.id);
                if self.policy.max_share.is_some_and(|share| self.share() > share) {
                    return Err(self.too_many());
                }
                Ok(())
            }
        }
    }

    /// # Errors
    /// [`Error::Data`] if there are problems and none may be skipped.
    pub(super) fn check(self) -> Result<()> {
        if self.count > 0 && self.policy.on_unreadable == OnUnreadable::Fail {
            Err(self.all())
        } else {
            Ok(())
        }
    }

    fn share(&self) -> f64 {
        self.count as f64 / self.total.max(1) as f64
    }

    fn all(&self) -> Error {
        if self.count == self.total {
            return Error::Data(format!(
                "none of the {} items can be used; correct the paths in the spec, or the files{}",
                self.total,
                self.list()
            ));
        }
        if let [(_, reason)] = self.listed.as_slice() {
            return Error::Data(format!("{reason}; or set onUnreadable: Skip"));
        }
        let at_least = if self.count < MOST as u64 { "" } else { "at least " };
        Error::Data(format!(
            "{at_least}{} of {} items cannot be used; fix or remove them, or set onUnreadable: Skip{}",
            self.count,
            self.total,
            self.list()
        ))
    }

    fn too_many(&self) -> Error {
        Error::Data(format!(
            "{} of {} items cannot be used so far, a larger share than images.maxSkippedShare allows ({}); fix them or raise it{}",
            self.count,
            self.total,
            self.policy.max_share.unwrap_or_default(),
            self.list()
        ))
    }

    /// A line for each, in the order of the file.
    fn list(&self) -> String {
        let mut listed: Vec<_> = self.listed.iter().collect();
        listed.sort_by_key(|(line, _)| *line);
        let mut text = String::from(":");
        for (_, reason) in listed {
            let _ = write!(text, "\n  {reason}");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::super::listing::Place;
    use super::*;

    fn item(line: usize) -> ListedItem {
        let place = Some(Place { path: "rows.json".into(), line });
        ListedItem { id: format!("i{line}"), place, ..ListedItem::default() }
    }

    fn problems(on_unreadable: OnUnreadable, max_share: Option<f64>) -> Problems {
        Problems::new(1000, SkipPolicy { on_unreadable, max_share })
    }

    #[test]
    fn under_fail_all_are_listed_in_the_order_of_the_file_and_a_hundred_at_most() {
        let mut few = problems(OnUnreadable::Fail, None);
        for line in [9, 3, 7] {
            few.add(&item(line), &format!("rows.json:{line}: broken")).expect("more may come");
        }
        let message = few.check().expect_err("none may be skipped").to_string();
        assert_eq!(
            message,
            "3 of 1000 items cannot be used; fix or remove them, or set onUnreadable: Skip:\n  rows.json:3: broken\n  \
             rows.json:7: broken\n  rows.json:9: broken"
        );
        let mut many = problems(OnUnreadable::Fail, None);
        let ended =
            (1..=1000).find_map(|line| many.add(&item(line), "broken").err().map(|e| (line, e.to_string())));
        let (line, message) = ended.expect("too many");
        assert_eq!(line, 100);
        assert!(
            message.starts_with("at least 100 of 1000 items") && message.lines().count() == 101,
            "{message}"
        );
    }

    #[test]
    fn under_skip_a_share_may_be_skipped() {
        let mut any = problems(OnUnreadable::Skip, None);
        let mut limited = problems(OnUnreadable::Skip, Some(0.002));
        for line in 1..=2 {
            any.add(&item(line), "broken").expect("any share");
            limited.add(&item(line), "broken").expect("a share of 0.002");
        }
        any.add(&item(3), "broken").expect("any share");
        any.check().expect("skipped");
        let message = limited.add(&item(3), "broken").expect_err("a larger share").to_string();
        assert!(message.starts_with("3 of 1000 items cannot be used so far"), "{message}");
        assert!(message.contains("images.maxSkippedShare allows (0.002)"), "{message}");
    }
}
