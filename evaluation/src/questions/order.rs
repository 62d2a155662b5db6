//! The order of questions and the choice of a subset: both follow from ids alone, so that they are the same whatever form
//! was read.

use std::cmp::Ordering;

use stic_contract::Digest;

/// Changes which questions a limit picks.
const DOMAIN: &str = "stic-evaluation-subset-1";

/// Compares ids as a person would: runs of digits by their number, everything else by its bytes. So `2` comes before `10`
/// and `q2-b` after `q2-a`. Only equal texts are equal.
#[must_use]
pub fn natural(a: &str, b: &str) -> Ordering {
    let (mut left, mut right) = (a.as_bytes(), b.as_bytes());
    while let (Some(&x), Some(&y)) = (left.first(), right.first()) {
        let order = if x.is_ascii_digit() && y.is_ascii_digit() {
            let (number, other) = (take_number(&mut left), take_number(&mut right));
            number.len().cmp(&other.len()).then_with(|| number.cmp(other))
        } else {
            (left, right) = (&left[1..], &right[1..]);
            x.cmp(&y)
        };
        if order.is_ne() {
            return order;
        }
    }
    left.len().cmp(&right.len()).then_with(|| a.cmp(b))
}

/// Takes the digits in front and returns them without leading zeros.
fn take_number<'a>(text: &mut &'a [u8]) -> &'a [u8] {
    let digits = text.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let (number, rest) = text.split_at(digits);
    *text = rest;
    let zeros = number.iter().take_while(|&&digit| digit == b'0').count();
    &number[zeros..]
}

/// Where a unit of questions stands in the line of those that a limit takes: the smallest first. A smaller subset is part of
/// every larger one.
pub(super) fn rank(unit: &str) -> Digest {
    Digest::of(format!("{DOMAIN}\n{unit}").as_bytes())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn digits_are_numbers() {
        let mut ids =
            ["q10", "q9", "q2-b", "q2-a", "10", "9", "", "09", "a", "1000000000000000000000001", "9z"];
        ids.sort_by(|a, b| natural(a, b));
        assert_eq!(
            ids,
            ["", "09", "9", "9z", "10", "1000000000000000000000001", "a", "q2-a", "q2-b", "q9", "q10"]
        );
    }

    #[test]
    fn ranks_are_pinned() {
        // hashlib.sha256(b"stic-evaluation-subset-1\n17").hexdigest()[:8]
        assert_eq!(rank("17").short(8), "510cb8d2");
    }

    proptest! {
        #[test]
        fn it_is_a_total_order(a in "[0-2a.é]{0,5}", b in "[0-2a.é]{0,5}", c in "[0-2a.é]{0,5}") {
            prop_assert_eq!(natural(&a, &b), natural(&b, &a).reverse());
            prop_assert_eq!(natural(&a, &b).is_eq(), a == b);
            if natural(&a, &b).is_le() && natural(&b, &c).is_le() {
                prop_assert!(natural(&a, &c).is_le());
            }
        }
    }
}
