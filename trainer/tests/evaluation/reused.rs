//! What one run asked a model, another one on the volume does not ask again.

use crate::sandbox::{Run, Sandbox};

#[test]
fn the_answers_of_the_base_model_are_asked_once_on_a_volume() {
    let sandbox = Sandbox::new(4);
    let first = Run::new("first");
    let prepared = sandbox.result(&first.prepare());
    sandbox.result(&first.answer(&prepared, 1));
    assert_eq!(sandbox.rows_of(&first), 4 * 2 * 2);

    sandbox.write_adapter("other", 0.25);
    let second = Run { adapters: vec!["other", "tuned"], ..Run::new("second") };
    let prepared = sandbox.result(&second.prepare());
    sandbox.result(&second.answer(&prepared, 1));
    assert_eq!(sandbox.rows_of(&second), 4 * 2, "only the adapter that is new answers");
    assert_eq!(sandbox.rows_of(&first), 4 * 2 * 2);

    let rerun = Run { rerun: 1, ..first };
    let prepared = sandbox.result(&rerun.prepare());
    sandbox.result(&rerun.answer(&prepared, 1));
    assert_eq!(sandbox.rows_of(&rerun), 4 * 2 * 2, "a rerun reuses nothing");
}

#[test]
fn two_names_of_one_model_are_asked_once() {
    let sandbox = Sandbox::new(2);
    sandbox.write_adapter("same", 0.5);
    let run = Run { adapters: vec!["tuned", "same"], ..Run::new("u") };
    let (_, scored) = run.all(&sandbox);
    assert_eq!(sandbox.rows_of(&run), 2 * 2 * 2);
    assert_eq!(scored["scores"][0]["of"][1], scored["scores"][0]["of"][2]);
}

#[test]
fn a_changed_image_under_an_old_name_is_asked_again() {
    let sandbox = Sandbox::new(8);
    let first = Run { adapters: vec![], ..Run::new("first") };
    let prepared = sandbox.result(&first.prepare());
    sandbox.result(&first.answer(&prepared, 1));
    sandbox.copy_images(&["scene-000.jpg", "scene-001.jpg"]);
    std::fs::copy(sandbox.path("heldout/images/scene-001.jpg"), sandbox.path("heldout/images/scene-000.jpg"))
        .unwrap();
    let questions = std::fs::read_to_string(sandbox.path("heldout/questions.jsonl")).unwrap();
    let changed = questions.lines().filter(|line| line.contains("scene-000.jpg")).count();
    assert!(0 < changed && changed < 8, "{changed}");

    let second = Run { adapters: vec![], ..Run::new("second") };
    let prepared = sandbox.result(&second.prepare());
    sandbox.result(&second.answer(&prepared, 1));
    assert_eq!(sandbox.rows_of(&second), changed * 2);
}
