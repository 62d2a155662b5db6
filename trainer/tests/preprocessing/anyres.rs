use serde::Deserialize;
use sha2::{Digest, Sha256};
use stic_trainer::data::anyres::{Geometry, select_best_resolution};

use crate::fixtures::json;

#[derive(Deserialize)]
struct AnyresGolden {
    crop: u32,
    side: usize,
    pinpoints: Vec<(u32, u32)>,
    /// height, width, best height, best width, tokens.
    rows: Vec<(u32, u32, u32, u32, usize)>,
    /// The hash of the token counts of heights 1, 4, .. 697 and widths 1 to 699 as little-endian u32.
    sweep: String,
}

#[derive(Deserialize)]
struct AnyresGoldens {
    real: AnyresGolden,
    tiny: AnyresGolden,
}

#[test]
fn resolutions_and_token_counts_equal_transformers() {
    let AnyresGoldens { real, tiny } = json("anyres.json");
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
            assert_eq!(geometry.packing(size).tokens(), tokens);
            assert_eq!(packing.tiles() as u32, best_height / golden.crop * (best_width / golden.crop));
        }
        let mut sweep = Sha256::new();
        for height in (1..700).step_by(3) {
            for width in 1..700 {
                sweep.update((geometry.packing((height, width)).tokens() as u32).to_le_bytes());
            }
        }
        let digest: String = sweep.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(digest, golden.sweep);
    }
}

#[test]
fn token_counts_computed_by_hand() {
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
        assert_eq!(geometry.packing((height, width)).tokens(), tokens, "{height}x{width}");
    }
}

#[test]
fn a_geometry_without_room_for_an_image_is_refused() {
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

#[test]
fn a_pinpoint_that_no_memory_holds_is_refused() {
    let geometry = |side: u32| Geometry::new(vec![(side, 16)], 16, 4);
    assert!(geometry(16384).is_ok());
    let message = geometry(16400).unwrap_err().to_string();
    assert!(
        message.starts_with("image_grid_pinpoints holds [16400, 16], which is more than 16384"),
        "{message}"
    );
}
