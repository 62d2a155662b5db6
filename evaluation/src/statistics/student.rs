//! Quantiles of the normal and of Student's t distribution.

use statrs::distribution::{ContinuousCDF, StudentsT};

/// The quantile of the normal distribution at 97.5%.
pub(super) const NORMAL_975: f64 = 1.959_963_984_540_054;
/// The quantile of the normal distribution at 80%.
pub(super) const NORMAL_80: f64 = 0.841_621_233_572_914_2;

/// From here on the expansion is exact to 10 digits, and statrs less so.
const MANY: f64 = 150.0;

/// The quantile of Student's t at 97.5%, to 9 digits; `degrees` need not be whole.
pub(super) fn t_975(degrees: f64) -> f64 {
    if degrees < MANY {
        let exact = StudentsT::new(0.0, 1.0, degrees).map(|student| student.inverse_cdf(0.975));
        return exact.unwrap_or(NORMAL_975);
    }
    // Abramowitz and Stegun 26.7.5.
    let z = NORMAL_975;
    let square = z * z;
    let terms = [
        z * (square + 1.0) / 4.0,
        z * ((5.0 * square + 16.0) * square + 3.0) / 96.0,
        z * (((3.0 * square + 19.0) * square + 17.0) * square - 15.0) / 384.0,
        z * ((((79.0 * square + 776.0) * square + 1482.0) * square - 1920.0) * square - 945.0) / 92160.0,
    ];
    z + terms.iter().rev().fold(0.0, |sum, term| (sum + term) / degrees)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `[(v, scipy.stats.t.ppf(0.975, v)) for v in (1, 1.5, 2, ...)]`, scipy 1.17
    #[test]
    fn quantiles_are_scipys() {
        let scipy = [
            (1.0, 12.706_204_736_174_694),
            (1.5, 6.016_663_104_427_929),
            (2.0, 4.302_652_729_749_462),
            (3.7, 2.867_520_707_191_189_5),
            (19.0, 2.093_024_054_408_309),
            (59.0, 2.000_995_378_088_267),
            (120.3, 1.979_880_118_527_081_1),
            (149.9, 1.975_916_050_309_555),
            (150.0, 1.975_905_330_896_620_1),
            (499.0, 1.964_729_390_987_688_6),
            (2016.0, 1.961_141_401_161_219_6),
            (1e6, 1.959_966_356_814_107),
        ];
        for (degrees, expected) in scipy {
            let got = t_975(degrees);
            assert!((got / expected - 1.0).abs() < 1e-9, "{degrees}: {got} {expected}");
        }
    }
}
