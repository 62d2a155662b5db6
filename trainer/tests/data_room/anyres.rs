use serde::Deserialize;
use sha2::{Digest, Sha256};
use stic_trainer::data::anyres::{Geometry, select_best_resolution};

use crate::fixtures::json;

#[derive(Deserialize)]
struct Golden {
    crop: u32,
    side: usize,
    pinpoints: Vec<(u32, u32)>,
    /// height, width, best height, best width, tokens.
    rows: Vec<(u32, u32, u32, u32, usize)>,
    /// Of the counts of heights 1, 4, .. 697 and widths 1 to 699 as little-endian u32.
    sweep: String,
}

#[derive(Deserialize)]
struct Goldens {
    real: Golden,
    tiny: Golden,
}

#[test]
fn resolutions_and_token_counts_are_those_of_transformers() {
    let Goldens { real, tiny } = json("anyres.json");
    for golden in [real, tiny] {
        let geometry = Geometry::new(golden.pinpoints.clone(), golden.crop, golden.side).unwrap();
        for (height, width, best_height, best_width, tokens) in golden.rows {
            let size = (height, width);
            assert_eq!(
                select_best_resolution(size, &golden.pinpoints),
                Some((best_height, best_width)),
                "{size:?}"
            );
            let packing = geometry.packing(size);
            assert_eq!(packing.tokens(), tokens, "{size:?}");
            assert_eq!(geometry.image_token_count(size), tokens);
            assert_eq!(packing.tiles() as u32, best_height / golden.crop * (best_width / golden.crop));
        }
        let mut sweep = Sha256::new();
        for height in (1..700).step_by(3) {
            for width in 1..700 {
                sweep.update((geometry.image_token_count((height, width)) as u32).to_le_bytes());
            }
        }
        let digest: String = sweep.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(digest, golden.sweep);
    }
}

#[test]
fn counts_checked_by_hand_hold() {
    let geometry = Geometry::new(stic_trainer::data::anyres::DEFAULT_PINPOINTS.to_vec(), 336, 24).unwrap();
    for (height, width, tokens) in [
        (480, 640, 2340),
        (640, 480, 2352),
        (427, 640, 2144),
        (640, 640, 2928),
        (336, 336, 1176),
        (500, 333, 1476),
        (1000, 300, 2232),
    ] {
        assert_eq!(geometry.image_token_count((height, width)), tokens, "{height}x{width}");
    }
}

#[test]
fn a_geometry_that_holds_no_image_is_refused() {
    for (pinpoints, crop, side, reason) in [
        (vec![], 336, 24, "is empty"),
        (vec![(336, 500)], 336, 24, "[336, 500]"),
        (vec![(0, 336)], 336, 24, "[0, 336]"),
        (vec![(336, 336)], 0, 24, "holds no image"),
        (vec![(336, 336)], 336, 0, "holds no image"),
    ] {
        let message = Geometry::new(pinpoints, crop, side).unwrap_err().to_string();
        assert!(message.contains(reason), "{message}");
    }
}
