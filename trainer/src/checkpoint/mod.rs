//! Checkpoints as files: PEFT adapters, merged models, and the state of a training that was interrupted.

pub mod adapter;
pub mod export;
pub mod training_state;
