//! Files and signals: volumes, PEFT adapters, journals, resume state, progress, artifacts, atomic writes.

pub mod adapter;
pub mod artifact;
pub mod atomic;
pub mod export;
pub mod journal;
pub mod metrics;
pub mod progress;
pub mod resume;
pub mod serve;
pub mod stop;
pub mod tensorboard;
pub mod volumes;
