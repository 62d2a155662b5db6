//! The method without IO and without a model: what is drawn, what is done to images.

pub mod corruption;
pub mod draw;
